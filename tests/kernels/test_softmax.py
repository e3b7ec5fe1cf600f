"""Softmax and its logarithm over one axis of [outer, n, inner]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, random, run


def apply(isa: Any, x: F32, log: bool, *, gap: int = 0) -> F32:
    outer, n, inner = x.shape
    xs = (n * (inner + gap), inner + gap, 1)
    ys = (n * inner + gap, inner, 1)
    desc = _core.Softmax(
        outer=outer, n=n, inner=inner, x_outer=xs[0], x_n=xs[1], y_outer=ys[0], y_n=ys[1], log=int(log)
    )  # fmt: skip
    return run(isa, desc, [(x, xs)], x.shape, ys)


@pytest.mark.parametrize("log", (False, True))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_softmax(isa: Any, log: bool) -> None:
    rng = np.random.default_rng(12)
    V = _core.vector_length(isa)
    for inner in (1, *cases.channels(V)):
        for n in [*cases.channels(V), 1000]:
            for outer, gap in ((1, 0), (3, 2)):
                x = 5 * random(rng, outer, n, inner)
                want = reference.softmax(x, 1, log)
                # x - max, up to 40, is rounded before the exponential: a relative error of its size; log adds its own
                size = float(np.abs(x).max()) * 2
                got = apply(isa, x, log, gap=gap)
                terms = 1 if log else (size / 4) ** 2 + n
                close(got, want, terms=terms, scale=size if log else None, note=(outer, n, inner))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_large_and_special(isa: Any) -> None:
    inf, nan = np.inf, np.nan
    rows = np.array([[1e30, -1e30, 0], [-1e38, -1e38, -1e38], [-inf, 1, 2], [nan, 1, 2], [inf, 1, 2], [-inf] * 3],
                    np.float32)  # fmt: skip
    for log in (False, True):
        want = reference.softmax(rows, 1, log)
        for inner in (1, 5):
            x, y = (np.repeat(a[..., None], inner, 2) for a in (rows, want))
            close(apply(isa, x.astype(np.float32), log), y, scale=1.0, note=log)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_in_place(isa: Any) -> None:
    for inner in (1, 6):
        for log in (0, 1):
            x = random(np.random.default_rng(13), 2, 37, inner)
            y = x.copy()
            step = 37 * inner
            desc = _core.Softmax(
                outer=2, n=37, inner=inner, x_outer=step, x_n=inner, y_outer=step, y_n=inner, log=log
            )  # fmt: skip
            _core.run_kernel(isa, desc, [y], y)
            close(y, reference.softmax(x, 1, bool(log)), terms=9, scale=1.0)
