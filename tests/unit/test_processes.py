"""Who is a process of several, and which rows of a batch it makes."""

import itertools
import types

import pytest

from vitpose_jax.training import processes, sharding

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "16", "SLURM_PROCID": "3"}


@pytest.fixture
def alone(monkeypatch):
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *a, **k: pytest.fail("waits for others"))
    return monkeypatch


@pytest.mark.parametrize("environment, found", [
    ({}, None),
    (SLURM, "Slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, None),  # in the batch script itself: srun starts the processes
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod of its own, such as a notebook
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, "Kubernetes"),
])  # fmt: skip
def test_the_launcher_is_known_by_its_environment(alone, environment, found):
    for name, value in environment.items():
        alone.setenv(name, value)
    assert processes.launcher() == found


def test_on_a_machine_with_tpus_jax_asks_the_machine(alone):
    alone.setattr(processes.jax, "config", types.SimpleNamespace(values={"jax_platforms": "tpu,cpu"}))
    assert processes.launcher() == "Cloud TPU"


def test_one_process_waits_for_nobody(alone):
    with processes.joined(saves_on_sigterm=True):
        pass
    alone.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with processes.joined(num_processes=1, saves_on_sigterm=True):
        pass


def test_numbers_that_are_missing(alone):
    missing = pytest.raises(ValueError, match=r"missing \['--coordinator_address', '--process_id'\]")
    with missing, processes.joined(num_processes=2, saves_on_sigterm=True):
        pass


class Device:
    """A device of some process."""

    def __init__(self, process_index):
        self.process_index = process_index


def rows_of(monkeypatch, process, *, data_x_fsdp, tensor, devices_per_process):
    """Rows of a batch of 8 that a process makes, on a mesh whose devices belong to one process after the other."""
    share, devices = 8 // data_x_fsdp, itertools.count()
    indices = {
        Device(next(devices) // devices_per_process): (slice(way * share, (way + 1) * share),)
        for way in range(data_x_fsdp)
        for _ in range(tensor)
    }
    placed = types.SimpleNamespace(devices_indices_map=lambda shape: indices)
    monkeypatch.setattr(sharding, "NamedSharding", lambda mesh, spec: placed)
    monkeypatch.setattr(sharding.jax, "process_index", lambda: process)
    return sharding.process_rows(8, types.SimpleNamespace(shape={"tensor": tensor})).tolist()


def test_rows_are_those_that_the_devices_hold(monkeypatch):
    split = {"data_x_fsdp": 4, "tensor": 1, "devices_per_process": 2}
    assert [rows_of(monkeypatch, process, **split) for process in (0, 1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    shared = {"data_x_fsdp": 2, "tensor": 2, "devices_per_process": 1}
    assert [rows_of(monkeypatch, process, **shared) for process in range(4)] == [[*range(4)]] * 2 + [[*range(4, 8)]] * 2
    whole = {"data_x_fsdp": 1, "tensor": 4, "devices_per_process": 2}
    assert [rows_of(monkeypatch, process, **whole) for process in (0, 1)] == [[*range(8)]] * 2
    with pytest.raises(ValueError, match="overlapping rows of a batch"):
        rows_of(monkeypatch, 0, data_x_fsdp=2, tensor=3, devices_per_process=2)


def test_rows_of_one_process_are_all():
    mesh = sharding.make_mesh()
    assert sharding.process_rows(8, mesh).tolist() == [*range(8)]
