"""Profile every layer of a model and measure the two roofs: multiply-add rate and memory bandwidth of one core.

    python -m bench.roofline --models resnet50,mobilenet_v2 [--dir MODELS] --json OUT

bench.report draws it: attainable GFLOP/s are min(peak, FLOPs per byte times bandwidth), with input, weights and output
counted once and direct convolution's FLOPs, so that a Winograd layer may lie above the roof.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench import models, peers, timing


def layers(path: Path, runs: int) -> tuple[list[dict[str, Any]], float]:
    """A row per node of the plan (the operations of one node together), and the FMA rate of one core in GFLOP/s."""
    import fastconv

    model = fastconv.load(str(path), threads=1)
    shapes = peers.input_shapes(path)
    rng = np.random.default_rng(0)
    x = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes.values()]
    profile = model.profile(*x, runs=runs)
    rows: dict[str, dict[str, Any]] = {}
    for op, timed in zip(model.inspect(*shapes.values()), profile.rows, strict=True):
        row = rows.setdefault(op.name, {"model": path.stem, "name": op.name, "op": op.op, "ms": 0.0, "flops": 0})
        row["ms"] += timed.ms
        if "bytes" not in row or op.flops >= row["flops"]:  # of the operation that does the work
            row.update(algorithm=op.algorithm, shape=list(op.shape), bytes=op.bytes)
        row["flops"] += op.flops
    return list(rows.values()), profile.peak_gflops


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.roofline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=models.FOLDER, help="folder of NAME.onnx files")
    parser.add_argument("--models", default="resnet50,mobilenet_v2")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    args = parser.parse_args(argv)
    names = [n for n in args.models.split(",") if n]
    missing = [n for n in names if not (args.dir / f"{n}.onnx").is_file()]
    if missing or not names:
        parser.error(f"no model files {missing} in {args.dir}")
    machine, bandwidth = timing.system(), timing.read_bandwidth()
    rows, peak = [], 0.0
    for name in names:
        found, rate = layers(args.dir / f"{name}.onnx", args.runs)
        rows += found
        peak = max(peak, rate)
        print(f"{name}: {len(found)} layers, {sum(r['ms'] for r in found):.2f} ms", flush=True)
    head = {"kind": "layers", "system": machine, "peak_gflops": peak, "bandwidth_gbs": bandwidth}
    models.dump(args.json, head | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
