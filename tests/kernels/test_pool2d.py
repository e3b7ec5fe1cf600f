"""Max and average pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, dense, random, run


def pool(isa: Any, x: F32, case: cases.PoolCase, op: str, *, count_include_pad: bool = False, gap: int = 0) -> F32:
    N, H, W, C = x.shape
    out = output(case)
    strides = dense(x.shape, C + gap)
    desc = _core.Pool2d(
        N=N, H=H, W=W, C=C, P=out[0], Q=out[1], R=case.kernel[0], S=case.kernel[1], stride_h=case.strides[0],
        stride_w=case.strides[1], dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_t=case.pads[0],
        pad_l=case.pads[1], pad_b=case.pads[2], pad_r=case.pads[3], x_image=strides[0], x_row=strides[1],
        x_ld=strides[2], y_ld=C + gap, count_include_pad=int(count_include_pad),
    )  # fmt: skip
    shape = (N, *out, C)
    return run(isa, desc, [(x, strides)], shape, dense(shape, C + gap), op=getattr(_core.Op, op))


def output(case: cases.PoolCase) -> tuple[int, int]:
    p, q = (
        reference.pool_output(size, case.kernel[i], case.strides[i], case.dilations[i], case.pads[i], case.pads[i + 2],
                              case.ceil_mode)
        for i, size in enumerate((case.H, case.W))
    )  # fmt: skip
    return p, q


@pytest.mark.parametrize("gap", (0, 3))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_pool(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(6)
    for case in cases.small_pools(_core.vector_length(isa)):
        x = random(rng, case.N, case.H, case.W, case.C) - np.float32(2)  # a zero of the padding would win
        kw: dict[str, Any] = {"strides": case.strides, "dilations": case.dilations, "pads": case.pads}
        want = reference.max_pool2d(x, case.kernel, output(case), **kw)
        np.testing.assert_array_equal(pool(isa, x, case, "max_pool2d", gap=gap), want, str(case))
        for counting in (False, True):
            want = reference.avg_pool2d(x, case.kernel, output(case), count_include_pad=counting, **kw)
            got = pool(isa, x, case, "avg_pool2d", count_include_pad=counting, gap=gap)
            close(got, want, terms=case.kernel[0] * case.kernel[1], scale=2.0, note=(case, counting))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_indices(isa: Any) -> None:
    """The element that an index names is the maximum."""
    rng = np.random.default_rng(16)
    for case in cases.small_pools(_core.vector_length(isa)):
        x = random(rng, case.N, case.H, case.W, case.C)
        index = pool(isa, x, case, "max_pool2d_index", gap=2).astype(np.int64)
        flat = x.transpose(0, 3, 1, 2).reshape(-1)
        want = pool(isa, x, case, "max_pool2d")  # -inf where a window has no pixel
        np.testing.assert_array_equal(np.where(np.isinf(want), want, flat[index]), want, str(case))
        np.testing.assert_array_equal(index // (case.H * case.W) % case.C, np.broadcast_to(range(case.C), index.shape))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_outputs_beyond_the_image(isa: Any) -> None:
    """More outputs than any mode gives: windows without a pixel are -inf and 0."""
    x = np.ones((1, 2, 2, 3), np.float32)
    desc = _core.Pool2d(
        N=1, H=2, W=2, C=3, P=4, Q=5, R=2, S=2, stride_h=2, stride_w=2, dilation_h=1, dilation_w=1, x_image=12, x_row=6,
        x_ld=3, y_ld=3,
    )  # fmt: skip
    got = run(isa, desc, [(x, dense(x.shape))], (1, 4, 5, 3), dense((1, 4, 5, 3)), op=_core.Op.max_pool2d)
    assert (got[0, 0, 0] == 1).all() and np.isneginf(got[0, 1:]).all() and np.isneginf(got[0, :, 1:]).all()
    got = run(isa, desc, [(x, dense(x.shape))], (1, 4, 5, 3), dense((1, 4, 5, 3)), op=_core.Op.avg_pool2d)
    assert (got[0, 0, 0] == 1).all() and got.sum() == 3


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_max_ignores_nan(isa: Any) -> None:
    for position in range(9):
        x = np.zeros((1, 3, 3, 5), np.float32)
        x.reshape(9, 5)[position] = np.nan
        case = cases.PoolCase("nan", 1, 3, 3, 5, (3, 3))
        assert (pool(isa, x, case, "max_pool2d") == 0).all()


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_large_average(isa: Any) -> None:
    x = np.random.default_rng(8).uniform(0, 1, (1, 56, 56, 3)).astype(np.float32)
    got = pool(isa, x, cases.PoolCase("56", 1, 56, 56, 3, (56, 56)), "avg_pool2d")
    close(got, x.astype(np.float64).mean((1, 2), keepdims=True), terms=4)


def test_rejects() -> None:
    isa, x = LEVELS[0], np.zeros(64, np.float32)
    good = {
        "N": 1, "H": 4, "W": 4, "C": 1, "P": 2, "Q": 2, "R": 2, "S": 2, "stride_h": 2, "stride_w": 2, "dilation_h": 1,
        "dilation_w": 1, "x_image": 16, "x_row": 4, "x_ld": 1, "y_ld": 1,
    }  # fmt: skip
    run_it = _core.run_kernel
    run_it(isa, _core.Pool2d(**good), [x], x.copy(), op=_core.Op.max_pool2d)
    for field, value in (("stride_h", 0), ("R", 0), ("dilation_w", 0), ("pad_t", -1), ("H", 0), ("P", -1), ("y_ld", 0),
                         ("x_row", -1), ("x_row", 1 << 41), ("S", 1 << 30), ("N", 1 << 40),
                         ("count_include_pad", 2)):  # fmt: skip
        with pytest.raises(ValueError, match="pool2d"):
            run_it(isa, _core.Pool2d(**{**good, field: value}), [x], x.copy(), op=_core.Op.max_pool2d)
    with pytest.raises(TypeError, match="name one with op"):
        run_it(isa, _core.Pool2d(**good), [x], x.copy())
    with pytest.raises(TypeError, match="not one of op's"):
        run_it(isa, _core.Pool2d(**good), [x], x.copy(), op=_core.Op.copy)
