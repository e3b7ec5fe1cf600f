"""Speed while another process keeps one CPU busy: milliseconds of one thread and of several, quiet and not.

    python -m bench.busy MODEL.onnx [--threads 2] [--seconds 3] [--cpu 1]

The other process is an endless loop pinned to one CPU, as a neighbour in a container may be. Several threads must not
be much slower then than one thread is, though one of them shares its CPU. Means, not medians: what is lost comes in
waits of some milliseconds, and a median would not see them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np


def mean_ms(model: Any, x: Any, seconds: float) -> float:
    start, runs = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        model(x)
        runs += 1
    return 1e3 * spent / runs


def main(argv: list[str] | None = None) -> int:
    import fastconv

    parser = argparse.ArgumentParser(prog="bench.busy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the four measurements")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="which one is kept busy")
    args = parser.parse_args(argv)

    models = {n: fastconv.load(args.model, threads=n) for n in (1, args.threads)}
    shape = [d if isinstance(d, int) else 1 for d in models[1].inputs[0].shape]
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for model in models.values():
        mean_ms(model, x, 0.3)
    quiet = {n: mean_ms(m, x, args.seconds) for n, m in models.items()}
    loop = f"import os\nos.sched_setaffinity(0, {{{args.cpu}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as other:
        try:
            time.sleep(0.3)
            busy = {n: mean_ms(m, x, args.seconds) for n, m in models.items()}
        finally:
            other.kill()
    for n in models:
        print(
            f"threads {n}: quiet {quiet[n]:.2f} ms, {quiet[1] / quiet[n]:.2f} times one thread; "
            f"CPU {args.cpu} busy {busy[n]:.2f} ms, {quiet[1] / busy[n]:.2f} times one quiet thread"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
