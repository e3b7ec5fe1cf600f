"""One case of bench.models: a model at one batch size and thread count on several engines, in a process of its own.

The process loads every engine, checks that they agree, and times them in turns. An engine that kills it (or hangs) is
found by the note of its last step, recorded as failed, and the case is run again without it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import peers, timing
from fastconv import _core

TOLERANCE, INEXACT = 1e-4, 1e-2
# On several threads also timed on one, in the same turns; all engines would take too much memory.
ALONE = ("fastconv", "onnxruntime")
ROOT = Path(__file__).resolve().parents[1]
Array = npt.NDArray[Any]


@dataclass
class Row:
    """One engine on one case. Times are milliseconds for the whole batch; `status` is ok, inexact, failed or wrong.

    `ratios` are medians over turns of this engine's time to each other engine's; `ratio` is the one to `reference`.
    """

    model: str
    batch: int
    threads: int
    engine: str
    version: str
    status: str = "ok"
    message: str = ""
    error: float | None = None  # against the reference, relative to its largest magnitude
    turns: int = 0
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    reference: str = ""
    pairs: list[float] = field(default_factory=list)  # ratios to the reference, turn by turn
    ratios: dict[str, float] = field(default_factory=dict)
    round_trip_ns: float | None = None  # of a flag between two cores, where there are several threads
    speedup: float | None = None  # median over turns of one thread's time to this one, for the engines of ALONE


@dataclass(frozen=True)
class Settings:
    """How a case is timed; see timing.interleave. `pause` holds for cases with several threads."""

    runs: int = 20
    warmup: int = 3
    min_time: float = 0.3
    max_runs: int = 300
    settle: int = 1
    pause: float = 0.03


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


def why(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


def blank(path: Path, batch: int, threads: int, engines: list[str]) -> dict[str, Row]:
    return {e: Row(path.stem, batch, threads, e, peers.create(e).version) for e in engines}


def failed(rows: dict[str, Row], message: str) -> dict[str, Row]:
    for row in rows.values():
        row.status, row.message = "failed", message
    return rows


def _one_thread(
    name: str, path: Path, shapes: peers.Shapes, x: dict[str, Array], want: list[Array]
) -> partial[list[Array]]:
    """A call of the engine on one thread. ValueError where its results are not `want`, those of several."""
    engine = peers.create(name)
    engine.load(path, shapes, 1)
    error = difference(engine.run(x), want)
    if not error <= (TOLERANCE if name == "fastconv" else INEXACT):
        raise ValueError(f"differs from more threads by {error:.1e} of the largest magnitude")
    return partial(engine.run, x)


def run_case(
    path: Path,
    batch: int,
    threads: int,
    engines: list[str],
    settings: Settings,
    note: Callable[[str, str], None] = lambda engine, step: None,
) -> dict[str, Row]:
    """Load, verify and time one model at one batch and thread count on every engine; a row for each of them.

    `note` is told of each engine and what it is about to do.
    """
    rows = blank(path, batch, threads, engines)
    try:
        shapes = peers.input_shapes(path, batch)
    except Exception as error:
        return failed(rows, why(error))
    rng = np.random.default_rng(batch)
    x = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    loaded: dict[str, peers.Engine] = {}
    outputs: dict[str, list[Array]] = {}
    for name in engines:
        try:
            engine = peers.create(name)
            note(name, "loading")
            engine.load(path, shapes, threads)
            note(name, "running")
            outputs[name] = [np.array(y) for y in engine.run(x)]
            loaded[name] = engine
        except Exception as error:
            rows[name].status, rows[name].message = "failed", why(error)
    note("", "comparing")

    reference = "onnxruntime" if "onnxruntime" in loaded else next(iter(loaded), "")
    for name in list(loaded):
        row = rows[name]
        row.error, row.reference = difference(outputs[name], outputs[reference]), reference
        if not row.error <= TOLERANCE:
            row.status = "inexact" if row.error <= INEXACT and name != "fastconv" else "wrong"
            row.message = f"differs from {reference} by {row.error:.1e} of the largest magnitude"
            if row.status == "wrong":
                del loaded[name]

    calls = {name: partial(engine.run, x) for name, engine in loaded.items()}
    for name in (n for n in ALONE if threads > 1 and n in loaded):
        note(name, "loading for one thread")
        try:
            calls[f"{name} alone"] = _one_thread(name, path, shapes, x, outputs[name])
        except Exception as error:  # costs the speedup, not the row
            rows[name].message = "; ".join(filter(None, [rows[name].message, f"on one thread: {why(error)}"]))
    note("", "timing")
    apart = [_core.measure_round_trip()] if threads > 1 else []
    samples = timing.interleave(
        calls,
        runs=settings.runs,
        warmup=settings.warmup,
        min_time=settings.min_time,
        max_runs=settings.max_runs,
        settle=settings.settle,
        pause=settings.pause if threads > 1 else 0.0,
    )
    if apart:
        time.sleep(settings.pause)  # threads of the last engine may still spin
        apart.append(_core.measure_round_trip())
        for row in rows.values():
            row.round_trip_ns = sum(apart) / len(apart)
    alone = {name: samples.pop(f"{name} alone", None) for name in ALONE}
    for name, s in samples.items():
        row, ratios = rows[name], s.ratios(samples[reference])
        row.turns, row.median_ms, row.p10_ms, row.p90_ms = len(s.ns), s.median_ms, s.p10_ms, s.p90_ms
        row.ratio, row.ratio_p10, row.ratio_p90 = (timing.quantile(ratios, q) for q in (0.5, 0.1, 0.9))
        row.pairs = [round(r, 5) for r in ratios]
        row.ratios = {other: s.ratio(samples[other]) for other in samples if other != name}
        one_thread = alone.get(name)
        row.speedup = None if one_thread is None else one_thread.ratio(s)
    loaded.clear()
    calls.clear()
    gc.collect()
    return rows


def isolated(
    path: Path, batch: int, threads: int, engines: list[str], settings: Settings, timeout: float = 1800.0
) -> list[Row]:
    """`run_case` in a fresh process: a row per engine, in the order given. Nothing that an engine does to the process
    is raised here; an engine that kills it or takes more than `timeout` seconds is a failed row."""
    dead: dict[str, str] = {}
    rows: dict[str, Row] = {}
    while True:
        left = [e for e in engines if e not in dead]
        if not left:
            break
        job = [str(path), batch, threads, left, asdict(settings)]
        rows, (engine, step), end = _child(job, timeout)
        if rows:
            break
        if engine not in left:
            rows = failed(blank(path, batch, threads, left), f"the process of all engines {end} while {step}")
            break
        dead[engine] = f"its process {end} while {step}"
    for name, message in dead.items():
        rows |= failed(blank(path, batch, threads, [name]), message)
    return [rows[e] for e in engines]


def _child(job: list[Any], timeout: float) -> tuple[dict[str, Row], tuple[str, str], str]:
    """(rows or nothing, the last noted engine and step, how the process ended)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "bench.runner", str(folder)]
            found = os.environ.get("PYTHONPATH")
            env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([found] if found else [])])}
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)
            try:
                code = process.wait(timeout)
                end = f"died of {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
            except subprocess.TimeoutExpired:
                end = f"took more than {timeout:.0f} s"
            finally:
                process.kill()
                process.wait()
        step = ("", "starting")
        if (folder / "step.json").exists():
            engine, what = json.loads((folder / "step.json").read_text())
            step = (engine, what)
        if (folder / "rows.json").exists():  # whole: renamed into place; what happens at exit does not matter
            return {e: Row(**r) for e, r in json.loads((folder / "rows.json").read_text()).items()}, step, end
        tail = " ".join((folder / "log").read_text(errors="replace").split())[-200:]
        return {}, step, f"{end} ({tail})" if tail and not step[0] else end


def main(argv: list[str]) -> int:
    """The child: reads job.json in the folder argv[0], leaves step.json and rows.json there."""
    folder = Path(argv[0])
    path, batch, threads, engines, settings = json.loads((folder / "job.json").read_text())

    def put(name: str, value: Any) -> None:
        (folder / f"{name}.new").write_text(json.dumps(value))
        (folder / f"{name}.new").replace(folder / name)

    def note(engine: str, step: str) -> None:
        put("step.json", [engine, step])

    rows = run_case(Path(path), batch, threads, engines, Settings(**settings), note)
    put("rows.json", {e: asdict(r) for e, r in rows.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
