"""bench.report on a small stored report: tables, medians of runs, failed engines, the README's text, plots."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.merged import load, merge

STORED = Path(__file__).with_name("models.json")


@pytest.fixture
def stored() -> dict[str, Any]:
    return load([STORED])["models"][0]


def test_table(stored: dict[str, Any]) -> None:
    assert report.speed_table(merge([stored]), 1, 1) == [
        "| model | fastconv | onnxruntime | openvino | ncnn | of onnxruntime | of the best peer |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| resnet50 | **58.00** | 74.00 | 73.00 | 67.00* | 0.78 | 0.87 (ncnn) |",
        "| lenet5 | **0.0210** | 0.0300 | failed | 0.0500 | 0.70 | 0.70 (onnxruntime) |",
    ]


def test_medians_over_runs(stored: dict[str, Any]) -> None:
    """Three runs: fastconv's time and ratios in the middle count, and one failure shows."""
    runs = [copy.deepcopy(stored) for _ in range(3)]
    for run, ms, ratio in zip(runs, (50.0, 60.0, 99.0), (0.7, 0.75, 0.9), strict=True):
        mine = run["rows"][0]
        mine["median_ms"], mine["ratios"] = ms, {"onnxruntime": ratio, "ncnn": ratio + 0.05, "openvino": ratio + 0.01}
    runs[1]["rows"][3].update(status="failed", message="it broke", median_ms=None)  # then openvino is the best peer
    merged = merge(runs)
    row = merged.cases["resnet50", 1, 1]
    assert row["fastconv"]["median_ms"] == 60.0 and row["fastconv"]["of_onnxruntime"] == 0.75
    assert row["fastconv"]["of_best"] == pytest.approx(0.76)  # of 0.75, 0.76, 0.95: each run's own best peer
    assert row["fastconv"]["best"] == "ncnn"
    assert (row["ncnn"]["status"], row["ncnn"]["median_ms"]) == ("failed", 67.0)
    assert "| 67.00 (failed) |" in "\n".join(report.speed_table(merged, 1, 1))
    assert any("it broke (in 1 of 3 runs): resnet50" in line for line in report.failures(merged))
    assert "medians of 3 runs" in report.machine_line(merged.systems, merged.runs)
    assert merged.heading(1, 1) == "### Threads 1, batch 1"
    for run, count in zip(runs, (32, 32, 4), strict=True):
        run["rows"] += [row | {"batch": count} for row in run["rows"]]
    merged = merge(runs)
    assert merged.heading(1, 32).endswith("batch 32, 2 runs") and merged.heading(1, 4).endswith("batch 4, one run")
    runs[0]["rows"] = [r for r in runs[0]["rows"] if (r["model"], r["batch"]) != ("lenet5", 32)]
    assert merge(runs).heading(1, 32).endswith("batch 32, 1 to 2 runs")


def test_machines_are_not_mixed(stored: dict[str, Any]) -> None:
    other = copy.deepcopy(stored)
    other["system"]["cpu"] = "Another CPU"
    with pytest.raises(ValueError, match="different CPUs: Another CPU, Test CPU 9000"):
        merge([stored, other])


def test_failed_engines_are_named(stored: dict[str, Any]) -> None:
    lines = report.failures(merge([stored]))
    assert lines[-1] == (
        "- openvino failed: its process died of SIGSEGV while loading: lenet5 (batch 1, threads 1)"
    )  # fmt: skip
    assert len(lines) == 2 and lines[0].startswith("- ncnn inexact: ")


def test_messages_of_engines_that_have_a_time_are_named(stored: dict[str, Any]) -> None:
    later = copy.deepcopy(stored)
    later["rows"][0]["message"] = "on one thread: RuntimeError: broke"
    assert report.failures(merge([stored, later]))[0] == (
        "- fastconv ok: on one thread: RuntimeError: broke (in 1 of 2 runs): resnet50 (batch 1, threads 1)"
    )


def test_wrong_engines_have_no_time(stored: dict[str, Any]) -> None:
    stored["rows"][1].update(status="wrong", median_ms=None)
    assert "| wrong |" in report.speed_table(merge([stored]), 1, 1)[2]


def test_batches(stored: dict[str, Any]) -> None:
    found = report.batch_cases(merge([stored]), 1)
    assert list(found) == ["resnet50"]
    assert found["resnet50"]["fastconv"] == [(1, 58.0), (2, pytest.approx(110.2)), (8, 435.0)]


