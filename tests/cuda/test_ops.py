"""Everything that is no convolution, against reference.py and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference
from tests.kernels.guard import dense
from tests.kernels.weighted import ACTIVATIONS, activation

from .single import PRECISIONS, close, constant, random, rounded, run, target

LOOSE = {"exp", "log", "tanh", "erf", "gelu", "gelu_tanh", "mish", "softplus", "selu", "elu"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unary(precision: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 60), [0.0, -0.0, 0.5, 1.5, -0.5, -2.5, 20, -20, 3e-5]]).astype(np.float32)
    x = np.resize(rounded(x, precision), (3, 24))
    names = [*ACTIVATIONS, "trunc", "round", "sign", "round_half"]
    for name in names:
        func, alpha, beta = ACTIVATIONS.get(name, (name, 0.0, 0.0))
        act = _core.Activation(func=getattr(_core.Func, func), alpha=alpha, beta=beta)
        for x_gap, y_gap in ((0, 0), (8, 16), (1, 3)):
            xs, ys = (24 + x_gap, 1), (24 + y_gap, 1)
            desc = _core.Unary(rows=3, n=24, x_ld=xs[0], y_ld=ys[0], act=act)
            got = run(precision, "unary", desc, [(x, xs)], (3, 24), ys)
            close(got, reference.unary(x, func, alpha, beta), precision, scale=1e-3 if name in LOOSE else 0, note=name)


def test_unary_special_values() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    for name in ("clip", "softplus", "sigmoid", "exp", "sign"):
        act = _core.Activation(func=getattr(_core.Func, name), alpha=0.0, beta=np.inf)
        got = run("fp32", "unary", _core.Unary(rows=1, n=4, x_ld=4, y_ld=4, act=act), [(x, (4, 1))], (1, 4))
        close(got, reference.unary(x, name, 0.0, np.inf), "fp32", note=name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_affine(precision: str) -> None:
    rng = np.random.default_rng(1)
    for n, gap in ((24, 0), (24, 8), (7, 2)):
        x, a, b = random(rng, precision, 5, n), rng.standard_normal(n, np.float32), rng.standard_normal(n, np.float32)
        desc = _core.Affine(rows=5, n=n, x_ld=n + gap, y_ld=n + gap, act=activation("relu"))
        inputs = [(x, (n + gap, 1)), constant(precision, a), constant(precision, b)]
        got = run(precision, "affine", desc, inputs, (5, n), (n + gap, 1))
        close(got, np.maximum(x.astype(np.float64) * a + b, 0), precision, scale=2.0, note=(n, gap))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_binary(precision: str) -> None:
    rng = np.random.default_rng(2)
    layouts = [
        ((2, 3, 24), (72, 24, 1), (72, 24, 1)),
        ((2, 3, 24), (72, 24, 1), (24, 0, 1)),  # a gate for each image and channel
        ((2, 3, 24), (72, 24, 1), (0, 0, 0)),
        ((2, 3, 24), (0, 0, 1), (72, 24, 1)),
        ((3, 5, 7), (35, 7, 1), (7, 0, 1)),
        ((4, 6), (1, 4), (6, 1)),
    ]
    for func in reference.BINARY:
        for dims, sa, sb in layouts:
            ca, cb = ([n if s else 1 for n, s in zip(dims, st, strict=True)] for st in (sa, sb))
            a, b = random(rng, precision, *ca), random(rng, precision, *cb)
            if func == "pow":
                a = np.abs(a)
            if func in ("equal", "less_equal"):
                a, b = np.round(a), np.round(b)
            desc = _core.Binary(
                rank=len(dims), dims=dims, a_stride=sa, b_stride=sb, y_stride=dense(dims),
                func=getattr(_core.BinaryFunc, func), act=activation("identity"),
            )  # fmt: skip
            got = run(precision, "binary", desc, [(a, sa), (b, sb)], dims)
            want = np.broadcast_to(reference.binary(a, b, func), dims)
            close(got, want, precision, scale=0.1, note=(func, dims))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_where_copy_pad(precision: str) -> None:
    rng = np.random.default_rng(3)
    x, y = random(rng, precision, 4, 6), random(rng, precision, 1, 6)
    c = (x > 0).astype(np.float32)
    desc = _core.Where(rank=2, dims=(4, 6), c_stride=(6, 1), a_stride=(6, 1), b_stride=(0, 1), y_stride=(8, 1))
    got = run(precision, "where", desc, [(c, (6, 1)), (x, (6, 1)), (y, (0, 1))], (4, 6), (8, 1))
    np.testing.assert_array_equal(got, np.where(c != 0, x, y))

    z = random(rng, precision, 2, 3, 5, 16)
    for perm in ((0, 3, 1, 2), (0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3)):
        shape, strides = [z.shape[p] for p in perm], [dense(z.shape)[p] for p in perm]
        desc = _core.Copy(rank=4, dims=shape, x_stride=strides, y_stride=dense(shape, shape[-1] + 8))
        got = run(precision, "copy", desc, [(z, dense(z.shape))], shape, dense(shape, shape[-1] + 8))
        np.testing.assert_array_equal(got, reference.copy(z, perm))

    for pads, mode in (
        (((0, 0), (1, 2), (2, 0), (0, 5)), "constant"),
        (((0, 0), (2, 1), (3, 3), (0, 0)), "edge"),
        (((0, 0), (2, 2), (1, 4), (0, 0)), "reflect"),
        (((0, 0), (-1, 0), (1, -2), (0, 0)), "constant"),
    ):
        want = reference.pad(z, pads, mode, 0.5)
        desc = _core.Pad(
            rank=4, dims=want.shape, x_dims=z.shape, before=[b for b, _ in pads], x_stride=dense(z.shape),
            y_stride=dense(want.shape), mode=getattr(_core.PadMode, mode), value=0.5,
        )  # fmt: skip
        got = run(precision, "pad", desc, [(z, dense(z.shape))], want.shape)
        np.testing.assert_array_equal(got, want, mode)

    image = random(rng, precision, 2, 3, 6, 5)  # to N H W C with a border and channels up to 16 bytes
    channels = target(precision).channel_unit
    pads = ((0, 0), (1, 2), (3, 0), (0, channels - 3))
    want = reference.pad(image.transpose(0, 2, 3, 1), pads, "constant", 0.0)
    desc = _core.Pad(
        rank=4, dims=want.shape, x_dims=(2, 6, 5, 3), before=[b for b, _ in pads], x_stride=(90, 5, 1, 30),
        y_stride=dense(want.shape), mode=_core.PadMode.constant, value=0.0,
    )  # fmt: skip
    got = run(precision, "pad", desc, [(image, dense(image.shape))], want.shape)
    np.testing.assert_array_equal(got, want)

    desc = _core.Pad(
        rank=0, dims=(), x_dims=(), before=(), x_stride=(), y_stride=(), mode=_core.PadMode.edge, value=0.0
    )  # fmt: skip
    assert run(precision, "pad", desc, [(np.float32(0.75), ())], (), ()) == 0.75


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pool2d(precision: str) -> None:
    rng = np.random.default_rng(4)
    for case in cases.small_pools(8):
        out = tuple(
            reference.pool_output(n, k, s, d, b, a, case.ceil_mode)
            for n, k, s, d, b, a in zip(
                (case.H, case.W), case.kernel, case.strides, case.dilations, case.pads[:2], case.pads[2:], strict=True
            )
        )
        x = random(rng, precision, case.N, case.H, case.W, case.C)
        shape = (case.N, *out, case.C)
        for gap, name, include in ((0, "max_pool2d", 0), (8, "avg_pool2d", 0), (1, "avg_pool2d", 1)):
            xs, ys = dense(x.shape, case.C + gap), dense(shape, case.C + gap)
            desc = _core.Pool2d(
                N=case.N, H=case.H, W=case.W, C=case.C, P=out[0], Q=out[1], R=case.kernel[0], S=case.kernel[1],
                stride_h=case.strides[0], stride_w=case.strides[1], dilation_h=case.dilations[0],
                dilation_w=case.dilations[1], pad_t=case.pads[0], pad_l=case.pads[1], pad_b=case.pads[2],
                pad_r=case.pads[3], x_image=xs[0], x_row=xs[1], x_ld=xs[2], y_ld=ys[2], count_include_pad=include,
            )  # fmt: skip
            got = run(precision, name, desc, [(x, xs)], shape, ys)
            options: dict[str, Any] = dict(strides=case.strides, dilations=case.dilations, pads=case.pads)
            if name == "max_pool2d":
                np.testing.assert_array_equal(got, reference.max_pool2d(x, case.kernel, out, **options), case.name)
            else:
                want = reference.avg_pool2d(x, case.kernel, out, **options, count_include_pad=bool(include))
                close(got, want, precision, terms=9, scale=1.0, note=case.name)


def test_max_pool2d_index() -> None:
    x = np.round(np.random.default_rng(5).standard_normal((2, 6, 5, 3)), 1).astype(np.float32)
    for columns_first in (0, 1):
        desc = _core.Pool2d(
            N=2, H=6, W=5, C=3, P=3, Q=3, R=3, S=3, stride_h=2, stride_w=2, dilation_h=1, dilation_w=1, pad_t=1,
            pad_l=1, pad_b=1, pad_r=1, x_image=90, x_row=15, x_ld=3, y_ld=3, columns_first=columns_first,
        )  # fmt: skip
        out = np.zeros((2, 3, 3, 3), np.float32)
        _core.run_kernel(_core.Isa.scalar, desc, [x], out, op=_core.Op.max_pool2d_index)
        np.testing.assert_array_equal(run("fp32", "max_pool2d_index", desc, [(x, dense(x.shape))], out.shape), out)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_reduce(precision: str) -> None:
    rng = np.random.default_rng(6)
    for outer, n, inner, gap in ((2, 49, 40, 0), (3, 7, 5, 2), (4, 300, 1, 0), (1, 1, 33, 1), (2, 70, 1, 3)):
        x = random(rng, precision, outer, n, inner)
        if precision != "fp32":
            x = np.clip(x, -3, 3)
        strides = (n * (inner + gap) + gap, inner + gap, 1)
        for func in ("mean", "sum", "max", "min", "arg_max", "arg_min", "last_arg_max", "last_arg_min"):
            z = np.round(x) if "arg" in func else x
            desc = _core.Reduce(
                outer=outer, n=n, inner=inner, x_outer=strides[0], x_n=strides[1], y_outer=inner + gap,
                func=getattr(_core.ReduceFunc, func),
            )  # fmt: skip
            if precision == "bf16" and n > 257 and "arg" in func:
                continue
            got = run(precision, "reduce", desc, [(z, strides)], (outer, inner), (inner + gap, 1))
            if "arg" in func:
                np.testing.assert_array_equal(got, reference.arg(z, func), func)
            else:
                want = reference.reduce(z, (1,), func)
                close(got, want, precision, terms=n, scale={"sum": n**0.5, "mean": n**-0.5}.get(func, 0.0), note=func)


def test_reduce_special_values() -> None:
    x = np.zeros((1, 9, 2), np.float32)
    x[0, 3, 0], x[0, 5, 1] = np.nan, -np.inf
    for func, want in (("max", [np.nan, 0]), ("min", [np.nan, -np.inf]), ("sum", [np.nan, -np.inf]),
                       ("arg_max", [0, 0]), ("arg_min", [0, 5])):  # fmt: skip
        desc = _core.Reduce(outer=1, n=9, inner=2, x_outer=18, x_n=2, y_outer=2, func=getattr(_core.ReduceFunc, func))
        np.testing.assert_array_equal(run("fp32", "reduce", desc, [(x, (18, 2, 1))], (1, 2)), [want], func)
    empty = np.zeros((2, 0, 3), np.float32)
    desc = _core.Reduce(outer=2, n=0, inner=3, x_outer=0, x_n=3, y_outer=3, func=_core.ReduceFunc.max)
    assert np.isneginf(run("fp32", "reduce", desc, [(empty, (0, 3, 1))], (2, 3))).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_softmax(precision: str) -> None:
    rng = np.random.default_rng(7)
    for outer, n, inner in ((3, 10, 1), (1, 1000, 1), (2, 5, 40), (2, 21, 3)):
        x = rounded(4 * random(rng, precision, outer, n, inner), precision)
        for log in (0, 1):
            desc = _core.Softmax(
                outer=outer, n=n, inner=inner, x_outer=n * inner, x_n=inner, y_outer=n * inner, y_n=inner, log=log
            )
            got = run(precision, "softmax", desc, [(x, dense(x.shape))], x.shape)
            close(got, reference.softmax(x, 1, bool(log)), precision, terms=4, scale=4.0 if log else 0.0, note=n)
    desc = _core.Softmax(outer=1, n=3, inner=1, x_outer=3, x_n=1, y_outer=3, y_n=1)
    for bad in (np.nan, np.inf):
        x = np.array([[[1], [bad], [2]]], np.float32)
        assert np.isnan(run("fp32", "softmax", desc, [(x, (3, 1, 1))], (1, 3, 1))).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_normalize_and_lrn(precision: str) -> None:
    rng = np.random.default_rng(8)
    for outer, rows, groups, width in ((5, 1, 1, 40), (2, 9, 4, 6), (2, 30, 7, 1), (1, 3, 2, 16)):
        C = groups * width
        x = random(rng, precision, outer, rows, C)
        scale, shift = random(rng, precision, groups, width), random(rng, precision, groups, width)
        desc = _core.Normalize(
            outer=outer, rows=rows, groups=groups, width=width, x_outer=rows * C, x_row=C, y_outer=rows * (C + 3),
            y_row=C + 3, epsilon=1e-5,
        )  # fmt: skip
        for vectors in ([constant(precision, scale), constant(precision, shift)], [None, None]):
            inputs = [(x, dense(x.shape)), *vectors]
            got = run(precision, "normalize", desc, inputs, x.shape, dense(x.shape, C + 3))
            given = (scale, shift) if vectors[0] is not None else (None, None)
            want = reference.normalize(x.reshape(outer, rows, groups, width), *given, 1e-5).reshape(x.shape)
            close(got, want, precision, terms=rows * width, scale=4.0, note=(rows, groups, width))
    x = random(rng, precision, 6, 11)
    for size, beta in ((5, 0.75), (2, 0.5), (3, 1.3)):
        desc = _core.Lrn(rows=6, C=11, x_ld=12, y_ld=11, size=size, alpha=0.3, beta=beta, bias=1.0)
        got = run(precision, "lrn", desc, [(x, (12, 1))], (6, 11))
        close(got, reference.lrn(x, size, 0.3, beta, 1.0), precision, terms=size, note=size)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_resample(precision: str) -> None:
    rng = np.random.default_rng(9)
    for outer, n, P, taps, rows, C, gap in ((2, 5, 7, 2, 3, 16, 8), (1, 4, 9, 1, 2, 3, 1), (3, 6, 4, 1, 1, 1, 0)):
        x = random(rng, precision, outer, n, rows, C)
        index = rng.integers(0, n, (P, taps)).astype(np.float32)
        weight = rng.random((P, taps), np.float32) if taps > 1 else None
        ld = C + gap
        desc = _core.Resample(
            outer=outer, n=n, P=P, taps=taps, rows=rows, C=C, x_outer=n * rows * ld, x_n=rows * ld, x_row=ld,
            y_outer=P * rows * ld, y_p=rows * ld, y_row=ld,
        )  # fmt: skip
        w = None if weight is None else constant(precision, weight)
        shape = (outer, P, rows, C)
        inputs = [(x, dense(x.shape, ld)), constant(precision, index), w]
        got = run(precision, "resample", desc, inputs, shape, dense(shape, ld))
        close(got, reference.resample(x, index, weight), precision, terms=taps, scale=1.0, note=(n, P, taps))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matmul(precision: str) -> None:
    rng = np.random.default_rng(10)
    for batch, M, N, K, shared in ((1, 5, 7, 3, False), (3, 70, 66, 20, False), (2, 4, 65, 33, True)):
        a, b = random(rng, precision, batch, M, K), random(rng, precision, 1 if shared else batch, K, N)
        desc = _core.MatMul(
            batch=batch, M=M, N=N, K=K, a_batch=M * (K + 1), a_ld=K + 1, b_batch=0 if shared else K * N, b_ld=N,
            y_batch=M * (N + 2), y_ld=N + 2,
        )  # fmt: skip
        b_strides = (0 if shared else K * N, N, 1)
        got = run(precision, "matmul", desc, [(a, dense(a.shape, K + 1)), (b, b_strides)], (batch, M, N),
                  dense((batch, M, N), N + 2))  # fmt: skip
        close(got, a.astype(np.float64) @ b, precision, terms=K, scale=float(K**0.5), note=(M, N, K))


@pytest.mark.parametrize("largest", (0, 1))
def test_topk_take(largest: int) -> None:
    rng = np.random.default_rng(11)
    for outer, n, inner, k in ((2, 300, 1, 5), (3, 7, 4, 7), (1, 1, 1, 1)):
        x = np.round(rng.standard_normal((outer, n, inner)), 1).astype(np.float32)
        if n > 7:
            x[0, 4] = np.nan
        desc = _core.TopK(outer=outer, n=n, inner=inner, k=k, largest=largest)
        want = np.zeros((outer, k, inner), np.float32)
        _core.run_kernel(_core.Isa.scalar, desc, [x], want)
        got = run("fp32", "topk", desc, [(x, dense(x.shape))], want.shape)
        np.testing.assert_array_equal(got, want)
        desc = _core.Take(outer=outer, n=n, inner=inner, k=k)
        taken = run("fp32", "take", desc, [(x, dense(x.shape)), (got, dense(got.shape))], got.shape)
        np.testing.assert_array_equal(taken, np.take_along_axis(x, want.astype(int), 1))


def test_suppress() -> None:
    rng = np.random.default_rng(12)
    for center in (0, 1):
        for has_score in (0, 1):
            boxes = rng.random((2, 40, 4), np.float32)
            scores = rng.random((2, 3, 40), np.float32)
            scores[0, 0, 3] = np.nan
            order = np.argsort(-scores, axis=2, kind="stable").astype(np.float32)
            desc = _core.Suppress(
                images=2, boxes=40, classes=3, most=6, iou=0.3, score=0.4, center=center, has_score=has_score
            )
            want = np.zeros((36, 3), np.float32)
            _core.run_kernel(_core.Isa.scalar, desc, [boxes, scores, order], want)
            inputs = [(v, dense(v.shape)) for v in (boxes, scores, order)]
            np.testing.assert_array_equal(run("fp32", "suppress", desc, inputs, want.shape), want)


def test_indices_must_be_exact() -> None:
    from fastconv import UnsupportedOpError

    x = np.zeros((1, 300, 1), np.float32)
    desc = _core.Reduce(outer=1, n=300, inner=1, x_outer=300, x_n=1, y_outer=1, func=_core.ReduceFunc.arg_max)
    with pytest.raises(UnsupportedOpError, match="not exact in bf16"):
        run("bf16", "reduce", desc, [(x, (300, 1, 1))], (1, 1))
