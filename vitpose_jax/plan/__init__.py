"""What a training step will cost on hardware that is not here: `python -m vitpose_jax.plan --help`."""
