"""Every setting once: unit, default, and where the default comes from. Experiments in this folder change a few of them.

Each section becomes the keyword arguments of one callable, which checks the values (`train`: the loop in train.py); a
key that is not here is an error.
Sizes are (height, width). Source of the numbers, where none is named: ViTPose (arXiv 2204.12484) Table 1 and the
released configs.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.evaluation.published import PROTOCOLS


def get_config() -> ConfigDict:
    """All settings with their defaults; only the model's size has none."""
    config = ConfigDict()
    config.name = "common"  # the run's folder is runs/<name> unless --workdir says otherwise
    config.task = "pose"  # configs/tasks.py: "pose", "mae", "distill", "token"
    config.seed = 0  # of initial values, order, augmentation and stochastic depth

    # vitpose_jax.models.vitpose.vitpose
    config.model = ConfigDict()
    config.model.size = config_dict.placeholder(str)  # "s", "b", "l", "h", "g"; or None and the next four
    config.model.embed_dim = config_dict.placeholder(int)
    config.model.depth = config_dict.placeholder(int)
    config.model.num_heads = config_dict.placeholder(int)
    config.model.mlp_dim = config_dict.placeholder(int)
    config.model.image_size = (256, 192)  # pixels
    config.model.ratio = 1  # 1, 2, 4: features of 1/16, 1/8, 1/4
    config.model.decoder = "classic"  # "classic", "simple"
    config.model.deconv_filters = 256
    # A decoder for each data set. None: as many as that set annotates.
    config.model.num_keypoints = ConfigDict({"coco": 17})
    config.model.experts = ()  # data sets with an expert in each block, in their order (ViTPose++)
    config.model.part_features = config_dict.placeholder(int)  # outputs of an expert
    # "full"; or within windows: "window", "shift", "pool", "shift_pool" (ViTPose Table 5)
    config.model.attention = "full"
    config.model.window_size = config_dict.placeholder(tuple)  # (rows, cols) in tokens, divides the grid of patches
    config.model.full_every = 0  # n: of every n blocks with windows the last attends to all tokens
    config.model.relative_positions = config_dict.placeholder(str)  # "full", "decomposed"
    config.model.token_dim = config_dict.placeholder(int)  # width of a knowledge token; None: no token
    config.model.token_position = False
    config.model.layer_norm_eps = 1e-6
    config.model.drop_path = 0.0
    config.model.remat = "none"  # "none", "dots", "full": less memory, more arithmetic
    config.model.scan_unroll = 1
    config.model.dtype = "bfloat16"  # of the computation; parameters are float32. "float32" for parity

    # One entry for each data set, named like its decoder. What its sections `augment` and `eval` say goes before what
    # config.augment and config.eval say for all: --config.datasets.coco.eval.boxes=annotations
    config.datasets = ConfigDict()
    config.datasets.coco = dataset("data/coco")
    # Their names in the order that numbers them; (): by name. The first one's first metric marks the best checkpoint.
    config.dataset_order = ()

    config.augment = _augment()
    # Heatmaps: training targets and decoding.
    config.codec = ConfigDict()
    config.codec.sigma = 2.0  # cells
    config.codec.blur_kernel = 11  # cells; 17 for sigma 3

    # vitpose_jax.data.pipeline.train_stream; num_workers and num_threads serve evaluation too
    config.input = ConfigDict()
    # The people of an image follow one another, and it is decoded once: faster. Batches are less of a mix then, unlike
    # in the original; docs/performance.md.
    config.input.by_image = False
    config.input.num_workers = 0  # processes; 0 uses threads of this one
    config.input.num_threads = 4
    config.input.prefetch = 4  # batches

    # vitpose_jax.training.optimizer.adamw
    config.optimizer = ConfigDict()
    config.optimizer.weight_decay = 0.1
    config.optimizer.layer_decay = 1.0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.clip_norm = 1.0
    config.optimizer.freeze = ()  # "mhsa", "ffn", "encoder", or regular expressions over paths: what is not trained

    # vitpose_jax.training.optimizer.make_schedule
    config.schedule = ConfigDict()
    config.schedule.kind = "step"  # "step", "cosine"
    config.schedule.learning_rate = 5e-4
    config.schedule.warmup_steps = 500
    config.schedule.warmup_epochs = config_dict.placeholder(float)  # instead of steps
    config.schedule.warmup_ratio = 0.001
    config.schedule.drop_epochs = (170, 200)  # full epochs, "step" only
    config.schedule.drop_factor = 0.1

    # train.py's loop
    config.train = ConfigDict()
    config.train.batch_size = 512  # of all devices together
    config.train.accumulate = 1  # parts that a batch is computed in, for the memory of one; same update
    config.train.epochs = 210
    config.train.log_every_steps = 50
    config.train.eval_every_epochs = 10  # evaluate, draw, save; 0 only at the end
    config.train.save_every_steps = 0  # besides evaluations; 0 never
    config.train.keep_last = 2  # checkpoints, besides the best

    config.eval = _evaluation()

    # vitpose_jax.training.transfer.init_from
    config.init_from = ConfigDict()
    config.init_from.path = ""  # a run's folder or one of its steps; "" starts fresh
    config.init_from.fresh = ()  # regular expressions over parameter paths that shall start fresh: ("decoders/.*",)
    config.init_from.token = ""  # a run whose knowledge token is taken

    # vitpose_jax.training.sharding.make_mesh. fsdp = -1 besides data = -1: the devices of one host
    config.mesh = ConfigDict()
    config.mesh.data = -1  # replicas; -1 takes all devices that the others leave
    config.mesh.fsdp = 1  # ways that parameters and optimizer state are split
    config.mesh.tensor = 1  # ways that heads and FFN features are split
    return config.lock()


