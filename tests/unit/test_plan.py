"""Plans: programs are read right, estimates agree with compiled programs, and lowering for TPUs and GPUs works."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.plan import __main__ as command
from vitpose_jax.plan import case as plan_case
from vitpose_jax.plan import chips, cost, document, hlo, planning
from vitpose_jax.plan.case import Case
from vitpose_jax.training import sharding

MODEL = {
    "num_keypoints": {"coco": 17}, "embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_dim": 256, "image_size": (64, 64),
    "drop_path": 0.1, "dtype": "bfloat16", "deconv_filters": 32,
}  # fmt: skip
SCHEDULE = {"learning_rate": 1e-3}
OVERRIDES = [
    *(f"--config.model.{name}={MODEL[name]}" for name in ("embed_dim", "depth", "num_heads", "mlp_dim")),
    "--config.model.image_size=(64,64)", "--config.train.batch_size=16", "--config.model.decoder=simple",
]  # fmt: skip


def toy(**changes) -> Case:
    return Case("toy", MODEL | changes, {}, SCHEDULE, {"sigma": 2.0}, batch_size=16)


@pytest.fixture(scope="module")
def tpu_devices() -> list:
    return plan_case.described_devices(chips.topology("v5e:2x2"))


def test_a_loop_counts_as_often_as_it_runs(tpu_devices):
    mesh = Mesh(np.array(tpu_devices), ("x",))
    x = jax.ShapeDtypeStruct((512, 256), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("x")))
    w = jax.ShapeDtypeStruct((6, 256, 256), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(None, "x")))

    def layers(unroll):
        def run(x, w):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]

        text = jax.jit(run, out_shardings=x.sharding).lower(x, w).compile().as_text()
        return hlo.read(text, 4)

    looped, unrolled = layers(1), layers(6)
    assert looped.product_flops == unrolled.product_flops == 6 * 2 * 128 * 256 * 256
    gathered = {
        name: sum(each.num_bytes * each.count for each in program.collectives if each.kind == "all-gather")
        for name, program in (("looped", looped), ("unrolled", unrolled))
    }
    assert gathered == {"looped": 6 * 256 * 256 * 2, "unrolled": 6 * 256 * 256 * 2}
    assert {each.groups[0] for each in looped.collectives} == {(0, 1, 2, 3)}


def test_padding_of_a_product_is_not_counted():
    text = """HloModule m
ENTRY %main (a: bf16[4,8,16], b: bf16[4,16,32]) -> f32[4,8,32] {
  %a = bf16[4,8,16]{2,1,0} parameter(0)
  %b = bf16[4,16,32]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %c = f32[4,8,32]{2,1,0} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}
"""
    program = hlo.read(text, 1)
    assert program.product_flops == 2 * 4 * 8 * 16 * 32  # a batched product, written as a dilated convolution
    assert program.memory_bytes == 2 * 4 * 8 * 16 + 4 * 4 * 8 * 32  # b is in the fast memory


def test_of_stacks_of_all_layers_only_the_cut_passes_memory():
    text = """HloModule m
