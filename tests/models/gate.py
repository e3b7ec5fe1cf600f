"""A squeeze-and-excite gate as a network of its own."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


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
