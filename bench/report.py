"""Write what the benchmarks measured as Markdown tables and plots.

    python -m bench.report build/bench/*.json --out build/bench [--readme README.md]

Reads what --json of bench.models, bench.kernels, bench.roofline and bench.load wrote; several runs of bench.models
become medians. Writes OUT/benchmarks.md and OUT/benchmarks/*.png, and with --readme the text between the lines
`<!-- bench:begin -->` and `<!-- bench:end -->` of that file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import plots
from bench.merged import Merged, Row, load, merge

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
SCALING = """Times faster than one thread, of fastconv and onnxruntime in turns, of others from the medians above, which
lie minutes apart. Round trip: of a flag between two cores, before and after each case; a virtual machine's cores may
lie in one block of a processor at one time and in two at another."""


# -- Markdown -----------------------------------------------------------------------------------------------------
def markdown(head: list[str], rows: Iterable[list[str]], left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns are aligned left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def milliseconds(ms: float) -> str:
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 100 else f"{ms:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(row: Row | None) -> str:
    if row is None:
        return "not run"
    if row["median_ms"] is None:
        return str(row["status"])
    mark = {"ok": "", "inexact": "*"}.get(row["status"], f" ({row['status']})")
    return milliseconds(row["median_ms"]) + mark


def speed_table(merged: Merged, threads: int, batch: int) -> list[str]:
    """Medians in ms, fastconv's ratio to onnxruntime and to the best peer."""
    selected = merged.select(threads, batch)
    engines = list(dict.fromkeys(e for rows in selected.values() for e in rows))
    lines = []
    for model, rows in selected.items():
        mine = rows.get("fastconv", {})
        cells = [_cell(rows.get(e)) for e in engines]
        if mine.get("median_ms") is not None:
            cells[engines.index("fastconv")] = f"**{cells[engines.index('fastconv')]}**"
        best = f"{_ratio(mine.get('of_best'))} ({mine['best']})" if mine.get("best") else "-"
        lines.append([model, *cells, _ratio(mine.get("of_onnxruntime")), best])
    return markdown(["model", *engines, "of onnxruntime", "of the best peer"], lines)


def scaling_table(merged: Merged) -> list[str]:
    """How many times faster several threads are than one, for each engine; no lines where one number was measured."""
    counts = sorted({t for t, _ in merged.settings()})
    if len(counts) < 2 or counts[0] != 1:
        return []
    engines = list(dict.fromkeys(e for rows in merged.cases.values() for e in rows))
    in_turns = {e for rows in merged.cases.values() for e, row in rows.items() if row.get("speedup")}
    lines = []
    for model, batch, threads in merged.cases:
        alone = merged.cases.get((model, batch, 1))
        if threads == 1 or alone is None:
            continue
        rows = merged.cases[model, batch, threads]
        cells = []
        for engine in engines:
            row = rows.get(engine, {})
            one, many = alone.get(engine, {}).get("median_ms"), row.get("median_ms")
            apart = one / many if one and many and engine not in in_turns else None
            cells.append(_ratio(row.get("speedup") or apart))
        trip = next(iter(rows.values())).get("round_trip_ns")
        lines.append([model, str(batch), str(threads), *cells, "-" if trip is None else f"{trip:.0f}"])
    return markdown(["model", "batch", "threads", *engines, "round trip ns"], lines) if lines else []


