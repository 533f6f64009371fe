"""What a sweep file says: a config, and the trials as overrides of it.

Lists of trials are plain lists of dictionaries, `{"schedule.learning_rate": 1e-3}`. `grid`, `together` and `draws` make
them, `cross` multiplies them, `+` joins them.
"""

import dataclasses
import hashlib
import itertools
import math
import pathlib
import re
import runpy
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Overrides = dict[str, Any]
Draw = Callable[[np.random.Generator], Any]

LONGEST_NAME = 160  # characters; file systems take 255
_DIGITS = 3  # that drawn numbers keep, so that the command line and the folder's name say exactly what was run


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs of one config that differ in a few settings.

    Args:
        config: what `train.py --config` takes, "configs/quickstart.py".
        trials: the settings that each trial changes, by their names in the config without "config.".
        metric: the name in `metrics.jsonl` that trials are compared by, "eval/coco/AP" or "train/loss".
        goal: "max" or "min".
        fixed: settings that all trials share; they are no part of a trial's name.

    Raises:
        ValueError: no trials, two of one name, a setting both fixed and swept, or another goal.
    """

    config: str
    trials: Sequence[Mapping[str, Any]]
    metric: str
    goal: str = "max"
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.goal not in ("max", "min"):
            raise ValueError(f"goal must be 'max' or 'min', not {self.goal!r}")
        if not self.trials:
            raise ValueError("a sweep needs at least one trial")
        both = sorted(set(self.fixed) & set(self.settings))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both fixed and swept")
        names = list(self.by_name)
        if len(names) < len(self.trials):
            all_names = [trial_name(overrides) for overrides in self.trials]
            twice = sorted({name for name in all_names if all_names.count(name) > 1})
            raise ValueError(f"these trials are listed twice: {', '.join(twice)}")

    @property
    def settings(self) -> list[str]:
        """The settings that trials change, in the order in which they first appear."""
        return list(dict.fromkeys(key for overrides in self.trials for key in overrides))

    @property
    def by_name(self) -> dict[str, Overrides]:
        """{trial's name: the settings it changes}; the name is also that of its folder."""
        return {trial_name(overrides): dict(overrides) for overrides in self.trials}

    def overrides(self, name: str) -> list[str]:
        """What `train.py` is told to change of the config for a trial."""
        return [override(key, value) for key, value in {**self.fixed, **self.by_name[name]}.items()]

    def arguments(self, name: str) -> list[str]:
        """What `train.py` is told for a trial, its folder aside."""
        return [f"--config={self.config}", *self.overrides(name)]


def load(path: str) -> Sweep:
    """The sweep of a file, which is plain Python with a function `get_sweep`.

    Raises:
        ValueError: there is no such file or function.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"no sweep file {path}; those that come with this project are in configs/sweeps")
    module = runpy.run_path(path)
    if "get_sweep" not in module:
        raise ValueError(f"{path} has no function get_sweep() that returns a vitpose_jax.sweep.Sweep")
    return module["get_sweep"]()


def grid(settings: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """Every combination of the values; the last setting changes fastest."""
    return cross(*([{key: value} for value in _values(key, values)] for key, values in settings.items()))


def together(settings: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """The first values of all settings, then the second ones, and so on.

    Raises:
        ValueError: the lists differ in length.
    """
    lists = {key: _values(key, values) for key, values in settings.items()}
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError(f"lists differ in length: { {key: len(values) for key, values in lists.items()} }")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def cross(*lists: Iterable[Mapping[str, Any]]) -> list[Overrides]:
    """Every trial of the first list with every one of the second, and so on.

    Raises:
        ValueError: two lists set the same thing.
    """
    trials = []
    for parts in itertools.product(*map(list, lists)):
        keys = [key for part in parts for key in part]
        if len(set(keys)) < len(keys):
            raise ValueError(f"crossed lists set the same: {sorted({key for key in keys if keys.count(key) > 1})}")
        trials.append({key: value for part in parts for key, value in part.items()})
    return trials


def draws(count: int, settings: Mapping[str, Draw], *, seed: int) -> list[Overrides]:
    """Random trials.

    A value depends on the seed, its setting's name and its number only: more draws, or another setting, leave those as
    they are that have run already.

    Args:
        count: how many.
        settings: setting to `uniform`, `log_uniform` or `choice`.
        seed: of the draws; not of training.
    """

    def value(key: str, number: int) -> Any:
        return settings[key](np.random.default_rng((seed, zlib.crc32(key.encode()), number)))

    return [{key: value(key, number) for key in settings} for number in range(count)]


def uniform(low: float, high: float) -> Draw:
    """Numbers between two bounds, to three digits."""
    _check_bounds(low, high)
    return lambda rng: _rounded(rng.uniform(low, high), low, high)


def log_uniform(low: float, high: float) -> Draw:
    """Numbers between two positive bounds whose logarithm is uniform, to three digits."""
    _check_bounds(low, high)
    if low <= 0:
        raise ValueError(f"log_uniform needs positive bounds, not {low}")
    return lambda rng: _rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high)


def choice(values: Sequence[Any]) -> Draw:
    """One of several values, all equally likely."""
    listed = _values("choice", values)
    return lambda rng: listed[int(rng.integers(len(listed)))]


def override(key: str, value: Any) -> str:
    """A setting as train.py takes it."""
    return f"--config.{key}={as_text(value)}"


def as_text(value: Any) -> str:
    """A value as `--config.NAME=` takes it.

    Raises:
        ValueError: for a value that a command line cannot say, such as None.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, tuple | list):
        return repr(tuple(value))
    raise ValueError(f"the command line cannot set {value!r}: give a number, a text, a truth value, or a tuple")


def trial_name(overrides: Mapping[str, Any]) -> str:
    """The name of a trial and of its folder; it depends on nothing but its settings, in no particular order.

    What does not suit a folder's name is replaced, what is too long is cut; a hash then keeps names apart.
    """
    if not overrides:
        return "base"
    full = ",".join(f"{key}={_in_name(value)}" for key, value in sorted(overrides.items()))
    name = re.sub(r"[^A-Za-z0-9_.+=,-]", "-", full)
    if name == full and len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{short_hash(full)}"


def short_hash(text: str) -> str:
    """Eight characters that another text will not have."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _in_name(value: Any) -> str:
    return "x".join(map(_in_name, value)) if isinstance(value, tuple | list) else as_text(value)


def _values(key: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str):
        raise ValueError(f"{key}: expected a list of values, not the text {values!r}")
    found = [value.item() if isinstance(value, np.generic) else value for value in values]
    if not found:
        raise ValueError(f"{key}: an empty list of values makes no trials")
    return found


def _check_bounds(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"expected a lower and a higher bound, not {low} and {high}")


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
