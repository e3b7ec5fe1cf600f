"""Convolutions of few channels and outputs, where neighbouring pixels share a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastconv import _core
from fastconv.compiler import Compiled, Compiler, WeightCache
from fastconv.graph import Graph, Weight
from fastconv.selection import Choice, Selection, shape_of
from fastconv.tuning import Tuning
from tests import reference
from tests.cases import ConvCase
from tests.kernels.guard import LEVELS, close

F32 = npt.NDArray[np.float32]
CASES = [
    ConvCase("lenet", 1, 28, 28, 1, 6, 5, 5, pads=(2, 2, 2, 2)),
    ConvCase("one", 2, 9, 12, 1, 1, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("two", 1, 12, 17, 3, 2, 3, 3, (2, 2), pads=(1, 0, 0, 1)),
    ConvCase("tall", 1, 17, 15, 2, 3, 5, 4, (1, 3), (0, 2, 3, 1), (2, 1)),
    ConvCase("apart", 1, 12, 12, 2, 4, 2, 2, (2, 2)),  # windows that do not overlap gain nothing
    ConvCase("prime", 1, 8, 13, 1, 4, 3, 3, pads=(1, 1, 1, 1)),  # 13 outputs do not divide
    ConvCase("many", 1, 8, 12, 3, 20, 3, 3, pads=(1, 1, 1, 1)),
]


def compiled(case: ConvCase, isa: Any, strict: bool, residual: bool) -> tuple[Compiled, list[F32], F32]:
    """The plan, its inputs, and what it must compute. Weights have a scale and a bias."""
    g, rng = Graph(case.name), np.random.default_rng(3)
    shape = (case.N, case.P, case.Q, case.K)
    x = g.add_input("x", (case.N, case.H, case.W, case.C))
    w, bias, scale = (
        rng.standard_normal(s, np.float32) for s in ((case.K, case.C, case.R, case.S), (case.K,), (case.K,))
    )
    inputs = [x, g.constant(Weight(w.shape, w.dtype, lambda: w)), g.constant(bias)]
    values = [rng.standard_normal(x.shape, np.float32)]
    if residual:
        inputs.append(g.add_input("r", shape))
        values.append(rng.standard_normal(shape, np.float32))
    attrs: dict[str, Any] = dict(
        strides=case.strides, dilations=case.dilations, pads=case.pads, group=1, activation=("Tanh", 0.0, 0.0)
    )
    g.outputs = [g.add("Conv", inputs, shape, scale=scale, **attrs)]
    want = reference.conv2d(
        values[0], w * scale[:, None, None, None], bias, values[1] if residual else None, strides=case.strides,
        dilations=case.dilations, pads=case.pads, act=reference.activation("tanh"),
    )  # fmt: skip
    only = Tuning({(shape_of(g.nodes[0]), isa.name): {Choice("row_run"): 1.0}})
    return Compiler(g, WeightCache(), Selection(isa, strict, tuning=only)).compile(), values, want.astype(np.float32)


def run(plan: Compiled, values: list[F32], threads: int = 1) -> F32:
    y = np.full(plan.outputs[0][1], np.nan, np.float32)
    _core.Executor(threads).run(plan.plan, [*values, y])
    return y


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("residual", (False, True))
def test_neighbours_change_no_bit(isa: Any, case: ConvCase, residual: bool) -> None:
    plan, values, want = compiled(case, isa, False, residual)
    assert plan.ops[-1].algorithm == "row_run"
    y = run(plan, values)
    close(y, want, terms=case.C * case.R * case.S, scale=1.0, note=case.name)
    np.testing.assert_array_equal(y, run(plan, values, 2))
    single, _, _ = compiled(case, isa, True, residual)
    np.testing.assert_array_equal(y, run(single, values))


def test_group_fills_a_vector_and_divides_the_line() -> None:
    groups = {}
    for case in CASES:
        shape = _core.ConvShape(
            N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, groups=1,
            strides=case.strides, dilations=case.dilations, pads=case.pads,
        )  # fmt: skip
        groups[case.name] = [
            _core.row_run_group(shape, i) for i in (_core.Isa.scalar, _core.Isa.avx2, _core.Isa.avx512)
        ]
    assert groups == {
        "lenet": [1, 1, 2], "one": [4, 6, 12], "two": [2, 4, 8], "tall": [1, 1, 5], "apart": [1, 1, 1],
        "prime": [1, 1, 1], "many": [1, 1, 1],
    }  # fmt: skip


def test_strict_keeps_infinite_pixels_apart() -> None:
    plan, (x,), _ = compiled(CASES[0], LEVELS[-1], True, False)
    x[0, 14, 14, 0] = np.inf
    touched = np.isnan(run(plan, [x])) | (np.abs(run(plan, [x])) == 1.0)
    assert not np.isnan(run(plan, [x])).any()
    assert touched[0, 12:17, 12:17].all()
