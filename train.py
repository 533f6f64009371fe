"""Train a model.

    python train.py --config configs/vitpose_b.py --workdir runs/vitpose_b [--config.train.batch_size=256 …]

Started again with the same workdir, a run goes on from its last checkpoint, bit for bit as if it had never stopped.
Ctrl-C and SIGTERM save first. The loop, always in this order: batch, step; every so often save, evaluate, draw.
Every process of a run on several hosts is this command; docs/scaling.md, "Launching", says how they are started.
A run that has gone to its end leaves `finished.json`. Compiled programs are kept, see `vitpose_jax/compile_cache.py`.
"""

import contextlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from configs import command_line
from configs.tasks import TASKS, Task, make_model, make_task
from vitpose_jax import compile_cache, draw, interrupt, paths, trees
from vitpose_jax.data import datasets, streams
from vitpose_jax.evaluation.table import print_metrics
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import checkpoint, optimizer, processes, sharding, transfer
from vitpose_jax.training import state as train_state
from vitpose_jax.training.log import ScalarLog
from vitpose_jax.training.monitor import Monitor
from vitpose_jax.training.overview import print_overview
from vitpose_jax.training.trace import Tracer
from vitpose_jax.training.update import make_program

FEW_CROPS = 4  # of one data set in a batch: its decoder's batch norm sees no others

