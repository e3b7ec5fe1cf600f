"""Offsets for pieces of memory with known lifetimes: those that live at the same time must not overlap.

The general problem is NP-hard. Greedy best fit in three orders (largest, largest times longest, first) reaches the
peak of live bytes, where nothing can be saved, on most CNNs. Where it does not, the piece that ends highest goes to the
front of the order and the fit runs again, a few times: MNASNet falls from 1.19 to 1.00 times its peak.

Of pieces that take turns in one place, each thread writes its half of the rows. Where they lie around one centre it
writes where it wrote before; otherwise lines come from the cache of another thread, on CPUs of several L3 from afar
(docs/performance.md). So the fit tries the centres of others first, unless the arena grows by it. A piece is
compared with those alive beside it only; where these pairs are very many, one fit in order of birth has to do.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

ALIGN = 64
_RETRIES = 12
_CENTRES = 16  # that a fit tries for a piece: each takes a look at all beside it
_PAIRS = 200_000  # of pieces alive at the same time: a fit takes 0.03 s for so many; CNNs have hundreds


class Interval(NamedTuple):
    """A piece of `size` bytes, alive from node `first` to node `last`, both included."""

    first: int
    last: int
    size: int


def peak_bytes(intervals: Sequence[Interval]) -> int:
    """The largest sum of (aligned) bytes alive at one node: no arena can be smaller."""
    change: dict[int, int] = {}
    for first, last, size in intervals:
        change[first] = change.get(first, 0) + _aligned(size)
        change[last + 1] = change.get(last + 1, 0) - _aligned(size)
    return max(accumulate(change[i] for i in sorted(change)), default=0)


def assign_offsets(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """(the offset of each interval, the bytes of the arena); offsets and the total are multiples of 64."""
    peak = peak_bytes(intervals)
    beside = _neighbours(intervals)
    if beside is None:
        return _by_birth(intervals)
    retries = min(_RETRIES, _PAIRS // (1 + sum(map(len, beside))))
    centred = _smallest(intervals, beside, peak, retries, _CENTRES)
    if centred[1] <= peak:
        return centred
    tight = _smallest(intervals, beside, peak, retries, 0)
    return centred if centred[1] <= tight[1] else tight


def _smallest(
    intervals: Sequence[Interval], beside: Sequence[Sequence[int]], peak: int, retries: int, centres: int
) -> tuple[list[int], int]:
    """The smallest arena that _greedy finds."""
    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-intervals[i].size, intervals[i].first),
        lambda i: (-intervals[i].size * (intervals[i].last - intervals[i].first + 1), intervals[i].first),
        lambda i: (intervals[i].first, -intervals[i].size),
    ]
    best: tuple[list[int], int] | None = None
    for key in keys:
        order = sorted(range(len(intervals)), key=key)
        for _ in range(1 + retries):
            offsets, total = _greedy(intervals, order, beside, centres)
            if best is None or total < best[1]:
                best = offsets, total
            if best[1] <= peak:
                return best
            top = max(order, key=lambda i: offsets[i] + intervals[i].size)
            order.remove(top)
            order.insert(0, top)
    assert best is not None
    return best


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _neighbours(intervals: Sequence[Interval]) -> list[list[int]] | None:
    """For each interval those alive at the same time; None where that is more than _PAIRS pairs."""
    beside: list[list[int]] = [[] for _ in intervals]
    alive: list[int] = []
    pairs = 0
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i].first):
        alive = [j for j in alive if intervals[j].last >= intervals[i].first]
        pairs += len(alive)
        if pairs > _PAIRS:
            return None
        for j in alive:
            beside[i].append(j)
            beside[j].append(i)
        alive.append(i)
    return beside


def _greedy(
    intervals: Sequence[Interval], order: Sequence[int], beside: Sequence[Sequence[int]], most_centres: int
) -> tuple[list[int], int]:
    """Each interval, in the given order, goes around the first centre of others where it fits between its neighbours
    that have a place, of `most_centres`, else where it fits best."""
    offsets = [-1] * len(intervals)
    ends = [0] * len(intervals)
    centres: list[int] = []
    for i in order:
        size = _aligned(intervals[i].size)
        taken = sorted([(offsets[j], ends[j], j) for j in beside[i] if offsets[j] >= 0])
        for centre in centres:
            at = (centre - size // 2) // ALIGN * ALIGN
            if at >= 0 and all(at + size <= start or end <= at for start, end, _ in taken):
                break
        else:
            at = _best_fit(taken, size)
            if len(centres) < most_centres:
                centres.append(at + size // 2)
        offsets[i], ends[i] = at, at + size
    return offsets, max(ends, default=0)


def _by_birth(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """_greedy in order of birth, the largest first, without a list of neighbours."""
    offsets = [0] * len(intervals)
    total, soonest = 0, -1  # no piece has its last node before `soonest`
    alive: list[tuple[int, int, int]] = []  # offset, end, last; sorted
    for i in sorted(range(len(intervals)), key=lambda i: (intervals[i].first, -intervals[i].size)):
        first, last, size = intervals[i]
        if soonest < first:
            alive = [entry for entry in alive if entry[2] >= first]
            soonest = min((entry[2] for entry in alive), default=last)
        soonest = min(soonest, last)
        at = offsets[i] = _best_fit(alive, _aligned(size))
        insort(alive, (at, at + _aligned(size), last))
        total = max(total, at + _aligned(size))
    return offsets, total


def _best_fit(taken: Iterable[tuple[int, int, int]], size: int) -> int:
    """The start of the smallest gap for `size` between (offset, end, _) sorted by offset, else the first free end."""
    best, best_gap, end = -1, 0, 0
    for start, stop, _ in taken:
        gap = start - end
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = end, gap
        if stop > end:
            end = stop
    return end if best < 0 else best
