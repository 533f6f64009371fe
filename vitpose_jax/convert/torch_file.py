"""Tensors in files of other projects: PyTorch's .pth and safetensors. PyTorch is imported nowhere else.

Nothing of a .pth file is executed: `torch.load(weights_only=True)` refuses everything but tensors and plain values.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # importing it teaches numpy, and so safetensors, bfloat16
import numpy as np
import safetensors
import safetensors.numpy

from vitpose_jax.data.files import read_json, written_beside

# Under which name training programs keep the model in their files, the first that is there counts.
MODEL_ENTRIES = ("state_dict", "model", "module", "model_state_dict")
SAFETENSORS_INDEX = "model.safetensors.index.json"
SAFETENSORS_FILE = "model.safetensors"
OWN_ENTRY = "vitpose_jax"  # in a file's meta entry: our model file, so that what we write comes back exactly

_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"


@dataclasses.dataclass
class TensorFile:
    """A file's model.

    Attributes:
        tensors: name to array, float16 and bfloat16 (of `ml_dtypes`) as they are.
        entry: name of the entry that held them; "" if the file holds nothing else.
        ignored: entries beside it to the reason why they are left out.
        meta: the file's entry of that name, if it is a mapping.
    """

    tensors: dict[str, np.ndarray]
    entry: str
    ignored: dict[str, str]
    meta: Mapping[str, Any]


def read(path: pathlib.Path, *, entry: str | None = None) -> TensorFile:
    """Reads a .pth or .safetensors file.

    Args:
        path: the file.
        entry: which entry holds the model; None takes the first of `MODEL_ENTRIES` that is there.

    Raises:
        ValueError: one sentence that says what the file is instead, or what it lacks.
        ModuleNotFoundError: PyTorch is needed and not installed.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; fetch the file again")
    if path.suffix == ".safetensors":
        return TensorFile(_read_safetensors(path), "", {}, {})
    with path.open("rb") as file:
        start = file.read(4)
    if start != _ZIP_MAGIC and start[:1] != _PICKLE_MAGIC:
        raise ValueError(f"{path} is not a PyTorch file: it begins with {start!r}; a .pth or .safetensors is needed")
    content = _load_pth(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a state_dict; save the model's state_dict() instead"
        )
    return _choose_entry(path, content, entry)


def read_safetensors_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face folder, whether in one file or in several.

    Raises:
        ValueError: there are none, or one of the files is missing or broken.
    """
    if (folder / SAFETENSORS_FILE).is_file():
        return _read_safetensors(folder / SAFETENSORS_FILE)
    if not (folder / SAFETENSORS_INDEX).is_file():
        raise ValueError(f"{folder} has neither {SAFETENSORS_FILE} nor {SAFETENSORS_INDEX}; its download is incomplete")
    index = read_json(folder / SAFETENSORS_INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise ValueError(f"{folder / SAFETENSORS_INDEX} has no weight_map; its download is broken")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / SAFETENSORS_INDEX} names {name}, which is not there; fetch it")
        tensors |= _read_safetensors(folder / name)
    return tensors


def write_pth(path: pathlib.Path, tensors: Mapping[str, np.ndarray], *, meta: Mapping[str, Any]) -> None:
    """Writes a file as the original code writes and loads it: entries `meta` and `state_dict`."""
    torch = _torch(path)
    state = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in tensors.items()}
    with written_beside(path) as partial:
        torch.save({"meta": dict(meta), "state_dict": state}, partial)


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that Hugging Face loads."""
    with written_beside(path) as partial:
        safetensors.numpy.save_file(dict(tensors), partial, metadata={"format": "pt"})


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:  # the last two: a type numpy lacks
        raise ValueError(f"{path} is not a whole safetensors file of floating-point numbers ({error})") from None
    _check_numbers(path, tensors)
    return tensors


