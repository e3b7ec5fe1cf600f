"""What the tests of the command line share: a small model, one call of a command, the error contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.cli import app as cli

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES = 12


def small_model(
    *, shape: tuple[Any, ...] = ("N", 3, 32, 32), classes: int = CLASSES, softmax: bool = False, layout: str = "NCHW"
) -> Any:
    """Conv, BatchNormalization, Relu, mean, Gemm; `layout` NHWC starts with a Transpose as TensorFlow exports do."""
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)), "scale": rng.uniform(0.5, 1.5, 8), "shift": rng.normal(0, 0.2, 8),
        "mean": rng.normal(0, 0.2, 8), "var": rng.uniform(0.5, 1.5, 8),
        "fc": rng.normal(0, 2, (classes, 8)), "bias": rng.normal(0, 0.1, classes),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc", "bias"], ["y"], "fc", transB=1),
    ]
    if layout == "NHWC":
        nodes.insert(0, helper.make_node("Transpose", ["image"], ["x"], "nchw", perm=[0, 3, 1, 2]))
        shape = (shape[0], shape[2], shape[3], shape[1])
    if softmax:
        nodes.append(helper.make_node("Softmax", ["y"], ["p"], "softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image" if layout == "NHWC" else "x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("p" if softmax else "y", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), str(path))
    return str(path)


class Result:
    """Exit code, stdout and stderr of one call."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*args: object) -> Result:
        code = cli.run([str(a) for a in args])
        return Result(code, *capsys.readouterr())

    return run


def one_line(result: Result, *words: str) -> None:
    """The error contract: exit code 1, one line on stderr, no traceback, the words in it."""
    assert result.code == 1
    assert result.err.startswith("fastconv: error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err, result.err
