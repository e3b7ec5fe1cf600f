"""fastconv.ops on NCHW arrays, against the definitions in reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv import ShapeError, ops

from . import reference
from .small import F32, same_bits

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(31)


def random(*shape: int) -> F32:
    return RNG.standard_normal(shape, np.float32)


def zeros(n: int) -> F32:
    return np.zeros(n, np.float32)


def nhwc(x: F32) -> F32:
    return x.transpose(0, 2, 3, 1)


def nchw(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x.transpose(0, 3, 1, 2)


def close(got: F32, want: np.ndarray[Any, Any], *, terms: float = 1, scale: float = 1.0) -> None:
    assert got.dtype == np.float32 and got.shape == want.shape and got.flags.c_contiguous
    bound = 4 * EPS * math.sqrt(terms) * np.maximum(np.abs(want), scale)
    np.testing.assert_array_less(np.abs(got - want), bound + 1e-37)


# -- convolution, dense -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_bias", (False, True))
@pytest.mark.parametrize(
    "kw",
    (
        {},
        {"stride": 2, "padding": 1},
        {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
        {"padding": "valid"},
        {"padding": "same"},
        {"padding": "same", "dilation": 2},
        {"padding": (0, 1, 2, 3), "stride": (1, 3)},
        {"groups": 2, "padding": 1},
        {"groups": 4, "padding": 1, "threads": 1},
        {"groups": 4, "stride": 2, "dilation": (2, 1), "threads": 3},
    ),
    ids=str,
)
def test_conv2d(kw: dict[str, Any], with_bias: bool) -> None:
    groups = kw.get("groups", 1)
    for C, K, R, S in ((4, 8, 3, 3), (8, 4, 2, 4), (36, 40, 3, 3)):
        x, w, b = random(2, C, 11, 9), random(K if K % groups == 0 else 8, C // groups, R, S), random(K)
        bias = b if with_bias else None
        dilation, stride, padding = kw.get("dilation", 1), kw.get("stride", 1), kw.get("padding", 0)
        dilations = (dilation,) * 2 if isinstance(dilation, int) else dilation
        strides = (stride,) * 2 if isinstance(stride, int) else stride
        if padding == "same":
            total = [d * (n - 1) for d, n in zip(dilations, (R, S), strict=True)]
            pads = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        elif padding == "valid":
            pads = (0, 0, 0, 0)
        elif isinstance(padding, int):
            pads = (padding,) * 4
        else:
            pads = padding if len(padding) == 4 else (padding * 2)
        want = reference.conv2d(nhwc(x), w, bias, strides=strides, dilations=dilations, pads=pads, groups=groups)
        depth = C // groups * R * S
        close(ops.conv2d(x, w, bias, **kw), nchw(want), terms=4 * depth, scale=math.sqrt(depth) + 1)
        if padding == "same":
            assert want.shape[1:3] == x.shape[2:]


def test_conv2d_of_views() -> None:
    x, w = random(2, 5, 9, 8), random(6, 5, 3, 3)
    want = ops.conv2d(x, w)
    assert same_bits(ops.conv2d(np.asfortranarray(x), w[::-1].copy()[::-1]), want)
    assert same_bits(ops.conv2d(x, w, threads=1), ops.conv2d(x, w, threads=4))


X, W = np.zeros((1, 4, 6, 6), np.float32), np.zeros((8, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: ops.conv2d(X[0], W), "input: expected rank 4"),
        (lambda: ops.conv2d(X, W[0]), "weight: expected rank 4"),
        (lambda: ops.conv2d(X.astype(np.float64), W), "input: expected dtype float32, got float64"),
        (lambda: ops.conv2d(X, W.astype(np.float16)), "weight: expected dtype float32, got float16"),
        (lambda: ops.conv2d(X, W[:, :3]), r"weight: \[8, 3, 3, 3\] with groups=1 does not fit 4"),
        (lambda: ops.conv2d(X, W, groups=0), "groups=0"),
        (lambda: ops.conv2d(X, W, groups=3), "groups=3"),
        (lambda: ops.conv2d(X, W, groups=-4), "groups=-4"),
        (lambda: ops.conv2d(X, W, np.zeros(7, np.float32)), r"bias: expected \[8\], got \[7\]"),
        (lambda: ops.conv2d(X, W, np.zeros((8, 1), np.float32)), "bias: expected rank 1"),
        (lambda: ops.conv2d(X, W, stride=0), "stride"),
        (lambda: ops.conv2d(X, W, stride=(1, 2, 3)), "stride"),
        (lambda: ops.conv2d(X, W, stride=1.5), "stride"),
        (lambda: ops.conv2d(X, W, dilation=(1, -1)), "dilation"),
        (lambda: ops.conv2d(X, W, dilation=3), "larger than the padded 6x6 input"),
        (lambda: ops.conv2d(X[:, :, :2], W), "larger than the padded 2x6 input"),
        (lambda: ops.conv2d(X, W, padding=-1), "padding"),
        (lambda: ops.conv2d(X, W, padding=(0, 0, -1, 0)), "padding"),
        (lambda: ops.conv2d(X, W, padding="full"), "padding"),
        (lambda: ops.conv2d(X, W, padding="same", stride=2), "stride 1"),
        (lambda: ops.conv2d(X, W[:, :, :0]), "filter"),
        (lambda: ops.conv2d(X[:, :0], W[:, :0]), "input: expected a pixel and a channel"),
        (lambda: ops.conv2d(X[:, :, :0], W[:, :, :1], padding=1), "input: expected a pixel and a channel"),
        (lambda: ops.linear(X[..., :0], np.zeros((3, 0), np.float32)), "weight: expected a column"),
        (lambda: ops.max_pool2d(X[:, :, :0], 2, padding=1), "smaller than"),
        (lambda: ops.adaptive_avg_pool2d(X[..., :0]), "input: expected a pixel"),
        (lambda: ops.linear(X, np.zeros((3, 5), np.float32)), "input: expected 5 elements in the last axis"),
        (lambda: ops.linear(np.float32(1), np.zeros((3, 1), np.float32)), "input"),
        (lambda: ops.linear(X, W), "weight: expected rank 2"),
        (lambda: ops.linear(X, np.zeros((3, 6), np.float32), np.zeros(4, np.float32)), r"bias: expected \[3\]"),
        (lambda: ops.max_pool2d(X[0], 2), "input: expected rank 4"),
        (lambda: ops.max_pool2d(X, 0), "kernel_size"),
        (lambda: ops.max_pool2d(X, 2, stride=0), "stride"),
        (lambda: ops.max_pool2d(X, 2, padding=2), "padding: at most half"),
        (lambda: ops.max_pool2d(X, 7), "smaller than"),
        (lambda: ops.max_pool2d(X, 3, dilation=3), "smaller than"),
        (lambda: ops.avg_pool2d(X, (7, 1)), "smaller than"),
        (lambda: ops.avg_pool2d(X, (2, 2, 2)), "kernel_size"),
        (lambda: ops.adaptive_avg_pool2d(X, 2), "output_size"),
        (lambda: ops.adaptive_avg_pool2d(X[0]), "input: expected rank 4"),
        (lambda: ops.relu(np.zeros(3, np.int64)), "input: expected dtype float32, got int64"),
        (lambda: ops.gelu(X, approximate="erf"), "approximate"),
        (lambda: ops.softmax(X, 4), "dim: 4 is out of range"),
        (lambda: ops.softmax(X, -5), "dim: -5 is out of range"),
        (lambda: ops.add(X, np.zeros(5, np.float32)), "other: .* does not broadcast"),
        (lambda: ops.mul(X, 2.0), "other: expected dtype float32, got float64"),
        (lambda: ops.batch_norm(X[0, 0, 0], zeros(6), zeros(6)), "input: expected at least rank 2"),
        (lambda: ops.batch_norm(X, zeros(3), zeros(4)), r"running_mean: expected \[4\], got \[3\]"),
        (lambda: ops.batch_norm(X, zeros(4), zeros(5)), r"running_var: expected \[4\], got \[5\]"),
        (lambda: ops.local_response_norm(X, 0), "size"),
        (lambda: ops.local_response_norm(X[0], 5), "input: expected rank 4"),
    ),
)  # fmt: skip
def test_errors(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        call()


@pytest.mark.parametrize("shape", ((1, 7), (5, 7), (2, 3, 7), (7,), (0, 7), (2, 1, 4, 7)))
@pytest.mark.parametrize("with_bias", (False, True))
def test_linear(shape: tuple[int, ...], with_bias: bool) -> None:
    x, w, b = random(*shape), random(19, 7), random(19)
    bias = b if with_bias else None
    want = reference.linear(x.reshape(-1, 7), w, bias).reshape(*shape[:-1], 19)
    close(ops.linear(x, w, bias), want, terms=7, scale=4.0)


# -- pooling ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kernel", "kw"),
    (
        (2, {}),
        (3, {"stride": 2, "padding": 1}),
        (3, {"stride": 2, "padding": 1, "ceil_mode": True}),
        (2, {"ceil_mode": True}),
        ((3, 2), {"stride": (1, 2), "padding": (1, 0)}),
        ((1, 5), {"stride": 3, "padding": (0, 2), "ceil_mode": True}),
        (11, {"padding": 5}),
    ),
    ids=str,
)
@pytest.mark.parametrize("name", ("max", "avg", "avg-pixels", "max-dilated"))
def test_pools(kernel: Any, kw: dict[str, Any], name: str) -> None:
    x = random(2, 5, 11, 10) - np.float32(2)

    def pair(v: Any) -> tuple[int, int]:
        return (v, v) if isinstance(v, int) else v

    if name == "max-dilated" and kernel == 11:
        kernel = 3
        kw = {"padding": 1}
    size, pads = pair(kernel), pair(kw.get("padding", 0))
    strides, dilations = pair(kw.get("stride", kernel)), (2, 2) if name == "max-dilated" else (1, 1)
    out = tuple(
        reference.pool_output(n, k, s, d, p, p, kw.get("ceil_mode", False))
        for n, k, s, d, p in zip(x.shape[2:], size, strides, dilations, pads, strict=True)
    )
    args: dict[str, Any] = {"strides": strides, "pads": pads * 2}
    if name.startswith("max"):
        want = reference.max_pool2d(nhwc(x), size, out, dilations=dilations, **args)  # type: ignore[arg-type]
        dilated = {"dilation": 2} if name == "max-dilated" else {}
        np.testing.assert_array_equal(ops.max_pool2d(x, kernel, **kw, **dilated), nchw(want))
    else:
        counting = name == "avg"
        want = reference.avg_pool2d(nhwc(x), size, out, count_include_pad=counting, **args)  # type: ignore[arg-type]
        close(
            ops.avg_pool2d(x, kernel, **kw, count_include_pad=counting), nchw(want), terms=size[0] * size[1], scale=2.0
        )


def test_adaptive_avg_pool2d() -> None:
    x = random(3, 21, 7, 9)
    want = x.astype(np.float64).mean((2, 3), keepdims=True)
    for output_size in (1, (1, 1)):
        close(ops.adaptive_avg_pool2d(x, output_size), want, terms=9)
    close(ops.adaptive_avg_pool2d(x), want, terms=9)


# -- element by element -------------------------------------------------------------------------------------------
UNARY: dict[str, tuple[Callable[..., F32], tuple[str, float, float]]] = {
    "relu": (ops.relu, ("clip", 0, np.inf)),
    "relu6": (ops.relu6, ("clip", 0, 6)),
    "hardtanh": (ops.hardtanh, ("clip", -1, 1)),
    "hardtanh-range": (lambda x: ops.hardtanh(x, -0.5, 2.0), ("clip", -0.5, 2)),
    "leaky_relu": (ops.leaky_relu, ("leaky_relu", 0.01, 0)),
    "leaky_relu-slope": (lambda x: ops.leaky_relu(x, 0.3), ("leaky_relu", 0.3, 0)),
    "elu": (ops.elu, ("elu", 1, 0)),
    "elu-alpha": (lambda x: ops.elu(x, 0.4), ("elu", 0.4, 0)),
    "sigmoid": (ops.sigmoid, ("sigmoid", 0, 0)),
    "hardsigmoid": (ops.hardsigmoid, ("hard_sigmoid", 1 / 6, 0.5)),
    "hardswish": (ops.hardswish, ("hard_swish", 0, 0)),
    "silu": (ops.silu, ("swish", 0, 0)),
    "tanh": (ops.tanh, ("tanh", 0, 0)),
    "gelu": (ops.gelu, ("gelu", 0, 0)),
    "gelu-tanh": (lambda x: ops.gelu(x, "tanh"), ("gelu_tanh", 0, 0)),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    call, spec = UNARY[name]
    for shape in ((), (1,), (37,), (3, 5), (2, 3, 4), (2, 3, 5, 7), (1, 2, 3, 2, 5), (0, 3), (2, 3, 0)):
        x = np.asarray(3 * random(*shape), np.float32)
        kept = x.copy()
        close(call(x), np.asarray(reference.unary(x, *spec)))
        assert same_bits(x, kept)


@pytest.mark.parametrize("shape", ((9,), (3, 5), (4, 17, 3), (2, 3, 5, 7), (1, 6, 1, 1)))
def test_softmax(shape: tuple[int, ...]) -> None:
    x = 10 * random(*shape)
    for dim in range(-len(shape), len(shape)):
        close(ops.softmax(x, dim), reference.softmax(x, dim), terms=shape[dim])
        close(ops.log_softmax(x, dim), reference.softmax(x, dim, log=True), terms=shape[dim], scale=20.0)


@pytest.mark.parametrize(
    ("a", "b"),
    (
        ((2, 3, 5, 7), (2, 3, 5, 7)), ((2, 3, 5, 7), (3, 1, 1)), ((2, 3, 5, 7), (1,)), ((2, 3, 5, 7), ()),
        ((1, 3, 1, 1), (2, 3, 5, 7)), ((2, 1, 5, 1), (1, 3, 1, 7)), ((7,), (5, 7)), ((4, 0), (4, 1)), ((), ()),
    ),
)  # fmt: skip
def test_add_and_mul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = np.asarray(random(*a), np.float32), np.asarray(random(*b), np.float32)
    for got, want in ((ops.add(x, y), x + y), (ops.mul(x, y), x * y)):
        assert got.shape == np.shape(want)
        np.testing.assert_array_equal(got, want)


# -- normalisation ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", ((3, 6), (2, 6, 5), (2, 6, 5, 7), (2, 19, 4, 3)))
@pytest.mark.parametrize("given", ("none", "weight", "bias", "both"))
def test_batch_norm(shape: tuple[int, ...], given: str) -> None:
    x, C = random(*shape), shape[1]
    mean, var = random(C), RNG.uniform(0.5, 2, C).astype(np.float32)
    w = random(C) if given in ("weight", "both") else None
    b = random(C) if given in ("bias", "both") else None
    for eps in (1e-5, 0.1):
        column = (1, C) + (1,) * (len(shape) - 2)
        want = (x.astype(np.float64) - mean.reshape(column)) / np.sqrt(var.reshape(column).astype(np.float64) + eps)
        want = want * (1 if w is None else w.reshape(column)) + (0 if b is None else b.reshape(column))
        close(ops.batch_norm(x, mean, var, w, b, eps), want, scale=4.0)


@pytest.mark.parametrize("size", (1, 2, 5, 9))
def test_local_response_norm(size: int) -> None:
    x = 2 * random(2, 7, 4, 5)
    for kw in ({}, {"alpha": 0.5, "beta": 0.6, "k": 2.0}):
        defaults = {"alpha": 1e-4, "beta": 0.75, "k": 1.0, **kw}
        square, want = x.astype(np.float64) ** 2, np.empty(x.shape)
        for c in range(7):  # torch: size // 2 channels below, (size - 1) // 2 above
            near = square[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1].sum(axis=1)
            want[:, c] = x[:, c] / (defaults["k"] + defaults["alpha"] / size * near) ** defaults["beta"]
        close(ops.local_response_norm(x, size, **kw), want, terms=9)


# -- all of them --------------------------------------------------------------------------------------------------
def calls() -> dict[str, Callable[[int | None], F32]]:
    x, w, c = random(2, 6, 9, 8), random(12, 6, 3, 3), np.abs(random(6)) + 1
    table: dict[str, Callable[[int | None], F32]] = {
        "conv2d": lambda t: ops.conv2d(x, w, padding=1, threads=t),
        "linear": lambda t: ops.linear(x, random(5, 8), threads=t),
        "max_pool2d": lambda t: ops.max_pool2d(x, 2, threads=t),
        "avg_pool2d": lambda t: ops.avg_pool2d(x, 2, threads=t),
        "adaptive_avg_pool2d": lambda t: ops.adaptive_avg_pool2d(x, threads=t),
        "softmax": lambda t: ops.softmax(x, 1, threads=t),
        "log_softmax": lambda t: ops.log_softmax(x, 1, threads=t),
        "add": lambda t: ops.add(x, x, threads=t),
        "mul": lambda t: ops.mul(x, x, threads=t),
        "batch_norm": lambda t: ops.batch_norm(x, c, c, threads=t),
        "local_response_norm": lambda t: ops.local_response_norm(x, 5, threads=t),
    }
    for name in (
        "relu",
        "relu6",
        "hardtanh",
        "leaky_relu",
        "elu",
        "sigmoid",
        "hardsigmoid",
        "hardswish",
        "silu",
        "tanh",
        "gelu",
    ):
        function = getattr(ops, name)
        table[name] = lambda t, f=function: f(x, threads=t)
    return table


def test_no_function_is_forgotten() -> None:
    public = {n for n, v in vars(ops).items() if callable(v) and v.__module__ == ops.__name__ and not n.startswith("_")}
    assert public == set(calls())


@pytest.mark.parametrize("name", calls())
def test_threads(name: str) -> None:
    call = calls()[name]
    assert call(1).dtype == np.float32
    for threads in (0, -3, True, 1.5, "2"):
        with pytest.raises(ValueError, match="threads"):
            call(threads)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    (
        lambda x: ops.conv2d(x, np.ones((4, 3, 3, 3), np.float32)),
        lambda x: ops.max_pool2d(x, 2),
        lambda x: ops.avg_pool2d(x, 2),
        lambda x: ops.adaptive_avg_pool2d(x),
        lambda x: ops.softmax(x, 1),
        lambda x: ops.add(x, x),
        lambda x: ops.batch_norm(x, *[np.ones(3, np.float32)] * 2),
        lambda x: ops.local_response_norm(x, 3),
    ),
)
def test_empty_batch(call: Callable[[F32], F32]) -> None:
    full, empty = np.ones((2, 3, 6, 8), np.float32), np.ones((0, 3, 6, 8), np.float32)
    assert call(empty).shape == (0, *call(full).shape[1:])
