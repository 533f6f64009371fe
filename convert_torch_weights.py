"""PyTorch weights in and out.

    python convert_torch_weights.py --input FILE_OR_DIR --output DIR          to a checkpoint for train.py and eval.py
    python convert_torch_weights.py --input FILE_OR_DIR --to-torch FILE       to the official layout
    python convert_torch_weights.py --input FILE_OR_DIR --to-hf DIR           to a folder for Hugging Face transformers
    python convert_torch_weights.py --input FILE_OR_DIR --split DIR           a ViTPose++ into one model a data set
    python convert_torch_weights.py --input DIR --merge --output DIR          and back

--input is an official .pth file, one of mmpose 1.x, of easy_ViTPose or of masked-autoencoder pre-training, a folder of
Hugging Face transformers, or a checkpoint of this project. Exit codes: 0 done, 1 --verify found a difference, 2 wrong
option or no model in it, 130 interrupted.
"""

import sys


def main() -> int:
    """Runs the command; returns its exit code."""
    try:
        from vitpose_jax.convert import command
    except KeyboardInterrupt:  # loading takes seconds
        return 130
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
