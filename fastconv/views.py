"""Views: where a tensor of a plan lies and how its elements are strided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .graph import Shape


@dataclass(frozen=True)
class View:
    """Where a tensor lies: plan space and first element, its shape, and element strides."""

    kind: str  # arena, weight, state, external
    base: Any  # PackedWeight (weights and states) or external index
    first: int
    shape: Shape
    strides: tuple[int, ...]

    @property
    def ld(self) -> int:
        """Row stride; only for tensors made of rows."""
        return self.strides[-2] if len(self.shape) > 1 else (self.shape[0] if self.shape else 1)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def dense(self) -> bool:
        return self.rows <= 1 or self.ld == self.width


def row_strides(shape: Shape, ld: int | None = None) -> tuple[int, ...]:
    """Element strides of rows of the last axis that are `ld` apart (dense if None)."""
    if not shape:
        return ()
    strides = [1]
    step = shape[-1] if ld is None else ld
    for dim in reversed(shape[1:-1] if len(shape) > 1 else ()):
        strides.append(step)
        step *= dim
    if len(shape) > 1:
        strides.append(step)
    return tuple(reversed(strides))


def collapse(dims: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Drop axes of size 1 and merge neighbours that are contiguous in every operand."""
    out: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for i, dim in enumerate(dims):
        if dim == 1:
            continue
        if out and all(m[-1] == s[i] * dim for m, s in zip(merged, strides, strict=True)):
            out[-1] *= dim
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[i]
        else:
            out.append(dim)
            for m, s in zip(merged, strides, strict=True):
                m.append(s[i])
    if not out:
        out, merged = [1], [[1] for _ in strides]
    return out, merged


def broadcast_strides(view: View, shape: Shape) -> tuple[int, ...]:
    pad = len(shape) - len(view.shape)
    return (0,) * pad + tuple(
        0 if dim == 1 and shape[pad + i] != 1 else stride
        for i, (dim, stride) in enumerate(zip(view.shape, view.strides, strict=True))
    )


def reach(shape: Shape, strides: Sequence[int]) -> int:
    """Elements from the first to the last of a view, both counted; 0 for an empty one."""
    if any(d == 0 for d in shape):
        return 0
    return 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
