"""What the corpus of broken models is made with: the registry, a good model to start from, the wire format by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from fastconv.onnx import read
from tests.onnx.helpers import make_model

Maker = Callable[[Path], "bytes | Path"]
CASES: dict[str, Maker] = {}
MUTANTS: dict[str, Maker] = {}
LIMIT_SECONDS = 2.0


def load_and_build(source: bytes | Path) -> None:
    """What a user's first call does. Unknown dimensions become 2."""
    model = read(source)
    graph = model.build({i.name: tuple(d if isinstance(d, int) else 2 for d in i.shape) for i in model.inputs})
    for value in [*graph.values(), *graph.outputs]:
        if value.weight is not None and value.size < 1 << 24:
            value.numpy()


def case(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function that returns bytes or a ModelProto, under its name."""
    CASES[fn.__name__] = lambda _: _bytes(fn())
    return fn


def add(name: str, model: Any) -> None:
    CASES[name] = lambda _: _bytes(model() if callable(model) else model)


def _bytes(model: Any) -> bytes:
    return model.SerializeToString() if isinstance(model, ModelProto) else model


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def one(op: str, inits: dict[str, np.ndarray] | None = None, x: Sequence[Any] = (1, 4, 8, 8), **kw: Any) -> ModelProto:
    """A model of one node that reads x and then the initializers."""
    attrs = {k: v for k, v in kw.items() if k not in ("opset", "outputs", "names")}
    names = kw.get("names") or ["x", *(inits or {})]
    outputs = kw.get("outputs", ["y"])
    node = helper.make_node(op, names, outputs, name="the_node", **attrs)
    return make_model([node], {"x": x}, ["y"], inits, opset=kw.get("opset", 17))


def good() -> ModelProto:
    """A small valid network with every kind of thing in it; mutations start here."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Shape", ["r"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["batch"], name="gather"),
        helper.make_node("Concat", ["batch", "minus"], ["target"], name="concat", axis=0),
        helper.make_node("Reshape", ["r", "target"], ["flat"], name="reshape"),
        helper.make_node("Gemm", ["flat", "fc", "fcb"], ["g"], name="fc", transB=1),
        helper.make_node("Constant", [], ["k"], name="k", value=numpy_helper.from_array(array(10))),
        helper.make_node("Add", ["g", "k"], ["a"], name="add"),
        helper.make_node("Softmax", ["a"], ["y"], name="softmax", axis=-1),
    ]
    inits = {
        "w": array(4, 3, 3, 3), "b": array(4), "v": np.abs(array(4)), "zero": np.array([0]), "minus": np.array([-1]),
        "fc": array(10, 64), "fcb": array(10),
    }  # fmt: skip
    return make_model(nodes, {"x": ("N", 3, 8, 8)}, ["y"], inits)


def changed(edit: Callable[[ModelProto], Any]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = good()
        edit(model)
        return model

    return make


# -- the wire format ------------------------------------------------------------------------------------------------
def varint(v: int) -> bytes:
    out = bytearray()
    while v > 127:
        out.append(v & 127 | 128)
        v >>= 7
    return bytes([*out, v])


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def wire(graph: bytes) -> bytes:
    """A model around the bytes of a graph."""
    return field(1, 8) + field(8, field(1, b"") + field(2, 17)) + field(7, graph)


def with_tensor(tensor: bytes, kind: int = 1) -> bytes:
    """A model that hands an initializer (its bytes, of the element type `kind`) to its output."""
    node = field(1, b"t") + field(2, b"y") + field(4, b"Identity")
    output = field(1, b"y") + field(2, field(1, field(1, kind)))
    return wire(field(1, node) + field(5, tensor + field(8, b"t")) + field(12, output))
