"""Padding and cropping by a constant, the edge or a reflection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import reference

from .guard import F32, LEVELS, dense, random, run

PADS: list[list[tuple[int, int]]] = [
    [(0, 0), (1, 1), (1, 1), (0, 0)],
    [(0, 0), (3, 2), (0, 1), (0, 0)],
    [(1, 0), (0, 2), (2, 0), (3, 1)],
    [(0, 0), (-1, 1), (2, -1), (0, 0)],
    [(0, 0), (-1, -2), (-1, -1), (-2, 0)],
    [(0, 0), (0, 0), (0, 0), (0, 0)],
]


def apply(
    isa: Any, x: F32, pads: Sequence[tuple[int, int]], mode: str, value: float = 0.0, *,
    x_strides: Sequence[int] | None = None, y_strides: Sequence[int] | None = None,
) -> F32:  # fmt: skip
    dims = [n + a + b for n, (a, b) in zip(x.shape, pads, strict=True)]
    xs, ys = x_strides or dense(x.shape), y_strides or dense(dims)
    desc = _core.Pad(
        rank=x.ndim, dims=dims, x_dims=x.shape, before=[a for a, _ in pads], x_stride=xs, y_stride=ys,
        mode=getattr(_core.PadMode, mode), value=value,
    )  # fmt: skip
    return run(isa, desc, [(x, xs)], dims, ys, chunks=7)


@pytest.mark.parametrize("mode", ("constant", "edge", "reflect"))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_pad(isa: Any, mode: str) -> None:
    rng = np.random.default_rng(19)
    for c in (3, 5, 16, 19):
        x = random(rng, 2, 5, 6, c)
        for pads in PADS:
            want = reference.pad(x, pads, mode, 1.5)
            np.testing.assert_array_equal(apply(isa, x, pads, mode, 1.5), want, f"{c} {pads}")
            wide = dense(x.shape, c + 3)
            np.testing.assert_array_equal(apply(isa, x, pads, mode, 1.5, x_strides=wide), want, f"wide x {c} {pads}")
            wide = dense(want.shape, want.shape[-1] + 2)
            np.testing.assert_array_equal(apply(isa, x, pads, mode, 1.5, y_strides=wide), want, f"wide y {c} {pads}")
            planes = (30 * c, 6, 1, 30)  # an N C H W image
            np.testing.assert_array_equal(apply(isa, x, pads, mode, 1.5, x_strides=planes), want, f"planes {c} {pads}")


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_ranks_and_extremes(isa: Any) -> None:
    rng = np.random.default_rng(20)
    x = random(rng, 4)
    for pads in ([(0, 9)], [(9, 0)], [(-4, 2)], [(-1, -1)], [(-9, 9)], [(9, -9)]):
        np.testing.assert_array_equal(apply(isa, x, pads, "constant", 2.0), reference.pad(x, pads, "constant", 2.0))
        for mode in ("edge", "reflect"):  # also pads wider than the array
            np.testing.assert_array_equal(apply(isa, x, pads, mode), reference.pad(x, pads, mode))
    one = random(rng, 1, 1, 3)
    for mode in ("constant", "edge", "reflect"):
        pads = [(1, 2), (2, 1), (1, 0)]
        np.testing.assert_array_equal(apply(isa, one, pads, mode), reference.pad(one, pads, mode))
    empty = np.zeros((0, 3), np.float32)
    assert (apply(isa, empty, [(1, 1), (0, 0)], "constant", 3.0) == 3).all()
    assert apply(isa, random(rng, 2, 3), [(0, 0), (-2, -1)], "constant").shape == (2, 0)
    scalar = np.float32(7).reshape(())
    assert run(isa, _core.Pad(), [(scalar, ())], (), ()) == 7


def test_rejects() -> None:
    x = np.zeros(16, np.float32)
    good = {"rank": 2, "dims": (4, 4), "x_dims": (4, 4), "x_stride": (4, 1), "y_stride": (4, 1)}
    for kw in ({"rank": 9}, {"before": (1 << 50, 0)}, {"before": (1 << 39, 0), "dims": (4, 1 << 39)},
               {"mode": _core.PadMode.edge, "x_dims": (0, 4)}, {"y_stride": (2, 1)}):  # fmt: skip
        with pytest.raises(ValueError, match="pad"):
            _core.run_kernel(LEVELS[0], _core.Pad(**{**good, **kw}), [x], x.copy())
