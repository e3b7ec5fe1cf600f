"""Batches in parts: which networks keep images apart, and that nothing depends on how a batch is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import fastconv
from fastconv import _core, batches
from fastconv.batches import images_at_once, keeps_apart
from fastconv.graph import Graph
from fastconv.isa import isa_levels
from fastconv.onnx.reader import InputInfo, OutputInfo
from fastconv.target import Target

from .models.builder import Builder
from .models.nets import NETS, inputs, serialized
from .small import F32, images, network, same_bits


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of two images where a network allows it, however small it is."""
    monkeypatch.setattr(batches, "FLOATS", 0)
    monkeypatch.setattr(batches, "WORTH", 0.0)


def repeats_of(model: fastconv.Model, *shapes: tuple[int, ...]) -> int:
    return int(model.compile(*shapes).repeats)


def close(got: F32, want: F32) -> bool:
    return got.shape == want.shape and bool(np.abs(got - want).max() <= 1e-5 * max(1e-3, np.abs(want).max()))


# -- networks that keep images apart ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, small_shares: None) -> None:
    feed = inputs(onnx.load_from_string(serialized(name)), 6)
    model = fastconv.load(serialized(name), threads=1)
    got = model.run(None, feed)
    assert repeats_of(model, *(x.shape for x in feed.values())) == 3
    want = onnxruntime.InferenceSession(serialized(name), providers=["CPUExecutionProvider"]).run(None, feed)
    for a, b in zip(got, want, strict=True):
        assert close(a, b)
    pairs = [model.run(None, {k: x[i : i + 2] for k, x in feed.items()}) for i in (0, 2, 4)]
    for i, a in enumerate(got):
        assert same_bits(a, np.concatenate([p[i] for p in pairs]))
    for threads in (2, 3, 4, 6, 8):
        other = fastconv.load(serialized(name), threads=threads)
        for _ in range(2):
            assert all(same_bits(a, b) for a, b in zip(other.run(None, feed), got, strict=True)), threads


@pytest.mark.parametrize("isa", isa_levels())
def test_the_cut_follows_from_the_shape(isa: str, small_shares: None) -> None:
    model = fastconv.load(network(), threads=2, _isa=isa)
    want = np.concatenate([model(images(1, seed=i))[0] for i in range(12)])
    for batch, repeats in ((1, 1), (2, 1), (3, 3), (4, 2), (5, 5), (6, 3), (9, 3), (12, 6)):
        x = np.concatenate([images(1, seed=i) for i in range(batch)])
        assert repeats_of(model, x.shape) == repeats
        for _ in range(2):
            assert close(model(x)[0], want[:batch])


def test_sizes() -> None:
    """Of networks in full size: what each part reads anew is worth it, or the batch stays whole."""
    from fastconv import applications
    from fastconv.models.source import LayerSource

    def cut(build: Callable[..., Any], batches_: Sequence[int], *image: int) -> list[int]:
        source = LayerSource(build(weights=None))
        return [images_at_once(source.build({i.name: (n, *image) for i in source.inputs})) for n in batches_]

    assert cut(applications.ResNet50, (1, 2, 3, 4, 7, 8, 9), 224, 224, 3) == [0, 0, 1, 2, 1, 2, 3]
    assert cut(applications.GoogLeNet, (8, 16), 224, 224, 3) == [2, 2]
    assert cut(applications.VGG16, (8, 16, 32), 224, 224, 3) == [0, 0, 0]
    assert cut(applications.LeNet5, (8, 64), 32, 32, 1) == [0, 0]


def test_layers(small_shares: None) -> None:
    """A network of layers, whose images are channels-last and whose weights change."""
    from fastconv.layers import Conv2D, Dense, Flatten, Input
    from fastconv.models import Model

    image = Input((6, 6, 3))
    model = Model(image, Dense(4)(Flatten()(Conv2D(5, 3, activation="relu")(image))))
    x = np.random.default_rng(0).standard_normal((8, 6, 6, 3), np.float32)
    for _ in range(2):
        together = model.predict(x, batch_size=8, verbose=0)
        assert close(together, np.concatenate([model.predict(x[i : i + 1], verbose=0) for i in range(8)]))
        assert model._runtime is not None and repeats_of(model._runtime, x.shape) == 4
        model.set_weights([w + 0.1 for w in model.get_weights()])


