"""Time and peak memory of loading a model and running it once, each time in a fresh process, engines in turns.

    python -m bench.load --dir MODELS --models resnet50,vgg16 [--engines fastconv,onnxruntime] [--threads 1,2] [...]

Importing the engine is reported apart from loading and the first run. The peak is the process's largest resident set,
file pages included: VmHWM where the system has it, since ru_maxrss starts from the parent's figure on Linux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.options import numbers

FIGURES = ("import_s", "load_s", "first_run_s", "total_s", "peak_mb")


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def child(engine_name: str, path: str, shapes: dict[str, tuple[int, ...]], threads: int) -> dict[str, float]:
    """Measure in this process, which must be fresh."""
    import importlib

    import numpy as np

    from bench import peers

    rng = np.random.default_rng(0)
    x = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    engine = peers.create(engine_name)
    start = time.perf_counter()
    importlib.import_module(engine.package)
    imported = time.perf_counter()
    engine.load(path, shapes, threads)
    loaded = time.perf_counter()
    outputs = engine.run(x)
    done = time.perf_counter()
    if not all(np.isfinite(y).all() for y in outputs):
        raise RuntimeError(f"{engine_name} computed values that are not finite")
    return {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "first_run_s": done - loaded,
        "total_s": done - imported,
        "peak_mb": peak_bytes() / 2**20,
    }


def measure(engine: str, path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> dict[str, float]:
    """Run `child` in a process of its own. RuntimeError with the end of its standard error if it fails."""
    job = json.dumps([engine, str(path), shapes, threads])
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", "--child", job], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"[:300])
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compare(path: Path, engines: list[str], batch: int, threads: int, runs: int) -> list[dict[str, Any]]:
    """One row per engine: medians of FIGURES, and the ratios of total_s and peak_mb to the last working engine's, turn
    by turn. The first, uncounted turn fills the page cache."""
    from bench import peers

    rows: dict[str, dict[str, Any]] = {
        e: {"model": path.stem, "engine": e, "version": peers.create(e).version, "batch": batch, "threads": threads}
        for e in engines
    }
    try:
        shapes = peers.input_shapes(path, batch)
    except Exception as error:
        return [row | {"failed": f"{type(error).__name__}: {error}"} for row in rows.values()]
    samples: dict[str, list[dict[str, float]]] = {e: [] for e in engines}
    for turn in range(runs + 1):
        for engine in [e for e in engines if "failed" not in rows[e]]:
            try:
                figures = measure(engine, path, shapes, threads)
            except RuntimeError as error:
                rows[engine]["failed"] = str(error)
            else:
                if turn:
                    samples[engine].append(figures)
    working = [e for e in engines if "failed" not in rows[e]]
    for engine in working:
        row, mine, reference = rows[engine], samples[engine], samples[working[-1]]
        row.update({k: statistics.median(s[k] for s in mine) for k in FIGURES})
        row["reference"] = working[-1]
        for key in ("total_s", "peak_mb"):
            row[f"{key}_ratio"] = statistics.median(a[key] / b[key] for a, b in zip(mine, reference, strict=True))
        row["samples"] = mine
    return list(rows.values())


def table(rows: list[dict[str, Any]]) -> Any:
    """A rich table of the rows that worked."""
    from rich.table import Table

    out = Table(title="Load and first run", title_justify="left")
    for column in ("model", "engine"):
        out.add_column(column, no_wrap=True)
    for column in ("threads", "import s", "load s", "first run s", "load + run s", "ratio", "peak MiB", "ratio"):
        out.add_column(column, justify="right", no_wrap=True)
    for r in rows:
        head = [r["model"], r["engine"], str(r["threads"])]
        if "failed" in r:
            out.add_row(*head, "[red]failed[/red]")
            continue
        times = [f"{r[k]:.3f}" for k in ("import_s", "load_s", "first_run_s", "total_s")]
        ratios = [f"{r['total_s_ratio']:.3f}", f"{r['peak_mb']:.0f}", f"{r['peak_mb_ratio']:.3f}"]
        out.add_row(*head, *times, *ratios)
    return out


def main(argv: list[str] | None = None) -> int:
    """0 where every engine ran every model, else 1."""
    parser = argparse.ArgumentParser(prog="bench.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, help="folder of NAME.onnx files")
    parser.add_argument("--models", default="", help="comma-separated names (default: all files of the folder)")
    parser.add_argument("--engines", default="fastconv,onnxruntime", help="the last one is the reference")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=numbers, default=[1])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        engine, path, shapes, threads = json.loads(args.child)
        print(json.dumps(child(engine, path, {k: tuple(v) for k, v in shapes.items()}, threads)))
        return 0
    if args.dir is None:
        parser.error("--dir is required")

    from rich.console import Console

    from bench import peers, timing

    engines = [e for e in args.engines.split(",") if e]
    if not engines or any(e not in peers.ENGINES for e in engines):
        parser.error(f"engines are {', '.join(peers.ENGINES)}")
    names = [n for n in args.models.split(",") if n] or sorted(p.stem for p in args.dir.glob("*.onnx"))
    missing = [n for n in names if not (args.dir / f"{n}.onnx").is_file()]
    if missing or not names:
        parser.error(f"no model files {missing or '*.onnx'} in {args.dir}")
    rows: list[dict[str, Any]] = []
    for name, threads in itertools.product(names, args.threads):
        rows += compare(args.dir / f"{name}.onnx", engines, args.batch, threads, args.runs)
        if args.json:
            report = {"kind": "load", "system": timing.system(), "runs": args.runs, "rows": rows}
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(rows))
    for line in dict.fromkeys(f"{r['engine']} {r['version']}" for r in rows):
        console.print(line)
    for r in rows:
        if "failed" in r:
            console.print(f"{r['model']}: {r['engine']} failed: {r['failed']}", markup=False, soft_wrap=True)
    return 1 if any("failed" in r for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