def _load_pth(path: pathlib.Path) -> Any:
    torch = _torch(path)
    # Labels and constants in the notes of mmpose's files are numpy arrays; rebuilding these executes nothing.
    rebuild = np.ones(1).__reduce__()[0]
    rebuild_scalar = np.float64(1).__reduce__()[0]
    harmless = [
        np.ndarray, np.dtype, rebuild, rebuild_scalar,
        (rebuild, "numpy.core.multiarray._reconstruct"), (rebuild_scalar, "numpy.core.multiarray.scalar"),  # numpy 1
        *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")),
    ]  # fmt: skip
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare checksums
        if damaged:
            raise ValueError(f"{path} is damaged: {damaged} in it has another checksum; fetch the file again")
    try:
        with torch.serialization.safe_globals(harmless):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        refused = _between(str(error), "GLOBAL ", " was not")
        if refused:
            raise ValueError(
                f"{path} holds code or objects besides tensors ({refused}), which are never executed; if you trust its "
                'source, save its tensors alone where that package is installed: torch.save({"state_dict": '
                'torch.load(FILE, weights_only=False)["state_dict"]}, NEW_FILE)'
            ) from None
        if path.open("rb").read(4) == _ZIP_MAGIC and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is cut off: its end is missing; fetch the file again") from None
        detail = _between(str(error), "WeightsUnpickler error: ", "\n") or str(error) or type(error).__name__
        first = detail.splitlines()[0][:200]
        raise ValueError(f"{path} cannot be read as a PyTorch file ({first}); fetch the file again") from None


def _choose_entry(path: pathlib.Path, content: Mapping, entry: str | None) -> TensorFile:
    """Finds the model among a file's entries."""
    torch = _torch(path)
    holding = {str(key): value for key, value in content.items() if _count_tensors(value)}
    mappings = [name for name, value in holding.items() if isinstance(value, Mapping)]
    if entry is not None and entry not in mappings:
        raise ValueError(f"{path} has no entry {entry!r} of named tensors; it has {mappings[:10]}")
    chosen = entry or next((name for name in MODEL_ENTRIES if isinstance(holding.get(name), Mapping)), "")
    state = holding[chosen] if chosen else content
    tensors = {str(name): _array(path, name, value) for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        hint = f"; --entry chooses among {mappings[:10]}" if mappings and not chosen else ""
        raise ValueError(f"{path} holds no tensors under {chosen or 'its top'}, only {list(content)[:10]}{hint}")
    _check_numbers(path, tensors)
    ignored = {}
    for name, value in holding.items():
        if name != chosen and not (chosen == "" and name in tensors):
            ignored[f"entry {name!r}"] = f"{_count_tensors(value)} tensors that are not the model's (--entry chooses)"
    meta = content.get("meta")
    return TensorFile(tensors, chosen, ignored, meta if isinstance(meta, Mapping) else {})


def _count_tensors(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_count_tensors(part) for part in value.values())
    if isinstance(value, list | tuple):
        return sum(_count_tensors(part) for part in value)
    return int(hasattr(value, "data_ptr"))


def _array(path: pathlib.Path, name: Any, tensor: Any) -> np.ndarray:
    """A torch tensor's memory as numpy sees it."""
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        return tensor.contiguous().view(_torch(path).int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: {name} is {tensor.dtype}, {tensor.layout}: not a plain array of numbers") from error


def _check_numbers(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if weights are no floating-point numbers. Whole numbers count steps, one number at most."""
    strange = [
        f"{name} ({array.dtype})"
        for name, array in tensors.items()
        if array.dtype.kind != "f"
        and array.dtype != ml_dtypes.bfloat16
        and not (array.dtype.kind in "iu" and array.size == 1)
    ]
    if strange:
        raise ValueError(f"{path} holds weights that are no floating-point numbers (quantised?): {strange[:5]}")


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: files other than .safetensors need PyTorch, which is not installed; install its CPU build "
            "(pip install torch)"
        ) from None
    return torch


def _between(text: str, start: str, end: str) -> str:
    _, found, rest = text.partition(start)
    return rest.partition(end)[0].strip() if found else ""
