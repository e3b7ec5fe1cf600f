"""bench.batches tells both times and the share."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import batches as bench
from fastconv import batches
from tests.small import network


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(network())
    monkeypatch.setattr(batches, "FLOATS", 0)
    monkeypatch.setattr(batches, "WORTH", 0.0)
    sizes = ["--batch", "1,8", "--threads", "1", "--runs", "2"]
    assert bench.main(["--models", "net", "--dir", str(tmp_path), *sizes]) == 0
    _, one, eight = (line.split() for line in capsys.readouterr().out.splitlines())
    assert one[:4] == ["net", "1", "1", "1"] and eight[:4] == ["net", "8", "1", "2"]
    assert all(float(t) > 0 for t in (*one[4:], *eight[4:]))
    assert not bench.load(tmp_path / "net.onnx", 1, whole=True)._target.repeats
