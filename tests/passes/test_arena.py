"""Offsets of regions in the arena."""

from __future__ import annotations

import itertools
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.passes import arena
from fastconv.passes.arena import Interval, assign_offsets, peak_bytes


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 3000)), max_size=25))
def test_offsets_never_overlap(items: list[tuple[int, int, int]]) -> None:
    intervals = [Interval(first, first + length, size) for first, length, size in items]
    offsets, total = assign_offsets(intervals)
    assert total % 64 == 0
    assert total >= peak_bytes(intervals)
    for (a, p), (b, q) in itertools.combinations(zip(intervals, offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert p + a.size <= q or q + b.size <= p
    for a, p in zip(intervals, offsets, strict=True):
        assert p % 64 == 0 and p + a.size <= total


def test_retries_reach_the_peak() -> None:
    """The three orders alone need 8 units for these five pieces; the peak is 7."""
    pieces = [(3, 5, 3), (5, 7, 2), (6, 7, 2), (5, 8, 2), (0, 3, 3)]
    assert assign_offsets([Interval(first, last, 64 * size) for first, last, size in pieces])[1] == 7 * 64


def test_pieces_that_take_turns_lie_around_one_centre() -> None:
    pieces = [(0, 1, 10), (1, 2, 8), (2, 3, 6), (3, 4, 4)]
    offsets, total = assign_offsets([Interval(first, last, 64 * size) for first, last, size in pieces])
    assert total == 18 * 64
    centres = [at / 64 + size / 2 for at, (_, _, size) in zip(offsets, pieces, strict=True)]
    assert centres == [5, 14, 5, 14]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 3000)), min_size=1, max_size=25))
def test_centres_take_no_more_memory(items: list[tuple[int, int, int]]) -> None:
    intervals = [Interval(first, first + length, size) for first, length, size in items]
    beside = arena._neighbours(intervals)
    assert beside is not None
    without = arena._smallest(intervals, beside, peak_bytes(intervals), arena._RETRIES, 0)
    assert assign_offsets(intervals)[1] <= without[1]


def test_offsets_of_very_many_at_once() -> None:
    """More pairs than a list of neighbours may hold: one fit in order of birth."""
    rng = np.random.default_rng(0)
    intervals = [Interval(i, i + int(rng.integers(1400)), int(rng.integers(1, 4000))) for i in range(1000)]
    start = time.process_time()
    offsets, total = assign_offsets(intervals)
    assert time.process_time() - start < 2
    first, last, size = (np.array(column) for column in zip(*intervals, strict=True))
    at = np.array(offsets)
    end = at + size
    together = (first[:, None] <= last) & (first <= last[:, None])
    apart = (end[:, None] <= at) | (end <= at[:, None])
    np.fill_diagonal(apart, True)
    assert together.sum() > 2 * 200_000 and not (together & ~apart).any()
    assert end.max() <= total <= 1.2 * peak_bytes(intervals)
