"""If: the branch that a constant condition takes becomes part of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.onnx import read
from tests.onnx.corpus import array
from tests.onnx.helpers import make_model, run_ort

X = array(2, 1, 3)


def branch(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], weights: dict[str, np.ndarray] | None = None
) -> onnx.GraphProto:
    infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    inits = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    return helper.make_graph(list(nodes), "branch", [], infos, inits)


def squeeze_if_one(*, dims: Sequence[int | str] = (2, 1, 3)) -> onnx.ModelProto:
    """What PyTorch's classic exporter writes for x.squeeze(1)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["is_one"]),
        helper.make_node(
            "If", ["is_one"], ["y"],
            then_branch=branch([helper.make_node("Squeeze", ["x", "axis"], ["v"])], ["v"], {"axis": np.array([1])}),
            else_branch=branch([helper.make_node("Identity", ["x"], ["v"])], ["v"]),
        ),
        helper.make_node("Relu", ["y"], ["z"]),
    ]  # fmt: skip
    return make_model(nodes, {"x": dims}, ["z"], {"one": np.array(1)})


def test_then() -> None:
    model = squeeze_if_one()
    (want,) = run_ort(model, {"x": X})
    got = fastconv.load(model)(X)
    assert got.shape == want.shape == (2, 3)
    np.testing.assert_array_equal(got, want)


def test_each_shape_takes_its_branch() -> None:
    model = fastconv.load(squeeze_if_one(dims=(2, "c", 3)))
    assert model(X).shape == (2, 3)
    assert model(array(2, 4, 3)).shape == (2, 4, 3)


def conditional(then: onnx.GraphProto, other: onnx.GraphProto, condition: bool) -> onnx.ModelProto:
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)
    first = helper.make_node("Relu", ["x"], ["r"])
    return make_model([first, node], {"x": X.shape}, ["y"], {"c": np.array(condition)})


@pytest.mark.parametrize("condition", [True, False])
def test_names_inside_hide_nothing_outside(condition: bool) -> None:
    """Both branches, and one branch inside the other, use the same names for different values."""
    inner = helper.make_node(
        "If", ["c"], ["v"],
        then_branch=branch([helper.make_node("Mul", ["r", "w"], ["v"])], ["v"], {"w": np.float32([3])}),
        else_branch=branch([helper.make_node("Mul", ["u", "w"], ["v"])], ["v"], {"w": np.float32([5])}),
    )  # fmt: skip
    weights = {"w": np.float32([7])}
    then = branch([helper.make_node("Add", ["r", "w"], ["u"]), inner], ["v"], weights)
    other = branch([helper.make_node("Sub", ["r", "w"], ["u"]), inner], ["v"], weights)
    model = conditional(then, other, condition)
    relu = np.maximum(X, 0)
    np.testing.assert_allclose(fastconv.load(model)(X), 3 * relu if condition else 5 * (relu - 7), rtol=1e-6)


def test_an_operator_of_the_other_branch_does_not_matter() -> None:
    good = branch([helper.make_node("Neg", ["r"], ["v"])], ["v"])
    bad = branch([helper.make_node("NoSuchOperator", ["r"], ["v"])], ["v"])
    np.testing.assert_array_equal(fastconv.load(conditional(good, bad, True))(X), -np.maximum(X, 0))
    with pytest.raises(UnsupportedOpError, match="NoSuchOperator"):
        fastconv.load(conditional(good, bad, False))


def test_a_condition_computed_at_run_time_is_refused() -> None:
    good = branch([helper.make_node("Neg", ["x"], ["v"])], ["v"])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=good, else_branch=good),
    ]
    model = make_model(nodes, {"x": X.shape}, ["y"], {"zero": np.float32(0)})
    with pytest.raises(UnsupportedOpError, match=r"choice.*the condition .*run time"):
        read(model).build({})


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_other_operators_with_graphs_are_unsupported(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="body_of", body=branch([], []))
    with pytest.raises(UnsupportedOpError, match=f"body_of.*{op}"):
        read(make_model([node], {"x": [1]}, ["y"]))


def test_broken_branches() -> None:
    good = branch([helper.make_node("Neg", ["r"], ["v"])], ["v"])
    nowhere = branch([helper.make_node("Neg", ["nobody"], ["v"])], ["v"])
    with pytest.raises(ModelError, match="nobody"):
        read(conditional(good, nowhere, True))
    with pytest.raises(ModelError, match="2 outputs"):
        read(conditional(branch([helper.make_node("Neg", ["r"], ["v"])], ["v", "v"]), good, True)).build({})
    circle = branch([helper.make_node("Neg", ["b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])], ["a"])
    with pytest.raises(ModelError, match="cycle"):
        read(conditional(circle, good, True)).build({})
    with_inputs = branch([helper.make_node("Neg", ["r"], ["v"])], ["v"])
    with_inputs.input.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="inputs"):
        read(conditional(with_inputs, good, True))


def test_deep_nesting_is_an_error() -> None:
    inner = branch([helper.make_node("Neg", ["r"], ["v"])], ["v"])
    for _ in range(20):
        node = helper.make_node("If", ["c"], ["v"], then_branch=inner, else_branch=branch([], ["r"]))
        inner = branch([node], ["v"])
    with pytest.raises(ModelError, match="nested"):
        read(conditional(inner, inner, True))
