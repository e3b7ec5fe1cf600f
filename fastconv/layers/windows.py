"""Sizes and padding of sliding windows, for convolution and pooling; checks of arguments.

`padding` is Keras' "valid" or "same" (output ceil(size / stride), the odd pixel at the bottom and right), or an
extension for networks trained in other frameworks: a number for all four sides, or ((top, bottom), (left, right)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Padding = str | int | Sequence[Any]
Sides = tuple[tuple[int, int], tuple[int, int]]


def whole(value: Any, what: str) -> int:
    """A positive int (numpy's count, bools do not)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{what}={value!r}: expected a positive int")
    return int(value)


def pair(value: Any, what: str) -> tuple[int, int]:
    """An int or two of them, positive."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    ok = len(values) == 2 and all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values)
    if not ok or min(values) < 1:
        raise ValueError(f"{what}={value!r}: expected a positive int or two of them")
    return int(values[0]), int(values[1])


def sides(value: Any, what: str = "padding") -> Sides:
    """Keras' forms of explicit padding: p, (vertical, horizontal), or ((top, bottom), (left, right))."""
    v = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    rows = [tuple(e) if isinstance(e, (tuple, list)) else (e, e) for e in v]
    if len(rows) != 2 or any(len(r) != 2 for r in rows) or not all(_is_size(n) for r in rows for n in r):
        raise ValueError(
            f"{what}={value!r}: expected an int, two ints, or ((top, bottom), (left, right)), not negative"
        )
    (top, bottom), (left, right) = rows
    return (int(top), int(bottom)), (int(left), int(right))


def _is_size(n: Any) -> bool:
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and int(n) >= 0


def check_padding(padding: Padding) -> str | Sides:
    """ "valid", "same", or the numbers of all sides."""
    if isinstance(padding, str):
        if padding.lower() not in ("valid", "same"):
            raise ValueError(f'padding={padding!r}: expected "valid" or "same"')
        return padding.lower()
    return sides(padding)


@dataclass(frozen=True)
class Windows:
    """Where windows lie on images; each pair is (vertical, horizontal).

    ceil: a last window may run over the far edge, unless it would start behind the image and its first padding.
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: str | Sides
    dilations: tuple[int, int] = (1, 1)
    ceil: bool = False

    def counts(self, height: int | None, width: int | None, where: str) -> tuple[int | None, int | None]:
        """How many windows fit: floor((size + before + after - reach) / stride) + 1. None where a size is free.

        Raises ValueError, beginning with `where`, for an image that is smaller than a window.
        """
        return self._count(0, height, where), self._count(1, width, where)

    def pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """ONNX's (top, left, bottom, right)."""
        (top, bottom), (left, right) = self._around(0, height), self._around(1, width)
        return top, left, bottom, right

    def _reach(self, axis: int) -> int:
        return (self.size[axis] - 1) * self.dilations[axis] + 1

    def _around(self, axis: int, size: int) -> tuple[int, int]:
        """(before, after) of one axis."""
        if self.padding == "valid":
            return 0, 0
        if self.padding == "same":
            stride = self.strides[axis]
            total = max((-(-size // stride) - 1) * stride + self._reach(axis) - size, 0)
            return total // 2, total - total // 2
        assert not isinstance(self.padding, str)
        return self.padding[axis]

    def _count(self, axis: int, size: int | None, where: str) -> int | None:
        if size is None:
            return None
        (before, after), stride = self._around(axis, size), self.strides[axis]
        room = size + before + after - self._reach(axis)
        if room < 0:
            raise ValueError(
                f"{where}: a window of {self._reach(axis)} is larger than its padded input of "
                f"{size + before + after} along axis {axis + 1}"
            )
        count = room // stride + 1
        if self.ceil and room % stride and count * stride < size + before:
            count += 1
        return count