def reading_some(kind: str) -> onnx.ModelProto:
    """Networks that read a slice of their input [N, 4, 6, 5] where it lies, or of a second one [N, 3]."""
    b = Builder(4, (4, 6, 5), opset=17)
    starts, ends, axis = {"channels": (0, 3, 1), "rows": (1, 4, 2), "columns": (1, 3, 3)}.get(kind, (0, 2, 1))
    x = b.op("Slice", b.x, b.ints(starts), b.ints(ends), b.ints(axis), channels=3 if kind == "channels" else 4)
    if kind == "channels":
        x = b.conv(x, 5, 3)
    elif kind == "second input":
        other = b.input("other", (3,))
        column = b.op("Slice", other, b.ints(0), b.ints(1), b.ints(1))
        x = b.op("Add", b.op("Flatten", b.conv(b.x, 5, 3), axis=1), column)
    elif kind != "nothing else":
        x = b.op("Relu", x)
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
    graph = helper.make_graph(b.nodes, kind, b.inputs, [output], b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("kind", ("channels", "rows", "columns", "second input", "nothing else"))
def test_what_reads_some_of_its_input(kind: str, threads: int, small_shares: None) -> None:
    """Shares are of the arrays, however little of them the plan reads."""
    network = reading_some(kind)
    feed, data = inputs(network, 8), network.SerializeToString()
    model = fastconv.load(data, threads=threads)
    (got,) = model.run(None, feed)
    assert repeats_of(model, *(x.shape for x in feed.values())) == 4
    (want,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feed)
    assert close(got, want)


# -- networks that do not, or of which it is not known --------------------------------------------------------------
def mixing(kind: str) -> onnx.ModelProto:
    """input [N, 4, 5, 5] -> output, where images meet, or the number of images counts."""
    b = Builder(3, (4, 5, 5), opset=17)
    x = b.conv(b.x, 4, 3)
    if kind == "softmax":
        x = b.op("Softmax", x, axis=0)
    elif kind == "mean":
        x = b.op("Sub", x, b.op("ReduceMean", x, axes=[0], keepdims=1))
    elif kind == "maximum":
        x = b.op("ArgMax", x, axis=0, keepdims=1)
    elif kind == "transpose":
        x = b.op("Transpose", b.op("Softmax", b.op("Transpose", x, perm=[1, 0, 2, 3]), axis=1), perm=[1, 0, 2, 3])
    elif kind == "reshape":
        x = b.op("Reshape", b.op("Softmax", b.op("Reshape", x, b.ints(1, -1)), axis=1), b.ints(-1, 4, 5, 5))
    elif kind == "gram":
        flat = b.op("Flatten", x, axis=1)
        x = b.op("MatMul", flat, b.op("Transpose", flat, perm=[1, 0]))
    elif kind == "reverse":
        x = b.op("Slice", x, b.ints(-1), b.ints(-(1 << 40)), b.ints(0), b.ints(-1))
    elif kind == "double":
        x = b.op("Concat", x, x, axis=0)
    elif kind == "pad":
        x = b.op("Pad", x, b.ints(1, 0, 0, 0, 0, 0, 0, 0))
    elif kind == "first":
        x = b.op("Gather", x, b.ints(0), axis=0)
    elif kind == "first for all":
        x = b.op("Add", x, b.op("Gather", x, b.ints(0), axis=0))
    elif kind == "scores of each":
        x = b.op("Mul", x, b.const(np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)))
    elif kind == "count":  # x / N, exported as arithmetic on the shape
        n = b.op("Cast", b.op("Gather", b.op("Shape", x), b.ints(0), axis=0), to=TensorProto.FLOAT)
        x = b.op("Div", x, n)
    elif kind == "reshaped by four":
        x = b.op("Reshape", x, b.ints(4, -1))
    else:
        raise ValueError(kind)
    output = helper.make_tensor_value_info(x, TensorProto.INT64 if kind == "maximum" else TensorProto.FLOAT, None)
    graph = helper.make_graph(b.nodes, kind, b.inputs, [output], b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


KINDS = ("softmax", "mean", "maximum", "transpose", "reshape", "gram", "reverse", "double", "pad", "first",
         "first for all", "scores of each", "count", "reshaped by four")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_meet_stay_together(kind: str, small_shares: None) -> None:
    data = mixing(kind).SerializeToString()
    x = np.random.default_rng(1).standard_normal((4, 4, 5, 5), np.float32)
    model = fastconv.load(data)
    want = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    assert close(np.asarray(model(x), np.float32), np.asarray(want, np.float32))
    assert repeats_of(model, x.shape) == 1


def graph_of(op: str, shapes: Sequence[Sequence[int]], out: Sequence[int], fixed: int = 0, **attrs: Any) -> Graph:
    """One operation on inputs of these shapes, the last `fixed` of which are constants; output of shape `out`."""
    g = Graph("one")
    free = len(shapes) - fixed
    values = [g.add_input(f"x{i}", s) if i < free else g.constant(np.ones(s, np.float32)) for i, s in enumerate(shapes)]
    g.outputs = [g.add(op, values, out, **attrs)]
    return g


CONV: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (0, 0, 0, 0)}
RULES: tuple[tuple[bool, Graph], ...] = (
    (True, graph_of("Relu", [(4, 3)], (4, 3))),
    (True, graph_of("Conv", [(4, 4, 5, 5), (4, 4, 1, 1)], (4, 4, 5, 5), 1, **CONV)),
    (False, graph_of("Conv", [(4, 4, 5, 5), (4, 4, 1, 1)], (4, 4, 5, 5), **CONV)),  # filters that are images
    (True, graph_of("Softmax", [(4, 3)], (4, 3), axis=1)),
    (False, graph_of("Softmax", [(4, 3)], (4, 3), axis=0)),
    (True, graph_of("ReduceMax", [(4, 3, 2)], (4, 3), axes=(2,), keepdims=False)),
    (False, graph_of("ReduceMax", [(4, 8, 2)], (8,), axes=(0, 2), keepdims=False)),
    (True, graph_of("Add", [(4, 3), (4, 3)], (4, 3))),
    (True, graph_of("Add", [(4, 3, 4), (3, 4)], (4, 3, 4), 1)),
    (True, graph_of("Add", [(4, 3, 4), (1, 3, 4)], (4, 3, 4), 1)),
    (False, graph_of("Add", [(4, 3, 4), (4, 1, 1)], (4, 3, 4), 1)),  # a number for each image
    (False, graph_of("Add", [(4, 3, 4), (4,)], (4, 3, 4))),  # images of one along the columns of the other
    (True, graph_of("MatMul", [(4, 3, 2), (2, 5)], (4, 3, 5), 1)),
    (True, graph_of("MatMul", [(4, 3, 2), (4, 2, 5)], (4, 3, 5))),
    (False, graph_of("MatMul", [(4,), (4, 8)], (8,), 1)),
    (False, graph_of("MatMul", [(4, 4, 4), (4, 4)], (4, 4, 4))),
    (False, graph_of("MatMul", [(4, 3, 2), (4, 2, 5)], (4, 3, 5), 1)),
    (True, graph_of("Concat", [(4, 3), (4, 3)], (4, 6), axis=1)),
    (False, graph_of("Concat", [(4, 3), (4, 3)], (8, 3), axis=0)),
    (False, graph_of("Concat", [(4, 3), (4, 3)], (4, 6), 1, axis=1)),
    (True, graph_of("Pad", [(4, 3)], (4, 5), pads=((0, 0), (1, 1)))),
    (False, graph_of("Pad", [(4, 3)], (8, 3), pads=((2, 2), (0, 0)))),
    (True, graph_of("Transpose", [(4, 4, 5)], (4, 5, 4), perm=(0, 2, 1))),
    (False, graph_of("Transpose", [(4, 4, 5)], (4, 4, 5), perm=(1, 0, 2))),
    (True, graph_of("Slice", [(4, 6)], (4, 3), starts=(0, 1), steps=(1, 2))),
    (True, graph_of("Expand", [(4, 1)], (4, 3))),
    (False, graph_of("Expand", [(4, 3)], (4, 4, 3))),
    (True, graph_of("Reshape", [(4, 6)], (8, 3))),
    (False, graph_of("Reshape", [(4, 6)], (6, 4))),
    (False, graph_of("Take", [(4, 6), (4, 6)], (4, 6), axis=1)),  # no rule: not known
)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_rules(number: int) -> None:
    apart, graph = RULES[number]
    assert keeps_apart(graph) == apart, graph


