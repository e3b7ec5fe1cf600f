"""Each layer on arrays, against reference.py in float64, and the errors of wrong arguments and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import layers as L
from fastconv.graph import Value
from fastconv.layers.activations import NAMES
from fastconv.layers.base import Scope, inner_axis, inner_shape, outer_shape
from fastconv.models import Model
from tests import reference as ref

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 9, 7, 6)).astype(np.float32)


def run(layer: L.Layer, *arrays: np.ndarray, free: bool = False) -> np.ndarray:
    """The layer's output; the shape that it announced must be the one that came. free: unknown height and width."""
    inputs = [L.Input(shape=(None, None, a.shape[-1]) if free and a.ndim == 4 else a.shape[1:]) for a in arrays]
    y = layer(inputs if len(inputs) > 1 else inputs[0])
    for v in layer.weights:
        v.assign(RNG.uniform(0.5, 1.5, v.shape) if v.statistic else RNG.standard_normal(v.shape))
    out = Model(inputs, y).predict(list(arrays) if len(arrays) > 1 else arrays[0])
    assert all(d in (None, got) for d, got in zip(y.shape, out.shape, strict=True))
    if not free:
        assert y.shape[1:] == out.shape[1:]
    return out


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(want).max())))


def same(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """SAME as TensorFlow documents it."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


PADDINGS: list[Any] = ["valid", "same", 1, (2, 1), ((0, 1), (2, 0))]


def pads_of(padding: Any, kernel: tuple[int, int], strides: tuple[int, int], dilation: int = 1) -> ref.Pads:
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        (top, bottom), (left, right) = (same(s, kernel[i], strides[i], dilation) for i, s in enumerate(X.shape[1:3]))
    elif isinstance(padding, int):
        top = bottom = left = right = padding
    elif isinstance(padding[0], int):
        (top, left), (bottom, right) = padding, padding
    else:
        (top, bottom), (left, right) = padding
    return top, left, bottom, right


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize(("kernel", "strides", "dilation", "groups"), [
    ((3, 3), (1, 1), 1, 1), ((1, 1), (1, 1), 1, 1), ((3, 2), (2, 3), 1, 1), ((2, 2), (1, 1), 2, 1),
    ((3, 3), (2, 2), 1, 3),
])  # fmt: skip
def test_conv2d(kernel: Any, strides: Any, dilation: int, groups: int, padding: Any) -> None:
    layer = L.Conv2D(12, kernel, strides, padding, dilation_rate=dilation, groups=groups, activation="relu")
    got = run(layer, X)
    w, b = layer.get_weights()
    assert w.shape == (*kernel, 6 // groups, 12) and b.shape == (12,)
    want = ref.conv2d(
        X, w.transpose(3, 2, 0, 1), b, strides=strides, dilations=(dilation, dilation), groups=groups,
        pads=pads_of(padding, kernel, strides, dilation),
    )  # fmt: skip
    close(got, np.maximum(want, 0))


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_depthwise_and_separable(padding: str, multiplier: int) -> None:
    layer = L.DepthwiseConv2D(3, 2, padding, depth_multiplier=multiplier)
    got = run(layer, X)
    w, b = layer.get_weights()
    assert w.shape == (3, 3, 6, multiplier)
    graph = w.transpose(2, 3, 0, 1).reshape(6 * multiplier, 1, 3, 3)
    pads = pads_of(padding, (3, 3), (2, 2))
    close(got, ref.depthwise_conv2d(X, graph, b, strides=(2, 2), pads=pads))

    separable = L.SeparableConv2D(5, 3, 2, padding, depth_multiplier=multiplier, activation="tanh")
    got = run(separable, X)
    d, p, b = separable.get_weights()
    inner = ref.depthwise_conv2d(X, d.transpose(2, 3, 0, 1).reshape(graph.shape), strides=(2, 2), pads=pads)
    close(got, np.tanh(inner @ p[0, 0].astype(np.float64) + b))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", ["valid", "same", 1])
@pytest.mark.parametrize(("size", "strides"), [(2, None), (3, 2), ((2, 3), (1, 2))])
def test_pooling(size: Any, strides: Any, padding: Any, ceil_mode: bool) -> None:
    kernel = (size, size) if isinstance(size, int) else size
    steps = kernel if strides is None else (strides, strides) if isinstance(strides, int) else strides
    pads = pads_of(padding, kernel, steps)
    out = tuple(
        ref.pool_output(X.shape[1 + i], kernel[i], steps[i], 1, pads[i], pads[i + 2], ceil_mode) for i in (0, 1)
    )
    geometry: Any = dict(strides=steps, pads=pads)
    got = run(L.MaxPooling2D(size, strides, padding, ceil_mode=ceil_mode), X)
    close(got, ref.max_pool2d(X, kernel, (out[0], out[1]), **geometry))
    for count in (False, True):
        got = run(L.AveragePooling2D(size, strides, padding, ceil_mode=ceil_mode, count_include_pad=count), X)
        close(got, ref.avg_pool2d(X, kernel, (out[0], out[1]), count_include_pad=count, **geometry))


@pytest.mark.parametrize("free", [False, True])
def test_global_pooling(free: bool) -> None:
    close(run(L.GlobalAveragePooling2D(), X, free=free), X.mean((1, 2)))
    close(run(L.GlobalMaxPooling2D(), X, free=free), X.max((1, 2)))
    close(run(L.GlobalMaxPooling2D(keepdims=True), X, free=free), X.max((1, 2), keepdims=True))


@pytest.mark.parametrize("shape", [(2, 6), (2, 9, 7, 6)])
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False), (False, False)])
def test_batch_normalization(shape: tuple[int, ...], center: bool, scale: bool) -> None:
    x = X.reshape(-1)[: int(np.prod(shape))].reshape(shape)
    layer = L.BatchNormalization(epsilon=0.01, center=center, scale=scale)
    got = run(layer, x)
    names = [v.name for v in layer.weights]
    assert names == ["gamma"] * scale + ["beta"] * center + ["moving_mean", "moving_variance"]
    w = dict(zip(names, layer.get_weights(), strict=True))
    want = (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 0.01)
    close(got, want * w.get("gamma", np.float32(1)) + w.get("beta", np.float32(0)))
    assert layer.count_params() == 6 * (center + scale)
    assert [v.name for v in layer.trainable_weights] == names[:-2]


def test_local_response_normalization() -> None:
    close(run(L.LocalResponseNormalization(3, 0.3, 0.6, 1.5), X), ref.lrn(X, 3, 0.3, 0.6, 1.5))


def test_dense() -> None:
    layer = L.Dense(5, activation="sigmoid")
    got = run(layer, X[:, 0, 0])
    w, b = layer.get_weights()
    assert w.shape == (6, 5)
    close(got, ref.unary(X[:, 0, 0] @ w.astype(np.float64) + b, "sigmoid"))
    layer = L.Dense(4, use_bias=False)
    close(run(layer, X), X @ layer.get_weights()[0].astype(np.float64))  # along the channels of an image


def test_flatten_reads_height_width_channels() -> None:
    close(run(L.Flatten(), X), X.reshape(2, -1))
    close(run(L.Reshape((7, 9, 6)), X), X.reshape(2, 7, 9, 6))
    close(run(L.Reshape((-1, 6)), X), X.reshape(2, 63, 6))
    close(run(L.Reshape((3, 2, 1)), X[:, 0, 0]), X[:, 0, 0].reshape(2, 3, 2, 1))
    close(run(L.Permute((3, 1, 2)), X), X.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_activations(name: str) -> None:
    exact = {
        "linear": X, "relu": np.maximum(X, 0), "relu6": np.clip(2 * X, 0, 6), "exponential": np.exp(X),
        "elu": ref.unary(X, "elu", 1.0), "selu": ref.unary(X, "selu", 1.6732632423543772, 1.0507009873554805),
        "leaky_relu": np.where(X < 0, 0.2 * X, X), "hard_sigmoid": np.clip(X + 3, 0, 6) / 6,
        "hard_swish": X * np.clip(X + 3, 0, 6) / 6, "hard_silu": X * np.clip(X + 3, 0, 6) / 6,
        "swish": ref.unary(X, "swish"), "silu": ref.unary(X, "swish"), "softmax": ref.softmax(X, -1),
        "log_softmax": ref.softmax(X, -1, log=True),
    }  # fmt: skip
    x = 2 * X if name == "relu6" else X
    close(run(L.Activation(name), x), exact[name] if name in exact else ref.unary(X, name))


def test_activation_layers() -> None:
    close(run(L.ReLU(), X), np.maximum(X, 0))
    close(run(L.ReLU(max_value=0.5), X), np.clip(X, 0, 0.5))
    close(run(L.LeakyReLU(), X), np.where(X < 0, 0.3 * X, X))
    close(run(L.Softmax(), X[:, 0, 0]), ref.softmax(X[:, 0, 0], -1))
    close(run(L.Dropout(0.5), X), X)


def test_padding_cropping_scaling() -> None:
    pads = ((1, 2), (0, 3))
    close(run(L.ZeroPadding2D(pads), X), ref.pad(X, ((0, 0), *pads, (0, 0))))
    close(run(L.Cropping2D(((1, 2), (0, 3))), X), X[:, 1:-2, :-3])
    close(run(L.Rescaling(1 / 3, 0.25), X), X / 3 + 0.25)
    factors = np.arange(1, 7)
    close(run(L.Rescaling(factors, -factors), X), X * factors - factors)
    close(run(L.Normalization(mean=factors, variance=factors**2), X), (X - factors) / factors)


@pytest.mark.parametrize("free", [False, True])
def test_merging(free: bool) -> None:
    y, gate = X[::-1].copy(), X[:, :1, :1].copy()
    close(run(L.Add(), X, y, free=free), X + y)
    close(run(L.Add(), X, y, X, free=free), 2 * X + y)
    close(run(L.Subtract(), X, y, free=free), X - y)
    close(run(L.Multiply(), X, gate), X * gate)
    close(run(L.Maximum(), X, y, free=free), np.maximum(X, y))
    close(run(L.Minimum(), X, y, free=free), np.minimum(X, y))
    close(run(L.Average(), X, y, X, free=free), (2 * X + y) / 3)
    close(run(L.Concatenate(), X, y[..., :2], free=free), np.concatenate([X, y[..., :2]], -1))
    close(run(L.Concatenate(axis=1), X, y), np.concatenate([X, y], 1))
    close(run(L.Concatenate(axis=2), X, y), np.concatenate([X, y], 2))


def test_axes_and_shapes() -> None:
    assert inner_shape((2, 9, 7, 6)) == (2, 6, 9, 7) and inner_shape((2, 5)) == (2, 5)
    assert outer_shape(Value("v", (2, 6, 9, 7))) == (2, 9, 7, 6)
    assert [inner_axis(i, 4) for i in (0, 1, 2, 3, -1)] == [0, 2, 3, 1, 1]
    with pytest.raises(ValueError, match="axis 4"):
        inner_axis(4, 4)


# -- first values -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_normal"])
@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (L.Conv2D(64, 3, kernel_initializer="zeros"), 9 * 32, 9 * 64),
        (L.Dense(64, kernel_initializer="zeros"), 32, 64),
    ],
)
def test_initializers(layer: Any, fan_in: int, fan_out: int, name: str) -> None:
    L.set_random_seed(5)
    make = L.Conv2D if isinstance(layer, L.Conv2D) else L.Dense
    own: Any = make(64, *((3,) if make is L.Conv2D else ()), kernel_initializer=name)
    own(L.Input(shape=(8, 8, 32) if make is L.Conv2D else (32,)))
    kernel = own.get_weights()[0]
    variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[name.split("_")[0]]
    assert abs(kernel.mean()) < 4 * np.sqrt(variance / kernel.size)
    assert kernel.var() == pytest.approx(variance, rel=0.1)
    limit = np.sqrt(3 * variance) if name.endswith("uniform") else 2 * np.sqrt(variance) / 0.8796
    assert np.abs(kernel).max() <= limit * 1.0001
    assert (own.get_weights()[1] == 0).all()


def test_the_seed_decides_whenever_values_are_drawn() -> None:
    def kernels(late: bool) -> list[np.ndarray]:
        L.set_random_seed(9)
        made = [L.Dense(3), L.Dense(3)]
        for layer in made:
            layer(L.Input(shape=(4,)))
        return [la.get_weights()[0] for la in (reversed(made) if late else made)]

    a, b = kernels(False), kernels(True)[::-1]
    assert all((x == y).all() for x, y in zip(a, b, strict=True)) and not (a[0] == a[1]).any()


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: L.Conv2D(0, 3), "filters=0"),
        (lambda: L.Conv2D(6, 3, groups=4), "groups=4"),
        (lambda: L.Conv2D(6, (3, 3, 3)), "kernel_size"),
        (lambda: L.Conv2D(6, 3, padding="full"), "padding='full'"),
        (lambda: L.Conv2D(6, 3, padding=-1), "padding=-1"),
        (lambda: L.Conv2D(6, 3, activation="rely"), "activation 'rely'"),
        (lambda: L.Conv2D(6, 3, kernel_initializer="random"), "initializer 'random'"),
        (lambda: L.Conv2D(6, 3, data_format="channels_first"), "channels_last"),
        (lambda: L.MaxPooling2D(2, padding=2), "less than the window"),
        (lambda: L.Dense(0), "units=0"),
        (lambda: L.Dropout(1.0), r"rate=1\.0"),
        (lambda: L.BatchNormalization(epsilon=0), "epsilon"),
        (lambda: L.Input(), "a shape is missing"),
        (lambda: L.Input(shape=(0, 3)), "positive sizes"),
        (lambda: L.Input(shape=(3,), dtype="int32"), "dtype='int32'"),
        (lambda: L.Dense(3, name=""), "name"),
        (lambda: L.Conv2D(True, 3), "filters=True"),
        (lambda: L.Conv2D(3.0, 3), r"filters=3\.0"),
        (lambda: L.Conv2D(3, None), "kernel_size=None"),
        (lambda: L.Conv2D(3, 3, padding=None), "padding=None"),
        (lambda: L.Conv2D(3, 3, padding=1.5), r"padding=1\.5"),
        (lambda: L.Conv2D(3, 3, padding=((1, 2), (3,))), "padding="),
        (lambda: L.DepthwiseConv2D(3, depth_multiplier=(1, 2)), "depth_multiplier"),
        (lambda: L.SeparableConv2D((3, 4), 3), "filters"),
        (lambda: L.Input(shape=5), "shape=5"),
        (lambda: L.Input("5"), "shape='5'"),
    ],
)
def test_wrong_arguments(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("layer", "shapes", "text"),
    [
        (L.Conv2D(3, 3), [(5,)], r"expected an input \[N, H, W, C\]"),
        (L.Conv2D(3, 9), [(8, 20, 3)], "larger than its padded input of 8"),
        (L.Conv2D(4, 1, groups=2), [(8, 8, 3)], "do not divide"),
        (L.Conv2D(4, 1), [(8, 8, None)], "channels must be known"),
        (L.Dense(4), [(None,)], "must be known"),
        (L.Add(), [(3,), (4,)], "do not fit along axis 1"),
        (L.Add(), [(3,)], "at least 2"),
        (L.Concatenate(), [(3, 3, 1), (4, 3, 1)], "differ along axis 1"),
        (L.Reshape((5,)), [(4,)], "cannot become"),
        (L.Cropping2D(2), [(4, 4, 1)], "nothing is left"),
        (L.Rescaling([1, 2]), [(4, 4, 3)], "do not fit"),
        (L.BatchNormalization(axis=1), [(4, 4, 3)], "last axis"),
    ],
)
def test_wrong_shapes(layer: L.Layer, shapes: list[Any], text: str) -> None:
    inputs = [L.Input(shape=s) for s in shapes]
    with pytest.raises(ValueError, match=text) as error:
        layer(inputs if len(inputs) > 1 else inputs[0])
    assert layer.name in str(error.value)


def test_numbers_of_numpy() -> None:
    layer = L.Conv2D(np.int64(4), (np.int32(3), 2), strides=np.int64(2), padding=np.int64(1))  # type: ignore[arg-type]
    assert layer(L.Input(shape=(9, 7, 6))).shape == (None, 5, 4, 4)
    assert isinstance(layer.filters, int) and layer.kernel is not None
    np.testing.assert_array_equal(np.array(layer.kernel), layer.kernel.numpy())
    assert np.asarray(layer.kernel, np.float64).dtype == np.float64


def test_weights_that_do_not_fit() -> None:
    layer = L.Dense(3)
    with pytest.raises(ValueError, match="no weights yet"):
        layer.count_params()
    layer(L.Input(shape=(4,)))
    with pytest.raises(ValueError, match="has 2 weights, got 1"):
        layer.set_weights([np.zeros((4, 3))])
    with pytest.raises(ValueError, match=r"expected shape \(4, 3\), got \(3, 4\)"):
        layer.set_weights([np.zeros((3, 4)), np.zeros(3)])
    before = layer.get_weights()
    with pytest.raises(ValueError, match="could not convert"):
        layer.set_weights([np.ones((4, 3)), np.array(["a", "b", "c"])])
    np.testing.assert_array_equal(layer.get_weights()[0], before[0])
    with pytest.raises(ValueError, match="symbolic tensors"):
        layer(np.zeros((1, 4)))  # type: ignore[arg-type]
    other = L.Dense(3)
    other(L.Input(shape=(4,)))
    with pytest.raises(ValueError, match="expected 4 numbers"):
        other(L.Input(shape=(5,)))


def test_a_layer_says_what_it_computes() -> None:
    class Nothing(L.Layer):
        pass

    with pytest.raises(TypeError, match=r"abstract .*emit"):
        Nothing()  # type: ignore[abstract]


def test_a_layer_of_ones_own() -> None:
    class Square(L.Layer):
        def emit(self, scope: Scope, *inputs: Value) -> Value:
            return scope.add("Mul", [inputs[0], inputs[0]], inputs[0].shape)

    x = np.random.default_rng(0).random((2, 5, 4, 3), np.float32)
    given = L.Input(shape=(None, None, 3))
    np.testing.assert_allclose(Model(given, Square(name="sq")(given)).predict(x), x * x, rtol=1e-6)
