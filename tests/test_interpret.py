"""The interpreter itself, against onnxruntime, where its loops could be misread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv.graph import Graph
from tests.interpret import interpret

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

H, W = 9, 7
CONV = {"strides": (2, 1), "dilations": (1, 2), "group": 2, "pads": (1, 0, 2, 3)}
POOL = {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 0, 0, 1), "dilations": (1, 1)}

OVER = {"kernel_shape": (3, 3), "strides": (3, 2), "pads": (1, 0, 0, 1), "dilations": (1, 1)}  # with ceil_mode


def run(op: str, arrays: list[np.ndarray], opset: int = 19, **attrs: Any) -> np.ndarray:
    names = [f"i{k}" for k in range(len(arrays))]
    node = onnx.helper.make_node(op, names, ["y"], **attrs)
    inputs = [onnx.helper.make_tensor_value_info(n, 1, a.shape) for n, a in zip(names, arrays, strict=True)]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("y", 1, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(zip(names, arrays, strict=True)))[0])


CASES: list[tuple[str, list[tuple[int, ...]], dict[str, Any], dict[str, Any]]] = [
    ("Conv", [(2, 4, H, W), (6, 2, 3, 2), (6,)], CONV, CONV),
    ("MaxPool", [(2, 4, H, W)], POOL, POOL),
    ("MaxPool", [(2, 4, H, W)], {**POOL, "dilations": (2, 3), "ceil_mode": 1}, {**POOL, "dilations": (2, 3)}),
    ("AveragePool", [(2, 4, H, W)], POOL, POOL),
    ("AveragePool", [(2, 4, H, W)], {**POOL, "count_include_pad": 1}, {**POOL, "count_include_pad": 1}),
    ("AveragePool", [(2, 4, H, W)], {**OVER, "ceil_mode": 1}, OVER),
    ("AveragePool", [(2, 4, H, W)], {**OVER, "ceil_mode": 1, "count_include_pad": 1}, {**OVER, "count_include_pad": 1}),
    ("LRN", [(2, 7, H, W)], {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 1.5}, {}),
    ("LRN", [(2, 7, H, W)], {"size": 5, "alpha": 0.2, "beta": 0.6, "bias": 1.5}, {}),
    *((op, [(2, 3)], {}, {}) for op in ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Mish", "Erf", "Exp")),
    ("LeakyRelu", [(2, 3)], {"alpha": 0.2}, {}),
    ("Elu", [(2, 3)], {"alpha": 0.7}, {}),
    ("Selu", [(2, 3)], {"alpha": 1.2, "gamma": 1.1}, {}),
    ("HardSigmoid", [(2, 3)], {"alpha": 0.3, "beta": 0.4}, {}),
    ("BatchNormalization", [(2, 4, 3, 3), (4,), (4,), (4,), (4,)], {"epsilon": 0.1}, {}),
    ("PRelu", [(2, 4, 3, 3), (4, 1, 1)], {}, {}),
    ("Softmax", [(2, 4, 3)], {"axis": 1}, {}),
    ("LogSoftmax", [(2, 4, 3)], {"axis": 2}, {}),
]


@pytest.mark.parametrize("index", range(len(CASES)))
@pytest.mark.parametrize("physical", [False, True])
def test_against_onnxruntime(index: int, physical: bool) -> None:
    op, shapes, theirs, ours = CASES[index]
    rng = np.random.default_rng(index)
    arrays = [rng.uniform(0.1 if i == 4 else -2.0, 2.0, s).astype(np.float32) for i, s in enumerate(shapes)]
    expected = run(op, arrays, **theirs)
    image = physical and op in ("Conv", "MaxPool", "AveragePool", "LRN")

    def order(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, 1, -1) if image else a

    g = Graph()
    values = [g.add_input(f"i{i}", order(a).shape if i == 0 else a.shape) for i, a in enumerate(arrays)]
    g.outputs = [g.add(op, values, order(expected).shape, **(ours or theirs))]
    feeds = {f"i{i}": order(a) if i == 0 else a for i, a in enumerate(arrays)}
    (y,) = interpret(g, feeds, physical=physical)
    np.testing.assert_allclose(y, order(expected), rtol=1e-5, atol=1e-5)
