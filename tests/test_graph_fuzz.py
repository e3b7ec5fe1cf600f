"""Random graphs, from an ONNX model to its outputs through the real compiler, against onnxruntime.

What one kernel computes is tested elsewhere: here the operations meet, with views (Concat, Slice, Split, Reshape),
in-place results and rows of foreign strides. 150 graphs, 4000 with the marker `full`; the same ones in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.isa import isa_levels
from tests.onnx.helpers import run_reference

F32 = np.ndarray[Any, np.dtype[np.float32]]
TOLERANCE = 1e-4  # of the largest magnitude: graphs are up to 14 nodes deep
LIMIT = 1 << 14  # elements of a value


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]


@dataclass
class Net:
    """An ONNX graph under construction. `draw` decides; the numbers in weights come from `rng`."""

    draw: Callable[[Any], Any]
    rng: np.random.Generator
    values: list[Tensor] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def upto(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def const(self, array: Any) -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def normal(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape, np.float32))

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def add(self, op: str, inputs: list[str], *shapes: tuple[int, ...], **attrs: Any) -> None:
        outputs = [Tensor(f"v{len(self.values) + i}", tuple(shape)) for i, shape in enumerate(shapes)]
        self.nodes.append(helper.make_node(op, inputs, [v.name for v in outputs], **attrs))
        self.values += outputs


# -- operations: each may add nothing where it does not fit -------------------------------------------------------
def window(net: Net, x: Tensor, kernels: tuple[int, ...], pooling: bool) -> tuple[list[int], dict[str, Any]] | None:
    """Output rows and columns, and attributes; None where the window is larger than the padded image."""
    k, stride = net.pick(*kernels), net.pick(1, 1, 2)
    pad, dilation = net.upto(0, k - 1), 1 if pooling else net.pick(1, 1, 2)
    sizes = [(d + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for d in x.shape[2:]]
    if min(sizes) < 1:
        return None
    attrs: dict[str, Any] = {"kernel_shape": [k, k], "pads": [pad] * 4, "strides": [stride] * 2}
    return sizes, attrs if pooling else {**attrs, "dilations": [dilation] * 2}


def conv(net: Net, x: Tensor) -> None:
    fit = window(net, x, (1, 3, 3, 5), pooling=False)
    if fit is None:
        return
    (n, c), ((p, q), attrs) = x.shape[:2], fit
    group = net.pick(1, 1, c, *([4] if c % 4 == 0 else []))
    k = group * net.upto(1, 3) if group > 1 else net.pick(1, 4, 7, 8, 16, 17, 33)
    r = attrs["kernel_shape"][0]
    w = net.rng.standard_normal((k, c // group, r, r), np.float32) / np.float32((c // group * r * r) ** 0.5)
    inputs = [x.name, net.const(w), *([net.normal(k)] if net.pick(False, True) else [])]
    net.add("Conv", inputs, (n, k, p, q), group=group, **attrs)


def pool(net: Net, x: Tensor) -> None:
    fit = window(net, x, (2, 3), pooling=True)
    if fit is not None:
        net.add(net.pick("MaxPool", "AveragePool"), [x.name], (*x.shape[:2], *fit[0]), **fit[1])


def norm(net: Net, x: Tensor) -> None:
    net.add("BatchNormalization", [x.name, *(net.positive(x.shape[1]) for _ in range(4))], x.shape)


def unary(net: Net, x: Tensor) -> None:
    net.add(net.pick("Relu", "HardSwish", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Abs", "Erf"), [x.name], x.shape)


def binary(net: Net, x: Tensor) -> None:
    others = [v for v in net.values if v.shape == x.shape]
    net.add(net.pick("Add", "Sub", "Mul", "Max"), [x.name, net.pick(*others).name], x.shape)


def broadcast(net: Net, x: Tensor) -> None:
    kept = [net.pick(True, False) for _ in x.shape]
    shape = tuple(d if keep else 1 for d, keep in zip(x.shape, kept, strict=True))
    net.add(net.pick("Add", "Sub", "Mul", "Div"), [x.name, net.positive(*shape)], x.shape)


def concat(net: Net, x: Tensor) -> None:
    axis = net.pick(min(1, len(x.shape) - 1), *range(len(x.shape)))
    fit = [v for v in net.values if v.shape[:axis] == x.shape[:axis] and v.shape[axis + 1 :] == x.shape[axis + 1 :]]
    fit = [v for v in fit if len(v.shape) == len(x.shape)]
    parts = [net.pick(*fit) for _ in range(net.upto(0, 2))]
    parts.insert(net.upto(0, len(parts)), x)
    total = sum(v.shape[axis] for v in parts)
    net.add("Concat", [v.name for v in parts], (*x.shape[:axis], total, *x.shape[axis + 1 :]), axis=axis)


def slices(net: Net, x: Tensor) -> None:
    axis = net.pick(min(1, len(x.shape) - 1), *range(len(x.shape)))
    start = net.upto(0, x.shape[axis] - 1)
    stop, step = net.upto(start + 1, x.shape[axis]), net.pick(1, 1, 1, 2)
    shape = (*x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])
    net.add("Slice", [x.name, net.ints(start), net.ints(stop), net.ints(axis), net.ints(step)], shape)


def split(net: Net, x: Tensor) -> None:
    axis = net.pick(min(1, len(x.shape) - 1), *range(len(x.shape)))
    if x.shape[axis] > 1:
        first = net.upto(1, x.shape[axis] - 1)
        sizes = (first, x.shape[axis] - first)
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        net.add("Split", [x.name, net.ints(*sizes)], *shapes, axis=axis)


def transpose(net: Net, x: Tensor) -> None:
    perm = net.draw(st.permutations(range(len(x.shape))))
    net.add("Transpose", [x.name], tuple(x.shape[i] for i in perm), perm=perm)


def reshape(net: Net, x: Tensor) -> None:
    """Merge two neighbouring axes or move a factor of one to the other, or add or drop an axis of size 1."""
    shape = list(x.shape)
    at = net.upto(0, len(shape) - 2)
    a, b = shape[at], shape[at + 1]
    factor = net.pick(*(f for f in (1, 2, 3, a) if a % f == 0))
    kind = net.pick("merge", "move", "move", "image", "ones")
    if kind == "merge" and len(shape) > 2:
        shape[at : at + 2] = [a * b]
    elif kind == "move":
        shape[at : at + 2] = [a // factor, b * factor]
    elif kind == "image":
        shape = [*shape[: max(0, len(shape) - 3)], *[1] * (4 - len(shape)), *shape[-3:]] if len(shape) < 5 else shape
    elif len(shape) < 5:
        shape.insert(at, 1)
    net.add("Reshape", [x.name, net.ints(*shape)], tuple(shape))


def pad(net: Net, x: Tensor) -> None:
    before, after = [[net.upto(0, 2) if i > 1 else 0 for i in range(len(x.shape))] for _ in range(2)]
    shape = tuple(d + b + a for d, b, a in zip(x.shape, before, after, strict=True))
    net.add("Pad", [x.name, net.ints(*before, *after)], shape)


def reduce(net: Net, x: Tensor) -> None:
    axes = sorted({net.upto(0, len(x.shape) - 1) for _ in range(2)})
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    op = net.pick("ReduceMean", "ReduceMax")
    net.add(op, [x.name, net.ints(*axes)], shape, keepdims=1)


def softmax(net: Net, x: Tensor) -> None:
    net.add("Softmax", [x.name], x.shape, axis=net.upto(0, len(x.shape) - 1))


def hidden(net: Net, op: str, inputs: list[str], **attrs: Any) -> str:
    """A value that no other operation and no output reads."""
    name = f"h{len(net.nodes)}"
    net.nodes.append(helper.make_node(op, inputs, [name], **attrs))
    return name


def where(net: Net, x: Tensor) -> None:
    """Continuous, so that rounding of the condition does not show."""
    zero = net.const(np.zeros(1, np.float32))
    condition = hidden(net, net.pick("Less", "LessOrEqual"), [x.name, zero])
    small = hidden(net, "Mul", [x.name, net.const(np.float32([0.25]))])
    net.add("Where", [condition, small, x.name], x.shape)


def gather(net: Net, x: Tensor) -> None:
    axis = net.upto(0, len(x.shape) - 1)
    index = [net.upto(0, x.shape[axis] - 1) for _ in range(net.upto(1, 5))]
    net.add("Gather", [x.name, net.ints(*index)], (*x.shape[:axis], len(index), *x.shape[axis + 1 :]), axis=axis)


def top_k(net: Net, x: Tensor) -> None:
    axis = net.upto(0, len(x.shape) - 1)
    k = net.upto(1, x.shape[axis])
    name = f"v{len(net.values)}"
    inputs, largest = [x.name, net.ints(k)], net.upto(0, 1)
    net.nodes.append(helper.make_node("TopK", inputs, [name, f"{name}i"], axis=axis, largest=largest))
    net.values.append(Tensor(name, (*x.shape[:axis], k, *x.shape[axis + 1 :])))


def layer_norm(net: Net, x: Tensor) -> None:
    axis = net.pick(-1, len(x.shape) - 1, net.upto(1, len(x.shape) - 1))
    part = x.shape[axis:]
    net.add("LayerNormalization", [x.name, net.positive(*part), net.normal(*part)], x.shape, axis=axis, epsilon=0.1)


def instance_norm(net: Net, x: Tensor) -> None:
    c = x.shape[1]
    net.add("InstanceNormalization", [x.name, net.positive(c), net.normal(c)], x.shape, epsilon=0.1)


def resize(net: Net, x: Tensor) -> None:
    sizes = (*x.shape[:2], x.shape[2] * net.pick(1, 2), x.shape[3] * net.pick(1, 2, 3))
    attrs = {"mode": net.pick("nearest", "linear"), "coordinate_transformation_mode": "asymmetric"}
    net.add("Resize", [x.name, "", "", net.ints(*sizes)], sizes, nearest_mode="floor", **attrs)


def deconv(net: Net, x: Tensor) -> None:
    n, c, h, w = x.shape
    k, r, stride = net.pick(1, 4, 7), net.pick(1, 2, 3), net.pick(1, 2)
    weight = net.const(net.rng.standard_normal((c, k, r, r), np.float32) / np.float32(np.sqrt(c * r * r)))
    shape = (n, k, (h - 1) * stride + r, (w - 1) * stride + r)
    net.add("ConvTranspose", [x.name, weight, net.normal(k)], shape, strides=[stride, stride])


IMAGES = (conv, conv, conv, pool, norm, instance_norm, resize, deconv)
ANY = (unary, unary, binary, broadcast, concat, concat, concat, slices, slices, split, transpose, reshape, reshape, pad,
       reduce, softmax, where, gather, top_k, layer_norm)  # fmt: skip


def finished(net: Net, outputs: list[Tensor]) -> onnx.ModelProto:
    graph = helper.make_graph(
        net.nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, net.values[0].shape)],
        [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape) for v in outputs],
        [numpy_helper.from_array(array, name) for name, array in net.weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@dataclass(frozen=True)
class Case:
    model: onnx.ModelProto
    x: F32
    isa: str
    threads: int

    def __repr__(self) -> str:
        return f"{self.isa}, {self.threads} threads, x {list(self.x.shape)}\n{onnx.printer.to_text(self.model)}"


@st.composite
def graphs(draw: st.DrawFn) -> Case:
    """A graph of 3 to 14 operations that mostly continue recent values; all ends are outputs, and some others."""
    seed = draw(st.integers(0, 1 << 16))
    net = Net(draw, np.random.default_rng(seed))
    x = Tensor("x", (draw(st.sampled_from((1, 1, 2, 3))), draw(st.sampled_from((1, 3, 4, 6, 8, 16, 33))),
                     draw(st.integers(1, 8)), draw(st.integers(1, 8))))  # fmt: skip
    net.values.append(x)
    for _ in range(draw(st.integers(3, 14))):
        value = net.values[-draw(st.integers(1, min(4, len(net.values))))]
        if np.prod(value.shape) <= LIMIT:
            net.pick(*(IMAGES + ANY if len(value.shape) == 4 else ANY))(net, value)
    if not net.nodes:
        unary(net, x)
    used = {name for node in net.nodes for name in node.input}
    outputs = [v for v in net.values[1:] if v.name not in used or draw(st.integers(0, 9)) == 9]
    model = finished(net, outputs)
    image = np.random.default_rng(seed + 1).standard_normal(x.shape, np.float32)
    return Case(model, image, draw(st.sampled_from(isa_levels()[::-1])), draw(st.integers(1, 2)))


def check(case: Case) -> None:
    want = run_reference(case.model, {"x": case.x})
    got = fastconv.load(case.model, threads=case.threads, _isa=case.isa).run(None, {"x": case.x})
    for output, a, b in zip(case.model.graph.output, got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, output.name
        empty = np.abs(b) > 1e30  # a MaxPool window that sees no pixel: -inf here, the least float there
        np.testing.assert_array_equal(np.abs(a) > 1e30, empty, output.name)
        a, b = np.where(empty, 0, a), np.where(empty, 0, b)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=TOLERANCE * float(np.abs(b).max(initial=0.1)), err_msg=output.name
        )


def examples(count: int) -> Callable[[Any], Any]:
    return settings(max_examples=count, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


def reshaped_rows(net: Net) -> list[Tensor]:
    """In place: rows of 1 in a region of rows of 33, written to a slice whose rows are 2 apart."""
    net.add("MaxPool", ["x"], (1, 33, 3, 2), kernel_shape=[2, 2], strides=[2, 2])
    net.add("Reshape", ["v1", net.ints(1, 1, 99, 2)], (1, 1, 99, 2))
    net.add("Sigmoid", ["v2"], (1, 1, 99, 2))
    net.add("Concat", ["v3", "v3"], (1, 2, 99, 2), axis=1)
    return net.values[-1:]


def between_concats(net: Net) -> list[Tensor]:
    """A Reshape of what lies in a slice of one Concat to what lies in a slice of another."""
    net.add("Concat", ["x", "x", "x"], (1, 99, 6, 4), axis=1)
    net.add("Reshape", ["v1", net.ints(99, 1, 6, 4)], (99, 1, 6, 4))
    net.add("Concat", ["v1", "v1"], (1, 99, 6, 8), axis=3)
    net.add("Concat", ["v2", "v2"], (99, 2, 6, 4), axis=1)
    return net.values[-2:]


def dense_copy(net: Net) -> list[Tensor]:
    """The copy that a reduction needs of one half, while the other half is read later."""
    net.add("Conv", ["x", net.normal(18, 33, 1, 1)], (1, 18, 6, 4))
    net.add("Split", ["v1", net.ints(9, 9)], (1, 9, 6, 4), (1, 9, 6, 4), axis=1)
    net.add("ReduceMean", ["v2", net.ints(2)], (1, 9, 1, 4), keepdims=1)
    net.add("Mul", ["v3", "v4"], (1, 9, 6, 4))
    return net.values[-1:]


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("make", [reshaped_rows, between_concats, dense_copy])
def test_failed_once(make: Callable[[Net], list[Tensor]], isa: str) -> None:
    rng = np.random.default_rng(1)
    net = Net(lambda _: None, rng, [Tensor("x", (1, 33, 6, 4))])
    outputs = make(net)
    check(Case(finished(net, outputs), rng.standard_normal((1, 33, 6, 4), np.float32), isa, 1))


def test_random_graphs() -> None:
    examples(150)(given(graphs())(check))()


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_random_graphs_full() -> None:
    examples(4000)(given(graphs())(check))()


def test_the_graphs_are_varied() -> None:
    """Every operation occurs, and most graphs are more than a few nodes."""
    seen: dict[str, int] = {}
    lengths: list[int] = []

    def note(case: Case) -> None:
        lengths.append(len(case.model.graph.node))
        for node in case.model.graph.node:
            seen[node.op_type] = seen.get(node.op_type, 0) + 1

    examples(150)(given(graphs())(note))()
    wanted = {"Conv", "MaxPool", "AveragePool", "BatchNormalization", "Relu", "Sigmoid", "Add", "Mul", "Div", "Concat",
              "Slice", "Split", "Transpose", "Reshape", "Pad", "ReduceMean", "ReduceMax", "Softmax", "Where", "Gather",
              "TopK", "LayerNormalization", "InstanceNormalization", "Resize", "ConvTranspose"}  # fmt: skip
    assert wanted <= set(seen), wanted - set(seen)
    assert np.median(lengths) >= 5 and min(seen["Concat"], seen["Slice"], seen["Reshape"]) >= 30