def test_fewer_rows_are_not_the_same_rows() -> None:
    g = graph_of("Reshape", [(4, 6)], (8, 3))
    g.outputs = [g.add("Slice", g.outputs, (4, 3), starts=(0, 0), steps=(2, 1))]
    assert not keeps_apart(g)


class Counting:
    """A source whose network holds the number of images in an attribute."""

    name, metadata = "counting", dict[str, str]()
    inputs = (InputInfo("x", (None, 6), np.dtype(np.float32)),)
    outputs = (OutputInfo("y", (None, 6), np.dtype(np.float32)),)

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        g = Graph("counting")
        x = g.add_input("x", shapes["x"])
        g.outputs = [g.add("LeakyRelu", [x], x.shape, alpha=0.1 * x.shape[0], output="y")]
        return g


def test_a_number_of_images_in_an_attribute(small_shares: None) -> None:
    x = -np.ones((8, 6), np.float32)
    model = fastconv.Model(Counting(), threads=1)
    assert close(model(x), 0.8 * x)
    assert repeats_of(model, x.shape) == 1


def test_a_batch_that_the_file_fixes(small_shares: None) -> None:
    model = onnx.load_from_string(network())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed = fastconv.load(model.SerializeToString())
    x = images(4)
    assert repeats_of(fixed, x.shape) == 1
    assert close(fixed(x)[0], np.concatenate([fastconv.load(network())(x[i : i + 1])[0] for i in range(4)]))


