"""Time of each operation of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compiled import Compiled
from .graph import Shape

PEAK_SECONDS = 0.003


@dataclass(frozen=True)
class ProfileRow:
    """One operation of a profile: median time in milliseconds, GFLOP/s, and share of the peak of the threads in use."""

    name: str
    op: str
    algorithm: str
    shape: Shape
    ms: float
    gflops: float
    share: float
    expected_ms: float = 0.0  # of one thread, as in OpInfo


@dataclass(frozen=True)
class Profile:
    """What `Model.profile` measured. `peak_gflops` is the FMA rate of one core in this process."""

    rows: tuple[ProfileRow, ...]
    total_ms: float
    peak_gflops: float
    threads: int


def measure(
    executor: Any, compiled: Compiled, inputs: Sequence[Any], peak_of: Callable[[float], float], threads: int, runs: int
) -> Profile:
    """Run a plan `runs` times after one warm-up. The peak is measured between the runs, at the clock that they get."""
    arrays = [*inputs, *(np.empty(shape, np.float32) for _, shape in compiled.outputs)]
    executor.profile(compiled.plan, arrays, 1, compiled.repeats)
    samples, peaks = [], []
    for _ in range(runs):
        samples.append(executor.profile(compiled.plan, arrays, 1, compiled.repeats))
        peaks.append(peak_of(PEAK_SECONDS))
    ns, peak = np.concatenate(samples), float(np.median(peaks))
    rows = []
    for op, t in zip(compiled.ops, np.median(ns, axis=0), strict=True):
        rate = op.flops / t if t > 0 else 0.0
        share = rate / (peak * threads)
        ms = float(t) * 1e-6
        rows.append(
            ProfileRow(op.name, op.op, op.algorithm, op.shape, ms, float(rate), float(share), op.expected_ms)
        )  # fmt: skip
    return Profile(tuple(rows), float(np.median(ns.sum(axis=1))) * 1e-6, peak, threads)
