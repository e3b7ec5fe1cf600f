"""Convolutions of few channels and outputs, where neighbouring pixels share a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import _core
from fastconv.compiled import Compiled
from fastconv.compiler import Compiler, WeightCache
from fastconv.graph import Graph, Weight
from fastconv.selection import Choice, Selection, shape_of
from fastconv.tuning import Tuning
from tests import reference
from tests.cases import ConvCase
from tests.kernels.guard import LEVELS, close

F32 = npt.NDArray[np.float32]
CASES = [
    ConvCase("lenet", 1, 28, 28, 1, 6, 5, 5, pads=(2, 2, 2, 2)),
    ConvCase("one", 1, 9, 12, 1, 1, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("images", 2, 9, 12, 1, 1, 3, 3, pads=(1, 1, 1, 1)),  # whose lanes hold images, whatever the pixels
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
        "lenet": [1, 1, 2], "one": [4, 6, 12], "images": [1, 1, 1], "two": [2, 4, 8], "tall": [1, 1, 5],
        "apart": [1, 1, 1], "prime": [1, 1, 1], "many": [1, 1, 1],
    }  # fmt: skip


def test_strict_keeps_infinite_pixels_apart() -> None:
    plan, (x,), _ = compiled(CASES[0], LEVELS[-1], True, False)
    x[0, 14, 14, 0] = np.inf
    touched = np.isnan(run(plan, [x])) | (np.abs(run(plan, [x])) == 1.0)
    assert not np.isnan(run(plan, [x])).any()
    assert touched[0, 12:17, 12:17].all()


def slice_of_three() -> tuple[bytes, dict[str, F32]]:
    """A model with a 3x3 stem without padding whose three channels lie among the four of a concatenation; its
    weights."""
    rng = np.random.default_rng(5)
    shapes = {"a": (3, 5, 1, 1), "b": (1, 5, 1, 1), "c": (6, 4, 1, 1), "w": (8, 3, 3, 3)}
    weights = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["three"]), helper.make_node("Conv", ["x", "b"], ["fourth"]),
        helper.make_node("Concat", ["three", "fourth"], ["four"], axis=1),
        helper.make_node("Conv", ["four", "c"], ["z"]), helper.make_node("Conv", ["three", "w"], ["y"]),
    ]  # fmt: skip
    values = {"x": (2, 5, 9, 11), "y": (2, 8, 7, 9), "z": (2, 6, 9, 11)}
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values.items())
    initializers = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "slice", [x], [y, z], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString(), weights


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_an_image_without_padding_is_taken_as_it_is(isa: Any) -> None:
    case = ConvCase("bare", 2, 9, 11, 3, 8, 3, 3)
    plan, values, want = compiled(case, isa, False, False)
    assert [op.algorithm for op in plan.ops] == ["row_run"]
    close(run(plan, values), want, terms=27, scale=1.0, note=case.name)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_a_slice_is_copied(isa: Any) -> None:
    data, weights = slice_of_three()
    model = fastconv.Model(data, _isa=isa.name)
    assert [op.algorithm for op in model.inspect() if op.name == "y"] == ["border", "row_run"]
    x = np.random.default_rng(6).standard_normal((2, 5, 9, 11), np.float32)
    three = reference.conv2d(x.transpose(0, 2, 3, 1), weights["a"], None, None)
    want = reference.conv2d(three, weights["w"], None, None).transpose(0, 3, 1, 2)
    close(model(x)[0], want, terms=27 * 5, scale=2.0, note="slice")
