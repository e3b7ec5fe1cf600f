"""bench.quick: its networks, its confidence interval, its verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import quick, runner
from bench.shapes import LAYERS


def rows(pairs: list[float], status: str = "ok") -> list[runner.Row]:
    mine = runner.Row("m", 1, 1, "fastconv", "0", median_ms=1.0, pairs=pairs)
    return [mine, runner.Row("m", 1, 1, "onnxruntime", "0", status=status, message="broken", median_ms=2.0)]


def test_interval_covers() -> None:
    """95% intervals of the median hold it in about 95% of samples, whatever the distribution."""
    rng = np.random.default_rng(0)
    for n in (10, 30, 100):
        found = [quick.interval(list(rng.exponential(size=n))) for _ in range(400)]
        covered = np.mean([low <= np.log(2) <= high for _, low, high in found])
        assert 0.92 < covered <= 1.0
        assert all(low <= median <= high for median, low, high in found)
    assert quick.interval([0.5]) == (0.5, 0.5, 0.5)


def test_verdict() -> None:
    assert quick.judge(rows([0.80, 0.81, 0.79] * 10), 0.9)[0]
    assert quick.judge(rows([0.85, 0.95] * 15), 0.9)[0]  # its interval reaches below the limit
    good, line = quick.judge(rows([1.0, 1.01, 1.02] * 10), 0.9)
    assert not good and "TOO SLOW" in line and "limit 0.90" in line
    good, line = quick.judge(rows([0.5] * 9, "failed"), 0.9)
    assert not good and "broken" in line
    assert quick.limit("vgg16", "avx512") < quick.limit("resnet50", "avx512") < quick.limit("vgg16", "avx2") == 1.0


@pytest.mark.slow
def test_resnet50_is_resnet50() -> None:
    model = quick.resnet50()
    assert sum(int(np.prod(t.dims)) for t in model.graph.initializer) == 25_530_472  # torchvision's, batch norm folded
    convs = sum(n.op_type == "Conv" for n in model.graph.node)
    assert convs == sum(layer.times for layer in LAYERS["resnet50"][:-1]) == 53


@pytest.mark.slow
def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--models", "resnet50", "--dir", str(tmp_path), "--runs", "2", "--json", str(tmp_path / "q.json")]
    monkeypatch.setattr(quick, "limit", lambda name, isa: 100.0)
    assert quick.main(argv) == 0
    monkeypatch.setattr(quick, "limit", lambda name, isa: 0.0)
    assert quick.main(argv) == 1
    text = capsys.readouterr().out
    assert "limit 100.00: ok" in text and "TOO SLOW" in text
    assert (tmp_path / "q.json").exists()
