"""Local response normalisation across channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import LEVELS, close, random, run

PARAMETERS = (
    (5, 1e-4, 0.75, 1.0), (5, 1.0, 0.75, 2.0), (4, 0.5, 0.5, 1.0), (1, 2.0, 1.0, 0.5), (3, 0.3, 0.6, 1.5),
    (64, 1.0, 0.75, 1.0), (65, 1.0, 0.75, 1.0), (3000, 1.0, 0.4, 1.0),
)  # fmt: skip


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_lrn(isa: Any) -> None:
    rng = np.random.default_rng(14)
    V = _core.vector_length(isa)
    for c in [*cases.channels(V), 512, 513, 1100]:
        for size, alpha, beta, bias in PARAMETERS:
            if size > 64 and c > 513:
                continue
            for rows, x_ld, y_ld in ((1, c, c), (3, c + 2, c + 1)):
                x = 3 * random(rng, rows, c)
                alpha, beta, bias = (float(np.float32(v)) for v in (alpha, beta, bias))
                desc = _core.Lrn(rows=rows, C=c, x_ld=x_ld, y_ld=y_ld, size=size, alpha=alpha, beta=beta, bias=bias)
                got = run(isa, desc, [(x, (x_ld, 1))], (rows, c), (y_ld, 1))
                close(got, reference.lrn(x, size, alpha, beta, bias), terms=4, note=(c, size, alpha, beta, rows))


def test_rejects() -> None:
    x = np.zeros(16, np.float32)
    with pytest.raises(ValueError, match="lrn: size"):
        _core.run_kernel(LEVELS[0], _core.Lrn(rows=1, C=16, x_ld=16, y_ld=16), [x], x.copy())
