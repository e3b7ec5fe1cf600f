"""Weights packed at run time are what cpu/pack.cpp makes of constants, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases

from .guard import LEVELS, close, random
from .test_conv2d_backward import pack
from .weighted import contents, pack_conv2d, pack_depthwise

OPS = _core.Op.pack_weights, _core.Op.pack_winograd_weights
isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def shapes(V: int) -> list[tuple[int, int, int, int, int]]:
    channels = cases.channels(V)
    some = [(k, c, r, s, 1) for k in channels for c in (1, 3, V + 1) for r, s in ((1, 1), (3, 3))]
    return [*some, (130, 70, 3, 3, 1), (260, 33, 1, 1, 1), (12, 5, 3, 2, 3), (8 * V, 4, 1, 1, 4), (5, 40, 5, 5, 1)]


@isas
def test_conv2d(isa: Any) -> None:
    rng = np.random.default_rng(33)
    for K, Cg, R, S, groups in shapes(_core.vector_length(isa)):
        w, taps = random(rng, K, Cg, R, S), R * S
        fields: dict[str, Any] = dict(
            K=K, C=Cg * groups, taps=taps, groups=groups, w_k=Cg * taps, w_c=taps, w_tap=1,
            w_group=K // groups * Cg * taps, layout=_core.PanelLayout.conv2d,
        )  # fmt: skip
        np.testing.assert_array_equal(pack(isa, w, **fields), pack_conv2d(isa, w, None, groups))
        flipped = np.ascontiguousarray(w[:, :, ::-1, ::-1])
        np.testing.assert_array_equal(pack(isa, w, flip=1, **fields), pack_conv2d(isa, flipped, None, groups))


@isas
def test_transposed(isa: Any) -> None:
    """For the gradient of the input: C columns, a depth of K."""
    rng = np.random.default_rng(34)
    for K, Cg, R, S, groups in shapes(_core.vector_length(isa)):
        w, taps, kg = random(rng, K, Cg, R, S), R * S, K // groups
        turned = w.reshape(groups, kg, Cg, R, S).swapaxes(1, 2).reshape(groups * Cg, kg, R, S)[:, :, ::-1, ::-1]
        got = pack(
            isa, w, K=Cg * groups, C=K, taps=taps, groups=groups, w_k=taps, w_c=Cg * taps, w_tap=1,
            w_group=kg * Cg * taps, flip=1, layout=_core.PanelLayout.conv2d,
        )  # fmt: skip
        np.testing.assert_array_equal(got, pack_conv2d(isa, np.ascontiguousarray(turned), None, groups))


@isas
@pytest.mark.parametrize(("m", "r"), ((2, 3), (3, 3), (4, 3), (2, 5)))
def test_winograd(isa: Any, m: int, r: int) -> None:
    """As the transform in double precision, up to a few roundings; forwards and turned."""
    rng = np.random.default_rng(37)
    store, taps = _core.WeightStore(), r * r
    for K, C in ((1, 1), (5, 3), (33, 9), (70, 20), (260, 6)):
        w = random(rng, K, C, r, r)
        turned = np.ascontiguousarray(w.swapaxes(0, 1)[:, :, ::-1, ::-1])
        for given, fields in (
            (w, dict(K=K, C=C, w_k=C * taps, w_c=taps)),
            (turned, dict(K=C, C=K, w_k=taps, w_c=C * taps, flip=1)),
        ):
            want = contents(isa, store, store.pack_winograd(given, None, m, isa))
            got = pack(isa, w, "pack_winograd_weights", m=m, taps=taps, groups=1, w_tap=1, **fields)
            close(got, want, terms=r, scale=2.0, note=(K, C))


def test_other_forms_are_refused() -> None:
    """F(6x6, 3x3) is a form of constant weights alone."""
    for m, taps in ((6, 9), (3, 7), (3, 3)):
        desc = _core.PackWeights(K=8, C=4, taps=taps, groups=1, w_k=4 * taps, w_c=taps, w_tap=1, m=m)
        with pytest.raises(ValueError, match="no such form"):
            _core.extent(desc, _core.Isa.scalar, _core.Op.pack_winograd_weights)


@isas
def test_depthwise(isa: Any) -> None:
    rng = np.random.default_rng(35)
    for K in [*cases.channels(_core.vector_length(isa)), 200]:
        for R, S in ((3, 3), (5, 5), (1, 1)):
            w = random(rng, K, 1, R, S)
            fields = dict(K=K, C=1, taps=R * S, groups=1, w_k=R * S, w_c=1, w_tap=1)
            got = pack(isa, w, layout=_core.PanelLayout.depthwise, **fields)
            np.testing.assert_array_equal(got, pack_depthwise(isa, w))


@isas
@pytest.mark.parametrize("trans_b", (True, False))
@pytest.mark.parametrize("taps", (1, 6))
def test_linear(isa: Any, trans_b: bool, taps: int) -> None:
    rng = np.random.default_rng(36)
    V = _core.vector_length(isa)
    for K in [*cases.channels(V), 9 * V, 300]:
        for c in (1, 5, V, 70):
            C = c * taps
            w = random(rng, K, C) if trans_b else random(rng, C, K)
            strides = dict(w_k=C, w_c=taps, w_tap=1) if trans_b else dict(w_k=1, w_c=taps * K, w_tap=K)
            for panel in (_core.linear_panel(3, C, K, isa), 272, 0):
                layout = dict(layout=_core.PanelLayout.linear if panel else _core.PanelLayout.conv2d, panel=panel)
                got = pack(isa, w, K=K, C=c, taps=taps, groups=1, **layout, **strides)
                store = _core.WeightStore()
                want = contents(isa, store, store.pack_linear(w, None, trans_b, panel, isa, taps))
                np.testing.assert_array_equal(got, want)


def test_rejects() -> None:
    good: dict[str, Any] = dict(K=4, C=3, taps=1, groups=1, w_k=3, w_c=1, w_tap=1)
    w, out, plain, winograd = np.zeros(64, np.float32), np.zeros(4096, np.float32), *OPS
    _core.run_kernel(LEVELS[0], _core.PackWeights(**good), [w], out, op=plain)
    for wrong in (dict(K=0), dict(groups=2), dict(taps=0), dict(w_k=-1), dict(layout=_core.PanelLayout.depthwise),
                  *(dict(layout=_core.PanelLayout.linear, panel=n) for n in (0, -64, 63))):  # fmt: skip
        with pytest.raises(ValueError):
            _core.run_kernel(LEVELS[0], _core.PackWeights(**{**good, **wrong}), [w], out, op=plain)
    with pytest.raises(ValueError, match="Winograd"):
        _core.run_kernel(LEVELS[0], _core.PackWeights(**good), [w], out, op=winograd)
