"""Dense layers: one to three rows read weights once, from memory or from a cache; more are a convolution's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, random
from .weighted import ACTIVATIONS, activation, dense_desc, linear, pack_linear

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def check(isa: Any, M: int, C: int, K: int, *, trans_b: bool = True, extras: bool = True, act: str = "identity",
          gaps: tuple[int, int, int] = (0, 0, 0)) -> None:  # fmt: skip
    rng = np.random.default_rng(21)
    x, w, bias, residual = random(rng, M, C), random(rng, K, C), random(rng, K), random(rng, M, K)
    b, r = (bias, residual) if extras else (None, None)
    want = reference.linear(x, w, b, r, act=reference.activation(*ACTIVATIONS[act]))
    given = w if trans_b else np.ascontiguousarray(w.T)
    got = linear(isa, x, given, b, r, act=act, gaps=gaps, trans_b=trans_b)
    close(got, want, terms=C, scale=np.sqrt(C) + 1, note=(M, C, K))


@isas
@pytest.mark.parametrize("M", (1, 2, 3, 4, 5, 6, 7, 8, 49))
def test_small(isa: Any, M: int) -> None:
    V = _core.vector_length(isa)
    for K in [*cases.channels(V), *(n * V - n % 2 for n in range(3, 18))]:
        for C in (1, 5, V):
            check(isa, M, C, K, extras=False)


@isas
@pytest.mark.parametrize("M", (1, 2, 3, 4, 7, 13, 49))
@pytest.mark.parametrize("act", ("identity", "relu", "tanh"))
@pytest.mark.parametrize("trans_b", (False, True))
def test_epilogue_and_gaps(isa: Any, M: int, act: str, trans_b: bool) -> None:
    V = _core.vector_length(isa)
    for C in cases.channels(V):
        for K in cases.channels(V):
            check(isa, M, C, K, trans_b=trans_b, act=act, gaps=(2, 5, 3))


@isas
@pytest.mark.parametrize(
    ("M", "C", "K"), ((1, 2048, 1000), (3, 777, 1000), (8, 512, 1000), (49, 300, 515), (197, 128, 260))
)
def test_large(isa: Any, M: int, C: int, K: int) -> None:
    """Many chunks, computed from the last to the first by `weighted.run`."""
    check(isa, M, C, K, act="relu", gaps=(0, 3, 1))
    desc = dense_desc(M, C, K, C, y_ld=K)
    _core.prepare(desc, isa)
    assert desc.chunks > 4


@isas
def test_rows_do_not_depend_on_their_number(isa: Any) -> None:
    """A row gives the same bits alone, among three, and as a pixel of a convolution, where weights stay in a cache."""
    rng = np.random.default_rng(22)
    x, w, bias = random(rng, 49, 131), random(rng, 140, 131), random(rng, 140)
    whole = linear(isa, x, w, bias)
    for M in (1, 2, 3, 4, 7, 12, 13):
        part: F32 = linear(isa, x[:M], w, bias)
        np.testing.assert_array_equal(part.view(np.int32), whole[:M].view(np.int32), f"{M}")


@isas
@pytest.mark.parametrize(("C", "cut"), ((8200, True), (20_000, True), (8209, False)))
def test_depth_in_parts(isa: Any, C: int, cut: bool) -> None:
    """More inputs than stay in L2: sums wait, in the same order. A depth that is a prime is not cut."""
    rng = np.random.default_rng(24)
    x, w, bias, residual = random(rng, 300, C), random(rng, 70, C), random(rng, 70), random(rng, 300, 70)
    desc = dense_desc(300, C, 70, C, y_ld=70)
    _core.prepare(desc, isa)
    assert (desc.depth_parts > 1) == cut
    whole = linear(isa, x, w, bias, residual, act="tanh", gaps=(1, 2, 3))
    want = reference.linear(x[:5], w, bias, residual[:5], act=np.tanh)
    close(whole[:5], want, terms=C, scale=np.sqrt(C), note=C)
    for first, M in ((0, 4), (26, 1), (100, 60)):
        rows = slice(first, first + M)
        part: F32 = linear(isa, x[rows], w, bias, residual[rows], act="tanh")
        np.testing.assert_array_equal(part.view(np.int32), whole[rows].view(np.int32))


@isas
@pytest.mark.parametrize(("M", "C", "K"), ((600, 9216, 4096), (33, 25088, 4096), (1020, 8192, 128)))
def test_parts_and_ranges_fit_l2(isa: Any, M: int, C: int, K: int) -> None:
    """Of a panel at most 512 kB, of sums at most 256 rows."""
    desc = dense_desc(M, C, K, C, y_ld=K)
    _core.prepare(desc, isa)
    columns = max(_core.conv2d_panels(K, isa))
    assert 4 * C * columns // desc.depth_parts <= 512 << 10
    assert desc.depth_parts == 1 or desc.rows_per_chunk <= 256


# -- weights from memory ----------------------------------------------------------------------------------------------
FAR = (2051, 1030)  # inputs and outputs: four parts of the depth and a rest, panels with a tail


@pytest.fixture(scope="module")
def far() -> tuple[F32, F32, F32]:
    """x of four rows without a zero, w and bias."""
    rng = np.random.default_rng(25)
    C, K = FAR
    return random(rng, 4, C) + 3, random(rng, K, C), random(rng, K)


@isas
@pytest.mark.parametrize("zeros", (0.05, 0.5, 0.97, 1.0))
def test_zeros_are_left_out(isa: Any, zeros: float, far: tuple[F32, F32, F32]) -> None:
    """Of a row, with the same bits as among rows that let nothing be left out."""
    x, w, bias = far[0].copy(), far[1], far[2]
    x[:3, np.random.default_rng(26).permutation(FAR[0])[: round(zeros * FAR[0])]] = 0
    x[1, ::3] = 0
    whole = linear(isa, np.stack([x[0], far[0][1], x[1]]), w, bias)  # its second row has no zero
    close(whole[0], reference.linear(x[:1], w, bias)[0], terms=FAR[0], scale=4 * np.sqrt(FAR[0]), note=zeros)
    for M in (1, 2, 3):
        got: F32 = linear(isa, x[:M], w, bias)
        np.testing.assert_array_equal(got[0].view(np.int32), whole[0].view(np.int32), f"{M}")
    np.testing.assert_array_equal(linear(isa, x[:2], w, bias)[1].view(np.int32), whole[2].view(np.int32))


@isas
@pytest.mark.parametrize("M", (1, 2, 3))
def test_four_panels(isa: Any, M: int) -> None:
    V = _core.vector_length(isa)
    desc = _core.Linear(M=M, C=520, K=4 * 1024 - V + 1, x_ld=520, y_ld=4096)
    _core.prepare(desc, isa)
    assert desc.chunks == 4
    check(isa, M, desc.C, desc.K, act="tanh", gaps=(1, 3, 5))
    check(isa, M, 1030, 2051, extras=False, trans_b=False)
    check(isa, M, 160_000, 14)  # less than a line
    check(isa, M, 3, 700_001, act="relu")  # no input for each part of the depth


@isas
@pytest.mark.parametrize("M", (1, 2, 3, 4))
@pytest.mark.parametrize("every", (2, 100))
def test_weights_of_zeros_are_not_read(isa: Any, M: int, every: int, far: tuple[F32, F32, F32]) -> None:
    """A NaN among them does not show: up to three rows, where all of them are zero."""
    x, w, bias = far[0][:M].copy(), far[1].copy(), far[2]
    x[:, ::every], w[:, ::every] = 0, np.nan
    assert np.isfinite(linear(isa, x, w, bias)).all() == (M <= 3)
    x[-1, 0] = -0.0
    assert np.isfinite(linear(isa, x, w, bias)).all() == (M <= 3)
    x[-1, 0] = 1
    assert np.isnan(linear(isa, x, w, bias)).any()
    x[0, 1::2] = np.nan
    assert np.isnan(linear(isa, x, far[1], bias)[0]).all()


@isas
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("M", (2, 9))
def test_every_activation(isa: Any, act: str, M: int) -> None:
    K = 2 * _core.vector_length(isa) + 3
    rng = np.random.default_rng(23)
    x, w, bias, residual = random(rng, M, 9), random(rng, K, 9), random(rng, K), random(rng, M, K)
    sums = linear(isa, x, w, bias, residual)
    want = np.full_like(sums, np.nan)
    _core.run_kernel(isa, _core.Unary(rows=M, n=K, x_ld=K, y_ld=K, act=activation(act)), [sums], want)
    got = linear(isa, x, w, bias, residual, act=act, gaps=(1, 1, 1))
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@isas
def test_functions_follow_some_rows_behind(isa: Any) -> None:
    """Each output once, where a chunk has more rows than the window (csrc/cpu/follower.h) and depth comes in parts; the
    residual may be the output."""
    V = _core.vector_length(isa)
    for M, C, K in ((130, 5, 256 * V), (30, 8200, 3 * V + 1)):
        rng = np.random.default_rng(9)
        x, w, bias, residual = random(rng, M, C), random(rng, K, C), random(rng, K), random(rng, M, K)
        sums = linear(isa, x, w, bias, residual)
        want = np.where(sums < 0, np.float32(0.1) * sums, sums)
        np.testing.assert_array_equal(linear(isa, x, w, bias, residual, act="leaky_relu", gaps=(0, 3, 0)), want)
        desc = dense_desc(M, C, K, C, y_ld=K, res_ld=K, act=activation("leaky_relu"))
        out = residual.copy()
        _core.run_kernel(isa, desc, [x, pack_linear(isa, w, rows=M), bias, out], out)
        np.testing.assert_array_equal(out, want)


@isas
def test_no_rows(isa: Any) -> None:
    assert linear(isa, np.zeros((0, 3), np.float32), np.zeros((5, 3), np.float32)).shape == (0, 5)


@pytest.mark.parametrize(
    "wrong",
    (
        dict(M=-1),
        dict(C=0),
        dict(K=0),
        dict(x_ld=3),
        dict(y_ld=4),
        dict(res_ld=-1),
        dict(M=4),
        dict(M=1 << 31),
        dict(x_ld=1 << 31),
    ),
    ids=str,
)
def test_rejects(wrong: dict[str, int]) -> None:
    good = dict(M=2, C=4, K=5, x_ld=4, y_ld=5)
    x, w = np.zeros(64, np.float32), np.zeros(1 << 10, np.float32)
    _core.run_kernel(LEVELS[0], _core.Linear(**good), [x, w], x.copy())
    with pytest.raises(ValueError):
        _core.run_kernel(LEVELS[0], _core.Linear(**{**good, **wrong}), [x, w], x.copy())
