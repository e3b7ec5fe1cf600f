"""What `fine_tune` is asked for: the numbers, checked, and the forms in which they may be given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastconv.layers.base import Layer
from fastconv.layers.windows import whole


def _is_count(n: object) -> bool:
    return isinstance(n, int) and n >= 0


@dataclass(frozen=True)
class Recipe:
    """How to teach; see `fine_tune`."""

    epochs: tuple[int, int] = (5, 5)
    unfreeze: int = 1
    hidden: tuple[int, ...] = ()
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch_size: int = 32
    validation_split: float = 0.2
    augment: tuple[str, ...] = ("flip", "rotate", "zoom")
    views: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.epochs) != 2 or not all(map(_is_count, self.epochs)):
            raise ValueError(f"epochs={self.epochs!r}: expected two counts of epochs")
        for name in ("unfreeze", "seed"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a whole number from 0 on")
        if not any(self.epochs):
            raise ValueError(f"epochs={self.epochs!r}, unfreeze={self.unfreeze!r}: no epoch is left to learn in")
        for name in ("batch_size", "views"):
            whole(getattr(self, name), name)
        for units in self.hidden:
            whole(units, "hidden")
        rate, dropout = self.learning_rate, self.dropout
        numbers = all(isinstance(v, (int, float)) for v in (rate, dropout))
        if not numbers or not 0 < rate < math.inf or not 0 <= dropout < 1:
            raise ValueError(f"learning_rate={rate!r}, dropout={dropout!r}: expected a rate above 0, and 0 to below 1")


def several(value: Any) -> tuple[Any, ...]:
    """What is given, one or several, as several."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def counts_of(epochs: Any) -> tuple[Any, ...]:
    """Epochs of head and fine-tuning; one number is for both."""
    given = several(epochs)
    return given * 2 if len(given) == 1 else given


def names_of(augment: Any) -> tuple[str, ...]:
    """The names of augmentations; a layer has one of its own, None is none."""
    if isinstance(augment, Layer):
        return ("custom",)
    return () if augment is None else several(augment)


def difference(name: str, old: Any, new: Any) -> str:
    """In words, why a checkpoint whose entry `name` is `old` is not of a run where it is `new`."""
    if name in ("recipe", "preset") and isinstance(old, Mapping):
        what = "settings" if name == "recipe" else "preparation of images"
        changed = [f"{k} was {old.get(k)!r}, is {v!r}" for k, v in new.items() if old.get(k) != v]
        return f"made by a run with other {what}: {'; '.join(changed)}"
    if name == "size":
        return f"made by a run on images of size {old}, these are of {new}"
    if name == "weights":
        return "made for another network"
    if name == "device":
        return f"made by a run on {old!r}, this one is on {new!r}: rounding is another one there"
    return f"made for other data: {name} were {old!r}, are {new!r}"
