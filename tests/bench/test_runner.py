"""bench.timing, bench.runner and bench.models: order of turns, verification, engines that fail."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from bench import models, peers, runner, timing
from fastconv.cold import last_level_cache
from tests.models.nets import serialized

HERE = "tests.bench.engines"
FAST = runner.Settings(runs=2, warmup=1, min_time=0.0, max_runs=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "resnet.onnx"
    path.write_bytes(serialized("resnet"))
    return path


def engines(*names: str) -> list[str]:
    return [f"{HERE}:{n}" for n in names]


def test_quantile() -> None:
    assert timing.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert timing.quantile([1.0, 2.0], 0.25) == 1.25
    with pytest.raises(ValueError, match="no values"):
        timing.quantile([], 0.5)


def test_interleave_takes_turns() -> None:
    calls: list[str] = []
    jobs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    samples = timing.interleave(jobs, runs=3, warmup=1, settle=1)
    assert "".join(calls) == "ab" + "aabb" * 3
    assert [len(s.ns) for s in samples.values()] == [3, 3]


def test_interleave_settles_for_as_long_as_it_paused() -> None:
    calls: list[float] = []
    timing.interleave({"a": lambda: calls.append(time.perf_counter())}, runs=1, warmup=0, settle=1, pause=0.2)
    assert len(calls) > 2
    assert calls[-1] - calls[0] > 0.15


def test_interleave_stops() -> None:
    samples = timing.interleave({"a": lambda: None}, runs=2, warmup=0, min_time=60.0, max_runs=5)
    assert len(samples["a"].ns) == 5
    assert len(timing.interleave({"a": lambda: None}, runs=7, warmup=0, max_runs=5)["a"].ns) == 7
    with pytest.raises(ValueError, match="at least 1"):
        timing.interleave({}, runs=0)


def test_ratios_are_paired() -> None:
    a, b = timing.Samples("a", [10, 20, 90]), timing.Samples("b", [20, 40, 30])
    assert a.ratio(b) == 0.5


def test_peaks_are_positive() -> None:
    assert last_level_cache() > 0
    assert timing.read_bandwidth(1 << 16, repeats=1) > 0
    assert timing.peak_gflops() > 0


def test_one_thread_in_the_same_turns(model: Path) -> None:
    (alone,) = runner.run_case(model, 1, 1, ["fastconv"], FAST).values()
    (mine,) = runner.run_case(model, 1, 2, ["fastconv"], FAST).values()
    (other,) = runner.run_case(model, 1, 2, engines("Right"), FAST).values()
    assert alone.speedup is None and other.speedup is None
    assert mine.speedup and mine.speedup > 0 and not mine.ratios


def test_failing_on_one_thread_costs_the_speedup_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = engines("Right", "RaisesAlone", "WrongAlone")
    monkeypatch.setattr(runner, "ALONE", names)
    right, raises, wrong = runner.run_case(model, 1, 2, names, FAST).values()
    assert [row.status for row in (right, raises, wrong)] == ["ok"] * 3
    assert right.speedup and right.message == ""
    assert raises.median_ms and raises.speedup is None
    assert raises.message == "on one thread: RuntimeError: wants company"
    assert wrong.median_ms and wrong.speedup is None and "differs from more threads by 5.0e-01" in wrong.message


def test_verification(model: Path) -> None:
    rows = runner.run_case(model, 1, 1, engines("Right", "Inexact", "Wrong", "Raises"), FAST)
    right, inexact, wrong, raises = rows.values()
    assert (right.status, inexact.status, wrong.status, raises.status) == ("ok", "inexact", "wrong", "failed")
    assert right.median_ms and inexact.median_ms and right.reference == f"{HERE}:Right"
    assert wrong.median_ms is None and raises.median_ms is None
    assert raises.message == "RuntimeError: cannot read resnet.onnx"
    assert right.ratio == 1.0 and inexact.ratio == inexact.ratios[f"{HERE}:Right"]
    assert set(right.ratios) == {f"{HERE}:Inexact"} and len(inexact.pairs) == 2


def test_difference() -> None:
    one = np.array([1.0, -4.0])
    assert runner.difference([one + 1], [one]) == 0.25
    assert runner.difference([one * np.nan], [one]) == float("inf")
    assert runner.difference([one[:1]], [one]) == runner.difference([], [one]) == float("inf")


def test_an_engine_that_dies_is_a_failed_row(model: Path) -> None:
    right, dead = runner.isolated(model, 1, 1, engines("Right", "Aborts"), FAST)
    assert right.status == "ok" and right.median_ms
    assert dead.status == "failed" and "SIGABRT while loading" in dead.message


def test_an_engine_that_hangs_is_a_failed_row(model: Path) -> None:
    hung, right = runner.isolated(model, 1, 1, engines("Hangs", "Right"), FAST, timeout=20.0)
    assert right.status == "ok"
    assert hung.status == "failed" and "more than 20 s while running" in hung.message


def test_a_death_while_timing_fails_all(model: Path) -> None:
    rows = runner.isolated(model, 1, 1, engines("Right", "AbortsLate"), runner.Settings(5, 1, 0.0, 5))
    assert [r.status for r in rows] == ["failed", "failed"]
    assert "exit code 7 while timing" in rows[0].message


def test_a_batch_that_the_model_refuses(model: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="unknown engine"):
        peers.create("tensorlow")
    (tmp_path / "bad.onnx").write_bytes(b"\x00" * 9)
    (row,) = runner.run_case(tmp_path / "bad.onnx", 1, 1, engines("Right"), FAST).values()
    assert row.status == "failed"


def test_main(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fastconv, onnxruntime and one that fails: exit code 1, and all three in the JSON and the table."""
    out = tmp_path / "new" / "models.json"
    names = ["fastconv", "onnxruntime", *engines("Raises")]
    options = ["--engines", ",".join(names), "--threads", "1,2", "--batch", "2", "--json", str(out)]
    fast = ["--runs", "2", "--warmup", "1", "--min-time", "0", "--pause", "0"]
    assert models.main(["--dir", str(model.parent), *options, *fast]) == 1
    report = json.loads(out.read_text())
    assert report["kind"] == "models" and report["system"]["cpu"]
    assert list(report["engines"]) == names
    assert report["engines"]["onnxruntime"]["settings"] and report["engines"]["fastconv"]["version"]
    found = [(r["threads"], r["engine"], r["status"]) for r in report["rows"]]
    status = dict(zip(names, ("ok", "ok", "failed"), strict=True))
    assert found == [(t, e, status[e]) for t in (1, 2) for e in names]
    assert report["rows"][0]["ratio"] > 0 and report["rows"][0]["error"] <= 1e-4
    text = capsys.readouterr().out
    assert "Raises failed: RuntimeError: cannot read" in text


@pytest.mark.parametrize(
    "argv", [["--engines", "tensorlow"], ["--models", "none"], ["--threads", "0"], ["--batch", "many"]]
)
def test_bad_arguments(model: Path, argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        models.main(["--dir", str(model.parent), *argv])


def test_every_engine_states_its_settings() -> None:
    assert all(e.settings for e in peers.ENGINES.values())
