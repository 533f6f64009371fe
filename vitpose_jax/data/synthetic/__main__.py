"""Drawn sets and a drawn video: ``python -m vitpose_jax.data.synthetic --out DIR | --video FILE.mp4``."""

import argparse
import pathlib
from collections.abc import Sequence

from vitpose_jax.data.synthetic.animal_folder import write_animals
from vitpose_jax.data.synthetic.film import write_film
from vitpose_jax.data.synthetic.folder import write_synthetic


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the set or the film that the arguments ask for."""
    parser = argparse.ArgumentParser(
        description="Draw a data set of people in COCO's folder layout, of animals as the example of your own set, or "
        "a short video of people who move, with its annotations beside it."
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", help="folder to make")
    target.add_argument("--video", metavar="FILE.mp4", help="video to make, and FILE.json with boxes and keypoints")
    parser.add_argument("--animal", action="store_true", help="lizards with a keypoint file instead of people")
    parser.add_argument("--num-train", type=int, help="pictures to train on (default: 4000 of people, 1000 of animals)")
    parser.add_argument("--num-val", type=int, help="pictures to evaluate on (default: 200 of people, 100 of animals)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the video (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2, help="worker processes for people; 0 draws in this one")
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in ("num_train", "num_val") if getattr(args, name) is not None}
    if args.video:
        write_film(pathlib.Path(args.video), seed=args.seed, seconds=args.seconds)
    elif args.animal:
        write_animals(args.out, seed=args.seed, **given)
    else:
        write_synthetic(args.out, seed=args.seed, num_workers=args.num_workers, **given)


if __name__ == "__main__":
    main()
