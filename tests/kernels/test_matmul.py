"""Batched products of two computed matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, random, run


def apply(isa: Any, a: F32, b: F32, *, gap: int = 0, shared: str = "") -> F32:
    """a [batch, M, K], b [batch, K, N]; `shared` names an operand whose batch stride is 0 (then its batch is 1)."""
    batch, M, K, N = max(len(a), len(b)), a.shape[1], a.shape[2], b.shape[2]

    def strides(rows: int, columns: int, name: str) -> tuple[int, int, int]:
        ld = columns + gap
        return (0 if name == shared else rows * ld + gap, ld, 1)

    sa, sb, sy = strides(M, K, "a"), strides(K, N, "b"), strides(M, N, "y")
    desc = _core.MatMul(batch=batch, M=M, N=N, K=K, a_batch=sa[0], a_ld=sa[1], b_batch=sb[0], b_ld=sb[1], y_batch=sy[0],
                        y_ld=sy[1])  # fmt: skip
    return run(isa, desc, [(a, sa), (b, sb)], (batch, M, N), sy)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_matmul(isa: Any) -> None:
    rng = np.random.default_rng(21)
    V = _core.vector_length(isa)
    for M in (1, 2, 3, 5, 6, 7, 11, 12, 13, 25, 49):
        for N in [*cases.channels(V), 2 * V, 130]:
            for K in (1, 7, 40):
                gap = (M + N) % 3
                a, b = random(rng, 2, M, K), random(rng, 2, K, N)
                close(apply(isa, a, b, gap=gap), reference.matmul(a, b), terms=K, scale=np.sqrt(K), note=(M, N, K))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_broadcast_and_empty(isa: Any) -> None:
    rng = np.random.default_rng(22)
    a, b = random(rng, 3, 5, 9), random(rng, 3, 9, 17)
    close(apply(isa, a[:1], b, shared="a"), reference.matmul(a[:1], b), terms=9, scale=3.0)
    close(apply(isa, a, b[:1], shared="b"), reference.matmul(a, b[:1]), terms=9, scale=3.0)
    assert apply(isa, a[:0], b[:0]).shape == (0, 5, 17)
    assert (apply(isa, a[..., :0], b[:, :0]) == 0).all()


def test_rejects() -> None:
    x = np.zeros(16, np.float32)
    good = {"batch": 1, "M": 4, "N": 4, "K": 4, "a_ld": 4, "b_ld": 4, "y_ld": 4}
    for kw in ({"M": -1}, {"y_ld": 3}, {"batch": 2}, {"K": 1 << 41}, {"a_ld": -4}):
        with pytest.raises(ValueError, match="matmul"):
            _core.run_kernel(LEVELS[0], _core.MatMul(**{**good, **kw}), [x, x], x.copy())
