"""Binary functions over broadcast and strided operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, dense, random, run

ACTS = {"identity": (0.0, 0.0), "clip": (0.0, math.inf), "swish": (0.0, 0.0)}


def apply(
    isa: Any, a: F32, b: F32, dims: Sequence[int], func: str, *, act: str = "identity", ld: int | None = None,
    a_strides: Sequence[int] | None = None,
) -> F32:  # fmt: skip
    """a and b have rank len(dims) with ones where they broadcast; ld: row stride of y."""

    def lay(x: F32, strides: Sequence[int]) -> list[int]:
        return [0 if n == 1 and d > 1 else s for n, d, s in zip(x.shape, dims, strides, strict=True)]

    sa, sb = a_strides or dense(a.shape), dense(b.shape)
    sy = dense(dims, ld)
    desc = _core.Binary(
        rank=len(dims), dims=dims, a_stride=lay(a, sa), b_stride=lay(b, sb), y_stride=sy,
        func=getattr(_core.BinaryFunc, func),
        act=_core.Activation(func=getattr(_core.Func, act), alpha=ACTS[act][0], beta=ACTS[act][1]),
    )  # fmt: skip
    return run(isa, desc, [(a, sa), (b, sb)], dims, sy, chunks=4)


def check(isa: Any, a: F32, b: F32, dims: Sequence[int], func: str, **kw: Any) -> None:
    act = kw.get("act", "identity")
    want = np.broadcast_to(reference.binary(a, b, func, reference.activation(act, *ACTS[act])), tuple(dims))
    scale = 1e-6 if act == "swish" else 1.0
    close(apply(isa, a, b, dims, func, **kw), want, terms=2, scale=scale, note=(dims, func, kw))


@pytest.mark.parametrize("func", list(reference.BINARY))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_broadcasting(isa: Any, func: str) -> None:
    rng = np.random.default_rng(2)
    V = _core.vector_length(isa)

    def make(*shape: int) -> F32:
        x = random(rng, *shape)
        return np.abs(x) + np.float32(0.5) if func in ("div", "pow") else x

    for c in cases.channels(V):
        for act in ACTS:
            for ld in (None, c + 2):
                dims = (2, 6, c)
                check(isa, make(*dims), make(*dims), dims, func, act=act, ld=ld)
                check(isa, make(*dims), make(2, 1, c), dims, func, act=act, ld=ld)  # squeeze and excite
                check(isa, make(1, 1, c), make(*dims), dims, func, act=act, ld=ld)
                check(isa, make(*dims), make(2, 6, 1), dims, func, act=act, ld=ld)
                check(isa, make(2, 6, 1), make(*dims), dims, func, act=act, ld=ld)
                check(isa, make(2, 1, 1), make(1, 6, 1), dims, func, act=act, ld=ld)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_shapes(isa: Any) -> None:
    rng = np.random.default_rng(3)
    shapes = (
        (),
        (1,),
        (5,),
        (10007,),
        (3, 5000),
        (70, 100),
        (2, 3, 2, 2, 3),
        (2, 1, 2, 1, 2, 1, 2, 3),
        (0,),
        (3, 0, 4),
    )
    for dims in shapes:
        a, b = random(rng, *dims), random(rng, *dims)
        if not dims:
            desc = _core.Binary(func=_core.BinaryFunc.mul)
            got = run(isa, desc, [(a, ()), (b, ())], (), (), chunks=2)
            close(got, a.astype(np.float64) * b)
        else:
            check(isa, a, b, dims, "mul")
            check(isa, a, b, dims, "sub", act="swish")


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_strided_operand(isa: Any) -> None:
    rng = np.random.default_rng(4)
    dims = (3, 5, 37)
    a, b = random(rng, *dims), random(rng, *dims)
    for strides in ((1, 3, 15), (400, 80, 2), (37, 111, 1)):
        check(isa, a, b, dims, "add", a_strides=strides, act="clip")
    y_strides = (1, 3, 15)  # transposed output
    desc = _core.Binary(
        rank=3, dims=dims, a_stride=dense(dims), b_stride=dense(dims), y_stride=y_strides, func=_core.BinaryFunc.add,
        act=_core.Activation(func=_core.Func.tanh),
    )  # fmt: skip
    got = run(isa, desc, [(a, dense(dims)), (b, dense(dims))], dims, y_strides)
    close(got, np.tanh(a.astype(np.float64) + b), scale=1.0)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_nan_and_infinity(isa: Any) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -2.0], np.float32)
    a, b = (np.ascontiguousarray(x.ravel()) for x in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        for func in reference.BINARY:
            got = apply(isa, a, b, (36,), func)
            want = reference.binary(a, b, func).astype(np.float32)
            np.testing.assert_array_equal(got, want, func)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_pow(isa: Any) -> None:
    x = np.linspace(-3, 3, 41, dtype=np.float32)
    for e in (2.0, 3.0, 0.5, -1.0, 0.0, 1.5):
        with np.errstate(all="ignore"):
            got = apply(isa, x, np.array([e], np.float32), (41,), "pow")
            close(got, reference.binary(x, np.full(1, e, np.float32), "pow"), note=e)


def test_rejects() -> None:
    isa, x = LEVELS[0], np.zeros(64, np.float32)
    dims = (4, 4)

    def desc(**kw: Any) -> Any:
        base = {"rank": 2, "dims": dims, "a_stride": (4, 1), "b_stride": (4, 1), "y_stride": (4, 1)}
        return _core.Binary(**{**base, **kw})

    _core.run_kernel(isa, desc(), [x, x], x.copy())
    for bad, message in (
        (desc(rank=9), "rank"),
        (desc(rank=-1), "rank"),
        (desc(y_stride=(0, 1)), "overlap"),
        (desc(y_stride=(3, 1)), "overlap"),
        (desc(a_stride=(-4, 1)), "a stride of a"),
        (desc(dims=(1 << 40, 1 << 40)), "reaches beyond"),
        (desc(b_stride=(100, 1)), "needs 304"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.run_kernel(isa, bad, [x, x], x.copy())
    with pytest.raises(ValueError, match="more than 8"):
        desc(dims=[1] * 9)
    with pytest.raises(ValueError, match="input 1 is missing"):
        _core.run_kernel(isa, desc(), [x], x.copy())
