"""Batches in shares of a few images beside the same batches in one piece, in turns.

python -m bench.batches [--models resnet50,mobilenet_v2] [--batch 8] [--threads 1,2] [--runs 10]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from bench.models import FOLDER, MODELS
from bench.options import numbers
from bench.timing import interleave
from fastconv.target import Target


class Whole(Target):
    repeats = False


def load(path: Path, threads: int, whole: bool) -> fastconv.Model:
    model = fastconv.load(path, threads=threads)
    if whole:
        model._target = Whole()
    return model


def measure(path: Path, batch: int, threads: int, runs: int) -> tuple[Any, ...]:
    models = {name: load(path, threads, name == "whole") for name in ("shares", "whole")}
    shape = (batch, *(d for d in models["whole"].inputs[0].shape[1:] if isinstance(d, int)))
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    samples = interleave({name: lambda m=m: m(x) for name, m in models.items()}, runs, 2, settle=1)  # type: ignore[misc]
    shares, whole = samples["shares"], samples["whole"]
    repeats = models["shares"].compile(shape).repeats
    ratio = f"{shares.ratio(whole):.3f}"
    return path.stem, batch, threads, batch // repeats, f"{whole.median_ms:.2f}", f"{shares.median_ms:.2f}", ratio


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.batches", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--dir", type=Path, default=FOLDER, help="as bench.models exports them (make bench)")
    parser.add_argument("--batch", type=numbers, default=[8])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args(argv)
    print(f"{'model':20} batch threads share  whole ms shares ms  ratio")
    for name in args.models.split(","):
        for batch in args.batch:
            for threads in args.threads:
                row = measure(args.dir / f"{name}.onnx", batch, threads, args.runs)
                print("{:20} {:5} {:7} {:5} {:>9} {:>9} {:>6}".format(*row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
