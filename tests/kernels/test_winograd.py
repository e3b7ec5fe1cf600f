"""Winograd's F(m x m, r x r) and its forms for one axis: as one operation and as two, packing, rounding error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import reference
from tests.cases import ConvCase, channels

from .guard import F32, LEVELS, close, dense, random
from .weighted import ACTIVATIONS, activation, contents, conv2d, run

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


FORMS = [(2, 3, 3), (3, 3, 3), (4, 3, 3), (6, 3, 3), (2, 5, 5), (2, 1, 3), (3, 3, 1), (4, 1, 3), (3, 1, 7), (3, 7, 1)]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda f: f"F({f[0]},{f[1]}x{f[2]})")


def pack(isa: Any, w: F32, m: int, scale: F32 | None = None) -> F32:
    store = _core.WeightStore()
    return contents(isa, store, store.pack_winograd(w, scale, m, isa))


def winograd(
    isa: Any, case: ConvCase, x: F32, w: F32, bias: F32 | None, residual: F32 | None, *, m: int = 4,
    act: str = "identity", gaps: tuple[int, int, int] = (0, 0, 0), two_steps: bool = False, pool: bool = False,
) -> F32:  # fmt: skip
    """y of x [N, H, W, C] and w [K, C, R, S]: [N, P, Q, K], with `pool` [N, P // 2, Q // 2, K]; gaps: behind the pixels
    of x, y and the residual."""
    half, C, K = 1 + pool, case.C, case.K
    shape = (case.N, case.P // half, case.Q // half, K)
    xs, ys, rs = dense(x.shape, C + gaps[0]), dense(shape, K + gaps[1]), dense(shape, K + gaps[2])
    desc = _core.Winograd(
        N=case.N, H=case.H, W=case.W, C=C, K=K, P=case.P, Q=case.Q, pad_t=case.pads[0], pad_l=case.pads[1],
        x_image=xs[0], x_row=xs[1], x_ld=xs[2], y_ld=ys[2], res_ld=rs[2], act=activation(act), m=m,
        r=max(case.R, case.S), axes=_core.winograd_axes(case.R, case.S), pool=int(pool),
    )  # fmt: skip
    rest = [
        (pack(isa, w, m), (1,)),
        None if bias is None else (bias, (1,)),
        None if residual is None else (residual, rs),
    ]
    if not two_steps:
        return run(isa, desc, [(x, xs), *rest], shape, ys, _core.Op.winograd_conv2d)
    _, size = _core.extent(desc, isa, _core.Op.winograd_input)
    planes = run(isa, desc, [(x, xs)], (size,), (1,), _core.Op.winograd_input)
    # behind each plane is padding that nobody writes: the products must not read it
    return run(isa, desc, [(planes, (1,)), *rest], shape, ys, _core.Op.winograd_product)


def cases(V: int, R: int, S: int) -> list[ConvCase]:
    shapes = [(1, 1, 1), (1, 4, 4), (2, 5, 7), (1, 9, 6), (3, 14, 13), (1, 30, 5)]
    pads = [(1, 1, 1, 1), (0, 0, 0, 0), (2, 1, 0, 1), (1, 0, 2, 2), (2, 2, 2, 2)]
    if R != S:
        pads += [(3, 3, 3, 3), (0, 3, 1, 3)]
    out = []
    for i, c in enumerate(channels(V)):
        for j, k in enumerate(channels(V)):
            (n, h, w), pad = shapes[(i + j) % len(shapes)], pads[(2 * i + j) % len(pads)]
            if h + pad[0] + pad[2] >= R and w + pad[1] + pad[3] >= S:
                out.append(ConvCase(f"{n}x{h}x{w} {c}->{k} {pad}", n, h, w, c, k, R, S, pads=pad))
    out.append(ConvCase("many tiles", 1, 61, 50, V, 5 * V + 3, R, S, pads=(1, 1, 1, 1)))
    return out


@isas
@forms
@pytest.mark.parametrize("two_steps", (False, True), ids=("one", "two"))
def test_against_reference(isa: Any, form: tuple[int, int, int], two_steps: bool) -> None:
    rng, (m, R, S) = np.random.default_rng(6), form
    for case in cases(_core.vector_length(isa), R, S):
        x, w = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C, R, S)
        bias, residual = random(rng, case.K), random(rng, case.N, case.P, case.Q, case.K)
        want = reference.conv2d(x, w, bias, residual, pads=case.pads, act=reference.activation("clip", 0.0, 6.0))
        got = winograd(isa, case, x, w, bias, residual, m=m, act="relu6", gaps=(3, 5, 2), two_steps=two_steps)
        worse = 10 if m == 6 else 1
        close(got, want, terms=R * S * case.C, scale=4 * worse * np.sqrt(R * S * case.C), note=case)


@isas
@forms
@pytest.mark.parametrize("two_steps", (False, True), ids=("one", "two"))
def test_whole_tiles_are_as_those_with_a_residual(isa: Any, form: tuple[int, int, int], two_steps: bool) -> None:
    """Whole tiles are written at once, those with a residual in two steps: the same numbers where it is zero."""
    rng, (m, R, S) = np.random.default_rng(9), form
    for case in cases(_core.vector_length(isa), R, S):
        x, w, bias = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C, R, S), random(rng, case.K)
        zeros = np.zeros((case.N, case.P, case.Q, case.K), np.float32)
        got, want = (
            winograd(isa, case, x, w, bias, r, m=m, act="relu6", gaps=(3, 5, 2), two_steps=two_steps)
            for r in (None, zeros)
        )
        np.testing.assert_array_equal(got, want, err_msg=str(case))


@isas
@pytest.mark.parametrize("form", [(2, 3, 3), (4, 3, 3), (6, 3, 3), (2, 5, 5)], ids=lambda f: f"F({f[0]},{f[1]}x{f[2]})")
@pytest.mark.parametrize("two_steps", (False, True), ids=("one", "two"))
def test_pooled(isa: Any, form: tuple[int, int, int], two_steps: bool) -> None:
    """Maxima by twos of what is written without; an odd last row or column is left out."""
    rng, (m, R, S) = np.random.default_rng(10), form
    for case in cases(_core.vector_length(isa), R, S):
        p, q = case.P // 2, case.Q // 2
        if p == 0 or q == 0:
            continue
        x, w, bias = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C, R, S), random(rng, case.K)
        settings: dict[str, Any] = dict(m=m, act="relu6", gaps=(3, 5, 0), two_steps=two_steps)
        whole = winograd(isa, case, x, w, bias, None, **settings)
        want = whole[:, : 2 * p, : 2 * q].reshape(case.N, p, 2, q, 2, case.K).max((2, 4))
        nothing = np.empty((0, p, q, case.K), np.float32)  # a plan may name a residual, which nothing checks
        for residual in (None, nothing):
            got = winograd(isa, case, x, w, bias, residual, pool=True, **settings)
            np.testing.assert_array_equal(got, want, err_msg=str(case))


@isas
@pytest.mark.parametrize(
    "act", [a for a in ACTIVATIONS if a not in ("log", "sqrt", "reciprocal", "floor", "ceil", "exp")]
)
def test_activations(isa: Any, act: str) -> None:
    rng, case = np.random.default_rng(7), ConvCase("act", 1, 7, 6, 5, 19, 3, 3, pads=(1, 1, 1, 1))
    x, w = random(rng, 1, 7, 6, 5), random(rng, 19, 5, 3, 3)
    want = reference.conv2d(x, w, pads=case.pads, act=reference.activation(*ACTIVATIONS[act]))
    close(winograd(isa, case, x, w, None, None, act=act), want, terms=45, scale=30.0, note=act)


@isas
@forms
def test_scale_multiplies_output_channels(isa: Any, form: tuple[int, int, int]) -> None:
    rng, (m, R, S) = np.random.default_rng(8), form
    w, scale = random(rng, 21, 4, R, S), random(rng, 21)
    scaled = pack(isa, w * scale[:, None, None, None], m)
    np.testing.assert_allclose(pack(isa, w, m, scale), scaled, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    ((1, 3, 3), (4, 5, 5), (5, 3, 3), (8, 3, 3), (0, 3, 3), (2, 1, 1), (3, 1, 5), (4, 7, 1), (6, 1, 3), (2, 3, 5)),
    ids=str,
)  # fmt: skip
def test_unknown_forms(wrong: tuple[int, int, int]) -> None:
    m, R, S = wrong
    with pytest.raises(ValueError):
        pack(LEVELS[0], np.zeros((4, 4, R, S), np.float32), m)
    if (R, S) != (3, 5):
        with pytest.raises(ValueError):
            _core.winograd_workspace(1, 8, 8, 4, 4, m, max(R, S), _core.winograd_axes(R, S))
    with pytest.raises(ValueError):
        _core.winograd_workspace(1, 8, 8, 4, 4, 3, 3, 3)


@isas
@pytest.mark.parametrize(
    ("m", "R", "S", "size", "C", "K", "limit"),
    [(4, 3, 3, 28, 32, 64, 2.7), (4, 3, 3, 28, 64, 64, 2.3), (4, 3, 3, 14, 256, 64, 2.3), (2, 3, 3, 14, 32, 64, 2.7),
     (2, 3, 3, 14, 256, 64, 2.3), (3, 3, 3, 14, 32, 64, 2.7), (3, 3, 3, 14, 256, 64, 2.3), (2, 5, 5, 27, 64, 64, 2.3),
     (3, 1, 7, 17, 128, 64, 1.8), (3, 7, 1, 17, 192, 64, 1.8), (3, 7, 1, 17, 32, 64, 2.0), (2, 1, 3, 8, 384, 64, 1.8),
     (3, 3, 1, 8, 384, 64, 1.8), (4, 3, 1, 8, 64, 64, 2.0), (6, 3, 3, 28, 64, 64, 11), (6, 3, 3, 28, 256, 64, 11)],
)  # fmt: skip
def test_rounding_error(isa: Any, m: int, R: int, S: int, size: int, C: int, K: int, limit: float) -> None:
    """The rms error on relu(normal) inputs stays below `limit` times that of our direct kernel, against float64."""
    up, left = R // 2, S // 2
    rng, case = np.random.default_rng(9), ConvCase("error", 1, size, size, C, K, R, S, pads=(up, left, up, left))
    x = np.maximum(random(rng, 1, size, size, C), 0)
    w = random(rng, K, C, R, S) * np.float32(np.sqrt(2 / (R * S * C)))
    want = np.zeros((1, size, size, K))
    padded = np.pad(x.astype(np.float64), ((0, 0), (up, up), (left, left), (0, 0)))
    for i in range(R):
        for j in range(S):
            want += padded[:, i : i + size, j : j + size] @ w[:, :, i, j].T.astype(np.float64)

    def rms(y: F32) -> float:
        return float(np.sqrt(np.mean((y - want) ** 2)))

    ratio = rms(winograd(isa, case, x, w, None, None, m=m)) / rms(conv2d(isa, case, x, w))
    assert ratio < limit, ratio
