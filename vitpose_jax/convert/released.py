"""Every ViTPose checkpoint that was published: under which names its files go, and what was claimed for it.

Facts only, no code of a model: the converter recognises a file by its name here, evaluation prints the published
numbers beside the measured ones, and `docs/parity.md` lists them all.

Sources of the numbers: [1] README of the ViTPose repository; [2] model zoo of mmpose 1.x (configs/body_2d_keypoint/
topdown_heatmap: coco/vitpose_coco.md, humanart/vitpose_humanart.md). File names are those of [1] and [2], of the
conversion script and the model pages of Hugging Face, and of easy_ViTPose's README. The repository [1] links to its
files without naming them; a name that no public source confirms is left out, and such a file is not recognised.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Iterator, Mapping

README = "ViTPose README"
MODEL_ZOO = "mmpose 1.x model zoo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Released:
    """A published checkpoint.

    Attributes:
        title: what its publisher calls it.
        size: "s", "b", "l", "h", or "g".
        decoder: "classic" or "simple".
        metrics: {data set: {metric: value}}; AP, AR, "AP (H)" and AUC in 0…1, PCKh in percent.
        source: where the numbers stand.
        file: name under which it is distributed (of the repository on Hugging Face); None where that name is not
            known or no file was released.
        released: whether there are weights at all.
        image_size: (H, W) of its crops, pixels.
        note: what to know before comparing.
    """

    title: str
    size: str
    decoder: str
    metrics: Mapping[str, Mapping[str, float]]
    source: str
    file: str | None = None
    released: bool = True
    image_size: tuple[int, int] = (256, 192)
    note: str = ""


# mmpose appends the beginning of the file's hash and a date, torch.hub the hash alone, a browser a counter.
_HASH = re.compile(r"-[0-9a-f]{8,64}(_[0-9]{8})?$")
_COPY = re.compile(r" ?\([0-9]+\)$")
# How a downloaded Hugging Face repository lies on the disk: files in a folder of its name, or the hub's cache.
_HF_FILES = ("model.safetensors", "pytorch_model.bin", "config.json")
_HF_CACHE = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[0-9a-f]+")
_HF_OWNER = "usyd-community"


def recognize(file_name: str) -> str | None:
    """The published checkpoint that a file is by its name, if it has kept the one it was distributed under.

    Folders before the name, upper and lower case, percent-encoding, a hash or a browser's "(1)" behind it do not
    matter. Anything else does: a file that was renamed or whose name merely resembles a published one is not
    recognised.

    Args:
        file_name: a path or URL of a file, or of a Hugging Face folder.

    Returns:
        A key of `RELEASED`, or None.
    """
    path = urllib.parse.unquote(str(file_name)).replace("\\", "/").lower().rstrip("/")
    folder, _, name = path.rpartition("/")
    if name in _HF_FILES:
        path = folder
    cached = _HF_CACHE.search(path)
    if cached:
        owner, name = cached.groups()
        return _KEY_OF_NAME.get(name) if owner == _HF_OWNER else None
    return _KEY_OF_NAME.get(_plain(path.rsplit("/", 1)[-1]))


def _plain(name: str) -> str:
    """A lower-case file name without hash, date and counter."""
    stem, dot, extension = name.rpartition(".")
    if not dot or extension not in ("pth", "pt", "bin", "safetensors"):
        return name
    return f"{_HASH.sub('', _COPY.sub('', stem))}.{extension}"


def _entries() -> Iterator[tuple[str, Released]]:
    """Rows of `RELEASED` in the order of the document."""
    yield from _single_data_set()
    yield from _coco_aic_mpii()
    yield from _with_crowdpose()
    yield from _plus()
    yield from _mmpose()
    yield from _hugging_face()
    yield from _easy_vitpose()
    yield from _without_weights()


def _key(file: str | None, title: str) -> str:
    return file.rsplit(".", 1)[0].lower() if file else title.lower().replace(" ", "-")


def _ap_ar(ap: float, ar: float) -> dict[str, float]:
    """Percentages as they are printed, in 0…1 as they are measured."""
    return {"AP": round(ap / 100, 6), "AR": round(ar / 100, 6)}


def _only(name: str, percent: float) -> dict[str, float]:
    return {name: percent if name == "PCKh" else round(percent / 100, 6)}


def _single_data_set() -> Iterator[tuple[str, Released]]:
    for size, decoder, file, ap, ar in (
        ("s", "classic", "vitpose_small.pth", 73.8, 79.2),
        ("b", "classic", "vitpose-b.pth", 75.8, 81.1),
        ("l", "classic", "vitpose-l.pth", 78.3, 83.5),
        ("h", "classic", "vitpose-h.pth", 79.1, 84.1),
        ("s", "simple", "vitpose_small_up4.pth", 73.5, 78.9),
        ("b", "simple", "vitpose-b-simple.pth", 75.5, 80.9),
        ("l", "simple", "vitpose-l-simple.pth", 78.2, 83.4),
        ("h", "simple", "vitpose-h-simple.pth", 78.9, 84.0),
    ):
        title = f"ViTPose-{size.upper()}{' simple' if decoder == 'simple' else ''}"
        yield _key(file, title), Released(
            title=title, size=size, decoder=decoder, file=file,
            metrics={"coco": _ap_ar(ap, ar)}, source=README,
        )  # fmt: skip


def _coco_aic_mpii() -> Iterator[tuple[str, Released]]:
    """Files with decoders of several data sets. OCHuman is scored with COCO's."""
    for size, file, coco, ochuman, mpii, aic in (
        ("b", "vitpose_base_coco_aic_mpii.pth", (77.1, 82.2), (88.0, 89.6), 93.3, (32.0, 36.3)),
        ("l", "vitpose_large_coco_aic_mpii.pth", (78.7, 83.8), (90.9, 92.2), 94.0, (34.5, 39.0)),
        ("h", None, (79.5, 84.5), (90.9, 92.3), 94.1, (35.4, 39.9)),
    ):
        title = f"ViTPose-{size.upper()} COCO+AIC+MPII"
        yield _key(file, title), Released(
            title=title, size=size, decoder="classic", file=file,
            metrics={
                "coco": _ap_ar(*coco), "ochuman": _ap_ar(*ochuman), "mpii": _only("PCKh", mpii), "aic": _ap_ar(*aic),
            },
            source=README,
            note="converts to COCO's decoder; --datasets names and keeps the others, their order is not confirmed",
        )  # fmt: skip


