"""Squeeze-and-excite gates that scale the weights of the 1x1 convolution behind them (see prepare.py)."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import fastconv
from fastconv.isa import isa_levels

from .models.gate import network


def scales_weights(model: fastconv.Model, shape: tuple[int, ...]) -> bool:
    algorithms = [op.algorithm for op in model.inspect(shape)]
    assert ("gate" in algorithms) != any(op.op == "Mul" for op in model.inspect(shape))
    return "gate" in algorithms


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("K", (1, 8, 24, 40, 80, 112))  # panels of one width and of two, on every level
@pytest.mark.parametrize("residual", (False, True))
def test_gate(isa: str, K: int, residual: bool) -> None:
    model = network(12, 19, K, residual=residual)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    fast = fastconv.load(model, threads=1, _isa=isa)
    for n in (1, 2):
        x = np.random.default_rng(n).standard_normal((n, 19, 12, 12), dtype=np.float32)
        assert scales_weights(fast, x.shape) == (n == 1)
        want = session.run(None, {"x": x})[0]
        for _ in range(2):  # the second run finds the scaled weights of the first
            got = fast(x)
            assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
        assert np.array_equal(got, fastconv.load(model, threads=3, _isa=isa)(x))


def test_not_worth_it_or_not_possible() -> None:
    few = fastconv.load(network(4, 19, 24))  # 16 pixels, 24 output channels
    assert not scales_weights(few, (1, 19, 4, 4))
    seen = fastconv.load(network(12, 19, 24, shared=True))
    assert not scales_weights(seen, (1, 19, 12, 12))
