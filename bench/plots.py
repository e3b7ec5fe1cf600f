"""The pictures of bench.report, drawn with matplotlib: bars per model, roofline, time against batch size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which differ for colour-blind readers too.
COLOURS = {
    "fastconv": "#d55e00", "onnxruntime": "#0072b2", "openvino": "#56b4e9", "torch": "#cc79a7", "ncnn": "#009e73",
    "mnn": "#e6b422",
}  # fmt: skip
ALGORITHMS = {
    "gemm": "#0072b2", "implicit": "#56b4e9", "winograd": "#d55e00", "depthwise": "#009e73", "row_run": "#cc79a7",
    "stream": "#e6b422", "grouped": "#7f4f24",
}  # fmt: skip
OTHER = "#777777"
TALLEST = 2.4  # bars are cut here and labelled


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    )  # fmt: skip
    return pyplot.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def bars(cases: dict[str, dict[str, dict[str, Any]]], title: str, path: Path) -> Path:
    """Relative time of each engine on each model. `cases` maps model to engine to its row: median_ms, status, and ratio
    to onnxruntime; without a ratio the unit is the first engine that worked."""
    engines = list(dict.fromkeys(e for rows in cases.values() for e in rows))
    figure, axes = _figure(max(6.0, 1.15 * len(cases) + 1.5), 4.0)
    from matplotlib import patches

    axis = axes[0][0]
    width = 0.84 / len(engines)
    for i, engine in enumerate(engines):
        colour = COLOURS.get(engine, OTHER)
        for j, rows in enumerate(cases.values()):
            x = j + (i - (len(engines) - 1) / 2) * width
            row = rows.get(engine)
            unit = _unit(rows)
            if row is None or unit is None:
                continue
            if row["median_ms"] is None:
                axis.text(x, 0.03, row["status"], rotation=90, ha="center", va="bottom", fontsize=7, color=colour)
                continue
            height = row.get("ratio") or row["median_ms"] / unit
            axis.bar(x, min(height, TALLEST), width * 0.92, color=colour, zorder=2)
            if height > TALLEST or engine == "fastconv":
                axis.text(x, min(height, TALLEST) - 0.03, f"{height:.2f}", rotation=90, ha="center", va="top",
                          fontsize=7, color="white", fontweight="bold")  # fmt: skip
    names = [f"{name}\n{_milliseconds(rows)}" for name, rows in cases.items()]
    axis.set_xticks(range(len(cases)), names, fontsize=8)
    axis.tick_params(axis="x", length=0)
    axis.axhline(1, color="#444444", linewidth=0.8, linestyle="--", zorder=1)
    axis.set_ylim(0, TALLEST + 0.15)
    axis.set_xlim(-0.6, len(cases) - 0.4)
    axis.set_ylabel("time, onnxruntime = 1")
    axis.set_title(title, loc="left")
    handles = [patches.Patch(color=COLOURS.get(e, OTHER), label=e) for e in engines]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(engines), frameon=False)
    return _save(figure, path)


def _unit(rows: dict[str, dict[str, Any]]) -> float | None:
    times = [rows[e]["median_ms"] for e in ("onnxruntime", *rows) if e in rows]
    return next((t for t in times if t is not None), None)


def _milliseconds(rows: dict[str, dict[str, Any]]) -> str:
    ms = rows.get("fastconv", {}).get("median_ms")
    return "" if ms is None else f"{ms:.3g} ms"


def roofline(report: dict[str, Any], model: str, path: Path) -> Path:
    """A model's layers below the roofs of one core; areas are shares of the time."""
    rows = [r for r in report["rows"] if r["model"] == model]
    total = sum(r["ms"] for r in rows)
    rows = [r for r in rows if r["flops"] > 0 and r["bytes"] > 0 and r["ms"] > 0]
    peak, bandwidth = report["peak_gflops"], report["bandwidth_gbs"]
    figure, axes = _figure(7.2, 4.4)
    from matplotlib import ticker

    axis = axes[0][0]
    axis.set_axisbelow(True)
    intensity = [r["flops"] / r["bytes"] for r in rows]
    low, high = min([*intensity, peak / bandwidth]) / 2, max([*intensity, peak / bandwidth]) * 2
    xs = [low, peak / bandwidth, high]
    axis.plot(xs, [min(peak, x * bandwidth) for x in xs], color="#444444", linewidth=1.2, zorder=1)
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for r, x in zip(rows, intensity, strict=True):
        name = "winograd" if r["algorithm"].startswith("F(") else r["algorithm"]  # F(4x4,3x3) and its like
        group = name if name in ALGORITHMS else "other"
        groups.setdefault(group, []).append((x, r["flops"] / r["ms"] / 1e6, 4000 * r["ms"] / total / math.sqrt(2)))
    for name in sorted(groups, key=[*ALGORITHMS, "other"].index):
        px, py, area = zip(*groups[name], strict=True)
        colour = ALGORITHMS.get(name, OTHER)
        axis.scatter(px, py, s=[max(a, 6) for a in area], color=colour, alpha=0.55, linewidths=0.5, edgecolors="white",
                     zorder=2)  # fmt: skip
        label = "winograd (FLOPs of direct)" if name == "winograd" else name
        axis.scatter([], [], s=36, color=colour, alpha=0.8, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    every = [p[1] for points in groups.values() for p in points]
    axis.set_ylim(min([*every, peak]) / 1.6, max([*every, peak]) * 1.6)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda v, _: f"{v:g}")
        side.set_minor_formatter(ticker.NullFormatter())
    axis.annotate(f"{peak:.0f} GFLOP/s", (high, peak), xytext=(-4, 4), textcoords="offset points", ha="right",
                  fontsize=8, color="#444444")  # fmt: skip
    axis.set_xlabel(f"FLOPs per byte (the slope is {bandwidth:.0f} GB/s)")
    axis.set_ylabel("GFLOP/s")
    axis.set_title(f"{model}, one thread: {total:.2f} ms; area: share of the time", loc="left")
    axis.grid(True, which="major", color="#eeeeee")
    axis.legend(loc="upper left", frameon=False)
    return _save(figure, path)


def batches(cases: dict[str, dict[str, list[tuple[int, float]]]], title: str, path: Path) -> Path:
    """Time per image against the batch size. `cases` maps model to engine to (batch, milliseconds for the batch)."""
    figure, axes = _figure(3.6 * len(cases) + 0.6, 3.6, len(cases))
    seen: dict[str, Any] = {}
    for axis, (model, engines) in zip(axes[0], cases.items(), strict=True):
        sizes = sorted({b for points in engines.values() for b, _ in points})
        for engine, points in engines.items():
            px, py = zip(*sorted(points), strict=True)
            mine = engine == "fastconv"
            (line,) = axis.plot(
                px, [ms / b for b, ms in zip(px, py, strict=True)], marker="o", markersize=4 if mine else 3,
                linewidth=2.0 if mine else 1.2, color=COLOURS.get(engine, OTHER), zorder=3 if mine else 2,
            )  # fmt: skip
            seen.setdefault(engine, line)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(b) for b in sizes])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("batch size")
        axis.set_title(model, loc="left")
        axis.set_axisbelow(True)
        axis.grid(True, axis="y", color="#eeeeee")
    axes[0][0].set_ylabel("ms per image")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=len(seen), frameon=False)
    return _save(figure, path)