# The data sets whose files' names are confirmed, by size; the others follow the pattern, but no public source says so.
_CONFIRMED_WITH_CROWDPOSE = {"b": ("coco", "mpii"), "l": ("coco", "mpii"), "h": ("coco", "mpii", "crowdpose")}


def _with_crowdpose() -> Iterator[tuple[str, Released]]:
    leak = "CrowdPose's training images are also in validation sets of others (issue 24 of the repository): not fair"
    for size, coco, ochuman, mpii, aic, crowdpose in (
        ("b", (77.5, 82.6), (88.2, 90.0), 93.4, (31.9, 36.3), (74.7, 63.3)),
        ("l", (79.1, 84.1), (91.5, 92.8), 93.9, (34.6, 39.0), (76.6, 65.9)),
        ("h", (79.8, 84.8), (91.6, 92.8), 94.1, (35.3, 39.8), (76.3, 65.6)),
    ):
        ap, ap_hard = crowdpose
        for name, metrics in {
            "coco": {"coco": _ap_ar(*coco), "ochuman": _ap_ar(*ochuman)},
            "mpii": {"mpii": _only("PCKh", mpii)},
            "aic": {"aic": _ap_ar(*aic)},
            "crowdpose": {"crowdpose": _only("AP", ap) | _only("AP (H)", ap_hard)},
        }.items():
            title = f"ViTPose-{size.upper()} COCO+AIC+MPII+CrowdPose, {name}"
            file = f"vitpose-{size}-multi-{name}.pth"
            yield _key(file, title), Released(
                title=title, size=size, decoder="classic", source=README,
                file=file if name in _CONFIRMED_WITH_CROWDPOSE[size] else None, metrics=metrics,
                note="" if name == "crowdpose" else leak,
            )  # fmt: skip


