"""Time whole models on several engines, interleaved in one process, after checking that the engines agree.

    python -m bench.models --dir MODELS --models resnet50,vgg16 --engines fastconv,onnxruntime --threads 1,2 --batch 1,8

MODELS holds NAME.onnx files, as bench.export writes them. An output may differ from the reference's (onnxruntime's,
where it runs) by 1e-4 of its largest magnitude. What differs by up to 1e-2 is timed too and marked inexact (Winograd
with few digits, say); fastconv has no such grace. Beyond that an engine is wrong, and like a failed one shown but not
timed. Ratios are medians over turns of the engine's time to the reference's: below 1 is faster than the reference.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import peers, timing

TOLERANCE, INEXACT = 1e-4, 1e-2
Array = npt.NDArray[Any]


@dataclass
class Row:
    """One engine on one case. Times are milliseconds for the whole batch; `status` is ok, inexact, failed or wrong."""

    model: str
    batch: int
    threads: int
    engine: str
    version: str
    status: str = "ok"
    message: str = ""
    error: float | None = None  # against the reference, relative to its largest magnitude
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    reference: str = ""


def difference(got: list[Array], want: list[Array]) -> float:
    """Largest error over all outputs, each relative to its largest magnitude; infinite for other shapes or for NaN."""
    if len(got) != len(want):
        return float("inf")
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape or not np.isfinite(g).all():
            return float("inf")
        largest = float(np.abs(w).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(g.astype(np.float64) - w).max(initial=0.0)) / largest)
    return worst


def _why(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


def run_case(path: Path, batch: int, threads: int, engines: list[str], args: argparse.Namespace) -> list[Row]:
    """Load, verify and time one model at one batch and thread count on every engine."""
    rows = {e: Row(path.stem, batch, threads, e, peers.create(e).version) for e in engines}
    try:
        shapes = peers.input_shapes(path, batch)
    except Exception as error:
        for row in rows.values():
            row.status, row.message = "failed", _why(error)
        return list(rows.values())
    rng = np.random.default_rng(batch)
    x = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    loaded: dict[str, peers.Engine] = {}
    outputs: dict[str, list[Array]] = {}
    for name in engines:
        try:
            engine = peers.create(name)
            engine.load(path, shapes, threads)
            outputs[name] = [np.array(y) for y in engine.run(x)]
            loaded[name] = engine
        except Exception as error:
            rows[name].status, rows[name].message = "failed", _why(error)

    reference = "onnxruntime" if "onnxruntime" in loaded else next(iter(loaded), "")
    for name in list(loaded):
        row = rows[name]
        row.error, row.reference = difference(outputs[name], outputs[reference]), reference
        if not row.error <= TOLERANCE:
            row.status = "inexact" if row.error <= INEXACT and name != "fastconv" else "wrong"
            row.message = f"differs from {reference} by {row.error:.1e} of the largest magnitude"
            if row.status == "wrong":
                del loaded[name]

    samples = timing.interleave(
        {name: partial(engine.run, x) for name, engine in loaded.items()},
        runs=args.runs,
        warmup=args.warmup,
        min_time=args.min_time,
        settle=args.settle,
        pause=args.pause if threads > 1 else 0.0,
    )
    for name, s in samples.items():
        row, ratios = rows[name], s.ratios(samples[reference])
        row.median_ms, row.p10_ms, row.p90_ms = s.median_ms, s.p10_ms, s.p90_ms
        row.ratio, row.ratio_p10, row.ratio_p90 = (timing.quantile(ratios, q) for q in (0.5, 0.1, 0.9))
    loaded.clear()
    gc.collect()
    return list(rows.values())


def table(rows: list[Row], title: str) -> Any:
    """A rich table of the rows; their messages follow it in `notes`."""
    from rich.table import Table

    out = Table(title=title, title_justify="left")
    for column in ("model", "batch", "threads", "engine"):
        out.add_column(column, justify="right" if column in ("batch", "threads") else "left", no_wrap=True)
    for column in ("median ms", "p10", "p90", "ratio", "p10", "p90", "error"):
        out.add_column(column, justify="right", no_wrap=True)
    before = None
    for r in rows:
        case = (r.model, r.batch, r.threads)
        if before not in (None, case):
            out.add_section()
        before = case
        cells = [r.model, str(r.batch), str(r.threads), r.engine]
        if r.median_ms is None:
            out.add_row(*cells, f"[red]{r.status}[/red]")
            continue
        cells += [f"{v:.2f}" for v in (r.median_ms, r.p10_ms, r.p90_ms)]
        cells += [f"{v:.3f}" for v in (r.ratio, r.ratio_p10, r.ratio_p90)]
        out.add_row(*cells, f"{r.error:.1e}" if r.status == "ok" else f"[red]{r.error:.1e}[/red]")
    return out


def notes(rows: list[Row]) -> list[str]:
    """Versions of the engines, then one line for each row that is not ok."""
    versions = {r.engine: r.version for r in rows}
    lines = [", ".join(f"{engine} {version}" for engine, version in versions.items())]
    bad = (r for r in rows if r.status != "ok")
    return lines + [f"{r.model}, batch {r.batch}, threads {r.threads}: {r.engine} {r.status}: {r.message}" for r in bad]


def _numbers(text: str) -> list[int]:
    return [int(t) for t in text.split(",") if t]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.models", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="folder of NAME.onnx files")
    parser.add_argument("--models", default="", help="comma-separated names (default: all files of the folder)")
    parser.add_argument("--engines", default="fastconv,onnxruntime", help=f"of {', '.join(peers.ENGINES)}")
    parser.add_argument("--threads", type=_numbers, default=[1])
    parser.add_argument("--batch", type=_numbers, default=[1])
    parser.add_argument("--runs", type=int, default=20, help="turns")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--min-time", type=float, default=0.0, help="seconds to time per engine at least")
    parser.add_argument("--settle", type=int, default=1, help="untimed runs of an engine before each timed one")
    parser.add_argument("--pause", type=float, default=0.03, help="seconds between engines with several threads")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 where no engine failed or was wrong on any case, else 1."""
    parser = _parser()
    args = parser.parse_args(argv)
    engines = [e for e in args.engines.split(",") if e]
    unknown = [e for e in engines if e not in peers.ENGINES]
    if unknown or not engines:
        parser.error(f"unknown engines {unknown}; known: {', '.join(peers.ENGINES)}")
    names = [n for n in args.models.split(",") if n] or sorted(p.stem for p in args.dir.glob("*.onnx"))
    missing = [n for n in names if not (args.dir / f"{n}.onnx").is_file()]
    if missing or not names:
        parser.error(f"no model files {missing or '*.onnx'} in {args.dir}")

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    rows: list[Row] = []
    machine = timing.system()
    for name in names:
        for batch in args.batch:
            for threads in args.threads:
                console.print(f"[dim]{name}, batch {batch}, threads {threads}[/dim]")
                rows += run_case(args.dir / f"{name}.onnx", batch, threads, engines, args)
                if args.json:  # after each case, so that a crash of an engine loses one case
                    settings = {k: getattr(args, k) for k in ("runs", "warmup", "min_time", "settle", "pause")}
                    report = {"system": machine, "settings": settings, "rows": [asdict(r) for r in rows]}
                    args.json.write_text(json.dumps(report, indent=1) + "\n")
    peak = machine["peak_gflops"]
    console.print(table(rows, machine["cpu"] + (f", {peak:.0f} GFLOP/s on one core" if peak else "")))
    for line in notes(rows):
        console.print(line, markup=False, soft_wrap=True)
    return 0 if all(r.status in ("ok", "inexact") for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