def failures(merged: Merged) -> list[str]:
    """A line for each engine and message, with the cases it belongs to."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for (model, batch, threads), rows in merged.cases.items():
        for engine, row in rows.items():
            if row["status"] != "ok" or row["message"]:
                what = f"{model} (batch {batch}, threads {threads})"
                message = row["message"].replace("|", "/").replace("<", "&lt;")
                found.setdefault((engine, row["status"], message), []).append(what)
    return [f"- {engine} {status}: {message}: {', '.join(cases)}" for (engine, status, message), cases in found.items()]


def machine_line(systems: list[Row], repeats: int = 1) -> str:
    dates = sorted({s["date"][:10] for s in systems})
    s = systems[-1]
    peak = f", {s['peak_gflops']:.0f} GFLOP/s per core" if s.get("peak_gflops") else ""
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    runs = f", medians of {repeats} runs" if repeats > 1 else ""
    return f"{s['cpu']}, {s['cores']} cores, {s['isa']}{peak}; {s['system']}, Python {s['python']}; {when}{runs}."


def versions_line(merged: Merged) -> str:
    return ", ".join(f"{name} {e['version']}" for name, e in merged.engines.items()) + "."


def legend() -> str:
    return (
        "Median milliseconds for the whole batch, float32, engines in turns in one process. Ratios are medians over "
        "turns: below 1 fastconv is faster. The best peer is the fastest of the others in the same run. "
        "* differs from onnxruntime by more than 1e-4 of the largest output, fastconv never may."
    )


def kernel_table(report: Row) -> list[str]:
    head = ["network", "layer", "level", "algorithm", "µs", "GFLOP/s", "of peak", "GB/s", "of stream"]
    rows = [
        [
            r["network"], r["layer"], r["isa"], r["algorithm"], f"{r['us']:.1f}", f"{r['gflops']:.1f}",
            f"{r['share']:.0%}", f"{r['gbs']:.1f}", f"{r['share_bandwidth']:.0%}",
        ]
        for r in report["rows"]
    ]  # fmt: skip
    return markdown(head, rows, left=4)


def load_table(report: Row) -> list[str]:
    head = ["model", "engine", "threads", "load s", "first run s", "both s", "ratio", "peak MiB", "ratio"]
    rows = []
    for r in report["rows"]:
        setting = [r["model"], r["engine"], str(r["threads"])]
        if "failed" in r:
            rows.append([*setting, "failed", *[""] * 5])
            continue
        times = [f"{r[k]:.3f}" for k in ("load_s", "first_run_s", "total_s")]
        ratios = [f"{r['total_s_ratio']:.2f}", f"{r['peak_mb']:.0f}", f"{r['peak_mb_ratio']:.2f}"]
        rows.append([*setting, *times, *ratios])
    return markdown(head, rows, left=2)


def training_table(report: Row) -> list[str]:
    head = ["step", "batch", "fastconv ms", "torch ms", "ratio", "fastconv MiB", "torch MiB"]
    rows = []
    for r in report["rows"]:
        sizes = [f"{r[k]:.0f}" if k in r else "" for k in ("ours_mb", "theirs_mb")]
        times = [f"{r['fastconv_ms']:.1f}", f"{r['torch_ms']:.1f}", f"{r['ratio']:.2f}"]
        rows.append([r["title"], str(r["batch"]), *times, *sizes])
    return markdown(head, rows)


# -- the pictures and the page ------------------------------------------------------------------------------------
def draw(found: dict[str, list[Row]], merged: Merged, folder: Path) -> dict[str, list[Path]]:
    """The plots that the reports allow, by kind."""
    pictures: dict[str, list[Path]] = {"models": [], "batch": [], "layers": []}
    if merged.cases:
        threads, batch = merged.settings()[0]
        cpu = merged.systems[-1]["cpu"]
        title = f"Time of whole models, {cpu}, batch {batch}, threads {threads}; milliseconds are fastconv's"
        pictures["models"].append(plots.bars(merged.select(threads, batch), title, folder / "models.png"))
        sweep = batch_cases(merged, threads)
        if sweep:
            title = f"Time per image as the batch grows, {cpu}, threads {threads}"
            pictures["batch"].append(plots.batches(sweep, title, folder / "batch.png"))
    for report in found["layers"]:
        for model in dict.fromkeys(r["model"] for r in report["rows"]):
            pictures["layers"].append(plots.roofline(report, model, folder / f"roofline-{model}.png"))
    return pictures


def batch_cases(merged: Merged, threads: int, least: int = 3) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Models and engines that were timed at `least` batch sizes or more: (batch, milliseconds) each."""
    out: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for (model, batch, t), rows in merged.cases.items():
        for engine, row in rows.items():
            if t == threads and row["median_ms"] is not None:
                out.setdefault(model, {}).setdefault(engine, []).append((batch, row["median_ms"]))
    lines = {m: {e: points for e, points in engines.items() if len(points) >= least} for m, engines in out.items()}
    return {m: engines for m, engines in lines.items() if engines}


