"""What a training step will cost on chips that are not here: memory, time, exchanges, and whether it fits.

    python -m vitpose_jax.plan --config configs/vitpose_g.py --topology v5e:16x16 [--slices 2] [--config.mesh.fsdp=8 …]
    python -m vitpose_jax.plan --config configs/vitpose_h.py --topology v5e:4x4 v5e:16x16 gpu:8xH100 --mesh best

TPU programs are compiled by libtpu (requirements-plan.txt) without a TPU, each in one to five minutes; GPU programs,
and with --estimate all, are estimated from the traced program. Several configs, topologies and meshes make one table,
best first.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence

# Before jax is imported: nothing here computes, and no accelerator shall be looked for.
os.environ["JAX_PLATFORMS"] = "cpu"


from configs import command_line
from vitpose_jax.plan import document, planning
from vitpose_jax.plan.case import Case
from vitpose_jax.plan.chips import Topology, topology
from vitpose_jax.plan.cost import Plan
from vitpose_jax.plan.table import print_plans
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import sharding

Sizes = tuple[int, int, int]


def read_config(path: str, overrides: Sequence[str] = ()) -> tuple[Case, dict[str, int]]:
    """What an experiment's file says, with `--config.…` overrides: the case, and its own mesh.

    Raises:
        SystemExit: for a file or an override that does not exist.
    """
    config = command_line.read_config("vitpose_jax.plan", path, overrides)
    case = Case(
        name=config.name, model=config.model.to_dict(), optimizer=config.optimizer.to_dict(),
        schedule=config.schedule.to_dict(), codec=config.codec.to_dict() if "codec" in config else {},
        batch_size=config.train.batch_size, accumulate=config.train.accumulate, task=config.task,
    )  # fmt: skip
    return case, config.mesh.to_dict()


def wanted(case: Case, own: dict[str, int], where: Topology, chosen: Sequence[str], *, compiles: int) -> list[Sizes]:
    """The meshes to plan on one topology: those given, the config's own, or the best of all by estimate."""
    if not chosen:
        return [sharding.mesh_sizes(**own, devices=where.num_devices, per_host=where.per_host)]
    found = []
    for text in chosen:
        if text == "best":
            found += [plan.mesh for plan in planning.best_meshes(case, where)[:compiles]]
            continue
        numbers = text.split(",")
        if len(numbers) != 3 or not all(number.lstrip("-").isdigit() for number in numbers):
            raise ValueError(f"--mesh takes data,fsdp,tensor such as 2,8,1, or best; not {text!r}")
        data, fsdp, tensor = map(int, numbers)
        found.append(
            sharding.mesh_sizes(data=data, fsdp=fsdp, tensor=tensor, devices=where.num_devices, per_host=where.per_host)
        )
    return list(dict.fromkeys(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vitpose_jax.plan", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", action="append", default=[], help="an experiment; again, or with commas, for more")
    parser.add_argument(
        "--topology", nargs="+", default=[], help="v5e:16x16, v5p:4x4x4, v6e:8x8, gpu:8xH100, gpu:4x8xH100"
    )
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that topology (default 1)")
    parser.add_argument(
        "--mesh",
        nargs="+",
        default=[],
        help="data,fsdp,tensor, or best; the config's own by default; with -1 for what fills as --mesh=-1,8,1",
    )
    parser.add_argument("--compile", type=int, default=1, help="of --mesh best: how many, best first (default 1)")
    parser.add_argument("--estimate", action="store_true", help="compile and lower nothing")
    parser.add_argument("--json", type=pathlib.Path, help="file for one JSON line a plan")
    parser.add_argument(
        "--document", type=pathlib.Path, help="bring the tables of this file, docs/scaling.md, up to date"
    )
    options, overrides = parser.parse_known_args(arguments)
    paths = [path for entry in options.config for path in entry.split(",")]
    try:
        if options.document:
            document.update(options.document, read_config, estimate_only=options.estimate)
            return
        if not paths or not options.topology:
            parser.error("--config and --topology say what to plan")
        places = [topology(name, options.slices) for name in options.topology]
        work = [
            (case, where, sizes)
            for case, own in (read_config(path, overrides) for path in paths)
            for where in places
            for sizes in wanted(case, own, where, options.mesh, compiles=options.compile)
        ]
        plans = []
        with progress_bar(desc="planning", unit=" programs", total=len(work)) as bar:
            for case, where, sizes in work:
                bar.set_postfix_str(f"{case.name} on {where.label}, mesh {sizes}", refresh=True)
                plans.append(plan(case, where, sizes, estimate_only=options.estimate))
                bar.update()
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"vitpose_jax.plan: {error}") from None
    plans.sort(key=planning.rank)
    print_plans(plans)
    if options.json:
        partial = options.json.with_suffix(".partial")
        partial.write_text("".join(json.dumps(each.record()) + "\n" for each in plans))
        partial.rename(options.json)
        print(f"wrote {options.json}")


def plan(case: Case, where: Topology, sizes: Sizes, *, estimate_only: bool) -> Plan:
    """Compiled where there is a compiler for it; what has none must lower at least."""
    if where.is_gpu and not estimate_only:
        planning.lower_for_gpu(case, sizes)
    if where.is_gpu or estimate_only:
        return planning.estimated(case, where, sizes)
    return planning.compiled(case, where, sizes)


if __name__ == "__main__":
    main(sys.argv[1:])
