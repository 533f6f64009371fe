"""From a file of another project to a checkpoint of this one: read, recognise, describe, check, convert, write."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import vitpose_jax
from vitpose_jax.convert import description, heads, hugging_face, layouts, rules, torch_file
from vitpose_jax.convert.export import with_decoders
from vitpose_jax.convert.released import recognize
from vitpose_jax.data.files import read_json
from vitpose_jax.keypoints import KeypointSet
from vitpose_jax.models import pos_embed
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import checkpoint
from vitpose_jax.training.model_file import FORMAT, ModelFile
from vitpose_jax.training.state import variable_shapes
from vitpose_jax.types import Size

_HASH_BLOCK = 1 << 24
_SHOWN = 12  # faults of a kind, and groups of names, that a report spells out

Model = tuple[dict, ModelFile]  # ({"params", "batch_stats"} of numpy float32, what makes them usable)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may say about a file that the file does not say itself.

    Attributes:
        datasets: data sets of its decoders. Where a model says whose its decoders are (ViTPose++, checkpoints of this
            project) the ones to keep, else their names in the file's order; empty keeps all and finds names out.
            Decoders of old multi-data-set files beyond the first are kept only if they are named here.
        keypoints: keypoint set of the first decoder, if it is none of the published ones.
        udp: whether a model of no published data set was trained with UDP crops and targets.
        image_size: (H, W) to resize the position embedding for; None keeps the file's.
        source_image_size: (H, W) that the file's position embedding is for; None finds it out.
        num_heads: of the encoder; None takes the published number for its width.
        decoder_num_heads: of a masked autoencoder's decoder; None takes the published number for its width.
        depth: of the encoder; None expects the published number for its width.
        entry: which entry of a .pth file holds the model.
    """

    datasets: Sequence[str] = ()
    keypoints: KeypointSet | None = None
    udp: bool = True
    image_size: Size | None = None
    source_image_size: Size | None = None
    num_heads: int | None = None
    decoder_num_heads: int | None = None
    depth: int | None = None
    entry: str | None = None


class DoesNotFitError(ValueError):
    """The tensors are those of a ViTPose, but not all of it, or more than it."""


