"""Data sets: built once, then read as streams of crops. numpy, OpenCV, Grain and TFDS only, never jax."""
