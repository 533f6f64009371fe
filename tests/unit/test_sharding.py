"""The mesh on devices that are not here, and what fails before anything is compiled."""

import dataclasses

import numpy as np
import pytest
from jax.experimental import mesh_utils

from vitpose_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as ordering needs."""

    id: int
    process_index: int
    platform: str = "tpu"
    slice_index: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    device_kind: str = "TPU v5 lite"


def tpus(rows: int, cols: int, slices: int = 1) -> list[Device]:
    """Slices of a rows x cols torus, four chips a host; slices are numbered last first."""
    return [
        Device(index, index // 4, slice_index=slices - 1 - index // (rows * cols),
               coords=(index % cols, index // cols % rows, 0))
        for index in range(rows * cols * slices)
    ]  # fmt: skip


def gpus(hosts: int, by_host: int = 8, one_process_each: bool = False) -> list[Device]:
    """In the order that jax lists them in: by process."""
    return [
        Device(index, index if one_process_each else index // by_host, "gpu", index // by_host, device_kind="H200")
        for index in range(hosts * by_host)
    ]


def test_slices_hold_whole_rows_of_data():
    devices = tpus(4, 4, slices=2)
    found = sharding.arrange((4, 4, 2), devices)
    assert found.shape == (4, 4, 2) and len(set(found.flat)) == 32
    for half, number in ((found[:2], 0), (found[2:], 1)):
        assert {device.slice_index for device in half.flat} == {number}
    expected = mesh_utils.create_hybrid_device_mesh((2, 4, 2), (2, 1, 1), devices, allow_split_physical_axes=True)
    np.testing.assert_array_equal(found, expected)


def test_data_that_cannot_be_split_over_slices_names_the_numbers():
    with pytest.raises(ValueError, match=r"data = 1 cannot be split over 2 slices.*multiple of 2.*16 devices of one"):
        sharding.arrange((1, 32, 1), tpus(4, 4, slices=2))


def test_a_shape_that_the_torus_does_not_have_keeps_the_order_of_the_devices():
    devices = tpus(1, 6)
    with pytest.raises(NotImplementedError):
        mesh_utils.create_device_mesh((2, 3, 1), devices)
    found = sharding.arrange((2, 3, 1), devices)
    assert sorted(device.id for device in found.flat) == list(range(6))


@pytest.mark.parametrize("one_process_each", [False, True])
def test_data_goes_over_hosts_first(one_process_each):
    devices = gpus(4, one_process_each=one_process_each)
    found = sharding.arrange((4, 4, 2), devices[::-1])
    for row in range(4):
        assert {device.slice_index for device in found[row].flat} == {row}
    assert sharding.arrange((1, 32, 1), devices).shape == (1, 32, 1)  # fsdp over hosts is allowed where asked for


@pytest.mark.parametrize("devices, tensor, expected", [
    (gpus(1, 1), 1, (1, 1, 1)), (gpus(1), 1, (1, 8, 1)), (gpus(4), 1, (4, 8, 1)), (gpus(4), 2, (4, 4, 2)),
    (gpus(4, one_process_each=True), 1, (4, 8, 1)), (tpus(4, 4), 1, (4, 4, 1)), (tpus(4, 4, slices=2), 1, (8, 4, 1)),
    (tpus(4, 4), 8, (2, 1, 8)),
])  # fmt: skip
def test_the_numbers_of_large_models_fit_any_devices(devices, tensor, expected, monkeypatch):
    monkeypatch.setattr(sharding, "Mesh", lambda array, names, axis_types: array)  # jax refuses devices of ours
    assert sharding.make_mesh(data=-1, fsdp=-1, tensor=tensor, devices=devices).shape == expected
