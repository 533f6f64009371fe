"""Knowledge transfer: the losses, the token's way through the encoder, the teacher and its cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.random_models import random_model
from vitpose_jax import codec, trees
from vitpose_jax.inference import PoseEstimator
from vitpose_jax.models import vit, vitpose
from vitpose_jax.training import checkpoint, sharding, state, tasks, transfer
from vitpose_jax.training.teacher import Teacher

SETS = {"coco": "coco", "mpii": "mpii"}  # 17 and 16 keypoints
SIZE, GRID = (64, 48), (4, 3)
STUDENT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}


@functools.cache
def teacher_of():
    """Of two data sets; other width, depth and decoder than the student; with batch norm."""
    return random_model(SETS, embed_dim=24, num_heads=2, depth=1, decoder="classic", deconv_filters=8)


@functools.cache
def student_of(several: bool = False, **changes):
    return random_model(SETS if several else {"coco": "coco"}, **{**STUDENT, **changes})


@functools.cache
def batch_of(num_datasets: int = 1) -> dict:
    rng = np.random.default_rng(0)
    keypoints = np.concatenate([rng.uniform(5, 43, (6, 17, 2)), rng.integers(0, 2, (6, 17, 1))], -1)
    return {
        "image": rng.integers(0, 256, (6, *SIZE, 3), dtype=np.uint8), "keypoints": keypoints.astype(np.float32),
        "dataset": (np.arange(6) % num_datasets).astype(np.int32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def saved_teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    checkpoint.save_model(folder, teacher_of().variables, teacher_of().file)
    return folder


def open_teacher(folder, **options) -> Teacher:
    student = student_of(several=True)
    return Teacher(
        folder, student=student.model, student_file=student.file, datasets=tuple(SETS), mesh=sharding.make_mesh(),
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(saved_teacher):
    return open_teacher(saved_teacher)


@pytest.mark.parametrize("several, unlabelled", [(False, True), (True, False)])
def test_the_loss_is_the_sum_that_the_paper_writes(several, unlabelled):
    student, batch = student_of(several), batch_of(1 + several)
    names = list(student.model.num_keypoints)
    udp = dict.fromkeys(names, False)
    taught = np.random.default_rng(1).normal(0, 0.3, (6, 16, 12, 17)).astype(np.float32)
    loss = tasks.distillation_loss(
        student.model, udp=udp, sigma=2.0, truth_weight=0.5, teacher_weight=2.0, unlabelled=unlabelled
    )
    params = student.variables["params"]
    value, (_, metrics) = jax.jit(loss)(params, {}, batch | {"teacher_heatmaps": taught}, jax.random.key(0))

    outputs = jax.jit(functools.partial(student.model.apply, train=False))({"params": params}, batch["image"])
    target, weights = map(np.asarray, codec.encode(
        batch["keypoints"], crop_size=SIZE, heatmap_size=(16, 12), sigma=2.0, udp=False
    ))  # fmt: skip
    truth = teacher = 0.0
    for crop, number in enumerate(batch["dataset"]):
        heatmaps = np.asarray(outputs[names[number]][crop], np.float64)
        k = heatmaps.shape[-1]  # of its own data set; a set's loss is a mean over its own maps and all crops
        truth += np.square((heatmaps - target[crop, ..., :k]) * weights[crop, :k]).mean() / 6
        seen = 1 if unlabelled else weights[crop, :k]
        teacher += np.square((heatmaps - taught[crop, ..., :k]) * seen).mean() / 6
    assert metrics["truth_loss"] == pytest.approx(truth, rel=1e-5)
    assert metrics["teacher_loss"] == pytest.approx(teacher, rel=1e-5)
    assert value == metrics["loss"] == pytest.approx(0.5 * truth + 2.0 * teacher, rel=1e-5)


def test_the_teachers_heatmaps_are_those_of_inference(teacher, saved_teacher):
    """Of each crop by its own data set's decoder; running statistics are used and left alone."""
    loaded, batch = teacher_of(), batch_of(2)
    found = teacher(0, batch)["teacher_heatmaps"]
    assert found.dtype == jnp.float32 and f"{saved_teacher}/checkpoints/0, 0.0 M parameters" in teacher.description
    outputs = jax.jit(functools.partial(loaded.model.apply, train=False))(loaded.variables, batch["image"])
    for crop, name in enumerate(("coco", "mpii") * 3):
        k = len(loaded.file.keypoint_set(name))
        np.testing.assert_allclose(found[crop, ..., :k], outputs[name][crop], atol=1e-5)
        assert not found[crop, ..., k:].any()
    jax.tree.map(np.testing.assert_array_equal, teacher._variables, loaded.variables)
    constants = jax.make_jaxpr(teacher._heatmaps)(
        teacher._variables, sharding.global_batch(batch, teacher._mesh)
    ).consts
    assert sum(np.size(constant) for constant in constants) < 100  # weights are arguments


