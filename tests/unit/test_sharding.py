"""The mesh on devices that are not here, what each of them holds, and what fails before anything is compiled."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import rich.console
from jax.experimental import mesh_utils

from configs import vitpose_g, vitpose_h, vitpose_plus_h
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import overview, sharding, state


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


def mesh_of(data: int, fsdp: int, tensor: int) -> jax.sharding.AbstractMesh:
    return jax.sharding.AbstractMesh((data, fsdp, tensor), sharding.MESH_AXES)


def target_of(mesh, **settings) -> state.TrainState:
    return state.abstract_state(vitpose(**settings), optax.adam(1e-3), mesh)


TINY = {
    "embed_dim": 96, "depth": 2, "num_heads": 6, "mlp_dim": 192, "image_size": (64, 48), "deconv_filters": 32,
    "num_keypoints": {"coco": 5},
}  # fmt: skip


@pytest.mark.parametrize("mesh, message", [
    (mesh_of(1, 5, 1), r"mesh.fsdp = 5 does not divide 32 \(embed, decoders/coco/deconv1/kernel\), 96 \(embed, "
                       r"backbone/blocks/attn/proj/kernel\); the nearest that do: 4 and 8$"),
    (mesh_of(1, 64, 1), r"mesh.fsdp = 64 does not divide 32 .*; the nearest that do: 32$"),
    (mesh_of(1, 1, 4), r"mesh.tensor = 4 does not divide 6 \(heads, .*\); the nearest that do: 3 and 6$"),
])  # fmt: skip
def test_sizes_that_the_mesh_does_not_divide_are_named(mesh, message):
    with pytest.raises(ValueError, match=message):
        target_of(mesh, **TINY)


@pytest.mark.parametrize("batch_size, accumulate, message", [
    (100, 1, r"train.batch_size must be a positive multiple of mesh data x fsdp = 8, not 100; the nearest: 96 and 104"),
    (100, 3, r"mesh data x fsdp = 8 times 3 parts = 24, not 100; the nearest: 96 and 120"),
    (4, 1, r"not 4; the nearest: 8"),
    (-8, 1, r"not -8; the nearest: 8"),
])  # fmt: skip
def test_batches_that_the_devices_do_not_divide_are_named(batch_size, accumulate, message):
    with pytest.raises(ValueError, match=message):
        sharding.check_batch_size(batch_size, mesh_of(2, 4, 2), name="train.batch_size", accumulate=accumulate)
    sharding.check_batch_size(96, mesh_of(2, 4, 2), name="train.batch_size", accumulate=3)


@pytest.mark.parametrize("batch_size, found", [(1, 8), (8, 8), (9, 16), (64, 64)])
def test_batches_of_an_evaluation_are_rounded_up(batch_size, found):
    assert sharding.rounded_up(batch_size, mesh_of(2, 4, 2), name="eval.batch_size") == found
    with pytest.raises(ValueError, match=r"eval.batch_size must be positive, not 0"):
        sharding.rounded_up(0, mesh_of(2, 4, 2), name="eval.batch_size")


def test_a_large_leaf_on_every_device_is_refused():
    wide = {**TINY, "mlp_dim": 2**18}
    with pytest.raises(ValueError, match=r"params/.*fc1/bias of shape \(2, 262144\).*2097152 bytes"):
        target_of(mesh_of(4, 2, 1), **wide)
    target_of(mesh_of(8, 1, 1), **wide)  # all are, where nothing is split
    target_of(mesh_of(4, 1, 2), **wide)


@pytest.mark.parametrize("config", [vitpose_h, vitpose_g, vitpose_plus_h])
@pytest.mark.parametrize("fsdp, tensor", [(4, 1), (8, 1), (16, 1), (64, 1), (4, 4)])
def test_the_large_models_are_split_almost_evenly(config, fsdp, tensor):
    settings = config.get_config().model.to_dict()
    sizes = overview.bytes_per_device(target_of(mesh_of(1, fsdp, tensor), **settings))
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.variable_shapes(vitpose(**settings))["params"]))
    assert whole / (fsdp * tensor) <= sizes["parameters"] < 1.15 * whole / (fsdp * tensor)
    assert sizes["optimizer"] == pytest.approx(2 * sizes["parameters"], rel=1e-4)
    assert sizes["gradients"] == sizes["parameters"]


def test_the_overview_says_what_a_device_holds():
    mesh = sharding.make_mesh()
    target = target_of(mesh, **TINY)
    console = rich.console.Console(record=True, width=100)
    overview.print_overview("tiny", target, mesh, batch_size=12, accumulate=3, console=console)
    text = console.export_text()
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    for words in ("data 1 × fsdp 1 × tensor 1", f"{count / 1e6:.1f} M", f"{count * 4 / 2**20:.2f} MiB", "4, 3 times"):
        assert words in text