def read_model(path: pathlib.Path, options: Options, *, say: Callable[[str], None] = print) -> Model:
    """Reads weights of any known layout, or a checkpoint of this project.

    Args:
        path: .pth, .safetensors, a Hugging Face folder, or a run's or checkpoint's folder.
        options: see there.
        say: gets the report, line by line.

    Raises:
        ValueError: one sentence why there is no model; `DoesNotFitError`, with the whole report, if tensors are
            missing, unknown or misshapen.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    path = path.absolute()
    if path.is_dir() and (checkpoint.is_checkpoint(path) or not (path / hugging_face.CONFIG_FILE).is_file()):
        return _read_checkpoint(path, options, say)
    if _with_its_config(path) != path:
        say(f"{path.name}: read with the {hugging_face.CONFIG_FILE} beside it")
        path = path.parent
    opened = open_source(path, options)
    provenance = {
        "source": path.name,
        "sha256": _sha256(path),
        "recognized_as": recognize(str(path)) or recognize(str(path.resolve())),
    }
    came_from = dict(opened.own.get("provenance", {}))
    if came_from:  # our own export: what it was made from counts
        provenance |= {name: came_from[name] for name in provenance if name in came_from} | {"exported_as": path.name}
    kinds = sorted({str(array.dtype) for array in opened.tensors.values()})
    found = layouts.recognise(opened.tensors)
    opened.tensors.clear()  # each tensor goes as soon as it is copied: memory holds one copy of the model
    described = description.describe(found, path.name, options, known=opened.known, own=opened.own)
    entry = f", entry {opened.entry!r}" if opened.entry else ""
    say(f"{path.name}: layout {found.layout}{entry}, {', '.join(kinds)}")
    for line in description.lines(described):
        say(line)
    for line in _grouped({**opened.ignored, **found.ignored, **described.ignored}):
        say(f"  ignored   {line}")

    shapes = variable_shapes(checkpoint.MODELS[described.task](**described.settings))
    faults = _faults(found, described, rules.torch_shapes(shapes, decoder_prefixes=described.prefixes))
    if faults:
        raise DoesNotFitError(f"{path} does not hold exactly one ViTPose:\n" + "\n".join(faults))
    with progress_bar(desc="convert", unit=" tensors", total=len(found.tensors)) as bar:
        variables = rules.from_torch(
            found.tensors, shapes, decoder_prefixes=described.prefixes, on_tensor=lambda: bar.update()
        )
        used = bar.n
    broken = [name for name, leaf in description.leaves(variables) if not np.isfinite(leaf).all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {', '.join(broken[:_SHOWN])}; its training had failed")
    say(f"  used      {used} tensors, {sum(leaf.size for _, leaf in description.leaves(variables)):,} numbers")
    counters = rules.counter_names(described.prefixes)
    file = ModelFile(
        task=described.task,
        settings=described.settings,
        datasets=described.datasets,
        codec=described.codec,
        trained_on=sorted({*described.prefixes, *described.settings.get("experts", ())}),
        provenance={
            **provenance,
            "converter": vitpose_jax.__version__,
            "layout": found.layout,
            "size": described.size,
            "decoder": described.settings["decoder"] if described.prefixes else None,
            "datasets": list(described.prefixes),
            "counters": {key: described.counters[n] for n, key in counters.items() if n in described.counters},
            **({"split_from": described.split_from} if described.split_from else {}),
        },
    )
    return resized((variables, file), options.image_size, say)


class Source(NamedTuple):
    """A file's weights once more, for verification: untouched by the conversion but for their names.

    Attributes:
        tensors: official name to array.
        folder: the Hugging Face folder, if it is one.
    """

    tensors: dict[str, np.ndarray]
    folder: pathlib.Path | None


def source_tensors(path: pathlib.Path, options: Options) -> Source | None:
    """Reads a source again, to compare the converted model with it; None for a checkpoint of this project."""
    path = _with_its_config(path.absolute())
    if path.is_dir() and checkpoint.is_checkpoint(path):
        return None
    opened = open_source(path, options)
    found = layouts.recognise(opened.tensors)
    described = description.describe(found, path.name, options, known=opened.known, own=opened.own)
    official = rules.decoder_prefixes(list(described.prefixes))
    tensors = {n: array for n, array in found.tensors.items() if n.startswith(("backbone.", "mae_decoder."))}
    for dataset, prefix in described.prefixes.items():
        for name in found.tensors:
            if name.startswith(f"{prefix}."):
                tensors[official[dataset] + name.removeprefix(prefix)] = found.tensors[name]
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    return Source(tensors, path if path.is_dir() else None)


def _with_its_config(path: pathlib.Path) -> pathlib.Path:
    """The Hugging Face folder that a tensor file belongs to, or the path itself."""
    belongs = path.is_file() and path.name in hugging_face.TENSOR_FILES
    return path.parent if belongs and (path.parent / hugging_face.CONFIG_FILE).is_file() else path


def convert(path: pathlib.Path, folder: pathlib.Path, options: Options | None = None) -> None:
    """Reads weights of any known layout and writes a checkpoint folder of them: `read_model`, `write_checkpoint`."""
    check_free(folder)
    write_checkpoint(read_model(path, options or Options()), folder)


def write_checkpoint(model: Model, folder: pathlib.Path) -> None:
    """Writes a checkpoint folder, whole or not at all.

    Raises:
        ValueError: the folder is there already and not empty.
    """
    check_free(folder)
    checkpoint.save_model(folder, *model)


def check_free(folder: pathlib.Path) -> None:
    """Raises ValueError unless a folder may be made at this place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; choose another place, or delete it first")


def resized(model: Model, image_size: Size | None, say: Callable[[str], None]) -> Model:
    """The model for crops of another size: its position embedding, resized as the original does when it loads one."""
    variables, file = model
    if image_size is None:
        return model
    if file.task == "mae":
        raise ValueError("a masked autoencoder keeps the size it has; init_from resizes what a ViTPose takes from it")
    old = vitpose(**file.settings)
    settings = {**file.settings, "image_size": list(image_size)}
    new = vitpose(**settings)
    backbone = {
        **variables["params"]["backbone"],
        "pos_embed": pos_embed.resize(variables["params"]["backbone"]["pos_embed"], old.patch_grid, new.patch_grid),
    }
    say(f"  resized   position embedding, {old.patch_grid} to {new.patch_grid} patches (bicubic, as the original)")
    provenance = {**file.provenance, "resized_from_image_size": list(old.image_size)}
    params = {**variables["params"], "backbone": backbone}
    return {**variables, "params": params}, dataclasses.replace(file, settings=settings, provenance=provenance)


class Opened(NamedTuple):
    """The tensors of a file or folder, and what stands beside them."""

    tensors: dict[str, np.ndarray]
    ignored: Mapping[str, str]
    entry: str
    known: Mapping[str, Any]  # settings that a config tells
    own: Mapping[str, Any]  # our model file


