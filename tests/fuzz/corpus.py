"""Writes the corpora that fuzzing starts from: python -m tests.fuzz.corpus FOLDER. Small plans and small ONNX files."""

from __future__ import annotations

import sys
from pathlib import Path

import fastconv
from tests.models.builder import Builder
from tests.test_saved import GOLDEN


def plans(folder: Path) -> None:
    """One small plan of each kind of operation, for the scalar level."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden").write_bytes(GOLDEN.read_bytes())
    for name, (shape, out, nodes) in {
        "dense": ((3, 4, 4), (5,), lambda b: b.op("Softmax", b.head(b.x, 5), axis=1)),
        "pool": ((2, 5, 5), (2, 3, 3), lambda b: b.op("Tanh", b.pool("AveragePool", b.x, 3, 2, (1, 1, 1, 1)))),
        "winograd": ((32, 16, 16), (32, 16, 16), lambda b: b.relu(b.conv(b.x, 32, 3, 1))),
        "means": ((4, 30, 5), (4, 1, 1), lambda b: b.op("GlobalAveragePool", b.conv(b.x, 4, 3, 1, group=4))),
        "tensors": ((4, 3, 3), (8, 3, 3), lambda b: b.op("Concat", b.x, b.op("Mul", b.x, b.op("Exp", b.x)), axis=1)),
    }.items():
        b = Builder(5, shape)
        fastconv.load(b.model((nodes(b), out)).SerializeToString()).save(
            folder / f"{name}.fcplan", shape=(1, *shape), isa=["scalar"]
        )
        (folder / f"{name}.fcplan").rename(folder / name)


def models(folder: Path) -> None:
    """Files of a few hundred bytes with initializers, attributes of every kind, branches, functions and metadata."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, ["N", 3]), value("y", TensorProto.FLOAT, None)
    raw = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    typed = [
        helper.make_tensor("f", TensorProto.FLOAT, [2], [1.5, 2.5]),
        helper.make_tensor("i", TensorProto.INT64, [2], [-1, 1 << 40]),
        helper.make_tensor("d", TensorProto.DOUBLE, [1], [0.1]),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("s", TensorProto.STRING, [1], [b"text"]),
    ]
    node = helper.make_node
    branch = helper.make_graph([node("Constant", [], ["b"], value=typed[0])], "branch", [], [value("b", 1, [2])])
    nodes = {
        "gemm": [node("Gemm", ["x", "w"], ["y"], "gemm", alpha=0.5, transB=0)],
        "attributes": [
            node("Custom", ["x"], ["y"], domain="d", ints=[1, 2], floats=[0.5], strings=["a", "b"], text="t")
        ],
        "branch": [node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)],
        "constant": [node("Constant", [], ["y"], value=typed[1])],
    }
    for name, body in nodes.items():
        graph = helper.make_graph(body, name, [x], [y], [raw, *typed])
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="fuzz", ir_version=8
        )
        helper.set_model_props(model, {"key": "value"})
        (folder / name).write_bytes(model.SerializeToString())


if __name__ == "__main__":
    plans(Path(sys.argv[1], "plan"))
    models(Path(sys.argv[1], "onnx"))
