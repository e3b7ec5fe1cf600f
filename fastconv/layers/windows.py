"""Sizes and padding of sliding windows, for convolution and pooling.

`padding` is Keras' "valid" or "same" (output ceil(size / stride), the odd pixel at the bottom and right), or an
extension for networks trained in other frameworks: a number for all four sides, or ((top, bottom), (left, right)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Padding = str | int | Sequence[Any]
Sides = tuple[tuple[int, int], tuple[int, int]]


def pair(value: Any, what: str) -> tuple[int, int]:
    """An int or two of them, positive."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
        raise ValueError(f"{what}={value!r}: expected a positive int or two of them")
    return values[0], values[1]


def sides(value: Any, what: str = "padding") -> Sides:
    """Keras' forms of explicit padding: p, (vertical, horizontal), or ((top, bottom), (left, right))."""
    v = (value, value) if isinstance(value, int) else tuple(value)
    if len(v) == 2:
        rows = tuple((e, e) if isinstance(e, int) else tuple(e) for e in v)
        if all(len(r) == 2 and all(isinstance(n, int) and n >= 0 for n in r) for r in rows):
            return (rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])
    raise ValueError(f"{what}={value!r}: expected an int, two ints, or ((top, bottom), (left, right)), not negative")


def check_padding(padding: Padding) -> str | Sides:
    if isinstance(padding, str):
        if padding.lower() not in ("valid", "same"):
            raise ValueError(f'padding={padding!r}: expected "valid" or "same"')
        return padding.lower()
    return sides(padding)


def pads_of(size: int, kernel: int, stride: int, dilation: int, padding: str | Sides, axis: int) -> tuple[int, int]:
    """(before, after) of one axis."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        reach = (kernel - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        return total // 2, total - total // 2
    assert not isinstance(padding, str)
    return padding[axis]


def output_size(
    size: int | None, kernel: int, stride: int, dilation: int, padding: str | Sides, axis: int, ceil: bool, where: str
) -> int | None:
    """How many windows fit: floor((size + before + after - reach) / stride) + 1. None where the size is free.

    ceil: a last window may run over the far edge, unless it would start behind the input and its first padding.
    """
    if size is None:
        return None
    before, after = pads_of(size, kernel, stride, dilation, padding, axis)
    room = size + before + after - ((kernel - 1) * dilation + 1)
    if room < 0:
        raise ValueError(
            f"{where}: a window of {(kernel - 1) * dilation + 1} is larger than its padded input of "
            f"{size + before + after} along axis {axis + 1}"
        )
    count = room // stride + 1
    if ceil and room % stride and count * stride < size + before:
        count += 1
    return count