_PLUS_NOTE = {"s": "README's AR of 82.6 equals that of size B and looks like a slip: compare AP"}


def _plus_metrics(size: str) -> dict[str, dict[str, float]]:
    coco, ochuman, mpii, aic, ap10k, apt36k, wholebody = {
        "s": ((75.8, 82.6), (78.4, 80.6), 92.7, (29.7, 34.3), 71.4, 74.2, 54.4),
        "b": ((77.0, 82.6), (82.6, 84.8), 92.8, (31.8, 36.3), 74.5, 75.9, 57.4),
        "l": ((78.6, 84.1), (85.7, 87.5), 94.0, (34.3, 38.9), 80.4, 80.8, 60.6),
        "h": ((79.4, 84.8), (85.7, 87.4), 94.2, (34.8, 39.1), 82.4, 82.3, 61.2),
    }[size]
    return {
        "coco": _ap_ar(*coco), "ochuman": _ap_ar(*ochuman), "mpii": _only("PCKh", mpii), "aic": _ap_ar(*aic),
        "ap10k": _only("AP", ap10k), "apt36k": _only("AP", apt36k), "wholebody": _only("AP", wholebody),
    }  # fmt: skip


def _plus() -> Iterator[tuple[str, Released]]:
    for size, size_name in {"s": "small", "b": "base", "l": "large", "h": "huge"}.items():
        file = f"vitpose+_{size_name}.pth"
        title = f"ViTPose++-{size.upper()}"
        yield _key(file, title), Released(
            title=title, size=size, decoder="classic", file=file,
            metrics=_plus_metrics(size), source=README, note=_PLUS_NOTE.get(size, ""),
        )  # fmt: skip


def _mmpose() -> Iterator[tuple[str, Released]]:
    own = "mmpose's own training and evaluation, which decodes a little differently"
    for size, decoder, file, ap, ar in (
        ("s", "classic", "td-hm_ViTPose-small_8xb64-210e_coco-256x192-62d7a712_20230314.pth", 73.9, 79.2),
        ("b", "classic", "td-hm_ViTPose-base_8xb64-210e_coco-256x192-216eae50_20230314.pth", 75.7, 81.0),
        ("l", "classic", "td-hm_ViTPose-large_8xb64-210e_coco-256x192-53609f55_20230314.pth", 78.2, 83.4),
        ("h", "classic", "td-hm_ViTPose-huge_8xb64-210e_coco-256x192-e32adcd4_20230314.pth", 78.8, 83.9),
        ("h", "classic", "td-hm_ViTPose-huge_3rdparty_coco-256x192-5b738c8e_20230314.pth", 79.0, 84.0),
        ("s", "simple", "td-hm_ViTPose-small-simple_8xb64-210e_coco-256x192-4c101a76_20230314.pth", 73.6, 79.0),
        ("b", "simple", "td-hm_ViTPose-base-simple_8xb64-210e_coco-256x192-0b8234ea_20230407.pth", 75.6, 80.9),
        ("l", "simple", "td-hm_ViTPose-large-simple_8xb64-210e_coco-256x192-3a7ee9e1_20230314.pth", 78.1, 83.3),
        ("h", "simple", "td-hm_ViTPose-huge-simple_8xb64-210e_coco-256x192-ffd48c05_20230314.pth", 78.9, 83.9),
        ("s", "classic", "td-hm_ViTPose-small_8xb64-210e_humanart-256x192-5cbe2bfc_20230611.pth", 73.7, 79.2),
        ("b", "classic", "td-hm_ViTPose-base_8xb64-210e_humanart-256x192-b417f546_20230611.pth", 75.8, 81.2),
        ("l", "classic", "td-hm_ViTPose-large_8xb64-210e_humanart-256x192-9aba9345_20230614.pth", 78.2, 83.5),
        ("h", "classic", "td-hm_ViTPose-huge_8xb64-210e_humanart-256x192-603bb573_20230612.pth", 78.8, 84.1),
    ):
        title, note = f"mmpose ViTPose-{size.upper()}{' simple' if decoder == 'simple' else ''}", own
        if "3rdparty" in file:
            title, note = f"{title}, converted", "the official weights, evaluated by mmpose"
        elif "humanart" in file:
            title = f"{title} COCO+Human-Art"
        yield _plain(file.lower()).removesuffix(".pth"), Released(
            title=title, size=size, decoder=decoder, file=file,
            metrics={"coco": _ap_ar(ap, ar)}, source=MODEL_ZOO, note=note,
        )  # fmt: skip