def _augment() -> ConfigDict:
    """vitpose_jax.data.augment.Augment. None: as in the published training of the data set, see the rows of
    vitpose_jax/data/catalog.py; COCO's value stands beside it."""
    augment = ConfigDict()
    augment.flip_prob = 0.5
    augment.half_body_prob = config_dict.placeholder(float)  # 0.3
    augment.half_body_min_keypoints = config_dict.placeholder(int)  # 8: strictly more than
    augment.scale_factor = config_dict.placeholder(float)  # 0.5
    augment.rotation_factor_deg = config_dict.placeholder(float)  # 40
    augment.rotation_prob = 0.6
    augment.center_jitter_prob = config_dict.placeholder(float)  # 0.3
    augment.center_jitter = 0.4  # of the box: up to 20 % either way
    augment.jitter_each_epoch = False  # the original draws it once per run
    augment.truncate = 0.0  # probability that the picture ends within the body; the original has no such crops
    return augment


def _evaluation() -> ConfigDict:
    """vitpose_jax.evaluation.predict.Evaluator"""
    evaluation = ConfigDict()
    evaluation.batch_size = 256  # of all devices together; rounded up to what they can share
    evaluation.boxes = "detections"  # "annotations", "detections"
    evaluation.detections_file = config_dict.placeholder(str)  # None: the one that the data set was built with
    evaluation.detection_score_threshold = 0.0
    evaluation.flip_test = True
    evaluation.suppression = "oks"  # "oks", "soft_oks", "none"
    evaluation.oks_threshold = 0.9
    evaluation.min_keypoint_score = 0.2
    return evaluation


def _unset(section: ConfigDict) -> ConfigDict:
    """The same settings, each None until somebody sets it."""
    return ConfigDict({name: config_dict.placeholder(section.get_type(name)) for name in section})


def own_or_shared(own: ConfigDict, shared: ConfigDict) -> dict[str, Any]:
    """A data set's settings: what its own section sets, else what is shared by all."""
    return {name: value if own[name] is None else own[name] for name, value in shared.items()}


def vitpose_on_coco(size: str, decoder: str, *, drop_path: float, layer_decay: float) -> ConfigDict:
    """The published recipe for one size and decoder."""
    config = get_config()
    config.name = f"vitpose_{size}" if decoder == "classic" else f"vitpose_{size}_{decoder}"
    config.model.size = size
    config.model.decoder = decoder
    config.model.drop_path = drop_path
    config.optimizer.layer_decay = layer_decay
    return config


MULTI = ("coco", "aic", "mpii")
PLUS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")  # in the order of ViTPose++'s experts


