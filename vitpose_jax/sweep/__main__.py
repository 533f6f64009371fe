"""Many runs of one config with a few settings changed; docs/sweeps.md walks through it.

    python -m vitpose_jax.sweep FILE                                        the table, and the commands that are left
    python -m vitpose_jax.sweep FILE --launch local                         one after another, from where it stopped
    python -m vitpose_jax.sweep FILE --launch slurm -- --gres=gpu:8 …       one job array; sbatch's flags after --
    python -m vitpose_jax.sweep FILE --launch xpk --folder gs://… --cluster C --tpu-type T --docker-image I -- …
                                                                            prints one workload for each trial

FILE is one of configs/sweeps, or your own. Trials run in runs/<name of FILE>/<trial>; results.csv and results.png stand
beside them, brought up to date by every call. Run it in the project's folder.
"""

import argparse
import json
import pathlib
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from configs import command_line
from vitpose_jax.sweep import clusters, local, record, results
from vitpose_jax.sweep.trials import Sweep, load, override

Configs = dict[str, dict[str, Any]]


def read_configs(sweep: Sweep) -> Configs:
    """Every trial's config, by the trial's name.

    Raises:
        ValueError: naming every override that the config does not take, and trials that are the same run.
    """
    faults: dict[str, str] = {}
    for name, overrides in {"fixed": sweep.fixed, **sweep.by_name}.items():
        for key, value in overrides.items():
            try:
                found: Any = command_line.read_config("sweep", sweep.config, [override(key, value)]).to_dict()
                for part in key.split("."):
                    found = found[part]
                if found != (tuple(value) if isinstance(value, list) else value):
                    raise ValueError(f"{key}={value!r} becomes {found!r} on the command line")
            except (SystemExit, ValueError) as fault:
                faults.setdefault(key, f"{str(fault).removeprefix('sweep: ')} [{name}]")
    if faults:
        raise ValueError("this sweep cannot run:\n  " + "\n  ".join(faults.values()))
    configs = {
        name: command_line.read_config("sweep", sweep.config, sweep.overrides(name)).to_dict() for name in sweep.by_name
    }
    first: dict[str, str] = {}
    for name, config in configs.items():
        other = first.setdefault(json.dumps(config, sort_keys=True), name)
        if other != name:
            raise ValueError(f"{other} and {name} are the same run: what differs is what {sweep.config} says anyway")
    return configs


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, passed_on = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(
        prog="python -m vitpose_jax.sweep", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", help="a file with get_sweep(), such as configs/sweeps/quickstart_lr.py")
    parser.add_argument("--launch", choices=("local", "slurm", "xpk"))
    parser.add_argument("--folder", help="of the trials (default runs/<name of the file>)")
    parser.add_argument("--retry", action="store_true", help="start failed trials again, too")
    slurm = parser.add_argument_group("--launch slurm")
    slurm.add_argument("--at-once", type=int, help="how many trials may run at a time (default: no limit)")
    xpk = parser.add_argument_group("--launch xpk", "As of `xpk workload create`; give one device and one image.")
    xpk.add_argument("--cluster")
    device = xpk.add_mutually_exclusive_group()
    device.add_argument("--tpu-type", help="v5litepod-16, v6e-256, …")
    device.add_argument("--device-type", help="h200-141gb-8, …")
    image = xpk.add_mutually_exclusive_group()
    image.add_argument("--docker-image", help="has this project in its working folder")
    image.add_argument("--base-docker-image", help="xpk adds this folder to it")
    one = parser.add_argument_group("one trial, as the launchers start it")
    one.add_argument("--trial", help=f"its name; exit code {local.UNFINISHED} if it was stopped before its end")
    one.add_argument("--prefix", default="", help="command that starts train.py, such as srun")
    one.add_argument("--unrecorded", action="store_true", help="keep no output: several hosts start it")
    options = parser.parse_args(given)
    if options.at_once is not None and options.at_once < 1:
        parser.error(f"--at-once must be at least 1, not {options.at_once}")
    if passed_on and options.launch not in ("slurm", "xpk"):
        parser.error("flags after -- are for --launch slurm and --launch xpk")
    try:
        code = run(options, passed_on)
    except (ValueError, OSError) as error:
        raise SystemExit(f"sweep: {error}") from None
    sys.exit(code)


def run(options: argparse.Namespace, passed_on: Sequence[str]) -> int:
    """Does what the command line says; gives the exit code."""
    if not pathlib.Path("train.py").is_file():
        raise ValueError(f"run this in the folder with train.py, not in {pathlib.Path.cwd()}")
    sweep = load(options.file)
    folder = epath.Path(options.folder or f"runs/{pathlib.Path(options.file).stem}")
    if "://" in str(folder) and options.launch in ("local", "slurm"):
        raise ValueError(f"--launch {options.launch} keeps what trials print, and {folder} cannot be appended to")
    configs = read_configs(sweep)
    if options.trial is not None:
        return run_one(options, sweep, folder, configs)
    found = {result.name: result.record for result in results.collect(sweep, folder, configs)}
    done = ("finished", "running") if options.retry else ("finished", "running", "failed")
    left = [name for name in sweep.by_name if found[name].state not in done]
    if options.launch is not None:
        refuse_others({name: found[name].differences for name in left}, folder)
    if options.launch == "xpk":
        print_workloads(options, left, folder, passed_on)
        return 0
    stopped_by = None
    if options.launch == "slurm" and left:
        script = clusters.slurm_script(options.file, left, folder, at_once=options.at_once, flags=passed_on)
        print(clusters.submit(script, folder))
    elif options.launch == "local":
        stopped_by = local.run_all(sweep, left, folder, configs)
    collected = results.collect(sweep, folder, configs)
    results.print_results(sweep, collected)
    for place in results.write_results(sweep, collected, folder):
        print(place)
    if options.launch is None:
        for name in left:
            print(shlex.join(local.command(sweep, name, folder)))
    failed = [result.name for result in collected if result.record.state == "failed"]
    if failed and not options.retry:
        print(f"{len(failed)} failed; --retry starts them again")
    if stopped_by is not None:
        return 130 if stopped_by == signal.SIGINT else 0
    return 1 if failed and options.launch == "local" else 0


def refuse_others(differences: Mapping[str, Sequence[str]], folder: epath.Path) -> None:
    """Raises ValueError if trials would go on from checkpoints that were trained with other settings."""
    faults = [f"{name} {difference}" for name, found in differences.items() for difference in found]
    if faults:
        raise ValueError(
            f"these trials would go on from checkpoints of other settings; delete their folders in {folder}, or name "
            "another --folder:\n  " + "\n  ".join(faults)
        )


def run_one(options: argparse.Namespace, sweep: Sweep, folder: epath.Path, configs: Mapping[str, Any]) -> int:
    """Runs one trial, unless it is finished.

    Returns:
        0 when it is finished or runs elsewhere, `local.UNFINISHED` when it was stopped, else an exit code of failure.
    """
    name = options.trial
    if name not in configs:
        raise ValueError(f"{options.file} has no trial {name}; it has {', '.join(configs)}")
    if record.is_finished(folder / name, configs[name]):
        return 0
    if options.unrecorded:
        return local.run_unrecorded(sweep, name, folder, configs[name])
    with local.Signals() as signals:
        try:
            local.run(sweep, name, folder, signals, prefix=shlex.split(options.prefix))
        except BlockingIOError as error:
            print(error)
            return 0
    found = record.read(folder / name, configs[name])
    print(f"{name}: {found.state}" + (f": {found.error}" if found.error else ""))
    return {"finished": 0, "failed": 1}.get(found.state, local.UNFINISHED)


def print_workloads(
    options: argparse.Namespace, names: Sequence[str], folder: epath.Path, passed_on: Sequence[str]
) -> None:
    """Prints the xpk command of each trial.

    Raises:
        ValueError: something that xpk needs was not given.
    """
    wanted = {
        "--cluster": ("cluster",), "--tpu-type or --device-type": ("tpu_type", "device_type"),
        "--docker-image or --base-docker-image": ("docker_image", "base_docker_image"), "--folder": ("folder",),
    }  # fmt: skip
    missing = [text for text, keys in wanted.items() if not any(getattr(options, key) for key in keys)]
    if missing:
        raise ValueError(f"--launch xpk needs {', '.join(missing)}; the folder is one that all hosts see")
    chosen = [
        f"--{key.replace('_', '-')}={getattr(options, key)}"
        for keys in wanted.values() for key in keys if key != "folder" and getattr(options, key)
    ]  # fmt: skip
    for name in names:
        print(f"# {name}")
        print(clusters.xpk_workload(options.file, name, folder, flags=[*chosen, *passed_on]))


if __name__ == "__main__":
    main()
