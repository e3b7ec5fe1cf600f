"""Time whole models on several engines, in turns, after checking that the engines agree.

    python -m bench.models --models resnet50,vgg16 --engines fastconv,onnxruntime --threads 1,2 --batch 1,8 --json OUT

Models are NAME.onnx files of --dir, as bench.export writes them; those that are missing are exported first (that takes
torch: `make bench` installs it and all engines). An output may differ from the reference's (onnxruntime's, where it
runs) by 1e-4 of its largest magnitude. What differs by up to 1e-2 is timed too and marked inexact (Winograd with few
digits, say); fastconv has no such grace. Beyond that an engine is wrong, and like a failed one shown but not timed.
Ratios are medians over turns of the engine's time to the reference's: below 1 is faster than the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import peers, runner, timing
from bench.options import numbers
from bench.runner import Row

FOLDER = Path("build/models/classic")
MODELS = "vgg16,resnet50,googlenet,inception_v3,alexnet,xception,efficientnet_b0,mobilenet_v2,lenet5"


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
        cells += [f"{v:.3g}" if v < 1 else f"{v:.2f}" for v in (r.median_ms, r.p10_ms or 0.0, r.p90_ms or 0.0)]
        cells += [f"{v:.3f}" for v in (r.ratio, r.ratio_p10, r.ratio_p90)]
        out.add_row(*cells, f"{r.error:.1e}" if r.status == "ok" else f"[red]{r.error:.1e}[/red]")
    return out


def notes(rows: list[Row]) -> list[str]:
    """Versions of the engines, then one line for each row that is not ok."""
    versions = {r.engine: r.version for r in rows}
    lines = [", ".join(f"{engine} {version}" for engine, version in versions.items())]
    bad = (r for r in rows if r.status != "ok")
    return lines + [f"{r.model}, batch {r.batch}, threads {r.threads}: {r.engine} {r.status}: {r.message}" for r in bad]


def report(machine: dict[str, Any], settings: runner.Settings, engines: list[str], rows: list[Row]) -> dict[str, Any]:
    """What --json writes and bench.report reads."""
    return {
        "kind": "models",
        "system": machine,
        "settings": asdict(settings),
        "engines": {e: {"version": peers.create(e).version, "settings": peers.create(e).settings} for e in engines},
        "rows": [asdict(r) for r in rows],
    }


def dump(path: Path, results: dict[str, Any]) -> None:
    """Write JSON, a row a line."""
    head = {k: v for k, v in results.items() if k != "rows"}
    rows = ",\n".join(json.dumps(r) for r in results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n')


def export_missing(folder: Path, names: list[str]) -> list[str]:
    """Export those models that `folder` lacks and bench.export knows; the names that are missing afterwards."""
    from bench import export

    missing = [n for n in names if not (folder / f"{n}.onnx").is_file()]
    known = [n for n in missing if n in export.MODELS]
    try:
        import torch  # noqa: F401
    except ImportError:
        return missing
    if known:
        export.main(["--out", str(folder), "--models", ",".join(known), "--skip-existing"])
    return [n for n in names if not (folder / f"{n}.onnx").is_file()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.models", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, help=f"folder of NAME.onnx files (default: {FOLDER})")
    parser.add_argument(
        "--models", default="", help=f"comma-separated names (default: all files of --dir, or {MODELS})"
    )
    parser.add_argument("--engines", default="fastconv,onnxruntime", help=f"of {', '.join(peers.ENGINES)}")
    parser.add_argument("--threads", type=numbers, default=[1])
    parser.add_argument("--batch", type=numbers, default=[1])
    defaults = runner.Settings()
    parser.add_argument("--runs", type=int, default=defaults.runs, help="turns at least")
    parser.add_argument("--warmup", type=int, default=defaults.warmup)
    parser.add_argument("--min-time", type=float, default=defaults.min_time, help="seconds per engine at least, but")
    parser.add_argument("--max-runs", type=int, default=defaults.max_runs, help="turns at most beyond --runs")
    parser.add_argument("--settle", type=int, default=defaults.settle, help="untimed runs before each timed one")
    parser.add_argument("--pause", type=float, default=defaults.pause, help="seconds between engines, several threads")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for a case before its engine fails")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 where no engine failed or was wrong on any case, else 1."""
    parser = _parser()
    args = parser.parse_args(argv)
    engines = list(dict.fromkeys(e for e in args.engines.split(",") if e))
    unknown = [e for e in engines if e not in peers.ENGINES and ":" not in e]
    if unknown or not engines:
        parser.error(f"unknown engines {unknown}; known: {', '.join(peers.ENGINES)}")
    folder = args.dir or FOLDER
    names = [n for n in args.models.split(",") if n]
    if not names:
        names = sorted(p.stem for p in args.dir.glob("*.onnx")) if args.dir else MODELS.split(",")
    missing = export_missing(folder, names)
    if missing or not names:
        parser.error(f"no model files {missing or '*.onnx'} in {folder}; `make bench` installs what exports them")
    settings = runner.Settings(args.runs, args.warmup, args.min_time, args.max_runs, args.settle, args.pause)

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    rows: list[Row] = []
    machine = timing.system()
    for name in names:
        for batch in args.batch:
            for threads in args.threads:
                console.print(f"[dim]{name}, batch {batch}, threads {threads}[/dim]")
                rows += runner.isolated(folder / f"{name}.onnx", batch, threads, engines, settings, args.timeout)
                if args.json:  # after each case: an interrupted run keeps what it measured
                    dump(args.json, report(machine, settings, engines, rows))
    peak = machine["peak_gflops"]
    console.print(table(rows, machine["cpu"] + (f", {peak:.0f} GFLOP/s on one core" if peak else "")))
    for line in notes(rows):
        console.print(line, markup=False, soft_wrap=True)
    return 0 if all(r.status in ("ok", "inexact") for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