def open_source(path: pathlib.Path, options: Options) -> Opened:
    """Reads a file, or a Hugging Face folder.

    Raises:
        ValueError: one sentence why it cannot be read.
    """
    if path.is_file():
        file = torch_file.read(path, entry=options.entry)
        return Opened(file.tensors, file.ignored, file.entry, {}, _checked(file.meta.get(torch_file.OWN_ENTRY), path))
    description.refuse(options, "a Hugging Face folder", "entry")
    config = path / hugging_face.CONFIG_FILE
    known = hugging_face.settings_of(read_json(config), config, options.keypoints)
    own_file = path / hugging_face.OWN_FILE
    own = _checked(read_json(own_file), own_file) if own_file.is_file() else {}
    return Opened(hugging_face.read_tensors(path), {}, "", known, own)


def _checked(own: Any, path: pathlib.Path) -> Mapping[str, Any]:
    """Our model file as it came along, or nothing."""
    if own is None:
        return {}
    needed = {"format", "settings", "datasets", "codec", "provenance", "order"}
    if not isinstance(own, Mapping) or needed - set(own) or own["format"] != FORMAT:
        raise ValueError(
            f"{path}: the notes of this project in it are not of format {FORMAT}; delete them to have the "
            "weights read without"
        )
    return own


def _read_checkpoint(path: pathlib.Path, options: Options, say: Callable[[str], None]) -> Model:
    if not any(path.iterdir()):
        raise ValueError(f"{path} is empty; give a file, a Hugging Face folder or a checkpoint's folder")
    if not checkpoint.is_checkpoint(path):
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt", ".bin", ".safetensors"))
        raise ValueError(
            f"{path} is no checkpoint of this project and has no {hugging_face.CONFIG_FILE}; give a file"
            + (f", such as {path / files[0]}" if files else ", a Hugging Face folder or a checkpoint's folder")
        )
    refuse_names = ("entry", "keypoints", "num_heads", "decoder_num_heads", "depth", "source_image_size")
    description.refuse(options, "a checkpoint of this project", *refuse_names)
    loaded = checkpoint.load_model(path)
    say(f"{loaded.path}: checkpoint of this project, step {loaded.step}")
    provenance = loaded.file.provenance or {"source": loaded.path, "step": loaded.step}
    file = dataclasses.replace(loaded.file, provenance=provenance)
    model: Model = (loaded.variables, file)
    if options.datasets:
        faults: list[str] = []
        kept = heads.select({name: name for name in file.settings.get("num_keypoints", ())}, options.datasets, faults)
        if faults:
            raise ValueError(f"{path}: {faults[0]}")
        model = with_decoders(*model, tuple(kept))
        say(f"  decoders  kept: {', '.join(kept)}")
    return resized(model, options.image_size, say)


def _faults(
    found: layouts.Recognised, described: description.Description, expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Everything that keeps the tensors from being exactly the model, one line each, the first of many."""
    there = found.tensors
    kinds = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in there],
        "of a wrong shape": [
            f"{name}: {there[name].shape}, expected {shape}"
            for name, shape in expected.items()
            if name in there and tuple(there[name].shape) != shape
        ],
        "unknown": [*found.unknown, *(name for name in there if name not in expected)],
        "contradicting": described.faults,
    }
    lines = []
    for kind, faults in kinds.items():
        if faults:
            lines.append(f"  {len(faults)} {kind}:")
            lines += [f"    {fault}" for fault in faults[:_SHOWN]]
            if len(faults) > _SHOWN:
                lines.append(f"    … and {len(faults) - _SHOWN} more")
    return lines


def _grouped(ignored: Mapping[str, str]) -> list[str]:
    """Ignored names with their reasons, names that differ in numbers only as one."""
    groups: dict[tuple[str, str], int] = {}
    for name, reason in ignored.items():
        key = re.sub(r"\d+", "*", re.sub(r"\.(weight|bias|running_mean|running_var)$", ".…", name)), reason
        groups[key] = groups.get(key, 0) + 1
    return [f"{name}{f' ({count} tensors)' if count > 1 else ''}: {why}" for (name, why), count in groups.items()]


def _sha256(path: pathlib.Path) -> str:
    """Of a file, or of a folder's config and tensors in the order of their names."""
    parts = [path / hugging_face.CONFIG_FILE, *path.glob("*.safetensors"), *path.glob("*.bin")]
    files = sorted(parts) if path.is_dir() else [path]
    digest = hashlib.sha256()
    total = sum(file.stat().st_size for file in files)
    with progress_bar(desc="hash", unit="B", total=total) as bar:
        bar.unit_scale = True
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(_HASH_BLOCK):
                    digest.update(block)
                    bar.update(len(block))
    return digest.hexdigest()
