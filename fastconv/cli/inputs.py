"""What the commands that run a model share: loading it, reading --shape, and making an input."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.errors import ShapeError
from fastconv.selection import DEFAULT_WINOGRAD

if TYPE_CHECKING:
    from fastconv.model import Model

_MAX_INPUT = 1 << 31  # bytes: a typing error in --shape must not take the machine's memory


@dataclass(frozen=True)
class How:
    """Options of fastconv.load that every command has which runs a model."""

    threads: int | None = None
    tuning: str | None = None
    winograd: int = DEFAULT_WINOGRAD


DEFAULT = How()


def load(path: str, how: How = DEFAULT) -> Model:
    """fastconv.load; a path that is a folder or missing is an OSError with a plain message."""
    import fastconv

    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a folder: expected an ONNX file", path)
    if not os.path.exists(path):
        raise FileNotFoundError(2, "no such file", path)
    return fastconv.load(path, threads=how.threads, tuning=how.tuning, winograd=how.winograd)


def numbers(text: str, option: str, kind: type[int] | type[float], length: int | None = None) -> tuple[Any, ...]:
    """Numbers between commas (for sizes also 'x'). Raises ShapeError naming the option."""
    parts = re.split(r"[,x]" if kind is int else ",", text.strip().strip("[]()"))
    try:
        values = tuple(kind(p) for p in parts)
    except ValueError:
        values = ()
    if not values or (length is not None and len(values) != length):
        example = "0.485,0.456,0.406" if kind is float else "1,3,224,224" if option == "--shape" else "1,2"
        raise ShapeError(f"{option} {text!r}: expected {length or 'some'} numbers such as {example}")
    return values


def parse_shapes(options: Sequence[str], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """--shape 1,3,224,224 for a model with one input, --shape NAME=1,3,224,224 for each of several."""
    shapes: dict[str, tuple[int, ...]] = {}
    for option in options:
        name, _, text = option.rpartition("=")
        if not name and len(names) != 1:
            raise ShapeError(f"--shape {option!r}: the model has inputs {', '.join(names)}: give NAME=1,3,224,224")
        name = name or names[0]
        if name not in names:
            raise ShapeError(f"--shape {option!r}: no input {name!r}: the model has {', '.join(names)}")
        shape = numbers(text, "--shape", int)
        if min(shape) < 1:
            raise ShapeError(f"--shape {option!r}: expected dimensions of at least 1")
        shapes[name] = shape
    return shapes


def concrete(model: Model, options: Sequence[str] = (), batch: int | None = None) -> dict[str, tuple[int, ...]]:
    """A shape for every input: from --shape, else the model's own with 1 (or `batch`) for a symbolic first axis.

    Raises ShapeError where another axis is symbolic, or where `batch` contradicts a fixed first axis.
    """
    given = parse_shapes(options, [i.name for i in model.inputs])
    shapes: dict[str, tuple[int, ...]] = {}
    for value in model.inputs:
        wanted: list[int | str | None] = list(given.get(value.name, value.shape))
        if wanted and (batch is not None or not isinstance(wanted[0], int)):
            own = value.shape[0]
            if isinstance(own, int) and batch is not None and own != batch:
                raise ShapeError(f"input {value.name!r}: batch {batch}, but the model's is fixed at {own}")
            wanted[0] = batch or 1
        shape = tuple(d for d in wanted if isinstance(d, int))
        if len(shape) != len(wanted):
            text = ", ".join(str(d) for d in value.shape)
            raise ShapeError(f"input {value.name!r} has shape [{text}]: give it with --shape, such as 1,3,224,224")
        shapes[value.name] = shape
    return shapes


def random_feed(model: Model, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Normally distributed values (small counts for integer inputs), the same for the same seed."""
    rng = np.random.default_rng(seed)
    feed: dict[str, npt.NDArray[Any]] = {}
    for value in model.inputs:
        shape, dtype = shapes[value.name], np.dtype(value.dtype)
        total = 1
        for d in shape:
            total *= d
        if total * dtype.itemsize > _MAX_INPUT:
            raise ShapeError(f"input {value.name!r}: shape {shape} is larger than {_MAX_INPUT >> 30} GiB")
        if dtype.kind == "f":
            feed[value.name] = rng.standard_normal(shape, np.float32).astype(dtype)
        else:
            feed[value.name] = rng.integers(0, 2 if dtype.kind == "b" else 10, shape).astype(dtype)
    return feed
