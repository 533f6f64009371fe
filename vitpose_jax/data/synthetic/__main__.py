"""Command line of `write_synthetic`: ``python -m vitpose_jax.data.synthetic --out DIR``."""

import argparse
from collections.abc import Sequence

from vitpose_jax.data.synthetic.folder import write_synthetic


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the set that the arguments ask for."""
    parser = argparse.ArgumentParser(description="Draw a data set of people in COCO's folder layout.")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--num-train", type=int, default=4000)
    parser.add_argument("--num-val", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2, help="worker processes; 0 draws in this one")
    args = parser.parse_args(argv)
    write_synthetic(
        args.out, num_train=args.num_train, num_val=args.num_val, seed=args.seed, num_workers=args.num_workers
    )


if __name__ == "__main__":
    main()