_DECODER_OF = {"ochuman": "coco"}  # whose decoder predicts for a set that nobody trains on


def published(name: str) -> ConfigDict:
    """Settings of one of the papers' data sets, expected in `data/<name>` and evaluated as its numbers were."""
    protocol = PROTOCOLS[name]
    section = dataset(f"data/{name}")
    section.eval_split = protocol.splits[0]
    if "train" not in DATASETS[name].splits:
        section.train_split = ""
    section.decoder = _DECODER_OF.get(name)
    if protocol.boxes != "detections":  # no detector's boxes are published
        section.eval.boxes = protocol.boxes
    return section


def vitpose_on_several(size: str, names: Sequence[str], *, drop_path: float, layer_decay: float) -> ConfigDict:
    """The published recipe for mixed training: a shared encoder and a classic decoder for each data set.

    Args:
        size: of the encoder.
        names: data sets of the papers, in the order that numbers them.
        drop_path: of the last block.
        layer_decay: of the learning rate.
    """
    config = vitpose_on_coco(size, "classic", drop_path=drop_path, layer_decay=layer_decay)
    config.name = f"vitpose_{size}_multi"
    with config.unlocked():
        config.datasets = ConfigDict({name: published(name) for name in names})
        for name in names:  # a run looks at a test split only where there is nothing else
            if "val" in DATASETS[name].splits:
                config.datasets[name].eval_split = "val"
        config.model.num_keypoints = ConfigDict({name: len(DATASETS[name].keypoint_set) for name in names})
    config.dataset_order = tuple(names)
    config.schedule.learning_rate = 1e-3
    config.train.batch_size = 1024
    return config


def vitpose_multi(size: str, also: str, *, drop_path: float, layer_decay: float) -> ConfigDict:
    """COCO + AIC + MPII; `also` is "" or "crowdpose", which joins them.

    Raises:
        ValueError: for another `also`.
    """
    if also not in ("", "crowdpose"):
        raise ValueError(f"what may join COCO, AIC and MPII is 'crowdpose', not {also!r}")
    config = vitpose_on_several(size, (*MULTI, *filter(None, [also])), drop_path=drop_path, layer_decay=layer_decay)
    if also:
        config.name += f"_{also}"
    return config


def vitpose_plus(size: str, part_features: int, *, drop_path: float, layer_decay: float) -> ConfigDict:
    """ViTPose++ on its six data sets: each has `part_features` outputs of every block's MLP to itself."""
    config = vitpose_on_several(size, PLUS, drop_path=drop_path, layer_decay=layer_decay)
    config.name = f"vitpose_plus_{size}"
    config.model.experts, config.model.part_features = PLUS, part_features
    return config


def datasets_in_order(config: ConfigDict) -> dict[str, ConfigDict]:
    """The sections of the data sets in the order that numbers them (a ConfigDict itself sorts by name).

    Raises:
        ValueError: if `dataset_order` names other data sets than there are.
    """
    names = tuple(config.dataset_order) or tuple(sorted(config.datasets))
    if sorted(names) != sorted(config.datasets):
        raise ValueError(f"config.dataset_order is {names}, but the data sets are {tuple(config.datasets)}")
    return {name: config.datasets[name] for name in names}


def evaluator_settings(config: ConfigDict, name: str) -> dict[str, Any]:
    """Keyword arguments of `vitpose_jax.evaluation.predict.Evaluator` for a data set, besides what is opened."""
    section = config.datasets[name]
    return {
        "dataset": section.decoder or name,
        "num_workers": config.input.num_workers,
        "num_threads": config.input.num_threads,
        **own_or_shared(section.eval, config.eval),
    }


def dataset(data_dir: str) -> ConfigDict:
    """Settings of one data set, built by `python -m vitpose_jax.data.build`."""
    section = ConfigDict()
    section.dir = data_dir
    section.train_split = "train"  # "" does not train on it
    section.eval_split = "val"  # "" does not evaluate on it
    section.decoder = config_dict.placeholder(str)  # whose decoder predicts when evaluating; None: its own
    section.weight = config_dict.placeholder(
        float
    )  # relative to the other sets' weights; None, of all or of none: its number of instances
    section.augment, section.eval = _unset(_augment()), _unset(_evaluation())
    return section