%inner (p: f32[12,8,128], i: s32[]) -> f32[1,8,128] {
  %p = f32[12,8,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %cut = f32[1,8,128]{2,1,0} dynamic-slice(%p, %i, %i, %i), dynamic_slice_sizes={1,8,128}
}
%fused (stack: f32[12,8,128], saved: f32[12,8,128], row: f32[1,8,128], at: s32[]) -> (f32[12,8,128], f32[8,128]) {
  %stack = f32[12,8,128]{2,1,0} parameter(0)
  %saved = f32[12,8,128]{2,1,0} parameter(1)
  %row = f32[1,8,128]{2,1,0} parameter(2)
  %at = s32[] parameter(3)
  %read = f32[1,8,128]{2,1,0} fusion(%stack, %at), kind=kLoop, calls=%inner
  %sum = f32[1,8,128]{2,1,0} add(%read, %row)
  %update = f32[12,8,128]{2,1,0} dynamic-update-slice(%saved, %sum, %at, %at, %at)
  %flat = f32[8,128]{1,0} bitcast(%sum)
  ROOT %both = (f32[12,8,128]{2,1,0}, f32[8,128]{1,0}) tuple(%update, %flat)
}
ENTRY %main (a: f32[12,8,128], b: f32[12,8,128], c: f32[1,8,128], d: s32[]) -> (f32[12,8,128], f32[8,128]) {
  %a = f32[12,8,128]{2,1,0} parameter(0)
  %b = f32[12,8,128]{2,1,0} parameter(1)
  %c = f32[1,8,128]{2,1,0} parameter(2)
  %d = s32[]{:S(6)} parameter(3)
  ROOT %f = (f32[12,8,128]{2,1,0}, f32[8,128]{1,0:S(1)}) fusion(%a, %b, %c, %d), kind=kLoop, calls=%fused
}
"""
    # Reads a row of `a` and `c`, writes a row of `b`; the second result stays in the fast memory.
    assert hlo.read(text, 1).memory_bytes == 3 * 8 * 128 * 4


def test_a_loop_without_a_bound_is_refused():
    text = """HloModule m
%cond (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  ROOT %r = pred[] custom-call(%p)
}
%body (q: (s32[])) -> (s32[]) {
  ROOT %q = (s32[]) parameter(0)
}
ENTRY %main (a: s32[]) -> (s32[]) {
  %a = s32[] parameter(0)
  %t = (s32[]) tuple(%a)
  ROOT %w = (s32[]) while(%t), condition=%cond, body=%body
}
"""
    with pytest.raises(ValueError, match="does not count up to a constant"):
        hlo.read(text, 1)


@pytest.mark.parametrize(("written", "groups"), [
    ("replica_groups={{0,1},{2,3}}, x", ((0, 1), (2, 3))),
    ("replica_groups={}", ((0, 1, 2, 3),)),
    ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
    ("replica_groups=[2,2]<=[2,2]T(1,0), x", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", ((0, 1), (2, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'c'}, x", ((0, 2), (1, 3))),
    ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
])  # fmt: skip
def test_groups_of_devices(written, groups):
    assert hlo.device_groups(written, 4) == groups


def test_operations_of_pre_training_are_those_of_the_traced_step():
    settings = {"embed_dim": 256, "depth": 2, "num_heads": 4, "mlp_dim": 512, "image_size": (64, 64),
                "decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 2}  # fmt: skip
    case = Case("mae", settings, {}, SCHEDULE, {}, batch_size=16, task="mae")
    plan = planning.estimated(case, chips.topology("v5e:1x2"), (1, 1, 2))
    assert 2 * plan.product_flops == pytest.approx(16 * cost.model_flops(case.make_model()), rel=0.01)
    assert plan.exchanges["all-reduce"]["count"] == 4 * (2 + 1)  # sums of activations in every block


@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_operations_by_hand_are_those_of_the_traced_step(decoder):
    # Wide enough that targets and upsampling, which the formula leaves out, hardly count.
    model = vitpose(**MODEL | {"decoder": decoder, "embed_dim": 512, "mlp_dim": 1024})
    case = toy(decoder=decoder, embed_dim=512, mlp_dim=1024)
    traced = planning.estimated(case, chips.topology("v5e:1x1"), (1, 1, 1)).product_flops
    assert traced == pytest.approx(16 * cost.model_flops(model), rel=0.02)


def test_published_operations_per_crop():
    model = vitpose(num_keypoints={"coco": 17}, size="b")
    # As in configs/vitpose_b.py; no gradient of the 192 patches' pixels.
    assert cost.model_flops(model) == pytest.approx(6 * 18.5e9 - 2 * 192 * 768 * 768, rel=0.01)


def test_rematerialisation_costs_what_it_says():
    where = chips.topology("v5e:1x2")
    plans = {
        remat: planning.estimated(toy(remat=remat, decoder="simple"), where, (2, 1, 1))
        for remat in ("none", "dots", "full")
    }
    flops = [plans[remat].product_flops for remat in ("none", "dots", "full")]
    assert flops[0] < flops[1] < flops[2]
    held = [plans[remat].memory["activations"] for remat in ("none", "dots", "full")]
    assert held[0] > held[1] > held[2]


def test_a_compiled_step_and_its_estimate_agree():
    """Fails where a change breaks the lowering for TPUs, or where the estimate no longer counts what is compiled."""
    where = chips.topology("v5e:2x2")
    case = toy(decoder="simple", remat="full")
    compiled, estimated = planning.compiled(case, where, (2, 2, 1)), planning.estimated(case, where, (2, 2, 1))
    assert compiled.source == "compiled" and compiled.fits and not compiled.problem
    assert compiled.product_flops == pytest.approx(estimated.product_flops, rel=0.01)
    for kind in ("parameters", "optimizer", "batch"):
        assert compiled.memory[kind] == estimated.memory[kind] > 0
    assert 0 <= compiled.memory["tiles"] < 0.5 * compiled.memory_total
    assert {"all-gather", "all-reduce"} <= compiled.exchanges.keys()
    # Every parameter that is split is gathered for the forward and for the backward pass.
    gathered = [plan.exchanges["all-gather"]["fast_bytes"] for plan in (compiled, estimated)]
    assert gathered[0] == pytest.approx(gathered[1], rel=0.2)


@pytest.mark.parametrize("decoder", ["classic", "simple"])
def test_steps_and_forward_passes_lower_for_gpus(decoder):
    case = toy(decoder=decoder, remat="dots")
    program, batch = case.program(plan_case.abstract_mesh((2, 2, 2)))
    exported = jax.export.export(program.step, platforms=["cuda"])(program.target, batch)
    assert exported.platforms == ("cuda",) and exported.nr_devices == 8
    model = case.make_model()
    variables = {"params": program.target.params, "batch_stats": program.target.batch_stats}
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    assert jax.export.export(forward, platforms=["cuda"])(variables, images).out_avals[0].shape == (2, 16, 16, 17)


def test_a_step_that_the_compiler_refuses_does_not_fit(monkeypatch):
    error = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (18.00G) exceeds available HBM (15.75G)."

    def refuse(*_):
        raise jax.errors.JaxRuntimeError(error)

    case, where = toy(decoder="simple"), chips.topology("v5e:1x2")
    mesh = plan_case.abstract_mesh((2, 1, 1))
    program, batch = case.program(mesh)
    monkeypatch.setattr(planning, "described_devices", lambda where: [])
    monkeypatch.setattr(planning.sharding, "make_mesh", lambda **_: mesh)
    monkeypatch.setattr(Case, "program", lambda *_: (program._replace(step=SimpleNamespace(trace=refuse)), batch))
    plan = planning.compiled(case, where, (2, 1, 1))
    assert not plan.fits and "18.00G" in plan.problem and plan.images_per_s == 0
    assert plan.memory_total == pytest.approx(18 * 2**30) and plan.memory["optimizer"] > 0


def test_what_an_exchange_costs():
    where = chips.topology("v5e:16x16", slices=2)
    located = plan_case.places(where, (2, 256, 1), None)
    slice_0 = plan_case.group((2, 256, 1), "fsdp")
    chip = where.chip
    both_axes = chips.exchange("all-gather", 256e6, slice_0, *located, where)
    assert both_axes.fast_bytes == 255e6 and both_axes.slow_bytes == 0
    # Two rings, two directions each.
    assert both_axes.seconds == pytest.approx(255e6 / (4 * chip.link_bandwidth) + 15 * chips.HOP_S)
    across = chips.exchange("all-reduce", 1e6, plan_case.group((2, 256, 1), "data"), *located, where)
    assert across.fast_bytes == 0 and across.slow_bytes == 1e6  # half of it sent, half of it received reduced, twice
    whole = chips.exchange("all-reduce", 1e6, tuple(range(512)), *located, where)
    assert whole.fast_bytes == pytest.approx(2e6 * 255 / 256) and whole.slow_bytes == pytest.approx(1e6 / 256)
    # A row of a smaller slice is a line, not a ring: half the bandwidth.
    small = chips.topology("v5e:4x4")
    located = plan_case.places(small, (4, 4, 1), None)
    row = chips.exchange("reduce-scatter", 4e6, plan_case.group((4, 4, 1), "fsdp"), *located, small)
    assert row.seconds == pytest.approx(3e6 / chip.link_bandwidth + 3 * chips.HOP_S)


def test_a_step_is_traced_for_the_chip_and_not_for_the_cpu_here():
    # A CPU sums products of bfloat16 in float32; elsewhere only those of attention are float32.
    case = toy(decoder="simple")
    program, batch = case.program(Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES))
    here = str(program.step.trace(program.target, batch).jaxpr).count("preferred_element_type=bfloat16")
    planned = str(planning._share(json.dumps(case._asdict())).jaxpr).count("preferred_element_type=bfloat16")
    assert here == 0 and planned > 10


def test_parts_of_a_batch_hold_less_and_exchange_more():
    where = chips.topology("gpu:2xH100")
    whole, parts = (
        planning.estimated(toy(decoder="simple")._replace(accumulate=number), where, (1, 2, 1)) for number in (1, 4)
    )
    assert parts.product_flops == pytest.approx(whole.product_flops, rel=1e-3)
    assert parts.memory["activations"] < whole.memory["activations"]
    for kind in ("all-gather", "reduce-scatter"):
        assert parts.exchanges[kind]["fast_bytes"] == 4 * whole.exchanges[kind]["fast_bytes"]


def test_shards_that_are_not_whole_tiles_are_summed_on_tpus():
    case = toy(decoder="simple")._replace(batch_size=32)
    kinds = {
        (name, fsdp): planning.estimated(case, chips.topology(name), (32 // fsdp, fsdp, 1)).exchanges.keys()
        for name in ("v5e:4x8", "gpu:4x8xH100") for fsdp in (16, 32)
    }  # fmt: skip
    assert kinds.pop(("v5e:4x8", 32)) == {"all-reduce"}  # 128 / 32 = 4 rows
    assert all(found == {"all-gather", "reduce-scatter", "all-reduce"} for found in kinds.values())


def test_tensor_parallel_sums_are_waited_for():
    where = chips.topology("gpu:4xH100")
    plan = planning.estimated(toy(remat="full", decoder="simple"), where, (1, 1, 4))
    # Five a block, three blocks; 16 crops of 16 tokens, bfloat16, in four ways.
    each = chips.exchange("all-reduce", 16 * 16 * 128 * 2, range(4), np.zeros((4, 1), int), np.zeros(4, int), where)
    assert plan.exposed_s == pytest.approx(5 * 3 * each.seconds / cost.ATTAINED["links"])
    assert each.fast_bytes == 16 * 16 * 128 * 2 * 2 * 3 / 4


@pytest.mark.parametrize(
    "name", ["v5e", "v5e:4", "v5e:4x4x4", "v9z:2x2", "gpu:9xH100", "gpu:8xB900", "v5p:4x4", "gpu:0xA100"]
)
def test_unknown_topologies(name):
    with pytest.raises(ValueError, match=r"unknown topology .* v5e:4x4, v5p:4x4x4"):
        chips.topology(name)


def test_a_topology_that_the_compiler_does_not_know():
    with pytest.raises(ValueError, match="libtpu has no topology 'v5e:3x3'"):
        plan_case.described_devices(chips.topology("v5e:3x3"))


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -r requirements-plan\.txt"):
        plan_case.described_devices(chips.topology("v5e:2x2"))


def test_sizes_that_do_not_divide_name_the_numbers():
    with pytest.raises(ValueError, match="multiple of mesh data x fsdp"):
        planning.estimated(toy(), chips.topology("v5e:4x8"), (32, 1, 1))
    with pytest.raises(ValueError, match="nearest batch that works is 32"):
        planning.best_meshes(toy()._replace(batch_size=17), chips.topology("v5e:4x4"))


def test_best_mesh_fits_before_it_is_fast():
    where = chips.topology("v5e:2x2")
    plans = planning.best_meshes(toy(decoder="simple"), where)
    assert {math.prod(plan.mesh) for plan in plans} == {4}
    assert [plan.fits for plan in plans] == sorted((plan.fits for plan in plans), reverse=True)
    assert plans == sorted(plans, key=planning.rank) and {plan.mesh[2] for plan in plans} == {1}
    tiny = dataclasses.replace(where, chip=dataclasses.replace(where.chip, memory_bytes=1e5))
    tight = planning.best_meshes(toy(decoder="simple"), tiny)
    assert {plan.mesh[2] for plan in tight} == {1, 2, 4} and not tight[0].fits


def test_the_command(tmp_path, capsys):
    lines = tmp_path / "plans.json"
    command.main([
        "--config", "configs/vitpose_b.py,configs/vitpose_h.py", "--topology", "gpu:2xH100", "v5e:1x2",
        "--mesh", "best", "2,1,1", "--compile", "2", "--estimate", "--json", str(lines), *OVERRIDES,
    ])  # fmt: skip
    shown = capsys.readouterr().out
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {record["topology"] for record in records} == {"gpu:2xH100", "v5e:1x2"}
    assert {record["name"] for record in records} == {"vitpose_b", "vitpose_h"}
    assert [record["images_per_s"] for record in records] == sorted((r["images_per_s"] for r in records), reverse=True)
    assert "estimate" in shown and "Assumed, not measured" in shown
    assert cost.plan_of(records[0]).record() == records[0] | {"mesh": tuple(records[0]["mesh"]), "image_size": (64, 64)}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:x"], "unknown topology"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--config.mesh.tensor=3"], "does not fit 4 device"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--slices", "2", "--mesh", "1,8,1", "--estimate"],
     "data = 1 cannot be split over 2 slices"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--config.nothing=3"], "configs/common.py"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--nothing"], "nothing"),
    (["--config", "configs/none.py", "--topology", "v5e:2x2"], "No such file"),
    (["--document", "docs/none.md", "--estimate"], "No such file.*none.md"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--mesh", "4x1"], "data,fsdp,tensor"),
    (["--config", "configs/vitpose_b.py", "--topology", "v5e:2x2", "--config.task=distill", "--estimate"], "'distill'"),
    (["--config", "configs/finetune_custom.py", "--topology", "v5e:2x2", "--estimate"], "config.model"),
])  # fmt: skip
def test_errors_of_the_command_are_sentences(arguments, message):
    with pytest.raises(SystemExit, match=message) as raised:
        command.main(arguments)
    assert "\n" not in str(raised.value)


def test_the_document_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path = tmp_path / "scaling.md"
    path.write_text(f"# Scaling\n\n{document.BEGIN}\n{document.END}\n\nreading\n")
    monkeypatch.setattr(document, "EXPERIMENTS", (("configs/vitpose_b.py", OVERRIDES),))
    monkeypatch.setattr(document, "MACHINES", {"v5e": ("v5e:1x2", "v5e:2x2"), "H100": ("gpu:2xH100",)})
    monkeypatch.setattr(document, "SHOWN", (2, 4))
    monkeypatch.setattr(document, "FROM", 2)
    monkeypatch.setattr(document, "TO", 4)
    monkeypatch.setattr(document, "PROGRAMS", ((2, document.compile_best), (2, document.compile_replicated)))
    compiled = []

    def compiles(case, where, mesh):
        compiled.append((where.name, mesh))
        return dataclasses.replace(planning.estimated(case, where, mesh), source="compiled")

    monkeypatch.setattr(planning, "compiled", compiles)
    for _ in range(2):
        document.update(path, command.read_config, estimate_only=False)
    (best, _), (_, replicated) = compiled  # once each
    assert best == "v5e:1x2" and replicated == (2, 1, 1)
    text = path.read_text()
    assert text.startswith("# Scaling") and text.endswith("reading\n")
    rows = [line for line in text.splitlines() if line.startswith("| v5e") or line.startswith("| gpu")]
    assert [row.split("|")[-2].strip() for row in rows] == ["compiled", "estimate", "estimate"]
    with pytest.raises(ValueError, match="needs the lines"):
        (tmp_path / "other.md").write_text("nothing")
        document.update(tmp_path / "other.md", command.read_config, estimate_only=True)


def test_no_accelerator_is_looked_for():
    """Where libtpu is installed, JAX would look for a TPU."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    asked = "import os, vitpose_jax.plan.__main__; print(os.environ['JAX_PLATFORMS'])"
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu"]