def test_cached_heatmaps_are_the_computed_ones_in_float16(teacher, saved_teacher, tmp_path, monkeypatch):
    batch, other = batch_of(2), {**batch_of(2), "image": 255 - batch_of(2)["image"]}
    plain = np.asarray(teacher(0, batch)["teacher_heatmaps"])
    filling = open_teacher(saved_teacher, cache_dir=str(tmp_path), cache_steps=2)
    computed = filling(1, batch)["teacher_heatmaps"]
    assert computed.dtype == jnp.float16
    np.testing.assert_allclose(computed, plain, rtol=1e-3, atol=1e-6)
    assert filling(2, other)["teacher_heatmaps"].dtype == jnp.float32  # beyond what is kept
    assert len(list(tmp_path.glob("*/*"))) == 1

    reading = open_teacher(saved_teacher, cache_dir=str(tmp_path))
    monkeypatch.setattr(reading, "_heatmaps", None)
    again = reading(7, batch)["teacher_heatmaps"]  # the crops count, not the step's number
    np.testing.assert_array_equal(again, computed)
    cache = reading._cache
    for changed in (other, {**batch, "dataset": batch["dataset"][::-1]}):
        assert cache.read(cache.key(changed)) is None
    assert open_teacher(saved_teacher, cache_dir=str(tmp_path), dtype="bfloat16")._cache.folder != cache.folder

    student = student_of(several=True)
    loss = jax.jit(tasks.distillation_loss(student.model, udp=dict.fromkeys(SETS, False), sigma=2.0))
    with_cache, without = (
        loss(student.variables["params"], {}, batch | {"teacher_heatmaps": heatmaps}, jax.random.key(0))[1][1]
        for heatmaps in (np.asarray(again, np.float32), plain)
    )
    assert with_cache["truth_loss"] == without["truth_loss"]
    assert with_cache["teacher_loss"] == pytest.approx(float(without["teacher_loss"]), rel=1e-3)