def page(found: dict[str, list[Row]], merged: Merged, pictures: dict[str, list[Path]], folder: Path) -> str:
    """benchmarks.md, which stands in `folder`."""
    lines = ["# Benchmarks", "", "Written by `make bench-docs` from what `make bench` measured; not by hand.", ""]

    def show(kind: str, text: Callable[[Path], str]) -> None:
        for path in pictures[kind]:
            lines.extend([f"![{text(path)}]({os.path.relpath(path, folder)})", ""])

    if merged.cases:
        lines += [
            "## Whole models",
            "",
            machine_line(merged.systems, merged.runs),
            "",
            versions_line(merged),
            "",
            legend(),
            "",
        ]
        show("models", lambda _: "Time of each engine on each model, relative to onnxruntime")
        for threads, batch in merged.settings():
            lines += [merged.heading(threads, batch), "", *speed_table(merged, threads, batch), ""]
        scaling = scaling_table(merged)
        if scaling:
            lines += ["### Threads", "", SCALING, "", *scaling, ""]
        bad = failures(merged)
        lines += ["What is not ok:", "", *bad, ""] if bad else []
        lines += ["Settings (T: the number of threads):", ""]
        lines += [f"- {name}: {e['settings']}" for name, e in merged.engines.items()] + [""]
    if pictures["batch"]:
        lines += ["## Time against batch size", ""]
        show("batch", lambda _: "Time per image against the batch size")
    for report in found["load"]:
        lines += ["## Loading a model and running it once", "", machine_line([report["system"]]), ""]
        lines += ["In fresh processes; ratios are to the last engine of each setting.", "", *load_table(report), ""]
        bad = [f"- {r['model']}: {r['engine']} failed: {r['failed']}" for r in report["rows"] if "failed" in r]
        lines += [*bad, ""] if bad else []
    for report in found["training"]:
        lines += ["## Training steps", "", machine_line([report["system"]]), ""]
        lines += [f"{report['rows'][0]['threads']} threads, in turns; peak memory of a process of its own.", ""]
        lines += [*training_table(report), ""]
    if pictures["layers"]:
        lines += ["## Rooflines", "", machine_line([found["layers"][-1]["system"]]), ""]
        lines += ["Input, weights and output count once; FLOPs are those of direct convolution.", ""]
        show("layers", lambda path: f"Roofline of {path.stem.removeprefix('roofline-')}")
    for report in found["kernels"]:
        tops = ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in report["peaks_gflops"].items())
        lines += ["## Layers with cold weights", "", machine_line([report["system"]]), ""]
        lines += [f"One thread. Peaks: {tops}; one core reads {report['bandwidth_gbs']:.1f} GB/s.", ""]
        lines += [*kernel_table(report), ""]
    return "\n".join(lines)


def summary(merged: Merged, picture: Path | None, page_path: Path, folder: Path) -> str:
    """The text of the README, which stands in `folder`: the first table only."""
    threads, batch = merged.settings()[0]
    _, runs = merged.span(threads, batch)
    lines = [f"Threads {threads}, batch {batch}. {machine_line(merged.systems, runs)}", ""]
    lines += [*speed_table(merged, threads, batch), "", versions_line(merged), "", legend(), ""]
    if picture is not None:
        lines += [f"![Time of each engine on each model]({os.path.relpath(picture, folder)})", ""]
    lines += [f"[All figures]({os.path.relpath(page_path, folder)}): threads, batches, single layers, rooflines."]
    return "\n".join(lines)


def splice(text: str, new: str) -> str:
    """`text` with what stands between the two marker lines replaced. ValueError unless each occurs once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one line {BEGIN} and after it one line {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new.strip()}\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for benchmarks.md")
    parser.add_argument("--readme", type=Path, help="file whose table is replaced too")
    parser.add_argument("--no-plots", action="store_true", help="tables only, without matplotlib")
    args = parser.parse_args(argv)
    try:
        found = load(args.reports)
        merged = merge(found["models"])
        if args.readme and not merged.cases:
            raise ValueError("--readme needs a report of bench.models")
        none: dict[str, list[Path]] = {"models": [], "batch": [], "layers": []}
        pictures = none if args.no_plots else draw(found, merged, args.out / "benchmarks")
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / "benchmarks.md"
        target.write_text(page(found, merged, pictures, args.out))
        if args.readme:
            bars = pictures["models"][0] if pictures["models"] else None
            text = splice(args.readme.read_text(), summary(merged, bars, target, args.readme.parent))
            args.readme.write_text(text)
    except (OSError, ValueError) as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
