"""conv2d: implicit GEMM, 1x1 as a plain product, and filter rows as runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests.cases import ConvCase, small_convs

from .guard import F32, LEVELS, close, random
from .weighted import ACTIVATIONS, activation, conv2d, expected, pack_conv2d

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def algorithms(case: ConvCase) -> Iterator[str]:
    """Every algorithm that can compute the case, whatever choose_conv2d says."""
    yield "implicit"
    if (case.R, case.S) == (1, 1) and case.strides == (1, 1) and not any(case.pads):
        yield "gemm"
    if case.groups == 1 and case.dilations[1] == 1:
        yield "row_run"


def operands(rng: np.random.Generator, case: ConvCase) -> tuple[F32, F32, F32, F32]:
    x = random(rng, case.N, case.H, case.W, case.C)
    w = random(rng, case.K, case.C // case.groups, case.R, case.S)
    return x, w, random(rng, case.K), random(rng, case.N, case.P, case.Q, case.K)


def depth(case: ConvCase) -> int:
    return case.C // case.groups * case.R * case.S


def check(
    isa: Any, case: ConvCase, *, with_bias: bool, with_residual: bool, act: str, gaps: tuple[int, int, int]
) -> None:
    x, w, bias, residual = operands(np.random.default_rng(4), case)
    b, r = bias if with_bias else None, residual if with_residual else None
    want = expected(case, x, w, b, r, act)
    for algorithm in algorithms(case):
        own = (0, *gaps[1:]) if algorithm == "row_run" else gaps
        got = conv2d(isa, case, x, w, b, r, act=act, gaps=own, algorithm=algorithm)
        close(got, want, terms=depth(case), scale=np.sqrt(depth(case)) + 1, note=(algorithm, case))


@isas
def test_small(isa: Any) -> None:
    for case in small_convs(_core.vector_length(isa)):
        check(isa, case, with_bias=True, with_residual=False, act="identity", gaps=(0, 0, 0))


@isas
@pytest.mark.parametrize("with_bias", (False, True))
@pytest.mark.parametrize("act", ("identity", "relu6", "leaky_relu"))
def test_epilogue_and_gaps(isa: Any, with_bias: bool, act: str) -> None:
    """Residual, activation and pixels that are further apart than their channels, all different."""
    for case in small_convs(_core.vector_length(isa)):
        check(isa, case, with_bias=with_bias, with_residual=True, act=act, gaps=(3, 5, 2))


def around_tiles(V: int, name: str) -> Iterator[ConvCase]:
    """Every number of rows up to three tiles, with every width of a panel: the tile table has no wrong entry."""
    widest = {"scalar": 2, "avx2": 2, "avx512": 4, "neon": 4}[name]
    for vectors in range(1, 2 * widest + 2):
        for rows in (*range(1, 30), 35, 48, 49, 98):
            yield ConvCase(f"{rows}x{vectors}", 1, 1, rows, 5, vectors * V - rows % 2, 1, 1)


@isas
def test_every_tile(isa: Any) -> None:
    for case in around_tiles(_core.vector_length(isa), isa.name):
        x, w, bias, _ = operands(np.random.default_rng(5), case)
        got = conv2d(isa, case, x, w, bias, algorithm="gemm", act="relu")
        close(got, expected(case, x, w, bias, None, "relu"), terms=5, scale=3.0, note=case)


@isas
@pytest.mark.parametrize("act", ("relu6", "leaky_relu", "relu"))
def test_two_rows_share_half_a_vector(isa: Any, act: str) -> None:
    """Panels whose last vector has at most half its lanes in use (csrc/cpu/half_tile.h), at every number of rows."""
    V = _core.vector_length(isa)
    for rows in (*range(1, 32), 49, 98, 150):
        for vectors in (1, 2, 5) if rows < 32 else (1, 2):
            K = vectors * V + max(1, V // 2 - rows % 3)
            case = ConvCase(f"{rows}x{K}", 1, 1, rows, 7, K, 1, 1)
            check(isa, case, with_bias=rows % 4 > 0, with_residual=rows % 2 == 0, act=act, gaps=(2, 3, rows % 5))


@isas
@pytest.mark.parametrize("act", ("relu6", "leaky_relu", "relu"))
def test_right_columns_lag(isa: Any, act: str) -> None:
    """Shallow products of whole vectors (csrc/cpu/lagging_tile.h), at every number of rows, of odd and even depths."""
    V = _core.vector_length(isa)
    for rows in (*range(1, 32), 49, 98, 150):
        for vectors in (3, 4, 7) if rows < 32 else (4, 10):
            C = 1 + rows % 8
            case = ConvCase(f"{rows}x{C}x{vectors}", 1, 1, rows, C, vectors * V, 1, 1)
            check(isa, case, with_bias=rows % 4 > 0, with_residual=rows % 2 == 0, act=act, gaps=(2, 3, rows % 5))


@isas
def test_points(isa: Any) -> None:
    """1x1 with a stride, lines and images that end anywhere in a block."""
    V = _core.vector_length(isa)
    for C in (5, 200):
        for vectors in (2, 3, 4):
            for Q in (5, 6, 7, 8, 12, 14, 16, 23, 28, 48):
                case = ConvCase(f"{Q}-{C}-{vectors}", 3, 9, 2 * Q - 1, C, vectors * V, 1, 1, strides=(2, 2))
                check(isa, case, with_bias=True, with_residual=Q % 2 > 0, act="relu", gaps=(2, Q % 3, 1))


@isas
@pytest.mark.parametrize("case", [ConvCase("points", 3, 9, 31, 40, 64, 1, 1, strides=(2, 2)),
                                  ConvCase("stem", 2, 9, 227, 3, 32, 3, 3, strides=(2, 2))],
                         ids=lambda c: c.name)  # fmt: skip
def test_rows_and_images_that_lie_apart(isa: Any, case: ConvCase) -> None:
    algorithm = "implicit" if case.R == 1 else "row_run"
    x, w, bias, _ = operands(np.random.default_rng(4), case)
    x_row = case.W * case.C + 7
    x_image = case.H * x_row + 9
    flat = np.full((case.N, x_image), np.nan, np.float32)
    flat[:, : case.H * x_row].reshape(case.N, case.H, x_row)[:, :, : case.W * case.C] = x.reshape(case.N, case.H, -1)
    d = prepared(isa, case, algorithm)
    d.x_row, d.x_image = x_row, x_image
    out = np.full((case.N, case.P, case.Q, case.K), np.nan, np.float32)
    flats = [flat.ravel()[: (case.N - 1) * x_image + (case.H - 1) * x_row + case.W * case.C].copy()]
    _core.run_kernel(isa, d, [*flats, pack_conv2d(isa, w), bias, None], out.ravel())
    close(out, expected(case, x, w, bias, None, "identity"), terms=case.C * case.R * case.S, scale=6.0, note=case)


@isas
def test_a_stride_that_no_second_line_uses(isa: Any) -> None:
    """Of one line, where a file may give any: no address is formed with it."""
    V = _core.vector_length(isa)
    case = ConvCase("", 1, 1, 6, 5, 2 * V, 1, 1)
    x, w, bias, _ = operands(np.random.default_rng(4), case)
    d = prepared(isa, case, "implicit")
    d.stride_h, d.x_row, d.x_image = 2**31, 2**40, 2**40
    out = np.full((6, 2 * V), np.nan, np.float32)
    _core.run_kernel(isa, d, [x.ravel(), pack_conv2d(isa, w), bias, None], out.ravel())
    close(out.reshape(1, 1, 6, -1), expected(case, x, w, bias, None, "identity"), terms=5, scale=3.0, note=case)


@isas
def test_lines_of_stems(isa: Any) -> None:
    """Lines of several blocks; chunks begin anywhere within them."""
    V = _core.vector_length(isa)
    for K in (V // 2 + 1, 2 * V, 2 * V + 3, 4 * V):
        for W in (101, 117, 226):
            case = ConvCase(f"{W}-{K}", 2, 9, W, 3, K, 3, 3, strides=(2, 2))
            check(isa, case, with_bias=True, with_residual=W > 110, act="relu6", gaps=(0, 5, 3))


@isas
def test_short_lines_of_stems(isa: Any) -> None:
    """Lines of about a block, whose ends lie anywhere in one; chunks that end within a line."""
    V, inside = _core.vector_length(isa), 0
    for K in (V - 1, 2 * V):
        for Q in (4, 8, 10, 12, 14):
            case = ConvCase(f"{Q}-{K}", 3, 303, 2 * Q + 1, 3, K, 3, 3, strides=(2, 2))
            check(isa, case, with_bias=True, with_residual=Q > 9, act="relu", gaps=(0, 2, 1))
            d = prepared(isa, case, "row_run")
            inside += any(cut % Q for cut in cuts(d)[1:-1])
    assert inside


@isas
@pytest.mark.parametrize("act", ("identity", "relu", "relu6", "leaky_relu"))
def test_groups_of_stems(isa: Any, act: str) -> None:
    """3x3 stems of whole vectors (csrc/cpu/stagger.h, plain_tile.h): lines of any length, several images and panels.
    A residual, here of zeros, is computed by other tiles: the sums are the same bit for bit."""
    V = _core.vector_length(isa)
    for K in (2 * V, 4 * V, 8 * V):
        for Q in (*range(1, 14), 112):
            case = ConvCase(f"{Q}-{K}", 3, 7, 2 * Q + 1, 3, K, 3, 3, strides=(2, 2), dilations=(1 + Q % 2, 1))
            x, w, bias, residual = operands(np.random.default_rng(Q), case)
            b = bias if Q % 3 else None
            got = conv2d(isa, case, x, w, b, act=act, gaps=(0, Q % 4, 0), algorithm="row_run")
            close(got, expected(case, x, w, b, None, act), terms=27, scale=6.0, note=case)
            whole = conv2d(isa, case, x, w, b, 0 * residual, act=act, gaps=(0, 1, 2), algorithm="row_run")
            np.testing.assert_array_equal(got, whole, err_msg=str(case))


def prepared(isa: Any, case: ConvCase, algorithm: str) -> Any:
    d = _core.Conv2d(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, groups=case.groups,
        stride_h=case.strides[0], stride_w=case.strides[1], dilation_h=1, dilation_w=1, pad_t=case.pads[0],
        pad_l=case.pads[1], x_ld=case.C, x_row=case.W * case.C, x_image=case.H * case.W * case.C, y_ld=case.K,
        algorithm=getattr(_core.ConvAlgorithm, algorithm),
    )  # fmt: skip
    _core.prepare(d, isa)
    return d


def cuts(d: Any) -> list[int]:
    """Where the ranges of rows begin, and the last one ends."""
    units = d.N * d.P * d.Q // d.row_unit
    return [*(units * i // d.row_chunks * d.row_unit for i in range(d.row_chunks)), d.N * d.P * d.Q]


@isas
def test_pieces_of_lines_of_stems(isa: Any) -> None:
    """Chunks that begin or end within a line, a pixel or a few from its end or beginning: less than a group."""
    heads, tails = set(), set()
    for Q, P in ((9, 611), (33, 471)):
        case = ConvCase(f"{Q}", 1, 2 * P + 1, 2 * Q + 1, 3, 2 * _core.vector_length(isa), 3, 3, strides=(2, 2))
        x, w, bias, _ = operands(np.random.default_rng(Q), case)
        got = conv2d(isa, case, x, w, bias, act="relu", algorithm="row_run")  # chunk by chunk
        close(got, expected(case, x, w, bias, None, "relu"), terms=27, scale=6.0, note=case)
        inside = cuts(prepared(isa, case, "row_run"))[1:-1]
        heads |= {Q - cut % Q for cut in inside}
        tails |= {cut % Q for cut in inside}
    if isa.name == "avx512":
        assert {1, 2, 3} <= heads and {1, 2, 3} <= tails, (heads, tails)


@isas
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation(isa: Any, act: str) -> None:
    """Fused, an activation gives the bits of the unary kernel on the same sums."""
    V = _core.vector_length(isa)
    case = ConvCase("act", 1, 3, 5, 4, 2 * V + 3, 3, 3, pads=(1, 1, 1, 1))
    x, w, bias, residual = operands(np.random.default_rng(6), case)
    sums = conv2d(isa, case, x, w, bias, residual)
    want = np.full_like(sums, np.nan)
    desc = _core.Unary(rows=sums.size // case.K, n=case.K, x_ld=case.K, y_ld=case.K, act=activation(act))
    _core.run_kernel(isa, desc, [sums], want)
    got = conv2d(isa, case, x, w, bias, residual, act=act, gaps=(0, 3, 0))
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@isas
@pytest.mark.parametrize("gap", (0, 3))
def test_functions_follow_some_rows_behind(isa: Any, gap: int) -> None:
    """Each output once, whatever blocks of rows it takes to fill the window (csrc/cpu/follower.h) and
    wherever the last one ends."""
    V = _core.vector_length(isa)
    for K in (1, 2 * V, 2 * V + 3, 13 * V):
        for case in (
            ConvCase("point", 2, 17, 23, 12, K, 1, 1),
            ConvCase("strided", 1, 41, 37, 8, K, 1, 1, strides=(2, 2)),
            ConvCase("filter", 1, 19, 21, 4, K, 3, 3, pads=(1, 1, 1, 1)),
            ConvCase("groups", 1, 15, 17, 8, 2 * K, 1, 1, groups=2),
        ):
            x, w, bias, residual = operands(np.random.default_rng(7), case)
            for algorithm in algorithms(case):
                gaps = (0, gap, 0)
                sums = conv2d(isa, case, x, w, bias, residual, gaps=gaps, algorithm=algorithm)
                want = np.where(sums < 0, np.float32(0.1) * sums, sums)
                got = conv2d(isa, case, x, w, bias, residual, act="leaky_relu", gaps=gaps, algorithm=algorithm)
                np.testing.assert_array_equal(got, want, err_msg=f"{algorithm} {case}")


@isas
@pytest.mark.parametrize("act", ("relu6", "leaky_relu"))
def test_residual_in_the_output(isa: Any, act: str) -> None:
    """As a plan has it where nobody else reads the residual: each of its numbers is read before it is written."""
    V = _core.vector_length(isa)
    for case in (ConvCase("point", 1, 17, 23, 12, 5 * V + 1, 1, 1),
                 ConvCase("deep", 1, 5, 5, 1536, 3 * V, 3, 3, pads=(1, 1, 1, 1))):  # fmt: skip
        x, w, bias, residual = operands(np.random.default_rng(8), case)
        packed = pack_conv2d(isa, w)
        for algorithm in {"implicit", *algorithms(case)} - {"row_run"}:
            want = conv2d(isa, case, x, w, bias, residual, act=act, algorithm=algorithm)
            desc = _core.Conv2d(
                N=1, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, stride_h=1,
                stride_w=1, dilation_h=1, dilation_w=1, pad_t=case.pads[0], pad_l=case.pads[1],
                x_image=case.H * case.W * case.C, x_row=case.W * case.C, x_ld=case.C, y_ld=case.K, res_ld=case.K,
                groups=1, act=activation(act), algorithm=getattr(_core.ConvAlgorithm, algorithm),
            )  # fmt: skip
            out = residual.copy()
            _core.run_kernel(isa, desc, [x, packed, bias, out], out)
            np.testing.assert_array_equal(out, want, err_msg=f"{algorithm} {case}")


@isas
def test_not_a_number_and_infinity(isa: Any) -> None:
    """They spread over the outputs that see them, and no further: padding and tails add no product of theirs."""
    V = _core.vector_length(isa)
    case = ConvCase("nan", 1, 6, 6, 5, V + 1, 3, 3, pads=(1, 1, 1, 1))
    x, w, bias, _ = operands(np.random.default_rng(7), case)
    x[0, 2, 3, 1] = np.nan
    x[0, 5, 5, 4] = np.inf
    want = expected(case, x, w, bias, None, "identity")
    for algorithm in ("implicit", "row_run"):
        got = conv2d(isa, case, x, w, bias, algorithm=algorithm)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@isas
def test_empty_batch(isa: Any) -> None:
    case = ConvCase("empty", 0, 4, 4, 3, 5, 3, 3)
    x, w, bias, _ = operands(np.random.default_rng(8), case)
    assert conv2d(isa, case, x, w, bias).shape == (0, 2, 2, 5)


MOST = (1 << 31) - 1
GOOD = dict(N=1, H=4, W=4, C=2, K=2, P=4, Q=4, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            x_image=32, x_row=8, x_ld=2, y_ld=2)  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    (
        dict(N=-1), dict(P=-1), dict(H=0), dict(C=0), dict(K=0), dict(R=0), dict(stride_h=0), dict(dilation_w=0),
        dict(pad_t=-1), dict(groups=0), dict(groups=3), dict(x_ld=1), dict(y_ld=1), dict(x_row=-8), dict(res_ld=-2),
        dict(N=1 << 31), dict(N=1 << 30, x_image=1 << 40), dict(R=1 << 20, S=1 << 20), dict(x_row=1 << 62),
        dict(P=(1 << 31) - 1, Q=(1 << 31) - 1, y_ld=4), dict(K=1 << 30, C=1 << 30, x_ld=1 << 30, y_ld=1 << 30),
    ),
    ids=str,
)  # fmt: skip
def test_rejects(wrong: dict[str, int]) -> None:
    x = np.zeros(64, np.float32)
    w = np.zeros(1 << 10, np.float32)
    with pytest.raises(ValueError):
        desc = _core.Conv2d(**{**GOOD, "algorithm": _core.ConvAlgorithm.implicit, **wrong})
        _core.run_kernel(LEVELS[0], desc, [x, w], x.copy())


@pytest.mark.parametrize("wrong", (dict(R=2), dict(stride_w=2), dict(pad_l=1), dict(P=3), dict(x_row=16)), ids=str)
def test_gemm_rejects(wrong: dict[str, int]) -> None:
    desc = _core.Conv2d(**{**GOOD, "algorithm": _core.ConvAlgorithm.gemm, **wrong})
    with pytest.raises(ValueError, match="gemm"):
        _core.extent(desc, LEVELS[0])


@pytest.mark.parametrize(
    "wrong",
    (dict(P=5), dict(Q=5), dict(pad_t=1), dict(dilation_w=2), dict(x_ld=3, x_row=12, x_image=48), dict(groups=2)),
    ids=str,
)
def test_row_run_rejects(wrong: dict[str, int]) -> None:
    """This algorithm does not look at borders: a window beyond the image must never reach it."""
    desc = _core.Conv2d(**{**GOOD, "algorithm": _core.ConvAlgorithm.row_run, **wrong})
    with pytest.raises(ValueError, match="row_run"):
        _core.extent(desc, LEVELS[0])


@pytest.mark.parametrize("name", ("winograd_conv2d", "winograd_input", "winograd_product"))
@pytest.mark.parametrize(
    "wrong",
    (
        dict(P=MOST, Q=MOST),
        dict(P=MOST, Q=MOST, N=MOST),
        dict(P=MOST, Q=8, N=1 << 20),
        dict(K=1 << 30, C=1 << 30, x_ld=1 << 30, y_ld=1 << 30),
        dict(m=5),
        dict(m=0),
        dict(r=5),
        dict(y_ld=1),
    ),
    ids=str,
)
def test_winograd_rejects(wrong: dict[str, int], name: str) -> None:
    good = dict(N=1, H=4, W=4, C=2, K=2, P=4, Q=4, pad_t=1, pad_l=1, x_ld=2, x_row=8, x_image=32, y_ld=2, m=4,
                r=3)  # fmt: skip
    op = getattr(_core.Op, name)
    _core.extent(_core.Winograd(**good), LEVELS[0], op)
    with pytest.raises(ValueError):
        _core.extent(_core.Winograd(**{**good, **wrong}), LEVELS[0], op)


def test_small_buffers_are_rejected() -> None:
    desc = _core.Conv2d(**{**GOOD, "algorithm": _core.ConvAlgorithm.implicit})
    full = [np.zeros(n, np.float32) for n in (*_core.extent(desc, LEVELS[0])[0][:3], 32)]
    out = np.zeros(32, np.float32)
    _core.run_kernel(LEVELS[0], desc, full, out)
    for i in range(3):
        short = [a[:-1] if k == i else a for k, a in enumerate(full)]
        with pytest.raises(ValueError, match=f"input {i}"):
            _core.run_kernel(LEVELS[0], desc, short, out)
    with pytest.raises(ValueError, match="out"):
        _core.run_kernel(LEVELS[0], desc, full, out[:-1])
