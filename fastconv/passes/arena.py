"""Offsets for pieces of memory with known lifetimes: those that live at the same time must not overlap.

The general problem is NP-hard; greedy best fit, largest first, comes within a few percent of the peak on CNNs. Three
orders are tried, since each has graphs that it likes, and the smallest arena wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

ALIGN = 64


class Interval(NamedTuple):
    """A piece of `size` bytes, alive from node `first` to node `last`, both included."""

    first: int
    last: int
    size: int


def assign_offsets(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """(the offset of each interval, the bytes of the arena); offsets and the total are multiples of 64."""
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-intervals[i].size, intervals[i].first),
        lambda i: (-intervals[i].size * (intervals[i].last - intervals[i].first + 1), intervals[i].first),
        lambda i: (intervals[i].first, -intervals[i].size),
    ]
    return min((_greedy(intervals, sorted(range(len(intervals)), key=key)) for key in orders), key=lambda r: r[1])


def _greedy(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Each interval, in the given order, goes into the smallest gap that takes it, else to the first free end."""
    offsets = [0] * len(intervals)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; sorted by offset
    total = 0
    for i in order:
        first, last, size = intervals[i]
        size = -(-size // ALIGN) * ALIGN
        best, best_gap, end = -1, -1, 0
        for start, stop, born, dies in placed:
            if born > last or dies < first:
                continue
            gap = start - end
            if gap >= size and (best < 0 or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, stop)
        offset = end if best < 0 else best
        offsets[i] = offset
        total = max(total, offset + size)
        _insert(placed, (offset, offset + size, first, last))
    return offsets, total


def _insert(placed: list[tuple[int, int, int, int]], entry: tuple[int, int, int, int]) -> None:
    low, high = 0, len(placed)
    while low < high:
        middle = (low + high) // 2
        if placed[middle][0] < entry[0]:
            low = middle + 1
        else:
            high = middle
    placed.insert(low, entry)
