"""A quick paired check of speed: ResNet50 and VGG16 against onnxruntime, in turns, in under two minutes.

    python -m bench.quick [--threads 1] [--runs 30] [--json OUT]

Needs no torch: the networks are written here, with random weights. Each ratio is the median over turns of fastconv's
time to onnxruntime's, with the 95% interval of that median from its order statistics. Exit code 1 where a ratio's
interval lies wholly above its limit, where the outputs disagree, or where an engine fails. The limits hold for CPUs
with AVX-512; elsewhere the check is for 1.0: slower than onnxruntime.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from bench import models, runner, timing
from tests.models.builder import Builder

FOLDER = Path("build/models/quick")
LIMITS = {"resnet50": 0.95, "vgg16": 0.6}


def resnet50() -> Any:
    """ResNet50 v1.5 (stride in the 3x3 convolutions), as torchvision's; batch norm folded, as exporters leave it."""
    b = Builder(50, (3, 224, 224))
    x = b.relu(b.conv(b.x, 64, 7, 2, bias=True))
    x = b.pool("MaxPool", x, 3, 2, (1, 1, 1, 1))
    for mid, repeats, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            stride = first if i == 0 else 1
            y = b.relu(b.conv(x, mid, 1, bias=True))
            y = b.relu(b.conv(y, mid, 3, stride, bias=True))
            y = b.conv(y, 4 * mid, 1, bias=True)
            short = x if i else b.conv(x, 4 * mid, 1, stride, bias=True)
            x = b.relu(b.op("Add", y, short))
    return b.model((b.head(x, 1000), [1000]))


def vgg16() -> Any:
    b = Builder(16, (3, 224, 224))
    x = b.x
    for out, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = b.relu(b.conv(x, out, 3, bias=True))
        x = b.pool("MaxPool", x, 2, 2)
    x = b.op("Flatten", x, axis=1)
    x = b.relu(b.dense(x, 25088, 4096))
    x = b.relu(b.dense(x, 4096, 4096))
    return b.model((b.dense(x, 4096, 1000), [1000]))


MAKERS = {"resnet50": resnet50, "vgg16": vgg16}


def write(folder: Path, names: list[str]) -> None:
    """Write those of the networks that `folder` lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.onnx"
        if not path.exists():
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(MAKERS[name]().SerializeToString())
            unfinished.replace(path)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """(median, and its 95% confidence interval) of independent samples, from order statistics: ranks
    n/2 -+ 1.96 sqrt(n)/2, without any assumption on their distribution."""
    ordered, n = sorted(ratios), len(ratios)
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return timing.quantile(ordered, 0.5), ordered[low], ordered[high]


def limit(name: str, isa: str | None) -> float:
    return LIMITS[name] if isa == "avx512" else 1.0


def judge(rows: list[runner.Row], bound: float) -> tuple[bool, str]:
    """Whether a model passes, and a line that says why or why not."""
    bad = [r for r in rows if r.status != "ok"]
    if bad:
        return False, "; ".join(f"{r.engine} {r.status}: {r.message}" for r in bad)
    mine = next(r for r in rows if r.engine == "fastconv")
    other = next(r for r in rows if r.engine == "onnxruntime")
    median, low, high = interval(mine.pairs)
    good = low <= bound
    times = f"{mine.median_ms:.2f} ms, onnxruntime {other.median_ms:.2f} ms"
    verdict = "ok" if good else "TOO SLOW"
    return good, f"{times}, ratio {median:.3f} [{low:.3f}, {high:.3f}], limit {bound:.2f}: {verdict}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.quick", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="resnet50,vgg16", help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--dir", type=Path, default=FOLDER, help="where the networks are written")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30, help="turns")
    parser.add_argument("--json", type=Path, help="file for the results, as of bench.models")
    args = parser.parse_args(argv)
    names = [n for n in args.models.split(",") if n]
    if not names or any(n not in MAKERS for n in names) or args.threads < 1 or args.runs < 1:
        parser.error(f"models are {', '.join(MAKERS)}; threads and runs are positive")
    write(args.dir, names)
    machine, engines = timing.system(), ["fastconv", "onnxruntime"]
    print(f"{machine['cpu']}, {machine['isa']}, threads {args.threads}", flush=True)
    settings = runner.Settings(args.runs, warmup=2, min_time=0.0, max_runs=args.runs)
    everything, passed = [], True
    for name in names:
        rows = runner.isolated(args.dir / f"{name}.onnx", 1, args.threads, engines, settings, timeout=600.0)
        everything += rows
        good, line = judge(rows, limit(name, machine["isa"]))
        passed &= good
        print(f"{name:10} {line}", flush=True)
    if args.json:
        models.dump(args.json, models.report(machine, settings, engines, everything))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
