"""Squeeze-and-excite gates that scale the weights of the 1x1 convolution behind them (see prepare.py)."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.isa import isa_levels


def network(size: int, channels: int, K: int, *, residual: bool = False, shared: bool = False) -> bytes:
    """y = conv(x * sigmoid(dense(mean(x)))), and perhaps + z, the convolution of the same input, or the product too."""
    rng = np.random.default_rng(K)
    named = {
        "first": rng.standard_normal((channels, 1, 3, 3)),
        "dense": rng.standard_normal((channels, channels, 1, 1)),
        "w": rng.standard_normal((K, channels, 1, 1)) / channels**0.5,
        "bias": rng.standard_normal(K),
        "v": rng.standard_normal((K, channels, 1, 1)) / channels**0.5,
    }
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], group=channels, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["mean"]),
        helper.make_node("Conv", ["mean", "dense"], ["pre"]),
        helper.make_node("Sigmoid", ["pre"], ["gate"]),
        helper.make_node("Mul", ["gate" if residual else "a", "a" if residual else "gate"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w", "bias"], ["c" if residual else "y"]),
    ]
    outputs = ["y"]
    if residual:
        nodes += [helper.make_node("Conv", ["a", "v"], ["z"]), helper.make_node("Add", ["c", "z"], ["y"])]
    if shared:
        nodes.append(helper.make_node("Neg", ["scaled"], ["other"]))
        outputs.append("other")
    graph = helper.make_graph(
        nodes, "gate", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in outputs],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in named.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def scales_weights(model: fastconv.Model, shape: tuple[int, ...]) -> bool:
    algorithms = [op.algorithm for op in model.inspect(shape)]
    assert ("gate" in algorithms) != any(op.op == "Mul" for op in model.inspect(shape))
    return "gate" in algorithms


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("K", (1, 8, 24, 40, 80, 112))  # panels of one width and of two, on every level
@pytest.mark.parametrize("residual", (False, True))
def test_gate(isa: str, K: int, residual: bool) -> None:
    model = network(12, 19, K, residual=residual)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    fast = fastconv.load(model, threads=1, _isa=isa)
    for n in (1, 2):
        x = np.random.default_rng(n).standard_normal((n, 19, 12, 12), dtype=np.float32)
        assert scales_weights(fast, x.shape) == (n == 1)
        want = session.run(None, {"x": x})[0]
        for _ in range(2):  # the second run finds the scaled weights of the first
            got = fast(x)
            assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
        assert np.array_equal(got, fastconv.load(model, threads=3, _isa=isa)(x))


def test_not_worth_it_or_not_possible() -> None:
    few = fastconv.load(network(4, 19, 24))  # 16 pixels, 24 output channels
    assert not scales_weights(few, (1, 19, 4, 4))
    seen = fastconv.load(network(12, 19, 24, shared=True))
    assert not scales_weights(seen, (1, 19, 12, 12))
