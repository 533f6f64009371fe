"""Several processes of one run: how they find each other, stop together, and end when one of them dies.

The work is JAX's own: its launcher detection, its heartbeats (a process that is silent for too long ends all others),
and its agreement on the step at which all of them stop.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from vitpose_jax import interrupt


@contextlib.contextmanager
def joined(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout_s: int = 100,
    saves_on_sigterm: bool,
) -> Iterator[None]:
    """Within this context, this process is one of those that its launcher started for a run, if it started several.

    The three numbers say so explicitly. Without them, a launcher is recognised by what it leaves in the environment,
    see `launcher`; where there is none, nothing happens. Only the first process prints to stdout.

    A process that fails ends at once, without waiting for the others; they notice that it is gone.

    Args:
        coordinator_address: host:port, where the first process waits for the others.
        num_processes: how many there are; 1 for one process, whatever the environment says.
        process_id: number of this one, from 0.
        heartbeat_timeout_s: how long a process may be silent until the others take it for dead.
        saves_on_sigterm: SIGTERM is for `Stop`; otherwise it ends the process.

    Raises:
        ValueError: some of the three numbers are missing, or the launcher's own are.
        interrupt.Stopped: the work's own; all processes raise it together.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if num_processes == 1 or (len(missing) == len(given) and launcher() is None):
        yield
        return
    if 0 < len(missing) < len(given):
        raise ValueError(f"several processes need {', '.join(f'--{name}' for name in given)}; missing {missing}")
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=heartbeat_timeout_s
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"could not join the other processes ({launcher() or 'explicit flags'}): {error}. Give {', '.join(given)} "
            "as flags, or --num_processes=1 for a run of this process alone"
        ) from error
    speaks = jax.process_index() == 0
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if speaks else nowhere):
            yield
    except interrupt.Stopped:
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        _leave(error)
    jax.distributed.shutdown()


def launcher() -> str | None:
    """Who started several processes, by what JAX reads of the environment; None if this one is alone.

    On a machine with TPUs the others are those of its slice, or of all slices: JAX asks the machine itself, so that one
    process is a run of one.
    """
    environment = os.environ
    if "tpu" in str(jax.config.values["jax_platforms"]).split(","):
        return "Cloud TPU"
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys():
        return "Kubernetes"
    return None


# Of XLA's errors, those of this process's own program or memory.
_OWN_ERRORS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


def lost_another(error: BaseException | None) -> bool:
    """Whether an error may come from another process that is gone: then nothing may wait for the others any more."""
    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return False
    return not any(code in str(error) for code in _OWN_ERRORS)


def _leave(error: BaseException) -> None:
    """Ends this process without waiting for the others, which an orderly exit would."""
    who = f"process {jax.process_index()} of {jax.process_count()}"
    if lost_another(error):
        reason = str(error).partition("\n")[0]
        text = (
            f"another process of this run has died, or cannot be reached: {reason}\nThe last checkpoint stands. The "
            "output of the others says what happened (where all say this, the computation itself failed); start all of "
            "them again with the same command to go on from it"
        )
    elif isinstance(error, ValueError | OSError | FloatingPointError):
        text = str(error)
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted; the last checkpoint stands"
    else:
        text = "".join(traceback.format_exception(error))
    print(f"{who}: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)


class Stop(interrupt.Guard):
    """Within this context, Ctrl-C and SIGTERM, sent to any process of a run, stop all of them at the same moment."""

    def __init__(self) -> None:
        self._several = jax.process_count() > 1
        # Of several processes, JAX itself listens to SIGTERM, and tells the others.
        super().__init__((signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM))
        self._asked, self._agreed = 0, False

    def agreed(self) -> bool:
        """Whether to stop now. Every process needs to ask equally often; then all get the same answer."""
        if not self._several:
            return self.requested
        if self.requested and not self._agreed:
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked += 1
        self._agreed = self._agreed or multihost_utils.reached_preemption_sync_point(self._asked)
        return self._agreed

    def check(self, message: str) -> None:
        """Raises `interrupt.Stopped` with this message if it is time to stop; asks as `agreed` does."""
        if self.agreed():
            raise interrupt.Stopped(self.signal_number, message)
