"""`fastconv bench`: latency percentiles and throughput for numbers of threads and batch sizes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastconv.cli import inputs, output
from fastconv.cli.output import Column
from fastconv.errors import ShapeError
from fastconv.threads import MAX_THREADS


def measure(
    path: str, shapes: Sequence[str], how: inputs.How, wanted: int | None, runs: int, warmup: int
) -> dict[str, Any]:
    """Time `runs` runs after `warmup` untimed ones; milliseconds per run and images per second.

    `wanted` is the batch size; None takes the one of --shape or of the model.
    """
    model = inputs.load(path, how)
    sizes = inputs.concrete(model, shapes, wanted)
    batch = next((shape[0] for shape in sizes.values() if shape), 1)
    feed = inputs.random_feed(model, sizes)
    ms = np.empty(runs)
    with output.progress(runs + warmup, f"threads {model.threads}, batch {batch}") as tick:
        for i in range(runs + warmup):
            start = time.perf_counter()
            model.run(None, feed)
            if i >= warmup:
                ms[i - warmup] = (time.perf_counter() - start) * 1e3
            tick()
    p50, p90, p99 = (float(v) for v in np.percentile(ms, (50, 90, 99)))
    return {
        "threads": model.threads,
        "batch": batch,
        "inputs": {k: list(v) for k, v in sizes.items()},
        "runs": runs,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "min_ms": float(ms.min()),
        "images_per_s": batch * 1e3 / p50,
    }


def run(
    path: str,
    shapes: Sequence[str],
    threads: str | None,
    batches: str | None,
    runs: int,
    warmup: int,
    how: inputs.How,
    as_json: bool,
) -> int:
    """Every combination of --threads and --batch, each a list such as 1,2,4. Interrupted it shows what is done: 130."""
    counts: tuple[int | None, ...] = (None,) if threads is None else inputs.numbers(threads, "--threads", int)
    batch_sizes: tuple[int | None, ...] = (None,) if batches is None else inputs.numbers(batches, "--batch", int)
    if any(n is not None and not 1 <= n <= MAX_THREADS for n in counts):
        raise ShapeError(f"--threads {threads}: expected numbers from 1 to {MAX_THREADS}")
    if any(n is not None and n < 1 for n in batch_sizes):
        raise ShapeError(f"--batch {batches}: expected numbers of at least 1")
    results: list[dict[str, Any]] = []
    code = 0
    try:
        for count, batch in itertools.product(counts, batch_sizes):
            results.append(measure(path, shapes, replace(how, threads=count), batch, runs, warmup))
    except KeyboardInterrupt:
        if not results:
            raise
        code = 130
    if as_json:
        output.dump_json({"model": path, "results": results, **({"interrupted": True} if code else {})})
        return code
    titles = ("threads", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s")
    rows = [
        (
            r["threads"],
            r["batch"],
            *(f"{r[k]:.3f}" for k in ("p50_ms", "p90_ms", "p99_ms")),
            f"{r['images_per_s']:.1f}",
        )
        for r in results
    ]
    output.table([Column(t, right=True) for t in titles], rows)
    return code
