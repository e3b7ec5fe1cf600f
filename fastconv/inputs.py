"""Inputs of a model: what they are called and look like, and whether arrays fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .graph import MAX_EXACT, Shape
from .target import Target

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name, its shape with symbolic names where it is not fixed, and its dtype.

    An output of which the file does not say the shape has the one for a free batch of 1, with None where it may vary.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str = "float32"


def in_order(infos: Sequence[TensorInfo], feed: Mapping[str, npt.ArrayLike]) -> list[npt.ArrayLike]:
    """What a mapping from names gives each input. Raises ShapeError where a name is unknown or missing."""
    if not isinstance(feed, Mapping):
        raise ShapeError(f"feed: expected a mapping from input names to arrays, got {type(feed).__name__}")
    names = [i.name for i in infos]
    unknown = [n for n in feed if n not in names]
    if unknown:
        raise ShapeError(f"no input named {unknown[0]!r}; the model has {', '.join(map(repr, names))}")
    missing = [n for n in names if n not in feed]
    if missing:
        raise ShapeError(f"input {missing[0]!r} is missing")
    return [feed[n] for n in names]


def check_input(index: int, info: TensorInfo, value: npt.ArrayLike, target: Target) -> FloatArray:
    """What a plan of this target reads for `value`: float32, C order. Raises ShapeError where it does not fit."""
    where = _where(index, info)
    there = target.borrow(value, where)
    if there is not None:
        check_shape(index, info, there.shape)
        return there  # type: ignore[no-any-return]
    x = np.asarray(value)
    if x.dtype != info.dtype:
        raise ShapeError(f"{where}: expected dtype {info.dtype}, got {x.dtype}")
    check_shape(index, info, x.shape)
    if x.dtype != np.float32:
        x = _as_float32(x, where)
    return np.require(x, requirements=["C", "A"])  # an array on a buffer may start between two floats


def check_shape(index: int, info: TensorInfo, shape: Shape) -> None:
    """Raises ShapeError for a shape that the input cannot have."""
    where = _where(index, info)
    if len(shape) != len(info.shape):
        expected = f"rank {len(info.shape)} {show(info.shape)}"
        raise ShapeError(f"{where}: expected {expected}, got rank {len(shape)} {show(shape)}")
    for axis, (want, got) in enumerate(zip(info.shape, shape, strict=True)):
        if isinstance(want, int) and want != got:
            expected = f"{want} at axis {axis} of {show(info.shape)}"
            raise ShapeError(f"{where}: expected {expected}, got {got} in {show(shape)}")


def show(shape: Sequence[int | str | None]) -> str:
    """A shape for people, with ? for sizes that are free."""
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _where(index: int, info: TensorInfo) -> str:
    return f"input {index} ({info.name!r})"


def _as_float32(x: npt.NDArray[Any], where: str) -> FloatArray:
    """Plans hold whole numbers and bools as float32, which is exact up to 2^24."""
    if x.dtype.kind in "iu" and x.size and max(abs(int(x.min())), abs(int(x.max()))) > MAX_EXACT:
        raise ShapeError(f"{where}: expected numbers from -2^24 to 2^24, got {x.min()} to {x.max()}")
    return x.astype(np.float32)
