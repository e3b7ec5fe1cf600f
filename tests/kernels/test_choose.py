"""Where, TopK with Take, and suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases

from .guard import F32, LEVELS, dense, random, run


def where(isa: Any, c: F32, a: F32, b: F32, dims: tuple[int, ...], ld: int | None = None) -> F32:
    def lay(x: F32) -> list[int]:
        return [0 if n == 1 and d > 1 else s for n, d, s in zip(x.shape, dims, dense(x.shape), strict=True)]

    desc = _core.Where(
        rank=len(dims), dims=dims, c_stride=lay(c), a_stride=lay(a), b_stride=lay(b), y_stride=dense(dims, ld)
    )
    return run(isa, desc, [(v, dense(v.shape)) for v in (c, a, b)], dims, dense(dims, ld), chunks=4)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_where(isa: Any) -> None:
    rng = np.random.default_rng(1)
    for channels in cases.channels(_core.vector_length(isa)):
        dims = (2, 3, channels)
        shapes = [dims, (1, 3, channels), (2, 3, 1), (1, 1, 1), (2, 1, channels)]
        for sc in shapes[:3]:
            for sa in shapes:
                for sb in (dims, (1, 1, 1)):
                    c = (random(rng, *sc) > 0).astype(np.float32)
                    a, b = random(rng, *sa), random(rng, *sb)
                    for ld in (None, channels + 2):
                        want = np.broadcast_to(np.where(c != 0, a, b), dims)
                        np.testing.assert_array_equal(where(isa, c, a, b, dims, ld), want)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_where_hands_nan_and_infinity_through(isa: Any) -> None:
    c = np.array([[1, 0, 1, 0, -2] * 5], np.float32)
    a, b = np.full((1, 25), np.inf, np.float32), np.full((1, 25), np.nan, np.float32)
    np.testing.assert_array_equal(where(isa, c, a, b, (1, 25)), np.where(c != 0, a, b))


def top_k(isa: Any, x: F32, k: int, largest: bool) -> F32:
    outer, n, inner = x.shape
    desc = _core.TopK(outer=outer, n=n, inner=inner, k=k, largest=int(largest))
    return run(isa, desc, [(x, dense(x.shape))], (outer, k, inner), dense((outer, k, inner)))


@pytest.mark.parametrize("largest", (True, False))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_top_k(isa: Any, largest: bool) -> None:
    rng = np.random.default_rng(2)
    for n in (1, 2, 9, 100, 1000):
        for inner in (1, 3):
            x = np.round(3 * random(rng, 2, n, inner))
            order = np.argsort(-x if largest else x, axis=1, kind="stable")
            for k in {1, n // 2, n} - {0}:
                got = top_k(isa, x, k, largest)
                np.testing.assert_array_equal(got, order[:, :k])
                desc = _core.Take(outer=2, n=n, inner=inner, k=k)
                operands = [(x, dense(x.shape)), (got, dense(got.shape))]
                taken = run(isa, desc, operands, got.shape, dense(got.shape))
                np.testing.assert_array_equal(taken, np.take_along_axis(x, order[:, :k], 1))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_nan_ranks_above_all_numbers(isa: Any) -> None:
    x = np.array([1, np.nan, np.inf, -np.inf, np.nan], np.float32).reshape(1, 5, 1)
    assert top_k(isa, x, 5, True).reshape(-1).tolist() == [1, 4, 2, 0, 3]
    assert top_k(isa, x, 5, False).reshape(-1).tolist() == [3, 0, 2, 1, 4]


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_take_stays_inside(isa: Any) -> None:
    """Whatever a file has for indices."""
    x, index = np.arange(4, dtype=np.float32).reshape(1, 4, 1), np.array([-5, 9, np.nan, 1e30], np.float32)
    desc = _core.Take(outer=1, n=4, inner=1, k=4)
    got = run(isa, desc, [(x, dense(x.shape)), (index.reshape(1, 4, 1), (4, 1, 1))], (1, 4, 1), (4, 1, 1))
    assert got.reshape(-1).tolist() == [0, 3, 0, 3]


def suppress_reference(boxes: F32, scores: F32, most: int, iou: float, least: float) -> list[list[int]]:
    """Boxes as two corners, the lower one first."""
    rows = []
    for image in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            kept: list[int] = []
            for i in np.argsort(-scores[image, c], kind="stable"):
                if len(kept) < most and scores[image, c, i] > least:
                    y0, x0, y1, x1 = boxes[image, i].astype(np.float64)
                    for j in kept:
                        v0, u0, v1, u1 = boxes[image, j].astype(np.float64)
                        both = max(0, min(y1, v1) - max(y0, v0)) * max(0, min(x1, u1) - max(x0, u0))
                        if both > iou * ((y1 - y0) * (x1 - x0) + (v1 - v0) * (u1 - u0) - both):
                            break
                    else:
                        kept.append(int(i))
                        rows.append([image, c, int(i)])
    return rows


@pytest.mark.parametrize("form", ("corners", "swapped", "center"))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_suppress(isa: Any, form: str) -> None:
    rng = np.random.default_rng(3)
    images, classes, count, most = 2, 3, 50, 6
    corner, size = rng.uniform(0, 1, (2, images, count, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + 0.1 + size], axis=2)
    scores = np.round(rng.uniform(0, 1, (images, classes, count)), 2).astype(np.float32)
    want = suppress_reference(boxes, scores, most, 0.3, 0.2)
    given = boxes
    if form == "swapped":
        given = boxes[:, :, [2, 1, 0, 3]]
    if form == "center":
        middle, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        given = np.concatenate([middle[..., ::-1], extent[..., ::-1]], axis=2)
    order = top_k(isa, scores.reshape(-1, count, 1), count, True).reshape(scores.shape)
    desc = _core.Suppress(
        images=images, boxes=count, classes=classes, most=most, iou=0.3, score=0.2, has_score=1,
        center=int(form == "center"),
    )  # fmt: skip
    operands = [(v, dense(v.shape)) for v in (np.ascontiguousarray(given), scores, order)]
    got = run(isa, desc, operands, (images * classes * most, 3), (3, 1), chunks=1)
    assert len(want) > 10
    assert got[: len(want)].tolist() == want
    assert (got[len(want) :] == -1).all()
