"""What bench.cuda does beside the GPU: its networks for torch, and results that a kernel which hangs leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import quick
from bench.cuda import Report
from bench.cuda_table import table
from bench.cuda_torch import OPERATIONS


@pytest.mark.parametrize("name", ["resnet50", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_torch_knows_the_networks(name: str) -> None:
    assert {n.op_type for n in quick.MAKERS[name]().graph.node} <= set(OPERATIONS)


def test_results_are_written_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "results" / "times.json"
    report = Report(path)
    for n in (1, 2):
        report.add("layers", {"layer": n})
        assert [row["layer"] for row in json.loads(path.read_text())["layers"]] == list(range(1, n + 1))
    assert list(path.parent.iterdir()) == [path]


def test_table_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without times, or without anything: the errors are shown, and the verdict is no."""
    assert table(tmp_path) == 1
    assert "accuracy: no results\n  times: no results" in capsys.readouterr().out
    Report(tmp_path / "accuracy.json").add("rows", {"model": "vgg16", "precision": "fp32", "fastconv": 2e-6})
    assert table(tmp_path) == 1
    told = capsys.readouterr().out
    assert "vgg16      fp32        2.0e-06" in told and "accuracy: no results" not in told


def test_table_judges_the_rule_of_winograd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong where it is taken and loses, or left and would gain a tenth; networks count what is taken."""
    report = Report(tmp_path / "times.json")
    for name, chosen, winograd in (("a", True, 0.5), ("b", True, 1.1), ("c", False, 0.8), ("d", False, 0.95)):
        row = {"network": "vgg16", "layer": name, "precision": "fp32", "batch": 32, "times": 1, "R": 3, "flops": 10**9}
        report.add("layers", {**row, "fastconv": 1.0, "winograd": winograd, "winograd_chosen": chosen})
    row = {"network": "vgg16", "layer": "e", "precision": "fp32", "batch": 32, "times": 1, "R": 3, "flops": 10**9}
    report.add("layers", {**row, "fastconv": 1.0, "winograd_error": "DeviceError", "winograd_chosen": True})
    assert table(tmp_path) == 1
    told = capsys.readouterr().out
    for name, verdict in (("a", "takes it"), ("b", "takes it: WRONG"), ("c", "direct: WRONG"), ("d", "direct")):
        assert any(f" {name} " in line and line.endswith(f"  {verdict}") for line in told.splitlines())
    assert "right for 2 of 4 layers" in told and "Winograd, layer e batch 32: DeviceError" in told
    assert "vgg16      fp32     32     4.600" in told