# Smallest values of the loop's own settings.
LEAST = {
    "batch_size": 1, "epochs": 1, "log_every_steps": 1, "eval_every_epochs": 0, "save_every_steps": 0, "keep_last": 1,
    "accumulate": 1,
}  # fmt: skip


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, *, profile: Sequence[int] = ()
) -> dict[str, float]:
    """Runs an experiment from its start, or from the last checkpoint in its folder, to its end.

    Args:
        config: an experiment of `configs/`; every section is the keyword arguments of one callable.
        workdir: folder of the run; several processes need one that all of them see.
        profile: see `training.trace.Tracer`.

    Returns:
        The last evaluation's metrics, "<data set>/<metric>" to value; empty if this call evaluated nothing.

    Raises:
        ValueError: for a setting that does not fit.
        FloatingPointError: when the loss is not finite.
        interrupt.Stopped: after a signal, when everything is saved.
    """
    workdir = paths.path(workdir)
    config = complete(config)
    mesh = sharding.make_mesh(**config.mesh)
    for name, least in LEAST.items():
        if config.train[name] < least:
            raise ValueError(f"config.train.{name} must be at least {least}, not {config.train[name]}")
    accumulate = config.train.accumulate
    sharding.check_batch_size(config.train.batch_size, mesh, name="config.train.batch_size", accumulate=accumulate)
    model = make_model(config)
    sharding.check_sizes(train_state.variable_shapes(model)["params"], mesh)
    task = make_task(config, model, mesh)
    total_instances = sum(len(source.split) for source in task.sources.values())
    batch_size = config.train.batch_size
    steps_per_epoch = -(-total_instances // batch_size)
    total_steps = steps_per_epoch * config.train.epochs

    key = jax.random.key(config.seed)
    init_key, step_key = jax.random.split(key)
    schedule = optimizer.make_schedule(**config.schedule, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    program = make_program(
        model, task.loss, schedule, optimizer_settings=config.optimizer, key=step_key, mesh=mesh, accumulate=accumulate
    )
    print_overview(config.name, program.target, mesh, batch_size=batch_size, accumulate=accumulate)
    for sentence in task.remarks:
        print(sentence)
    checkpoints = checkpoint.Checkpoints(
        workdir, task.model_file, keep_last=config.train.keep_last, best_metric=task.best_metric
    )
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(program.target)
        print(f"resumed from step {int(state.step)} in {checkpoints.folder}")
    else:
        variables = initial_variables(config, model, init_key)
        state = train_state.init_state(model, program.tx, init_key, mesh, variables)
    if jax.process_index() == 0:
        write_config(config, workdir)
    start = int(state.step)
    print(
        f"{config.name}: {total_instances} instances, {steps_per_epoch} steps an epoch, steps {start} to {total_steps}"
    )
    print_shares(task.sources, batch_size, batch_norm=config.task != "mae")
    if start >= total_steps:
        print("this run is finished: nothing left to do")

    eval_every = config.train.eval_every_epochs * steps_per_epoch or total_steps
    save_every = config.train.save_every_steps or total_steps

    def is_evaluated(step: int) -> bool:
        return bool(task.evaluators) and step > 0 and (step % eval_every == 0 or step == total_steps)

    tracer = Tracer(workdir, profile, start=start, total=total_steps)
    log = ScalarLog(workdir, start_step=start, silent=jax.process_index() > 0)
    stream = task.make_stream(
        crop_size=model.image_size, batch_size=batch_size, seed=config.seed, start_step=start,
        rows=sharding.process_rows(batch_size, mesh), **config.input,
    )  # fmt: skip
    latest_metrics: dict[str, float] = {}
    monitor = Monitor(log, batch_size, steps_per_epoch, config.train.log_every_steps, checkpoints)
    progress = progress_bar(
        desc=config.name, unit=" steps", total=total_steps, initial=start, show=jax.process_index() == 0
    )
    with processes.Stop() as stop, checkpoints, contextlib.closing(log), contextlib.closing(stream), progress:
        if is_evaluated(start) and not checkpoints.evaluated(start):  # the run was stopped before that was done
            latest_metrics = evaluate(task, state, workdir, checkpoints, log, stop)
        for step in range(start, total_steps):
            batch = task.on_devices(step, monitor.next_batch(stream))
            state, metrics = tracer.run(step, program.step, state, batch)
            done = step + 1
            monitor.add(done, metrics, progress)
            stopping = stop.agreed() and done < total_steps
            if is_evaluated(done) or done % save_every == 0 or done == total_steps or stopping:
                monitor.drain(progress)
                checkpoints.save(state)  # before the evaluation: if that fails or is stopped, it costs no training
                if stopping:
                    stop.check(f"stopped after step {done}; saved in {checkpoints.folder}")
                if is_evaluated(done):
                    latest_metrics = evaluate(task, state, workdir, checkpoints, log, stop)
                monitor.restart_clock()
    if jax.process_index() == 0:
        paths.write(
            paths.path(workdir) / "finished.json", json.dumps({"step": total_steps, "epochs": config.train.epochs})
        )
    print(f"checkpoints: {checkpoints.folder}\nscalars: {log.path}")
    return latest_metrics


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with what it leaves to others: the model to the checkpoint it starts from, keypoints to the data.

    Args:
        config: an experiment. If its model has neither size nor embed_dim, every setting of the model that is None is
            that of the checkpoint that `init_from` names; else it is the model's own default. A number of keypoints
            that is None is the number that the data set of that name annotates.

    Raises:
        ValueError: the checkpoint or the data set is not there, or nothing says what the model is.
    """
    config = config.copy_and_resolve_references()
    if config.task not in TASKS:
        raise ValueError(f"config.task must be one of {sorted(TASKS)}, not {config.task!r}")
    known: Mapping[str, Any] = {
        name: parameter.default for name, parameter in inspect.signature(TASKS[config.task].model).parameters.items()
    }
    if config.model.size is None and config.model.embed_dim is None:
        if not config.init_from.path:
            raise ValueError("this config has no model of its own: set config.init_from.path or config.model.size")
        known = {**known, **checkpoint.load_model_file(config.init_from.path).settings}
        if "experts" in config.model and not config.model.experts:
            known = {**known, "part_features": None}  # a plain model; transfer.init_from says what to do
        if config.model.get("attention") == "full":
            known = {**known, "window_size": None, "full_every": 0}
    with config.unlocked():
        config.model.update({name: known[name] for name, value in config.model.items() if value is None})
        for name, count in config.model.get("num_keypoints", {}).items():
            if count is None:
                if name not in config.datasets:
                    raise ValueError(f"config.model.num_keypoints.{name} is None, and there is no data set {name!r}")
                section = config.datasets[name]
                split = datasets.open_split(section.dir, section.train_split)
                config.model.num_keypoints[name] = len(split.keypoint_set)
    return config


def print_shares(sources: Mapping[str, streams.Source], batch_size: int, *, batch_norm: bool) -> None:
    """Says how a batch is made up of several data sets, and which of them are too rare for batch norm, if there is."""
    crops = {name: share * batch_size for name, share in zip(sources, streams.shares([*sources.values()]), strict=True)}
    if len(crops) > 1:
        print("a batch holds on average " + ", ".join(f"{count:.1f} crops of {name}" for name, count in crops.items()))
    rare = [name for name, count in crops.items() if len(crops) > 1 and count < FEW_CROPS]
    if rare and batch_norm:
        print(
            f"WARNING: fewer than {FEW_CROPS} crops a batch of {', '.join(rare)}: batch norm has too few to normalise "
            "over; raise config.train.batch_size, or config.datasets.<name>.weight of every data set"
        )


def initial_variables(config: ml_collections.ConfigDict, model: Any, key: jax.Array) -> dict | None:
    """The weights that `init_from` names, with a report of what became of each; None for a fresh start."""
    if not config.init_from.path and not config.init_from.token:
        return None
    variables, report = transfer.init_from(**config.init_from, model=model, key=key)
    for kind, names in report.items():
        print(
            f"init_from: {len(names)} leaves {kind}" + "".join(f"\n    {name}" for name in names if kind != "restored")
        )
    return variables


def evaluate(
    task: Task,
    state: train_state.TrainState,
    workdir: epath.Path,
    checkpoints: checkpoint.Checkpoints,
    log: ScalarLog,
    stop: processes.Stop,
) -> dict[str, float]:
    """Evaluates a saved state on every data set: a table, the log, samples in `<workdir>/samples`, the checkpoint."""
    step = int(state.step)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    message = f"stopped while evaluating step {step}; saved in {checkpoints.folder}, and evaluated by the next call"
    results = {}
    for name, evaluator in task.evaluators.items():
        results[name] = evaluator(variables, between_batches=lambda: stop.check(message)).metrics
        picture = evaluator.picture(variables)
        if jax.process_index() == 0:
            draw.save_image(workdir / "samples" / f"{name}_{step:08d}.jpg", picture)
    print_metrics(results)
    found = {f"{name}/{metric}": value for name, metrics in results.items() for metric, value in metrics.items()}
    log.write(step, {f"eval/{name}": value for name, value in found.items()})
    checkpoints.add_metrics(step, found)
    return found


def write_config(config: ml_collections.ConfigDict, workdir: epath.Path) -> None:
    """Writes `<workdir>/config.json`; says what differs from the one that is there."""
    path, text = workdir / "config.json", json.dumps(config.to_dict(), indent=1)
    if path.exists():
        old, new = (trees.dotted(json.loads(t)) for t in (path.read_text(), text))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                print(f"config.{name} is {new.get(name)!r}, this run's folder had {old.get(name)!r}")
    paths.write(path, text)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    config = flags.FLAGS.config
    logging.set_verbosity(logging.ERROR)  # Orbax tells a dozen lines about every save
    compile_cache.use()
    try:
        with processes.joined(**command_line.processes(), saves_on_sigterm=True):
            train(config, flags.FLAGS.workdir or os.path.join("runs", config.name), profile=command_line.profile())
    except interrupt.Stopped as stopped:
        print(stopped)
        raise SystemExit(stopped.exit_code or flags.FLAGS.stopped_exit_code) from None
    except KeyboardInterrupt:
        print("train.py: interrupted; the last checkpoint stands")
        raise SystemExit(130) from None
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"train.py: {error}") from error


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Experiment to run, a file in configs/.")
    flags.DEFINE_string("workdir", None, "Folder of the run, also gs://…; runs/<name of the config> when not given.")
    flags.DEFINE_integer("stopped_exit_code", 0, "After SIGTERM; other than 0 for launchers that take 0 for done.")
    command_line.define_profile()
    command_line.define_processes()
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=command_line.parse)
