"""Graph -> ONNX file: valid, the same output in onnxruntime and here, the batch open, nothing half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fastconv
from fastconv.applications import ResNet18
from fastconv.errors import ModelError, ShapeError, UnsupportedOpError
from fastconv.graph import Graph
from fastconv.layers import (
    Activation,
    AveragePooling2D,
    Conv2D,
    Cropping2D,
    Dense,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    Reshape,
    ZeroPadding2D,
)
from fastconv.layers.activations import NAMES
from fastconv.models import Model, Sequential
from fastconv.onnx import writer
from fastconv.onnx.reader import InputInfo, OutputInfo
from tests.models import nets_formats  # noqa: F401  (adds to NETS)
from tests.models.nets import NETS, inputs, serialized
from tests.models.test_models import TOLERANCE, reference, relative_error


def onnxruntime(path: Path, x: dict[str, Any]) -> list[np.ndarray]:
    return reference(path, x)


@pytest.mark.parametrize("name", NETS)
def test_files_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.onnx"
    model = fastconv.load(serialized(name))
    model.save(path)
    onnx.checker.check_model(path, full_check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["copy.onnx"]
    original, copy = onnx.load_from_string(serialized(name)), fastconv.load(path)
    assert [o.name for o in copy.outputs] == [o.name for o in model.outputs]
    assert [i.name for i in copy.inputs] == [i.name for i in model.inputs]
    for batch in (1, 3):
        x = inputs(original, batch)
        want = reference(serialized(name), x)
        for got in (onnxruntime(path, x), copy.run(None, x)):
            assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("activation", NAMES)
def test_layers_and_their_activations(activation: str, tmp_path: Path) -> None:
    x = Input(shape=(11, 9, 3))
    y = Conv2D(5, 3, padding="same", activation=activation)(x)
    y = MaxPooling2D(3, 2, ceil_mode=True)(ZeroPadding2D(((1, 0), (2, 0)))(y))
    y = AveragePooling2D(2, 1, padding="same")(Cropping2D(((1, 0), (0, 1)))(ReLU(max_value=4)(y)))
    y = Reshape((-1, 5))(y)
    y = Activation(activation)(Dense(4)(y))
    model = Model(x, [Dense(3)(Flatten()(y)), y])
    path = tmp_path / "net.onnx"
    model.save(path)
    image = np.random.default_rng(0).standard_normal((3, 11, 9, 3)).astype(np.float32)
    want = model.predict(image)
    name = fastconv.load(path).inputs[0].name
    for got in (onnxruntime(path, {name: image}), fastconv.load(path)(image)):
        assert max(relative_error(g, w) for g, w in zip(got, want, strict=True)) <= TOLERANCE


def test_layers_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = ResNet18(weights=None, input_shape=(40, 33, 3), seed=1)
    model.save(path)
    file = fastconv.load(path)
    assert {la.name for la in model.layers[1:]} <= {la.name for la in file.layers}
    x = np.random.default_rng(0).standard_normal((2, 40, 33, 3)).astype(np.float32)
    want = Model(model.input, model.get_layer("conv3_block2_out").output).predict(x)
    got = file.features("conv3_block2_out")(x)  # inside of the file N C H W
    assert relative_error(np.ascontiguousarray(got.transpose(0, 2, 3, 1)), want) <= TOLERANCE
    again = fastconv.load(serialized("mobilenet_v2"))
    again.save(path)
    assert [la.name for la in fastconv.load(path).layers] == [la.name for la in again.layers]


def test_free_sizes_need_a_shape(tmp_path: Path) -> None:
    x = Input(shape=(None, None, 3))
    model = Model(x, Conv2D(4, 3)(x))
    with pytest.raises(ShapeError, match="give a shape"):
        model.save(tmp_path / "net.onnx")
    with pytest.raises(ShapeError, match="does not fit"):
        model.save(tmp_path / "net.onnx", shape=(8, 8, 4))
    for shape in ((8, 9, 3), (None, 8, 9, 3)):
        model.save(tmp_path / "net.onnx", shape=shape)
        assert fastconv.load(tmp_path / "net.onnx").inputs[0].shape == ("N", 8, 9, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "EMBEDDED", 1000)
    model = Sequential([Input(shape=(8, 8, 3)), Conv2D(16, 3), Flatten(), Dense(5)])
    path = tmp_path / "net.onnx"
    model.save(path)
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data"]
    onnx.checker.check_model(path, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    got = onnxruntime(path, {fastconv.load(path).inputs[0].name: x})[0]
    assert relative_error(got, model.predict(x)) <= TOLERANCE
    np.testing.assert_allclose(fastconv.load(path)(x), got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embedded", (0, writer.EMBEDDED))
def test_a_write_that_fails_leaves_what_was_there(
    embedded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and alone: also what a killed process has left half written is gone after the next one."""
    monkeypatch.setattr(writer, "EMBEDDED", embedded)
    first, second = (Sequential([Input(shape=(64,)), Dense(64, name="d")]) for _ in range(2))
    path = tmp_path / "net.onnx"
    first.save(path)
    names, want = sorted(os.listdir(tmp_path)), fastconv.load(path)(np.ones((1, 64), np.float32))
    real, seen = writer._bytes, []

    def full(weight: Any) -> Any:
        seen.append(weight)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*net\.onnx"):
        second.save(path)
    assert seen and sorted(os.listdir(tmp_path)) == names
    np.testing.assert_array_equal(fastconv.load(path)(np.ones((1, 64), np.float32)), want)
    monkeypatch.setattr(writer, "_bytes", real)
    (tmp_path / ".net.onnx.part").write_bytes(b"what a killed process has left" * 1000)
    second.save(path)
    assert sorted(os.listdir(tmp_path)) == names
    assert not np.array_equal(fastconv.load(path)(np.ones((1, 64), np.float32)), want)


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    x = Input(shape=(64,))
    layer = Dense(64)
    Model(x, layer(layer(layer(x)))).save(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size < 1.5 * 4 * 64 * 64


@pytest.mark.parametrize("name", ["net", "net.pb", "net.h5"])
def test_other_endings(name: str, tmp_path: Path) -> None:
    model = Sequential([Input(shape=(4,)), Dense(2)])
    for m in (model, fastconv.load(serialized("vgg"))):
        with pytest.raises(ModelError, match=r"\.onnx, \.safetensors(,| or) \.fcplan"):
            m.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


class _HandMade:
    """A source of one operation, on x [3, 8, 4, 6]."""

    name = "hand"
    inputs = (InputInfo("x", ("N", 8, 4, 6), np.dtype(np.float32)),)

    def __init__(self, op: str, constants: list[np.ndarray | None], shape: tuple[int, ...], **attrs: Any) -> None:
        self.op, self.constants, self.shape, self.attrs = op, constants, shape, attrs
        self.dtype = np.dtype(attrs.pop("dtype", np.float32))
        self.outputs = (OutputInfo("y", None, self.dtype),)

    def build(self, shapes: Any) -> Graph:
        g = Graph(self.name)
        x = g.add_input("x", shapes["x"])
        inputs = [x, *(None if c is None else g.constant(c) for c in self.constants)]
        g.outputs.append(g.add(self.op, inputs, (x.shape[0], *self.shape), name="one", dtype=self.dtype, **self.attrs))
        return g


def _normalised(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.01)


I = np.array([0, 0, 3, 2, 1], np.int64)
W = np.array([[0.5, 0.5], [0.25, 0.75], [1, -1]], np.float32)
V8, V6 = np.arange(8, dtype=np.float32), np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        (_HandMade("ReduceMin", [], (8,), axes=(2, 3), keepdims=False), lambda x: x.min((2, 3))),
        (_HandMade("ReduceSum", [], (8, 1, 6), axes=(2,), keepdims=True), lambda x: x.sum(2, keepdims=True)),
        (
            _HandMade("ArgMax", [], (4, 6), axes=(1,), keepdims=False, last=False, dtype=np.int64),
            lambda x: x.argmax(1),
        ),
        (
            _HandMade("LayerNormalization", [V6, None], (8, 4, 6), axis=-1, epsilon=0.01),
            lambda x: _normalised(x, (3,)) * V6,
        ),
        (
            _HandMade("GroupNormalization", [V8, V8 + 1], (8, 4, 6), groups=4, epsilon=0.01),
            lambda x: (
                _normalised(x.reshape(-1, 4, 2, 4, 6), (2, 3, 4)).reshape(x.shape) * V8[:, None, None]
                + V8[:, None, None]
                + 1
            ),
        ),
        (_HandMade("Resample", [I], (8, 5, 6), axis=2, taps=1), lambda x: x[:, :, I]),
        (
            _HandMade("Resample", [np.array([0, 1, 2, 3, 5, 5]), W.reshape(-1)], (8, 4, 3), axis=3, taps=2),
            lambda x: np.stack([x[..., [0, 1]] @ W[0], x[..., [2, 3]] @ W[1], x[..., [5, 5]] @ W[2]], -1),
        ),
        (_HandMade("Sign", [], (8, 4, 6)), np.sign),
        (_HandMade("Less", [V6], (8, 4, 6), dtype=np.bool_), lambda x: x < V6),
    ],
    ids=lambda s: s.op if isinstance(s, _HandMade) else "",
)
def test_operations_one_by_one(source: Any, want: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    writer.write_source(source, path)
    x = np.random.default_rng(0).standard_normal((3, 8, 4, 6)).astype(np.float32)
    (got,) = onnxruntime(path, {"x": x})
    np.testing.assert_allclose(got, want(x), rtol=1e-4, atol=1e-5)


class _Source:
    """A source whose one node is an operation that ONNX files cannot hold."""

    name = "odd"
    inputs = (InputInfo("x", (2, 3), np.dtype(np.float32)),)
    outputs = (OutputInfo("y", (2, 3), np.dtype(np.float32)),)

    def build(self, shapes: Any) -> Graph:
        g = Graph(self.name)
        x = g.add_input("x", shapes["x"])
        g.outputs.append(g.add("Unheard", [x], x.shape, name="first"))
        return g


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(UnsupportedOpError, match="node 'first': Unheard"):
        writer.write_source(_Source(), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.onnx"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Sequential([Input(shape=(4,)), Dense(2)]).save(tmp_path / "nowhere" / "net.onnx")


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    x = Input(shape=(4,), name="x")
    model = Model(x, [x, Dense(2, name="y")(x)])
    model.save(tmp_path / "net.onnx")
    a = np.ones((2, 4), np.float32)
    first, second = onnxruntime(tmp_path / "net.onnx", {"x": a})
    np.testing.assert_array_equal(first, a)
    np.testing.assert_allclose(second, model.predict(a)[1], rtol=1e-5)
