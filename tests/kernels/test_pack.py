"""Packed weights: the layouts that conv2d.cpp, depthwise_conv2d.cpp and linear.cpp read, written down in numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases

from .guard import F32, LEVELS, random
from .weighted import contents, pack_conv2d, pack_depthwise, pack_linear

WIDEST = {"scalar": (2, 4), "avx2": (2, 8), "avx512": (4, 8), "neon": (4, 8)}  # vectors in a panel: convolution, dense

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def panel(w: F32, width: int) -> F32:
    """w [columns, C, taps] -> [taps, C, width], zero beyond the columns."""
    out = np.zeros((w.shape[2], w.shape[1], width), np.float32)
    out[..., : len(w)] = w.transpose(2, 1, 0)
    return out.ravel()


def even_panels(columns: int, V: int, widest: int) -> list[tuple[int, int]]:
    """(first column, width) of ceil(vectors / widest) nearly equal panels, the wider ones first."""
    vectors = -(-columns // V)
    count = -(-vectors // widest)
    widths = [vectors // count + (p < vectors % count) for p in range(count)]
    firsts = np.cumsum([0, *widths[:-1]])
    return [(int(f) * V, n * V) for f, n in zip(firsts, widths, strict=True)]


def channels_out(V: int) -> list[int]:
    return [*cases.channels(V), 4 * V, 4 * V + 1, 9 * V, 9 * V - 5]


@isas
@pytest.mark.parametrize("groups", (1, 2))
@pytest.mark.parametrize("scaled", (False, True))
def test_conv2d(isa: Any, groups: int, scaled: bool) -> None:
    rng, V = np.random.default_rng(1), _core.vector_length(isa)
    widest = WIDEST[isa.name][0]
    for Kg in channels_out(V):
        for C, R, S in ((1, 1, 1), (3, 3, 2), (17, 1, 3), (V + 1, 3, 3)):
            w = random(rng, groups * Kg, C, R, S)
            scale = random(rng, groups * Kg) if scaled else None
            full = w if scale is None else w * scale[:, None, None, None]
            want = [
                panel(g[first : first + width].reshape(-1, C, R * S), width)
                for g in np.split(full, groups)
                for first, width in even_panels(Kg, V, widest)
            ]
            np.testing.assert_array_equal(pack_conv2d(isa, w, scale, groups), np.concatenate(want), f"{w.shape}")


@isas
@pytest.mark.parametrize("scaled", (False, True))
def test_depthwise(isa: Any, scaled: bool) -> None:
    rng, V = np.random.default_rng(2), _core.vector_length(isa)
    for K in channels_out(V):
        for R, S in ((1, 1), (3, 3), (5, 5), (2, 7)):
            w = random(rng, K, 1, R, S)
            scale = random(rng, K) if scaled else None
            full = w if scale is None else w * scale[:, None, None, None]
            want = panel(full.reshape(K, 1, R * S), -(-K // V) * V)
            np.testing.assert_array_equal(pack_depthwise(isa, w, scale), want, f"{w.shape}")


@isas
@pytest.mark.parametrize("trans_b", (False, True))
@pytest.mark.parametrize("scaled", (False, True))
def test_linear(isa: Any, trans_b: bool, scaled: bool) -> None:
    rng, V = np.random.default_rng(3), _core.vector_length(isa)
    for K in [*channels_out(V), 1000]:
        for C in (1, 15, 16, 33):
            w = random(rng, K, C)
            scale = random(rng, K) if scaled else None
            full = w if scale is None else w * scale[:, None]
            given = w if trans_b else np.ascontiguousarray(w.T)
            want = linear_panels(full, V * WIDEST[isa.name][1], V)
            np.testing.assert_array_equal(pack_linear(isa, given, scale, trans_b, rows=3), want, f"{w.shape}")
            want = pack_conv2d(isa, full[:, :, None, None])
            np.testing.assert_array_equal(pack_linear(isa, given, scale, trans_b, rows=4), want, f"{w.shape}")


def linear_panels(w: F32, widest: int, V: int) -> F32:
    parts = [w[k : k + widest] for k in range(0, len(w), widest)]
    return np.concatenate([panel(p.reshape(*p.shape, 1), -(-len(p) // V) * V) for p in parts])


@pytest.mark.parametrize(("C", "K"), ((2101, 1001), (1025, 2047), (1025, 2049), (512, 4097), (512, 9216)))
def test_weights_that_come_from_memory(C: int, K: int) -> None:
    """Panels of up to 1024 columns, an even number of them, for one to three rows."""
    isa, rng = LEVELS[-1], np.random.default_rng(8)
    V, w = _core.vector_length(isa), random(rng, K, C)
    (columns,) = {_core.linear_panel(rows, C, K, isa) for rows in (1, 2, 3)}
    assert 500 < columns <= 1024 and -(-K // columns) % 2 == 0
    assert _core.linear_panel(4, C, K, isa) == 0
    assert _core.linear_panel(1, C, 100, isa) == V * WIDEST[isa.name][1]
    want = linear_panels(w, columns, V)
    for trans_b in (True, False):
        given = w if trans_b else np.ascontiguousarray(w.T)
        np.testing.assert_array_equal(pack_linear(isa, given, None, trans_b, rows=1), want)


@isas
@pytest.mark.parametrize("scaled", (False, True))
def test_linear_by_parts_of_the_outputs(isa: Any, scaled: bool) -> None:
    """Parts of panels, too."""
    rng, V = np.random.default_rng(9), _core.vector_length(isa)
    for K in (1000, 128, 7):
        w, scale = random(rng, K, 6), random(rng, K) if scaled else None
        for columns in (8 * V, 272, 512):
            store = _core.WeightStore()
            packed = store.reserve_linear(K, 6, isa)
            for first in (*range(128, K, 128), 0):  # in any order
                factors = None if scale is None else scale[first : first + 128]
                _core.pack_linear_rows(packed, K, columns, first, w[first : first + 128], factors, isa, 2)
            want = contents(isa, store, store.pack_linear(w, scale, True, columns, isa, 2))
            np.testing.assert_array_equal(contents(isa, store, packed), want, f"{K} {columns}")


@isas
@pytest.mark.parametrize("scaled", (False, True))
@pytest.mark.parametrize("m", (0, 2, 3, 4))
def test_convolution_by_parts_of_the_outputs(isa: Any, m: int, scaled: bool) -> None:
    rng, V = np.random.default_rng(7), _core.vector_length(isa)
    for K in channels_out(V):
        w, scale = random(rng, K, 5, 3, 3), random(rng, K) if scaled else None
        store = _core.WeightStore()
        starts = _core.panels(K, isa)
        assert starts == [first for first, _ in even_panels(K, V, WIDEST[isa.name][0])]
        if m:
            packed, whole = store.reserve_winograd(K, 5, m, 3, isa), store.pack_winograd(w, scale, m, isa)
        else:
            packed, whole = store.reserve_conv2d(K, 5, 3, 3, isa), store.pack_conv2d(w, scale, 1, isa)
        bounds = [*starts[::2], K]  # one or two panels at a time, the last ones first
        for first, end in reversed(list(itertools.pairwise(bounds))):
            rows, factors = w[first:end], None if scale is None else scale[first:end]
            if m:
                _core.pack_winograd_rows(packed, K, first, rows, factors, m, isa)
            else:
                _core.pack_conv2d_rows(packed, K, first, rows, factors, isa)
        np.testing.assert_array_equal(contents(isa, store, packed), contents(isa, store, whole), f"{K}")


def test_panels_that_do_not_fit() -> None:
    isa, store = LEVELS[0], _core.WeightStore()
    K = 5 * _core.vector_length(isa)
    starts = _core.panels(K, isa)
    assert len(starts) == 3
    packed, wino = store.reserve_conv2d(K, 5, 3, 3, isa), store.reserve_winograd(K, 5, 2, 3, isa)
    w = np.zeros((K, 5, 3, 3), np.float32)
    for first, rows in ((1, w), (-1, w), (starts[1], w), (0, w[: starts[1] - 1]), (0, w[:, :4]), (0, w[..., :2])):
        with pytest.raises(ValueError, match=r"panels|size"):
            _core.pack_conv2d_rows(packed, K, first, rows, None, isa)
        with pytest.raises(ValueError, match=r"panels|size|form"):
            _core.pack_winograd_rows(wino, K, first, rows, None, 2, isa)
    with pytest.raises(ValueError, match="panels"):
        _core.pack_conv2d_rows(packed, K, 0, w[0, 0], None, isa)
    with pytest.raises(ValueError, match="size"):
        _core.pack_winograd_rows(wino, K, 0, w, None, 4, isa)
    with pytest.raises(ValueError, match="scale"):
        _core.pack_conv2d_rows(packed, K, 0, w, np.ones(K - 1, np.float32), isa)
    for sizes in ((0, 5, 3, 3), (5, -1, 3, 3), (1 << 30, 1 << 30, 1 << 30, 3)):
        with pytest.raises(ValueError, match="weight"):
            store.reserve_conv2d(*sizes, isa)
    with pytest.raises(ValueError, match="form"):
        store.reserve_winograd(5, 5, 5, 3, isa)


@isas
@pytest.mark.parametrize("scaled", (False, True))
def test_linear_by_parts_of_the_inputs(isa: Any, scaled: bool) -> None:
    rng, V = np.random.default_rng(4), _core.vector_length(isa)
    for K in [*channels_out(V), 1000]:
        w, scale = random(rng, 33, K), random(rng, K) if scaled else None
        store = _core.WeightStore()
        for rows in (3, 4):
            packed, columns = store.reserve_linear(K, 33, isa), _core.linear_panel(rows, 33, K, isa)
            for first in (20, 0, 10, 30):  # in any order
                _core.pack_linear_inputs(packed, 33, columns, first, w[first : first + 10], scale, isa)
            want = pack_linear(isa, w, scale, False, rows=rows)
            np.testing.assert_array_equal(contents(isa, store, packed), want, f"{K}")


def test_parts_that_do_not_fit() -> None:
    isa = LEVELS[0]
    packed = _core.WeightStore().reserve_linear(20, 10, isa)
    rows = np.zeros((4, 20), np.float32)
    for C, first, w in ((10, 7, rows), (10, -1, rows), (11, 0, rows), (0, 0, rows), (10, 0, np.zeros((4, 25), "f4"))):
        with pytest.raises(ValueError, match="rows"):
            _core.pack_linear_inputs(packed, C, 64, first, w, None, isa)
    with pytest.raises(ValueError, match="panel"):
        _core.pack_linear_inputs(packed, 10, 63, 0, rows, None, isa)


def test_rejects() -> None:
    store, isa, w = _core.WeightStore(), LEVELS[0], np.zeros((6, 2, 3, 3), np.float32)
    with pytest.raises(ValueError, match="w must be"):
        store.pack_conv2d(w, None, 4, isa)
    with pytest.raises(ValueError, match="w must be"):
        store.pack_conv2d(w, None, 0, isa)
    with pytest.raises(ValueError, match="w must be"):
        store.pack_conv2d(w[0], None, 1, isa)
    with pytest.raises(ValueError, match="w must be"):
        store.pack_depthwise_conv2d(w, None, isa)
    with pytest.raises(ValueError, match="w must be"):
        store.pack_linear(w, None, True, 64, isa)
    with pytest.raises(ValueError, match="scale"):
        store.pack_conv2d(w, np.zeros(5, np.float32), 1, isa)
    with pytest.raises(ValueError, match="scale"):
        store.pack_linear(w[:, :, 0, 0], np.zeros(2, np.float32), True, 64, isa)
    for columns in (-64, 63, 1 << 31):
        with pytest.raises(ValueError, match="panel"):
            store.pack_linear(w[:, :, 0, 0], None, True, columns, isa)


def test_store_counts_and_keeps() -> None:
    """Weights of a store stay where and what they are, however many follow: 64-byte steps, regions of 64 MB."""
    store, isa = _core.WeightStore(), LEVELS[0]
    first = store.put(np.arange(5, dtype=np.float32))
    assert (first.size, store.bytes) == (5, 64)
    big = [store.put(np.full(9 << 20, i, np.float32)) for i in range(3)]  # 36 MB each: every one its own region
    assert store.bytes == 64 + 3 * (36 << 20)
    plan = _core.Plan(isa, store)
    out = np.zeros(8, np.float32)
    for i, (weight, n) in enumerate([(first, 5), *((b, 1) for b in big)]):
        desc = _core.Copy(rank=1, dims=[n], x_stride=[1], y_stride=[1])
        plan.copy(desc, [plan.weight(weight)], plan.external(0, 0 if i == 0 else 4 + i, n))
    del store, first, big, weight
    _core.Executor(1).run(plan, [out])
    np.testing.assert_array_equal(out, [0, 1, 2, 3, 4, 0, 1, 2])
