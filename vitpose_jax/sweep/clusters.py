"""Trials on clusters: one Slurm job array, or one xpk workload each."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from etils import epath

from vitpose_jax.data.files import write_text
from vitpose_jax.sweep.local import UNFINISHED
from vitpose_jax.sweep.trials import short_hash

_SAVE_S = 120  # before a job's time limit: a step, a save
_LONGEST_WORKLOAD = 40  # characters; xpk 1.16.0, parser/validators.py

# Slurm signals job steps (what srun started) before a job's time is up and when it is preempted, and not this script:
# train.py saves and ends, and the script puts its task back into the queue. Where Slurm ends the script itself, for
# scancel or because it requeues the job, bash dies of the same SIGTERM and asks for nothing.
# Sources: sbatch(1), --signal and --requeue; https://slurm.schedmd.com/preempt.html, GraceTime.
_SCRIPT = """\
#!/bin/bash
# Written by python -m vitpose_jax.sweep. Each task of the array is a trial.
#SBATCH --job-name={job_name}
#SBATCH --array=0-{last}{at_once}
#SBATCH --output={output}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@{save_s}
{flags}
trials=(
{trials}
)
cd {root}
if [ -n "${{SLURM_CPUS_PER_TASK:-}}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
status=0
{command} --trial "${{trials[$SLURM_ARRAY_TASK_ID]}}" --prefix srun || status=$?
if [ "$status" = {unfinished} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$status"
"""


def slurm_script(
    file: str, names: Sequence[str], folder: epath.Path, *, at_once: int | None, flags: Sequence[str]
) -> str:
    """A batch script whose array tasks are trials.

    Args:
        file: the sweep's.
        names: of the trials to run.
        folder: of the sweep.
        at_once: how many tasks may run at a time; None for as many as Slurm likes.
        flags: further flags of sbatch; they come last, so that they win.
    """
    task = [sys.executable, "-m", "vitpose_jax.sweep", file, "--folder", str(folder)]
    return _SCRIPT.format(
        job_name=shlex.quote(folder.name), last=len(names) - 1, at_once=f"%{at_once}" if at_once else "",
        output=shlex.quote(str(folder / "slurm" / "%A_%a.txt")), save_s=_SAVE_S,
        flags=f"#SBATCH {shlex.join(flags)}\n" if flags else "",
        trials="\n".join(f"    {shlex.quote(name)}" for name in names), root=shlex.quote(str(pathlib.Path.cwd())),
        command=shlex.join(task), unfinished=UNFINISHED,
    )  # fmt: skip


def submit(script: str, folder: epath.Path) -> str:
    """Writes a batch script into the sweep's folder and submits it.

    Returns:
        What sbatch said.

    Raises:
        ValueError: there is no sbatch, or it refused.
    """
    path = pathlib.Path(folder / "trials.sbatch")
    (path.parent / "slurm").mkdir(parents=True, exist_ok=True)
    write_text(path, script)
    if shutil.which("sbatch") is None:
        raise ValueError(f"there is no sbatch on this machine; {path} is what would be submitted")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"sbatch refused {path}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def xpk_workload(file: str, name: str, folder: epath.Path, *, flags: Sequence[str]) -> str:
    """The command that creates a trial's workload.

    Args:
        file: the sweep's, as it is named in the image.
        name: of the trial.
        folder: of the sweep, which all hosts see.
        flags: of `xpk workload create`: cluster, device, image.
    """
    # exec: xpk sends SIGTERM to this shell, and it must reach the trial.
    task = ["exec", "python", "-m", "vitpose_jax.sweep", file, "--folder", str(folder), "--trial", name, "--unrecorded"]
    return shlex.join(
        ["xpk", "workload", "create", f"--workload={workload_name(folder.name, name)}", *flags, "--command",
         shlex.join(task)]
    )  # fmt: skip


def workload_name(sweep: str, name: str) -> str:
    """A name that Kubernetes takes: small letters, digits, hyphens; the same for a trial whenever it is asked for."""
    text = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).lstrip("-0123456789") or "sweep"
    return f"{text[: _LONGEST_WORKLOAD - 9].strip('-')}-{short_hash(name)}"
