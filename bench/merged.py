"""What --json of the benchmarks wrote, read again; several runs of bench.models as medians by case and engine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORST = ("ok", "inexact", "wrong", "failed")
KINDS = ("models", "kernels", "layers", "load", "training")
Row = dict[str, Any]
Case = tuple[str, int, int]  # model, batch, threads


@dataclass
class Merged:
    """All runs of bench.models: medians by case and engine."""

    cases: dict[Case, dict[str, Row]] = field(default_factory=dict)
    engines: dict[str, dict[str, str]] = field(default_factory=dict)
    systems: list[Row] = field(default_factory=list)
    counts: dict[Case, int] = field(default_factory=dict)  # runs of each

    def select(self, threads: int, batch: int) -> dict[str, dict[str, Row]]:
        return {m: rows for (m, b, t), rows in self.cases.items() if (b, t) == (batch, threads)}

    @property
    def runs(self) -> int:
        """Of the case that was run most often."""
        return max(self.counts.values(), default=1)

    def span(self, threads: int, batch: int) -> tuple[int, int]:
        """Fewest and most runs of a case of this setting."""
        counts = [n for (_, b, t), n in self.counts.items() if (b, t) == (batch, threads)]
        return min(counts), max(counts)

    def heading(self, threads: int, batch: int) -> str:
        """With the number of runs where it is not that of the machine's line."""
        fewest, most = self.span(threads, batch)
        span = f"{fewest} to {most} runs" if fewest < most else f"{most} runs" if most > 1 else "one run"
        return f"### Threads {threads}, batch {batch}" + ("" if fewest == self.runs else f", {span}")

    def settings(self) -> list[tuple[int, int]]:
        """(threads, batch) of all cases."""
        return sorted({(t, b) for _, b, t in self.cases})


def load(paths: Iterable[Path]) -> dict[str, list[Row]]:
    """Reports by kind. ValueError for a file that is none."""
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for path in paths:
        try:
            report = json.loads(path.read_text())
            kind = report["kind"]
            report["rows"], report["system"]["cpu"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: no report of bench.models, kernels, roofline, load or training: {error!r}"
            ) from None
        if kind not in found:
            raise ValueError(f"{path}: kind {kind!r}, expected one of {', '.join(KINDS)}")
        found[kind].append(report)
    return found


def best_peer(rows: dict[str, Row]) -> str | None:
    """The fastest engine beside fastconv, in one run of one case."""
    times = {e: r["median_ms"] for e, r in rows.items() if e != "fastconv" and r["median_ms"] is not None}
    return min(times, key=lambda e: times[e], default=None)


def merge(reports: list[Row]) -> Merged:
    """Medians over runs. An engine has the worst status that it had in any run; its times are those of the runs in
    which it worked. ValueError for runs on different CPUs."""
    out = Merged(systems=[r["system"] for r in reports])
    if len({s["cpu"] for s in out.systems}) > 1:
        raise ValueError(f"runs on different CPUs: {', '.join(sorted({s['cpu'] for s in out.systems}))}")
    runs: dict[Case, list[dict[str, Row]]] = {}
    for report in reports:
        out.engines.update(report["engines"])
        cases: dict[Case, dict[str, Row]] = {}
        for r in report["rows"]:
            cases.setdefault((r["model"], r["batch"], r["threads"]), {})[r["engine"]] = r
        for case, rows in cases.items():
            runs.setdefault(case, []).append(rows)
    for case, several in runs.items():
        out.counts[case] = len(several)
        engines = dict.fromkeys(e for rows in several for e in rows)
        merged = out.cases[case] = {e: _median([rows[e] for rows in several if e in rows]) for e in engines}
        mine = merged.get("fastconv")
        if mine is None:
            continue
        peers = [(rows["fastconv"], best_peer(rows)) for rows in several if "fastconv" in rows]
        mine["best"] = statistics.mode([p for _, p in peers if p] or [""])
        mine["of_best"] = _middle(r["ratios"].get(p) for r, p in peers if p)
        mine["of_onnxruntime"] = _middle(r["ratios"].get("onnxruntime") for r, _ in peers)
    return out


def _middle(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def _median(rows: list[Row]) -> Row:
    worst = max(rows, key=lambda r: (WORST.index(r["status"]), bool(r["message"])))
    message = worst["message"]
    bad = sum(r["status"] == worst["status"] and bool(r["message"]) == bool(message) for r in rows)
    if message and bad < len(rows):
        message += f" (in {bad} of {len(rows)} runs)"
    return {
        "status": worst["status"],
        "message": message,
        **{key: _middle(r.get(key) for r in rows) for key in ("median_ms", "round_trip_ns", "speedup")},
        "ratio": _middle(r["ratio"] for r in rows if r["reference"] == "onnxruntime"),
        "turns": sum(r["turns"] for r in rows),
    }
