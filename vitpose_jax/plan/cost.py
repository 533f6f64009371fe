"""From what a program does to how long it takes: arithmetic by hand, a roofline, whether it fits."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from vitpose_jax.models.cost import encoder_multiply_accumulates, multiply_accumulates
from vitpose_jax.models.mae import MAE, num_kept
from vitpose_jax.models.vit import PATCH_SIZE
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.plan.chips import Traffic
from vitpose_jax.training.state import variable_shapes

# Share of the memory that an estimate may fill: compilers need 0.9 to 1.9 times what it counts, see
# `docs/scaling.md`. So what fills more than half may still not fit.
ESTIMATE_FILLS = 0.7

# Assumed shares of the makers' numbers that a well-running program reaches. None was measured here.
ATTAINED = {"products": 0.6, "memory": 0.8, "links": 0.8}


def forward_macs(model: ViTPose | MAE) -> int:
    """Multiply-accumulates of the matrix products of one crop's forward pass; of a ViTPose through one decoder."""
    if isinstance(model, MAE):
        image = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.uint8)
        rngs = {"mask": jax.random.key(0)}
        return multiply_accumulates(
            lambda variables, image: model.apply(variables, image, train=True, rngs=rngs), variable_shapes(model), image
        )
    dim, filters, most = model.backbone["embed_dim"], model.deconv_filters, max(model.num_keypoints.values())
    tokens = math.prod(model.patch_grid)
    if model.decoder == "simple":
        decoder = tokens * 9 * dim * most
    else:  # a transposed convolution gives every cell 16 products, each of its four output cells four of them
        decoder = tokens * (16 * dim * filters + 4 * 16 * filters * filters + 16 * filters * most)
    return encoder_multiply_accumulates(model) + decoder


def model_flops(model: ViTPose | MAE) -> float:
    """Operations that one crop's update needs: forward, and twice that backward; no gradient of pixels.

    What rematerialisation computes again is not counted: it is this number that a utilisation refers to.
    """
    of_patches = math.prod(model.patch_grid) * PATCH_SIZE**2 * 3 * model.backbone["embed_dim"]
    return 2.0 * (3 * forward_macs(model) - of_patches)


def block_outputs(model: ViTPose | MAE) -> list[tuple[int, int]]:
    """(number of blocks, how many numbers each returns for a crop) of every stack of blocks."""
    tokens, encoder = math.prod(model.patch_grid), model.backbone
    if isinstance(model, MAE):
        seen, decoder = 1 + num_kept(tokens, model.mask_ratio), model.decoder
        return [
            (encoder["depth"], seen * encoder["embed_dim"]), (decoder["depth"], (1 + tokens) * decoder["embed_dim"])
        ]  # fmt: skip
    return [(encoder["depth"], tokens * encoder["embed_dim"])]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One experiment on one mesh of one topology: all per device and step unless it says otherwise."""

    name: str
    topology: str
    chip: str
    devices: int
    mesh: tuple[int, int, int]  # data, fsdp, tensor
    batch_size: int  # of all devices
    image_size: tuple[int, int]
    remat: str
    accumulate: int  # parts that the batch is computed in
    source: str  # "compiled" or "estimate"
    memory: dict[str, float]  # bytes by kind
    memory_limit: float  # bytes that a program may use
    model_flops: float
    product_flops: float
    memory_bytes: float  # that pass main memory
    exchanges: dict[str, dict[str, float]]  # kind to count, fast_bytes, slow_bytes, seconds
    hidden_s: float  # of exchanges that run beside other work
    exposed_s: float  # of exchanges that are waited for
    peak_flops: float
    memory_bandwidth: float
    problem: str = ""  # why there is no program
    compile_s: float = 0.0

    @property
    def memory_total(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        share = ESTIMATE_FILLS if self.source == "estimate" else 1.0
        return not self.problem and self.memory_total <= share * self.memory_limit

    @property
    def products_s(self) -> float:
        return self.product_flops / (self.peak_flops * ATTAINED["products"])

    @property
    def memory_s(self) -> float:
        return self.memory_bytes / (self.memory_bandwidth * ATTAINED["memory"])

    @property
    def step_s(self) -> float:
        """Products, memory and hidden exchanges at once, then what is waited for."""
        return max(self.products_s, self.memory_s, self.hidden_s) + self.exposed_s

    @property
    def images_per_s(self) -> float:
        """Of all devices."""
        return self.batch_size / self.step_s if self.step_s else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the chips' peak that the model's own operations are."""
        return self.model_flops / (self.step_s * self.peak_flops) if self.step_s else 0.0

    @property
    def parts_s(self) -> dict[str, float]:
        """What products, memory and links would take alone."""
        return {"products": self.products_s, "memory": self.memory_s, "links": self.hidden_s + self.exposed_s}

    @property
    def bound(self) -> str:
        """What takes longest alone."""
        return max(self.parts_s, key=lambda name: self.parts_s[name])

    def record(self) -> dict[str, Any]:
        """For JSON: the fields and what follows from them."""
        derived = ("memory_total", "fits", "products_s", "memory_s", "step_s", "images_per_s", "utilisation", "bound")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def plan_of(record: dict[str, Any]) -> Plan:
    """The plan that `Plan.record` wrote."""
    fields = {field.name for field in dataclasses.fields(Plan)}
    values = {name: value for name, value in record.items() if name in fields}
    for name in ("mesh", "image_size"):
        values[name] = tuple(values[name])
    return Plan(**values)


class Ledger:
    """Adds up what exchanges cost."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, float]] = {}
        self.hidden_s = self.exposed_s = 0.0

    def add(self, kind: str, traffic: Traffic, *, count: int, hidden: bool) -> None:
        """One kind of exchange, so often a step."""
        entry = self.kinds.setdefault(kind, {"count": 0, "fast_bytes": 0.0, "slow_bytes": 0.0, "seconds": 0.0})
        seconds = count * traffic.seconds / ATTAINED["links"]
        for name, value in (
            ("count", count), ("fast_bytes", count * traffic.fast_bytes), ("slow_bytes", count * traffic.slow_bytes),
            ("seconds", seconds),
        ):  # fmt: skip
            entry[name] += value
        if hidden:
            self.hidden_s += seconds
        else:
            self.exposed_s += seconds


def efficiency(small: Plan, large: Plan) -> float:
    """Images a second of a chip of the larger machine, relative to a chip of the smaller."""
    return (large.images_per_s / large.devices) / (small.images_per_s / small.devices)


def lost_to(small: Plan, large: Plan) -> str:
    """Which part of the step costs more chip time on the larger machine, of those the one that grows most."""
    growth = {name: large.devices * large.parts_s[name] - small.devices * small.parts_s[name] for name in large.parts_s}
    return max(growth, key=lambda name: growth[name])


def leaf_bytes(leaf: Any) -> float:
    """Bytes of a sharded leaf on one device."""
    return float(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize)
