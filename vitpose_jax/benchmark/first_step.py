"""From the start of a process to its first training step: what `compile` starts.

python -m vitpose_jax.benchmark.first_step '{"model": {…}, "batch_size": 8}'
"""

import itertools
import json
import sys
import time


def main() -> None:
    """Prints one JSON line: seconds of each part."""
    marks = {"begin": time.perf_counter()}
    import jax

    from vitpose_jax.benchmark import programs
    from vitpose_jax.models.vitpose import vitpose

    settings = json.loads(sys.argv[1])
    jax.devices()
    marks["import_s"] = time.perf_counter()
    prepared = programs.prepare_step(vitpose(**settings["model"]), settings["batch_size"])
    marks["compile_s"] = time.perf_counter()
    run = prepared.start()
    marks["state_s"] = time.perf_counter()
    jax.block_until_ready(run())
    marks["step_s"] = time.perf_counter()
    names = list(marks)
    print(json.dumps({name: round(marks[name] - marks[before], 3) for before, name in itertools.pairwise(names)}))


if __name__ == "__main__":
    main()