# -- what people see ------------------------------------------------------------------------------------------------
def test_operations_are_told_for_the_whole_batch(small_shares: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(8)
    model = fastconv.load(network(), threads=2)
    ops = model.inspect(x.shape)
    assert repeats_of(model, x.shape) == 4
    profile = model.profile(x, runs=2)
    assert all(row.ms > 0 for row in profile.rows)
    monkeypatch.setattr(Target, "repeats", False)
    entire = fastconv.load(network(), threads=2)
    assert sum(o.flops for o in ops) == sum(o.flops for o in entire.inspect(x.shape))
    assert ops[-1].shape == entire.inspect(x.shape)[-1].shape
    assert all(o.shape[0] == 8 for o in ops)


def test_arrays_are_checked_for_all_repeats(small_shares: None) -> None:
    model = fastconv.load(network(), threads=2)
    compiled = model.compile((4, 3, 20, 18))
    arrays = [images(4), *(np.empty(s, np.float32) for _, s in compiled.outputs)]
    executor = _core.Executor(2)
    executor.run(compiled.plan, arrays, 2)
    assert all(same_bits(a, b) for a, b in zip(arrays[1:], model(images(4)), strict=True))
    for repeats, message in (
        (4, "too small"),
        (7, "no equal shares"),
        (1 << 40, "no equal shares"),
        (0, "positive"),
        (-1, "positive"),
    ):
        with pytest.raises(ValueError, match=message):
            executor.run(compiled.plan, arrays, repeats)