def test_scaling(stored: dict[str, Any]) -> None:
    assert report.scaling_table(merge([stored])) == []
    two = [
        r | {"threads": 2, "round_trip_ns": 104.6, "median_ms": r["median_ms"] and r["median_ms"] / 1.9}
        for r in stored["rows"]
    ]
    stored["rows"] += [r for r in two if r["batch"] == 1]
    table = report.scaling_table(merge([stored]))
    assert table[0] == "| model | batch | threads | fastconv | onnxruntime | openvino | ncnn | round trip ns |"
    assert table[2:] == [
        "| resnet50 | 1 | 2 | 1.90 | 1.90 | 1.90 | 1.90 | 105 |",
        "| lenet5 | 1 | 2 | 1.90 | 1.90 | - | 1.90 | 105 |",
    ]
    for row in two:
        del row["round_trip_ns"]  # as in older reports
    assert report.scaling_table(merge([stored]))[2].endswith("| 1.90 | - |")
    for row in stored["rows"]:
        row["speedup"] = 1.7 if row["threads"] == 2 and row["engine"] == "fastconv" else None
    assert "| 1.70 |" in report.scaling_table(merge([stored, stored]))[2], "in turns, where there is one"
    for row in stored["rows"]:
        row["speedup"] = row["speedup"] if row["model"] == "resnet50" else None
    lenet = report.scaling_table(merge([stored]))[3]
    assert lenet.startswith("| lenet5 | 1 | 2 | - | 1.90 |"), "not from cases apart where the engine is timed in turns"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (f"a\n{report.BEGIN}\nold\n{report.END}\nb\n", True),
        ("no marks", False),
        (f"{report.END}\n{report.BEGIN}", False),
        (f"{report.BEGIN}\n{report.BEGIN}\n{report.END}", False),
    ],
)
def test_splice(text: str, good: bool) -> None:
    if good:
        once = report.splice(text, "new\n")
        assert once == f"a\n{report.BEGIN}\nnew\n{report.END}\nb\n"
        assert report.splice(once, "new") == once
    else:
        with pytest.raises(ValueError, match="bench:begin"):
            report.splice(text, "new")


def test_the_readme_has_a_place_for_the_table() -> None:
    report.splice((Path(__file__).parents[2] / "README.md").read_text(), "new")


def test_main_writes_page_and_readme(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# x\n\n{report.BEGIN}\n{report.END}\n\nrest\n")
    docs = tmp_path / "docs"
    argv = [str(STORED), "--out", str(docs), "--readme", str(tmp_path / "README.md"), "--no-plots"]
    assert report.main(argv) == 0
    readme, page = (tmp_path / "README.md").read_text(), (docs / "benchmarks.md").read_text()
    for text in (readme, page):
        assert "| lenet5 | **0.0210** | 0.0300 | failed |" in text
        assert "Test CPU 9000, 2 cores, avx512, 117 GFLOP/s per core" in text and "2026-11-24" in text
        assert "onnxruntime 1.32.0" in text
    assert "(docs/benchmarks.md)" in readme and readme.endswith("\nrest\n")
    assert "### Threads 1, batch 8" in page and "openvino: f32" in page and "SIGSEGV" in page
    before = readme
    assert report.main(argv) == 0 and (tmp_path / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "other", "rows": [], "system": {"cpu": ""}}', "{}"])
def test_main_refuses_other_files(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(text)
    assert report.main([str(tmp_path / "x.json"), "--out", str(tmp_path)]) == 1
    assert "x.json" in capsys.readouterr().err
    assert not (tmp_path / "benchmarks.md").exists()


def test_plots(tmp_path: Path, stored: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    node = {"model": "net", "op": "Conv", "shape": [1], "bytes": 10**6}
    kinds = [("gemm", 10**8), ("F(4x4,3x3)", 10**9), ("copy", 0)]
    layers = [node | {"name": a, "algorithm": a, "ms": 0.1 + i, "flops": f} for i, (a, f) in enumerate(kinds)]
    roof = {"kind": "layers", "system": stored["system"], "peak_gflops": 117.0, "bandwidth_gbs": 20.0, "rows": layers}
    (tmp_path / "layers.json").write_text(json.dumps(roof))
    assert report.main([str(STORED), str(tmp_path / "layers.json"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "benchmarks.md").read_text()
    for name in ("models", "batch", "roofline-net"):
        path = tmp_path / "benchmarks" / f"{name}.png"
        assert 5_000 < path.stat().st_size < 200_000
        assert f"](benchmarks/{name}.png)" in page


def test_load_and_kernel_tables() -> None:
    loaded = {
        "threads": 2,
        "load_s": 0.5,
        "first_run_s": 0.1,
        "total_s": 0.6,
        "total_s_ratio": 0.4,
        "peak_mb": 700,
        "peak_mb_ratio": 0.7,
    }
    rows = [
        {"model": "vgg16", "engine": "fastconv", **loaded},
        {"model": "vgg16", "engine": "mnn", "threads": 1, "failed": "gone"},
    ]
    table = report.load_table({"rows": rows})
    assert table[2] == "| vgg16 | fastconv | 2 | 0.500 | 0.100 | 0.600 | 0.40 | 700 | 0.70 |"
    assert table[3].startswith("| vgg16 | mnn | 1 | failed |")
    row = {"network": "n", "layer": "l", "isa": "avx2", "algorithm": "gemm", "us": 10.0, "gflops": 55.5, "share": 0.951}
    table = report.kernel_table({"rows": [row | {"gbs": 3.0, "share_bandwidth": 0.1}]})
    assert table[2] == "| n | l | avx2 | gemm | 10.0 | 55.5 | 95% | 3.0 | 10% |"
