"""y = act(x * scale + shift) per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import LEVELS, close, random, run


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_affine(isa: Any) -> None:
    rng = np.random.default_rng(5)
    V = _core.vector_length(isa)
    for c in [*cases.channels(V), 4096]:
        for rows in (1, 7, 0):
            for x_ld, y_ld in ((c, c), (c + 1, c + 5)):
                for func, alpha, beta in (("identity", 0.0, 0.0), ("clip", 0.0, 6.0), ("hard_swish", 0.0, 0.0)):
                    x, scale, shift = random(rng, rows, c), random(rng, c), random(rng, c)
                    act = _core.Activation(func=getattr(_core.Func, func), alpha=alpha, beta=beta)
                    desc = _core.Affine(rows=rows, n=c, x_ld=x_ld, y_ld=y_ld, act=act)
                    got = run(isa, desc, [(x, (x_ld, 1)), (scale, (1,)), (shift, (1,))], (rows, c), (y_ld, 1))
                    want = reference.affine(x, scale, shift, reference.activation(func, alpha, beta))
                    close(got, want, scale=4.0, note=(c, rows, x_ld, func))
