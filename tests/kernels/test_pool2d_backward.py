"""Gradients of max and average pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference, reference_backward

from . import backward
from .backward import Out
from .guard import F32, LEVELS, close, dense, random
from .test_pool2d import output


def pool(isa: Any, op: str, case: cases.PoolCase, g: F32, x: F32, y: F32 | None, gap: int, **kw: int) -> F32:
    N, H, W, C = x.shape
    _, P, Q, _ = g.shape
    gs, xs = dense(g.shape, C + gap), dense(x.shape, C + 2 * gap)
    desc = _core.Pool2dBackward(
        N=N, H=H, W=W, C=C, P=P, Q=Q, R=case.kernel[0], S=case.kernel[1], stride_h=case.strides[0],
        stride_w=case.strides[1], dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_t=case.pads[0],
        pad_l=case.pads[1], pad_b=case.pads[2], pad_r=case.pads[3], g_ld=C + gap, x_ld=C + 2 * gap, y_ld=C + gap,
        dx_ld=C + 3 * gap, **kw,
    )  # fmt: skip
    inputs = [(g, gs)] if y is None else [(g, gs), (x, xs), (y, gs)]
    (dx,) = backward.run(isa, op, desc, inputs, Out(x.shape, dense(x.shape, C + 3 * gap)))
    return dx


def all_cases(V: int) -> list[cases.PoolCase]:
    extra = [
        cases.PoolCase("many-channels", 2, 6, 7, 70 + V, (2, 2), (2, 2)),
        cases.PoolCase("stride-beyond-window", 1, 9, 8, 5, (2, 2), (3, 4)),
        cases.PoolCase("quads-hang-over", 1, 5, 5, V, (2, 2), (2, 2), ceil_mode=True),
    ]
    return [*cases.small_pools(V), *extra]


@pytest.mark.parametrize("gap", (0, 3))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_max(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(41)
    for case in all_cases(_core.vector_length(isa)):
        shape = (case.N, case.H, case.W, case.C)
        kw: dict[str, Any] = {"strides": case.strides, "dilations": case.dilations, "pads": case.pads}
        for x in (random(rng, *shape), rng.integers(0, 3, shape).astype(np.float32)):  # the second has many ties
            y = reference.max_pool2d(x, case.kernel, output(case), **kw).astype(np.float32)
            g = random(rng, *y.shape)
            want = reference_backward.max_pool2d(g, x, case.kernel, **kw)
            got = pool(isa, "max_pool2d_backward", case, g, x, y, gap)
            close(got, want, terms=case.kernel[0] * case.kernel[1], scale=4.0, note=case)


@pytest.mark.parametrize("gap", (0, 3))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_average(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(42)
    for case in all_cases(_core.vector_length(isa)):
        x = random(rng, case.N, case.H, case.W, case.C)
        kw: dict[str, Any] = {"strides": case.strides, "dilations": case.dilations, "pads": case.pads}
        for counting in (False, True):
            g = random(rng, case.N, *output(case), case.C)
            want = reference_backward.avg_pool2d(g, x.shape, case.kernel, count_include_pad=counting, **kw)
            got = pool(isa, "avg_pool2d_backward", case, g, x, None, gap, count_include_pad=int(counting))
            close(got, want, terms=case.kernel[0] * case.kernel[1], scale=2.0, note=(case, counting))


def test_rejects() -> None:
    x = np.zeros(64, np.float32)
    good = dict(N=1, H=2, W=2, C=4, P=1, Q=1, R=2, S=2, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, g_ld=4,
                x_ld=4, y_ld=4, dx_ld=4)  # fmt: skip
    op = _core.Op.avg_pool2d_backward
    _core.run_kernel(LEVELS[0], _core.Pool2dBackward(**good), [x], x.copy(), op=op)
    for wrong in (dict(C=0), dict(R=0), dict(stride_h=0), dict(dx_ld=3), dict(pad_t=-1), dict(N=-1)):
        with pytest.raises(ValueError):
            _core.run_kernel(LEVELS[0], _core.Pool2dBackward(**{**good, **wrong}), [x], x.copy(), op=op)
