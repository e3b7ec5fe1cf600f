"""Interleaved timing, cold weights, and what to write beside every figure: the machine.

Engines are compared in turns, A B A B ..., so that a slow second of the machine hits all of them, and each ratio is the
median over pairs of the same turn. Before its timed call an engine may make `settle` untimed ones: then it is timed as
in steady use, with its own weights in the caches, and the previous engine's spinning threads have gone to sleep.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core
from fastconv.cold import last_level_cache
from fastconv.isa import isa_levels, resolve_isa


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, 0 <= q <= 1. ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass
class Samples:
    """Durations of one callable, in nanoseconds and in the order of the turns."""

    name: str
    ns: list[int] = field(default_factory=list)

    def ms(self, q: float = 0.5) -> float:
        return quantile(self.ns, q) / 1e6

    @property
    def median_ms(self) -> float:
        return self.ms(0.5)

    @property
    def p10_ms(self) -> float:
        return self.ms(0.1)

    @property
    def p90_ms(self) -> float:
        return self.ms(0.9)

    def ratios(self, other: Samples) -> list[float]:
        """self / other, turn by turn."""
        return [a / b for a, b in zip(self.ns, other.ns, strict=True)]

    def ratio(self, other: Samples) -> float:
        """Median over turns of self / other: below 1 means that self is faster."""
        return statistics.median(self.ratios(other))


def interleave(
    calls: Mapping[str, Callable[[], object]],
    runs: int = 20,
    warmup: int = 3,
    min_time: float = 0.0,
    *,
    settle: int = 0,
    pause: float = 0.0,
    max_runs: int | None = None,
) -> dict[str, Samples]:
    """Time the callables in turns: at least `runs` turns, and more until `min_time` seconds have been timed in each or
    until there were `max_runs`.

    Each makes `warmup` untimed calls first. In each turn a callable sleeps `pause` seconds and makes `settle` untimed
    calls before its timed one, more of them until they took `pause` seconds as well: some schedulers wake all threads
    on one CPU after a pause and take ten milliseconds to spread them. ValueError for no runs.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    for call in calls.values():
        for _ in range(warmup):
            call()
    samples = {name: Samples(name) for name in calls}
    clock = time.perf_counter_ns
    turns = 0
    while calls and (turns < runs or min(sum(s.ns) for s in samples.values()) < min_time * 1e9):
        if turns >= runs and max_runs is not None and turns >= max_runs:
            break
        turns += 1
        for name, call in calls.items():
            if pause:
                time.sleep(pause)
            settled = clock() + pause * 1e9
            for _ in range(settle):
                call()
            while clock() < settled:
                call()
            start = clock()
            call()
            samples[name].ns.append(max(clock() - start, 1))
    return samples


def _dot(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.dot(a, b))


def _max(a: npt.NDArray[Any], _: npt.NDArray[Any]) -> float:
    return float(np.max(a))


def read_bandwidth(nbytes: int | None = None, repeats: int = 7) -> float:
    """GB/s that one core reads from memory: the best of numpy's dot product and maximum on arrays of `nbytes` together
    (None: eight times the last-level cache), in huge pages where the system has them."""
    n = max((8 * last_level_cache() if nbytes is None else nbytes) // 8, 1)
    a, b = np.ones(n, np.float32), np.ones(n, np.float32)
    best = 0.0
    for _ in range(repeats):
        for moved, read in ((8 * n, _dot), (4 * n, _max)):
            start = time.perf_counter()
            read(a, b)
            best = max(best, moved / max(time.perf_counter() - start, 1e-9))
    return best / 1e9


def peak_gflops(isa: str | None = None) -> float:
    """The multiply-add rate of one core measured now, at a level or at the one in use.

    DeviceError for a level that this CPU lacks.
    """
    return float(_core.measure_peak(resolve_isa(isa)))


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def system() -> dict[str, Any]:
    """CPU, instruction sets, cores, memory, versions and date: what a reader needs beside a figure."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "last_level_cache": last_level_cache(),
        "system": platform.system() + " " + platform.release().split("-")[0],
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "peak_gflops": peak_gflops(),
        "isa_levels": isa_levels(),
        "isa": str(resolve_isa().name),
    }
