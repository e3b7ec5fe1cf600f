"""Batches in parts: which networks keep images apart, and that nothing depends on how a batch is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import fastconv
from fastconv import _core, batches
from fastconv.batches import images_at_once
from fastconv.isa import isa_levels
from fastconv.target import Target

from .models.builder import Builder
from .models.nets import NETS, inputs, serialized
from .small import F32, images, network, same_bits


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two images where a network allows it, however small it is."""
    monkeypatch.setattr(batches, "FLOATS", 0)
    monkeypatch.setattr(batches, "SHARE", 0.0)


def parts_of(model: fastconv.Model, *shapes: tuple[int, ...]) -> int:
    return int(model.compile(*shapes).parts)


def close(got: F32, want: F32) -> bool:
    return got.shape == want.shape and bool(np.abs(got - want).max() <= 1e-5 * max(1e-3, np.abs(want).max()))


# -- networks that keep images apart ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, small_parts: None) -> None:
    feed = inputs(onnx.load_from_string(serialized(name)), 6)
    model = fastconv.load(serialized(name), threads=1)
    got = model.run(None, feed)
    assert parts_of(model, *(x.shape for x in feed.values())) == 3
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
def test_the_cut_follows_from_the_shape(isa: str, small_parts: None) -> None:
    model = fastconv.load(network(), threads=2, _isa=isa)
    want = np.concatenate([model(images(1, seed=i))[0] for i in range(12)])
    for batch, parts in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 1), (6, 3), (9, 3), (12, 6)):
        x = np.concatenate([images(1, seed=i) for i in range(batch)])
        assert parts_of(model, x.shape) == parts
        for _ in range(2):
            assert close(model(x)[0], want[:batch])


def test_sizes() -> None:
    """Of networks in full size: what each part reads anew is worth it, or the batch stays whole."""
    from fastconv import applications
    from fastconv.models.source import LayerSource

    def cut(build: Callable[..., Any], batches_: Sequence[int], *image: int) -> list[int]:
        source = LayerSource(build(weights=None))
        return [images_at_once(source.build({i.name: (n, *image) for i in source.inputs})) for n in batches_]

    assert cut(applications.ResNet50, (1, 2, 3, 4, 7, 8, 9), 224, 224, 3) == [0, 0, 0, 2, 0, 2, 3]
    assert cut(applications.GoogLeNet, (8, 16), 224, 224, 3) == [2, 2]
    assert cut(applications.VGG16, (8, 16, 32), 224, 224, 3) == [0, 0, 0]
    assert cut(applications.LeNet5, (8, 64), 32, 32, 1) == [0, 0]


def test_layers(small_parts: None) -> None:
    """A network of layers, whose images are channels-last and whose weights change."""
    from fastconv.layers import Conv2D, Dense, Flatten, Input
    from fastconv.models import Model

    image = Input((6, 6, 3))
    model = Model(image, Dense(4)(Flatten()(Conv2D(5, 3, activation="relu")(image))))
    x = np.random.default_rng(0).standard_normal((8, 6, 6, 3), np.float32)
    for _ in range(2):
        together = model.predict(x, batch_size=8, verbose=0)
        assert close(together, np.concatenate([model.predict(x[i : i + 1], verbose=0) for i in range(8)]))
        assert model._runtime is not None and parts_of(model._runtime, x.shape) == 4
        model.set_weights([w + 0.1 for w in model.get_weights()])


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
def test_images_that_meet_stay_together(kind: str, small_parts: None) -> None:
    data = mixing(kind).SerializeToString()
    x = np.random.default_rng(1).standard_normal((4, 4, 5, 5), np.float32)
    model = fastconv.load(data)
    want = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    assert close(np.asarray(model(x), np.float32), np.asarray(want, np.float32))
    assert parts_of(model, x.shape) == 1


def test_a_batch_that_the_file_fixes(small_parts: None) -> None:
    model = onnx.load_from_string(network())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed = fastconv.load(model.SerializeToString())
    x = images(4)
    assert parts_of(fixed, x.shape) == 1
    assert close(fixed(x)[0], np.concatenate([fastconv.load(network())(x[i : i + 1])[0] for i in range(4)]))


# -- what people see ------------------------------------------------------------------------------------------------
def test_operations_are_told_for_the_whole_batch(small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(8)
    model = fastconv.load(network(), threads=2)
    ops = model.inspect(x.shape)
    assert parts_of(model, x.shape) == 4
    profile = model.profile(x, runs=2)
    assert all(row.ms > 0 for row in profile.rows)
    monkeypatch.setattr(Target, "takes_parts", False)
    entire = fastconv.load(network(), threads=2)
    assert sum(o.flops for o in ops) == sum(o.flops for o in entire.inspect(x.shape))
    assert ops[-1].shape == entire.inspect(x.shape)[-1].shape
    assert all(o.shape[0] == 8 for o in ops)


def test_arrays_are_checked_for_all_parts(small_parts: None) -> None:
    model = fastconv.load(network(), threads=2)
    compiled = model.compile((4, 3, 20, 18))
    arrays = [images(4), *(np.empty(s, np.float32) for _, s in compiled.outputs)]
    executor = _core.Executor(2)
    executor.run(compiled.plan, arrays, 2)
    assert all(same_bits(a, b) for a, b in zip(arrays[1:], model(images(4)), strict=True))
    for parts in (3, 1 << 40):
        with pytest.raises(ValueError, match="too small"):
            executor.run(compiled.plan, arrays, parts)
    for parts in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            executor.run(compiled.plan, arrays, parts)
