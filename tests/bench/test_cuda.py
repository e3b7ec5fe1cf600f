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
