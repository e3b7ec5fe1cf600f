"""What computing constants costs, and tensors without elements: the limits of the reader, and what lies within them."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import fastconv
from fastconv.errors import ModelError
from fastconv.graph import Array, Weight
from fastconv.onnx import read
from tests.onnx import broken_nodes
from tests.onnx.corpus import CASES, array, one
from tests.onnx.helpers import make_model, run_ort

assert broken_nodes  # importing it registers its cases


def same(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """fastconv computes what onnxruntime computes."""
    equal(model, feeds, *run_ort(model, feeds))


def equal(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *want: np.ndarray) -> None:
    got = fastconv.load(model, threads=1).run(None, feeds)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


# -- Weight -----------------------------------------------------------------------------------------------------------
def test_each_ancestor_is_computed_once_per_call() -> None:
    calls: list[str] = []

    def load() -> Array:
        calls.append("load")
        return np.ones(20000, np.float32)

    w = Weight((20000,), np.float32, load, key="root")
    for i in range(30):
        parent = w

        def double(a: Array, b: Array, i: int = i) -> Array:
            calls.append(f"add{i}")
            return a + b

        w = Weight((20000,), np.float32, double, key=f"add{i}", parents=(parent, parent))
    assert w.numpy()[0] == 2.0**30
    assert calls == ["load", *(f"add{i}" for i in range(30))]
    w.numpy()
    assert len(calls) == 62  # large arrays are not kept


def test_a_long_chain_needs_neither_recursion_nor_memory() -> None:
    w = Weight.of(np.zeros(50000, np.float32))
    for i in range(3000):
        w = Weight((50000,), np.float32, lambda a: a + 1, key=i, parents=(w,))
    tracemalloc.start()
    try:
        assert w.numpy()[7] == 3000
        assert tracemalloc.get_traced_memory()[1] < 20 * 50000 * 4
    finally:
        tracemalloc.stop()


def test_derive_reads_its_parent_when_asked() -> None:
    w = Weight((3, 50000), np.float32, lambda: np.ones((3, 50000), np.float32), key="w")
    d = w.derive((50000, 3), np.float32, lambda a: 2 * a.T, "twice")
    assert d.origin == (w, "twice") and not d.in_memory
    assert d.numpy().shape == (50000, 3) and d.numpy()[0, 0] == 2


# -- constants of a model ---------------------------------------------------------------------------------------------
def chain(op: str, count: int, size: int) -> onnx.ModelProto:
    """c[i + 1] = op(c[i], c[i])."""
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c0"], value=helper.make_tensor("v", 1, [1], [1e-3]))]
    nodes += [helper.make_node(op, [f"c{i}"] * 2, [f"c{i + 1}"], name=f"n{i}") for i in range(count)]
    nodes.append(helper.make_node("Add", ["x", f"c{count}"], ["y"], name="reader"))
    return make_model(nodes, {"x": [1]}, ["y"], {"s": np.array([size])})


def test_constants_are_computed_once_however_often_they_are_used() -> None:
    graph = read(chain("Add", 40, 20000)).build({})
    start = time.perf_counter()
    np.testing.assert_allclose(graph.nodes[0].input(1).numpy(), 1e-3 * 2.0**40)
    assert time.perf_counter() - start < 1


def test_thousands_of_small_computations() -> None:
    nodes = [helper.make_node("Add", ["big" if i == 0 else f"v{i - 1}", "big"], [f"v{i}"]) for i in range(5000)]
    nodes.append(helper.make_node("Add", ["x", "v4999"], ["y"]))
    model = make_model(nodes, {"x": [2000]}, ["y"], {"big": np.ones(2000, np.float32)})
    np.testing.assert_array_equal(read(model).build({}).nodes[0].input(1).numpy(), 5001)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("constants_that_double", r"'join\d+' \(Concat\): a computed constant .* larger than 536,870,912 bytes"),
        ("constants_that_take_long", r"'reader' \(Add\): computing 'c100' and .* over 2,147,483,648 bytes"),
        ("conv_filter_beyond_limit", r"'the_node' \(Conv\): .* more than 1048576 positions"),
        ("kernel_beyond_limit_MaxPool", r"'the_node' \(MaxPool\): kernel \(2097152, 1\).* at most 1048576"),
        ("stride_beyond_limit_AveragePool", r"'the_node' \(AveragePool\): .*2097152.* at most 1048576"),
        ("many_outputs", "5000 outputs, expected at most 4096"),
        ("chain_of_20001", "more than 20000 nodes"),
    ],
)
def test_limits_name_the_node_at_build(name: str, match: str, tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=match):
        read(CASES[name](tmp_path)).build({})


def test_large_products_of_constants_count() -> None:
    """Each is small in memory; what counts is the number of products."""
    size = 1 << 12
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", 7, [1], [1]))]
    nodes += [
        helper.make_node("MatMul", ["c", "c"], ["m"], name="product"),
        helper.make_node("Cast", ["m"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["y"], name="reader"),
    ]
    with pytest.raises(ModelError, match=r"'reader' \(Add\): computing"):
        read(make_model(nodes, {"x": [1]}, ["y"], {"s": np.array([size, size])})).build({})


def test_a_model_may_compute_constants_as_large_as_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastconv.onnx.weights.MAX_FOLDED", 1000)
    monkeypatch.setattr("fastconv.onnx.weights.MAX_WORK", 1000)
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=1), helper.make_node("Add", ["x", "c"], ["y"])]
    model = make_model(nodes, {"x": [1]}, ["y"], {"w": array(20000).astype(np.float16)})
    assert read(model).build({}).outputs[0].shape == (20000,)
    with pytest.raises(ModelError, match="larger than"):
        read(chain("Add", 1, 20000)).build({})


@pytest.mark.parametrize(("start", "end", "step"), [(1, 2**62, 1), (0, 2**62, 3), (-1, -(2**62), -1), (-2, 4, -5)])
def test_slices_of_large_constants_copy_nothing_early(start: int, end: int, step: int) -> None:
    nodes = [
        helper.make_node("Slice", ["big", "a", "e", "axes", "st"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    big = array(5, 30011)
    inits = {"big": big, "a": np.array([start]), "e": np.array([end]), "axes": np.array([1]), "st": np.array([step])}
    model = read(make_model(nodes, {"x": [1]}, ["y"], inits))
    tracemalloc.start()
    try:
        graph = model.build({})
        assert tracemalloc.get_traced_memory()[1] < 30011 * 8 / 2
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(
        graph.nodes[0].input(1).numpy(), big[:, start : end if end > -(2**62) else None : step]
    )


# -- windows within the limits ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_stride_that_is_never_taken_may_be_anything(op: str) -> None:
    same(one(op, kernel_shape=[1, 2], strides=[2**21, 2**30]), {"x": array(1, 4, 8, 8)})


def test_conv_with_huge_pads_and_strides() -> None:
    model = one("Conv", {"w": array(4, 4, 2, 2)}, pads=[2**30] * 4, strides=[2**30] * 2)
    same(model, {"x": array(1, 4, 8, 8)})


# -- tensors without elements -----------------------------------------------------------------------------------------
def test_products_over_nothing() -> None:
    """Zeros, and what is added to them: numpy says so (onnxruntime 1.23 leaves there what was in memory)."""
    empty, zeros = np.empty((2, 0), np.float32), np.zeros((2, 3), np.float32)
    equal(one("MatMul", {"w": array(0, 3)}, x=[2, 0]), {"x": empty}, zeros)
    equal(
        one("MatMul", {"w": array(4, 0, 3)}, x=[4, 2, 0]),
        {"x": np.empty((4, 2, 0), np.float32)},
        np.zeros((4, 2, 3), np.float32),
    )
    for c in (array(3), array(1, 3), array(2, 3), array(2, 1), array()):
        equal(one("Gemm", {"w": array(0, 3), "c": c}, x=[2, 0], alpha=3.0, beta=0.5), {"x": empty}, zeros + c / 2)
    cut = {"s": np.array([0]), "e": np.array([0]), "a": np.array([1])}
    nodes = [
        helper.make_node("Slice", ["x", "s", "e", "a"], ["none"]),
        helper.make_node("Gemm", ["none", "w", "b"], ["g"]),
        helper.make_node("Mul", ["g", "x"], ["y"]),
    ]
    weights = {**cut, "w": array(0, 4), "b": array(4)}
    equal(make_model(nodes, {"x": [2, 4]}, ["y"], weights), {"x": array(2, 4)}, array(4) * array(2, 4))


def test_products_of_no_columns() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["x"], ["z"])]
    tail = helper.make_node("Concat", ["m", "x"], ["y"], axis=1)
    same(make_model([*nodes, tail], {"x": [2, 4]}, ["y"], {"w": array(4, 0)}), {"x": array(2, 4)})
    same(make_model(nodes, {"x": [2, 4]}, ["m", "z"], {"w": array(4, 0)}), {"x": array(2, 4)})


@pytest.mark.parametrize("others", [["x"], ["x", "x"], ["k"], ["k", "k"], ["k", "x"]])
def test_concat_of_nothing(others: list[str]) -> None:
    cut = {"s": np.array([0]), "e": np.array([0]), "a": np.array([1])}
    for ins in (["none", *others], [*others, "none"], ["none", *others, "none"]):
        nodes = [
            helper.make_node("Slice", ["x", "s", "e", "a"], ["none"]),
            helper.make_node("Concat", ins, ["j"], axis=1),
            helper.make_node("MaxPool", ["j"], ["y"], kernel_shape=[2, 2]),
        ]
        model = make_model(nodes, {"x": [2, 4, 3, 3]}, ["y", "none"], {**cut, "k": array(2, 5, 3, 3)})
        same(model, {"x": array(2, 4, 3, 3)})


def test_operations_on_nothing() -> None:
    """Pad and ReduceSum make elements of none; what keeps it empty runs no kernel."""
    nothing = np.empty((0, 4, 3, 3), np.float32)
    for pads in ([1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]):
        inits = {"p": np.array(pads), "v": np.array(2.5, np.float32)}
        same(one("Pad", inits, x=["N", 4, 3, 3]), {"x": nothing})
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "k", "k", "k", "k"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["g"]),
        helper.make_node("Softmax", ["g"], ["s"], axis=1),
        helper.make_node("ReduceSum", ["s", "a"], ["y"], keepdims=0),
    ]
    inits = {"w": array(6, 4, 3, 3), "k": np.ones(6, np.float32), "a": np.array([0])}
    same(make_model(nodes, {"x": ["N", 4, 3, 3]}, ["y"], inits), {"x": nothing})
    model = fastconv.load(make_model(nodes, {"x": ["N", 4, 3, 3]}, ["s"], inits), threads=1)
    assert model(nothing).shape == (0, 6, 1, 1) and model(array(2, 4, 3, 3)).shape == (2, 6, 1, 1)