@pytest.mark.parametrize("changes, message", [
    ({"image_size": (96, 64)}, r"takes crops of \(64, 48\) .* the student of \(96, 64\)"),
    ({"ratio": 2}, r"predicts heatmaps of \(16, 12\) .* the student of \(32, 24\)"),
    ({"datasets": {"coco": "aic"}}, "coco: the teacher .* predicts the keypoints"),
    ({"datasets": {"aic": "aic"}}, r"no decoder for 'aic', only for \['coco', 'mpii'\]"),
    ({"udp": True}, "unbiased"),
    ({"sigma": 3.0}, "sigma 2.0, the student's are of sigma 3.0"),
])  # fmt: skip
def test_a_teacher_of_something_else_is_refused(saved_teacher, changes, message):
    changes = dict(changes)
    sigma = changes.pop("sigma", 2.0)
    student = random_model(changes.pop("datasets", None), **changes)
    student.file.codec["sigma"] = sigma
    with pytest.raises(ValueError, match=message):
        Teacher(
            saved_teacher, student=student.model, student_file=student.file, datasets=tuple(student.file.datasets),
            mesh=sharding.make_mesh(),
        )  # fmt: skip


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"cache_steps": 0}])
def test_wrong_settings_of_a_teacher_are_refused(saved_teacher, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        open_teacher(saved_teacher, **options)
    with pytest.raises(ValueError, match="truth_weight"):
        tasks.distillation_loss(student_of().model, udp={"coco": False}, sigma=2.0, teacher_weight=-1.0)


@pytest.mark.parametrize("token_dim, token_position", [(16, False), (24, True)])
def test_the_token_goes_through_the_blocks_and_no_further(token_dim, token_position):
    """The encoder, written out: patches and token, block after block, the patches' tokens."""
    loaded = student_of(token_dim=token_dim, token_position=token_position)
    params = loaded.variables["params"]["backbone"]
    assert set(params["knowledge"]) == ({"token"} if token_dim == 16 else {"token", "proj"})
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    fields = loaded.model.backbone
    found = jax.jit(functools.partial(vit.ViT(**fields).apply, train=False))({"params": params}, images)
    assert found.shape == (2, *GRID, 16)

    @jax.jit
    def written_out(params, images):
        x = vit.PatchEmbed(16, 1, jnp.float32).apply({"params": params["patch_embed"]}, images).reshape(2, 12, 16)
        x = x + params["pos_embed"][:, 1:] + params["pos_embed"][:, :1]
        token = params["knowledge"]["token"]
        if token_dim != 16:
            token = token @ params["knowledge"]["proj"]["kernel"] + params["knowledge"]["proj"]["bias"]
        token = token + params["pos_embed"][:, :1] * token_position
        x = jnp.concatenate([x, jnp.broadcast_to(token, (2, 1, 16))], axis=1)
        block = vit.Block(2, 32, 0, 0, 1e-6, jnp.float32, train=False, stochastic=False)
        for layer in range(2):
            of_layer = functools.partial(jax.tree.map, lambda leaf, i=layer: leaf[i])
            x, _ = block.apply({"params": of_layer(params["blocks"])}, x, jnp.float32(0), None)
        return vit.norm(None, 1e-6).apply({"params": params["last_norm"]}, x[:, :12])

    np.testing.assert_allclose(found.reshape(2, 12, 16), written_out(params, images), atol=1e-5)


def test_the_token_is_an_input_of_inference():
    loaded = random_model(**STUDENT, token_dim=24)
    image, boxes = batch_of()["image"][0], [[4.0, 4.0, 40.0, 50.0]]
    estimator = PoseEstimator(loaded, batch_size=1, flip_test=False)
    scores = estimator(image, boxes)[0].scores
    estimator.variables["params"]["backbone"]["knowledge"]["token"] *= -3.0
    assert np.abs(estimator(image, boxes)[0].scores - scores).max() > 1e-3


@pytest.mark.parametrize("wrong, message", [
    ({"token_dim": 8, "attention": "window", "window_size": (2, 3)}, "no place on the grid"),
    ({"token_dim": 8, "relative_positions": "full"}, "no place on the grid"),
    ({"token_dim": 0}, "must be positive"), ({"token_position": True}, "there is none"),
])  # fmt: skip
def test_wrong_settings_of_a_token_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        vitpose.vitpose(**STUDENT, image_size=SIZE, num_keypoints={"coco": 17}, **wrong)


def test_a_student_starts_with_the_teachers_token(tmp_path):
    """Alone, or with the weights of a model that has none."""
    source = random_model(embed_dim=24, num_heads=2, depth=1, token_dim=24)
    plain, model = student_of(), student_of(token_dim=24).model
    for name, loaded in (("source", source), ("plain", plain)):
        checkpoint.save_model(tmp_path / name, loaded.variables, loaded.file)
    token = str(tmp_path / "source")

    def knowledge(path, fresh=()):
        variables, report = transfer.init_from(path, model, key=jax.random.key(0), fresh=fresh, token=token)
        assert trees.flatten(variables).keys() == trees.flatten(state.variable_shapes(model)).keys()
        learned = source.variables["params"]["backbone"]["knowledge"]["token"]
        np.testing.assert_array_equal(variables["params"]["backbone"]["knowledge"]["token"], learned)
        return report

    knowledge("")
    report = knowledge(str(tmp_path / "plain"), fresh=("decoders/.*",))
    names = [path for path in report["fresh"] if "decoders" not in path]
    assert names == [f"params/backbone/knowledge/proj/{leaf}" for leaf in ("bias", "kernel")]
    assert len(report["restored"]) == len(trees.flatten(plain.variables)) - 2 + 1
    with pytest.raises(ValueError, match=r"is 24 wide: this run needs --config.model.token_dim=24"):
        transfer.init_from("", plain.model, key=jax.random.key(0), token=token)
    with pytest.raises(ValueError, match="has no knowledge token"):
        transfer.init_from("", model, key=jax.random.key(0), token=str(tmp_path / "plain"))