def _hugging_face() -> Iterator[tuple[str, Released]]:
    """Conversions of official files; a single decoder, COCO's, came along."""
    originals = {entry.file: entry for family in (_single_data_set, _coco_aic_mpii, _plus) for _, entry in family()}
    for name, original_file in (
        ("vitpose-base-simple", "vitpose-b-simple.pth"),
        ("vitpose-base", "vitpose-b.pth"),
        ("vitpose-base-coco-aic-mpii", "vitpose_base_coco_aic_mpii.pth"),
        ("vitpose-plus-small", "vitpose+_small.pth"),
        ("vitpose-plus-base", "vitpose+_base.pth"),
        ("vitpose-plus-large", "vitpose+_large.pth"),
        ("vitpose-plus-huge", "vitpose+_huge.pth"),
    ):
        original = originals[original_file]
        metrics = {dataset: original.metrics[dataset] for dataset in ("coco", "ochuman") if dataset in original.metrics}
        note = f"converted from {original_file}, whose numbers these are; only COCO's decoder"
        yield f"{_HF_OWNER}/{name}", dataclasses.replace(
            original, title=f"Hugging Face {name}", file=f"{_HF_OWNER}/{name}",
            metrics=metrics, note="; ".join(filter(None, (note, original.note))),
        )  # fmt: skip


def _easy_vitpose() -> Iterator[tuple[str, Released]]:
    """Split ViTPose++ files. Those of COCO, AIC and MPII do not say of which training they are: they are not here."""
    for size in "sblh":
        for name in ("wholebody", "ap10k", "apt36k"):
            file = f"vitpose-{size}-{name}.pth"
            yield _key(file, file), Released(
                title=f"easy_ViTPose {size.upper()} {name}", size=size, decoder="classic",
                file=file, metrics={name: _plus_metrics(size)[name]}, source=README,
                note=f"split from ViTPose++-{size.upper()}, whose number this is",
            )  # fmt: skip


def _without_weights() -> Iterator[tuple[str, Released]]:
    title = "ViTPose-G COCO+AIC+MPII"
    yield _key(None, title), Released(
        title=title, size="g", decoder="classic", released=False,
        metrics={
            "coco": _ap_ar(81.0, 85.6), "ochuman": _ap_ar(93.3, 94.3), "mpii": _only("PCKh", 94.3),
            "aic": _ap_ar(43.2, 47.1),
        },
        source=README, image_size=(576, 432), note="a ViTAE-G, which is not this project's G; never released",
    )  # fmt: skip
    for size, auc in (("s", 86.5), ("b", 87.0), ("l", 87.5), ("h", 87.6)):
        title = f"ViTPose++-{size.upper()} InterHand2.6M"
        yield _key(None, title), Released(
            title=title, size=size, decoder="classic", released=False,
            metrics={"interhand": _only("AUC", auc)},
            source=README, note="transfer; announced, never released",
        )  # fmt: skip


RELEASED: dict[str, Released] = dict(_entries())

_KEY_OF_NAME = {
    _plain(entry.file.rsplit("/", 1)[-1].lower()): key for key, entry in RELEASED.items() if entry.file is not None
}
