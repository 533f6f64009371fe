"""What the configs of knowledge transfer share: the stages of ViTPose §3.5, of any pair of a teacher and a student.

The paper names neither the learning rate nor the epochs of the token stage; docs/transfer.md says what else it leaves
open and what was decided.
"""

from ml_collections import ConfigDict, config_dict

from vitpose_jax.models.settings import encoder_fields

# By the name that follows the config's file (configs/distill_h_to_b.py:both), what the student learns from besides the
# annotations: (the teacher's knowledge token, the teacher's heatmaps).
STUDENTS = {"heatmap": (False, True), "token": (True, False), "both": (True, True)}
STAGES = ("learn_token", *STUDENTS)


def distillation(name: str, stage: str, *, teacher: ConfigDict, student: ConfigDict) -> ConfigDict:
    """The config of one stage.

    Args:
        name: of the pair.
        stage: a name of `STAGES`. "learn_token" trains the teacher's token, the others the student.
        teacher: how the teacher was trained, into `runs/<its name>`.
        student: how the student is trained alone.

    Raises:
        ValueError: for another stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stages of knowledge transfer are {', '.join(STAGES)}, not {stage!r}")
    fields = encoder_fields(*(teacher.model[key] for key in ("size", "embed_dim", "depth", "num_heads", "mlp_dim")))
    width = fields["embed_dim"]
    if stage == "learn_token":
        return _learn_token(name, teacher, width)
    config = student
    has_token, has_heatmaps = STUDENTS[stage]
    config.name = name if stage == "both" else f"{name}_{stage}"
    if has_token:
        config.model.token_dim = width
        config.init_from.token = f"runs/{name}_learn_token"
        config.optimizer.freeze = ("backbone/knowledge/token",)  # and "backbone/knowledge/proj/.*": nor its projection
    if has_heatmaps:
        config.task = "distill"
        with config.unlocked():
            config.teacher = _teacher(f"runs/{teacher.name}", config.model.dtype)
            config.distill = _losses()
    return config.lock()


def _learn_token(name: str, teacher: ConfigDict, width: int) -> ConfigDict:
    config = teacher
    config.task = "token"
    config.init_from.path = f"runs/{teacher.name}"
    config.name = f"{name}_learn_token"
    config.init_from.fresh = ("backbone/knowledge/token",)
    config.model.token_dim = width
    config.optimizer.freeze = ("(?!backbone/knowledge/token$).*",)  # everything else
    config.schedule.update(kind="cosine", learning_rate=1e-2, warmup_steps=50)
    config.train.update(epochs=5, eval_every_epochs=1)
    return config


def _teacher(path: str, dtype: str) -> ConfigDict:
    """vitpose_jax.training.teacher.Teacher"""
    teacher = ConfigDict()
    teacher.path = path  # a run's folder or one of its steps
    teacher.dtype = config_dict.placeholder(str)  # of its computation; None: as its checkpoint says
    teacher.dtype = dtype
    teacher.cache_dir = ""  # keeps its heatmaps for runs that see the same batches; "" for none
    teacher.cache_steps = config_dict.placeholder(int)  # of the first steps; None: of all
    return teacher


def _losses() -> ConfigDict:
    """vitpose_jax.training.tasks.distillation_loss"""
    losses = ConfigDict()
    losses.truth_weight = 1.0
    losses.teacher_weight = 1.0
    losses.unlabelled = True  # the teacher's heatmaps of keypoints that nobody labelled count, too
    return losses
