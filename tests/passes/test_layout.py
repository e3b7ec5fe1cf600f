"""layout: physical graphs compute what the logical ones do, with no Transpose that is not needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph import Graph, Value, Weight
from fastconv.passes import optimize, to_channels_last
from fastconv.passes.layout import blocks, channels_last, complete
from tests.interpret import interpret
from tests.passes.helpers import SKELETONS, Build, feeds, ops, random_graph


def check(graph: Graph, transposes: int | None = None, optimized: bool = False) -> Graph:
    text, f = str(graph), feeds(graph)
    physical = optimize(graph) if optimized else to_channels_last(graph)
    assert str(graph) == text
    expected = interpret(graph, f)
    for a, b, v, w in zip(
        expected, interpret(physical, f, physical=True), graph.outputs, physical.outputs, strict=True
    ):
        assert w.shape == v.shape and w.name == v.name
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5 * max(1.0, float(np.abs(a).max())))
    assert physical.inputs == graph.inputs
    made = [v for n in physical.nodes for v in n.outputs]
    assert len(set(physical.outputs)) == len(physical.outputs) and set(physical.outputs) <= set(made)
    if transposes is not None:
        assert ops(physical).count("Transpose") == transposes, str(physical)
    return physical


def test_perms() -> None:
    assert [channels_last(r) for r in range(2, 6)] == [(0, 1), (0, 2, 1), (0, 2, 3, 1), (0, 3, 4, 1, 2)]
    assert complete((0, 1), (2, 3, 1, 1)) == (0, 2, 3, 1)
    assert complete((1, 0), (2, 3, 1)) == (1, 2, 0)
    assert blocks((2, 6, 4, 5), (2, 2, 3, 4, 5)) == [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,)), ((3,), (4,))]
    assert blocks((1, 6, 4), (6, 1, 4, 1)) == [((1,), (0,)), ((2,), (2,))]
    assert blocks((4, 6), (3, 8)) == [((0, 1), (0, 1))]


CASES: dict[str, tuple[Callable[[Build, Value], Value], int]] = {
    "conv": (lambda b, x: b.conv(b.conv(x, 6, 3), 4, 1), 2),
    "pools": (lambda b, x: b.pool("AveragePool", b.pool("MaxPool", x, 3, 2, 1), 2, 1), 2),
    "lrn": (lambda b, x: b.g.add("LRN", [x], x.shape, size=3, alpha=0.1, beta=0.75, bias=1.0), 2),
    "elementwise_only": (lambda b, x: b.mul(b.relu(x), b.const(4, 1, 1)), 0),
    "per_channel": (lambda b, x: b.mul(b.conv(x, 6, 1), b.const(6, 1, 1)), 2),
    "rows_and_columns": (lambda b, x: b.mul(b.conv(x, 6, 1), b.const(5, 5)), 2),
    "squeeze_excite": (lambda b, x: b.mul(x, b.un("Sigmoid", b.conv(b.mean(b.conv(x, 4, 1)), 4, 1))), 2),
    "gap_keepdims_0": (lambda b, x: b.gemm(b.mean(b.conv(x, 6, 1), keepdims=0), 3), 1),
    "gap_flatten": (lambda b, x: b.gemm(b.reshape(b.mean(b.conv(x, 6, 1)), 2, 6), 3), 1),
    "flatten_gemm": (lambda b, x: b.gemm(b.reshape(b.conv(x, 6, 1), 2, 150), 3), 1),
    "flatten_gemm_kn": (lambda b, x: b.gemm(b.reshape(b.conv(x, 6, 1), 2, 150), 3, trans_b=False), 1),
    "flatten_relu": (lambda b, x: b.relu(b.reshape(b.conv(x, 6, 1), 2, 150)), 2),
    "flatten_to_one_row": (lambda b, x: b.gemm(b.reshape(b.conv(x, 6, 1), 1, 300), 3), 1),
    "shuffle": (lambda b, x: b.conv(b.shuffle(b.conv(x, 6, 1), 2), 4, 1), 3),
    "space_to_depth": (
        lambda b, x: b.conv(
            b.reshape(b.transpose(b.reshape(b.conv(x, 4, 2), 2, 4, 2, 2, 2, 2), 0, 1, 3, 5, 2, 4), 2, 16, 2, 2), 4, 1
        ),
        3,
    ),
    "keras_border": (lambda b, x: b.transpose(b.conv(x, 6, 1), 0, 2, 3, 1), 1),
    "transpose_inside": (
        lambda b, x: b.conv(b.transpose(b.relu(b.transpose(b.conv(x, 6, 1), 0, 2, 3, 1)), 0, 3, 1, 2), 4, 1),
        2,
    ),
    "concat": (lambda b, x: b.concat(1, b.conv(x, 6, 1), b.conv(x, 3, 1)), 2),
    "concat_rows": (lambda b, x: b.concat(2, b.conv(x, 6, 1), b.conv(x, 6, 1)), 2),
    "concat_vote": (lambda b, x: b.concat(1, b.conv(x, 6, 1), b.relu(b.input(2, 4, 5, 5, name="y"))), 3),
    "softmax": (lambda b, x: b.un("Softmax", b.conv(x, 6, 1), axis=1), 2),
    "slice": (lambda b, x: b.slice(b.slice(b.conv(x, 6, 1), 1, 1, 5), 3, 0, 5, 2), 2),
    "pad": (lambda b, x: b.pad(b.conv(x, 6, 1), (0, 0), (1, 0), (0, 2), (3, 1)), 2),
    "affine": (lambda b, x: b.bn(x), 2),
    "bn_of_vectors": (lambda b, x: b.bn(b.mean(x, keepdims=0)), 0),
    "mean_of_channels": (lambda b, x: b.mean(b.conv(x, 6, 1), axes=(1,)), 1),
    "ssd_head": (lambda b, x: b.reshape(b.transpose(b.conv(x, 12, 1), 0, 2, 3, 1), 2, 75, 4), 1),
    "ssd_head_pad": (lambda b, x: b.reshape(b.transpose(b.conv(x, 12, 1), 0, 2, 3, 1), 2, 300), 1),
    "matmul": (lambda b, x: b.g.add("MatMul", [b.conv(x, 6, 1), b.conv(x, 6, 1)], (2, 6, 5, 5)), 3),
    "expand": (lambda b, x: b.relu(b.g.add("Expand", [b.mean(b.conv(x, 6, 1))], (2, 6, 5, 5))), 2),
    "prelu": (lambda b, x: b.bin("PRelu", b.conv(x, 6, 1), b.const(6, 1, 1)), 2),
    "lower_rank": (lambda b, x: b.mul(b.conv(x, 6, 1), b.mean(b.input(2, 5, 5, name="y"), (0,), 0)), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_transposes(name: str) -> None:
    make, transposes = CASES[name]
    b = Build()
    check(b.done(make(b, b.input(2, 4, 5, 5))), transposes)


def test_optimized_cases_agree() -> None:
    for make, _ in CASES.values():
        b = Build()
        check(b.done(make(b, b.input(2, 4, 5, 5))), optimized=True)


def test_one_channel_and_one_pixel_need_no_transpose() -> None:
    b = Build()
    p = check(b.done(b.mean(b.conv(b.input(2, 1, 5, 5), 3, 3))), 0)
    assert ops(p) == ["Reshape", "Conv", "ReduceMean", "Reshape"]


def test_input_is_transposed_once() -> None:
    b = Build()
    x = b.input(2, 4, 5, 5)
    check(b.done(b.mean(b.concat(1, b.conv(x, 6, 1), b.conv(x, 3, 1), b.pool("MaxPool", x, 1, 1)))), 1)


def test_physical_shapes_and_attributes() -> None:
    b = Build()
    y = b.conv(b.input(2, 4, 5, 6), 8, 1)
    y = b.slice(y, 1, 2, 6)
    y = b.mean(b.bn(b.pad(y, (0, 0), (0, 0), (1, 2), (0, 0))), axes=(1, 3))
    nodes = {n.op: n for n in to_channels_last(b.done(y)).nodes}
    assert nodes["Conv"].output.shape == (2, 5, 6, 8) and nodes["Conv"].input(1).shape == (8, 4, 1, 1)
    assert nodes["Slice"].attrs["starts"] == (0, 0, 0, 2) and nodes["Slice"].output.shape == (2, 5, 6, 4)
    assert nodes["Pad"].attrs["pads"] == ((0, 0), (1, 2), (0, 0), (0, 0))
    assert nodes["BatchNormalization"].attrs["axis"] == 3
    assert nodes["ReduceMean"].attrs["axes"] == (2, 3)


def test_flatten_permutes_the_weight_lazily_and_shares_it() -> None:
    reads = 0

    def load() -> np.ndarray:
        nonlocal reads
        reads += 1
        return np.arange(3 * 150, dtype=np.float32).reshape(3, 150)

    b = Build()
    w = b.g.constant(Weight((3, 150), np.float32, load, key="w"))
    flat = b.reshape(b.conv(b.input(2, 4, 5, 5), 6, 1), 2, 150)
    outputs = [b.g.add("Gemm", [flat, w, None], (2, 3), trans_b=True) for _ in range(2)]
    p = to_channels_last(b.done(*outputs))
    assert reads == 0 and ops(p) == ["Transpose", "Conv", "Reshape", "Gemm", "Gemm"]
    weights = [n.input(1).weight for n in p.nodes if n.op == "Gemm"]
    assert weights[0] is not None and weights[1] is not None and weights[0].key == weights[1].key != "w"
    expected = np.arange(450.0).reshape(3, 6, 5, 5).transpose(0, 2, 3, 1).reshape(3, 150)
    np.testing.assert_array_equal(weights[0].numpy(), expected)


def test_flatten_with_another_reader() -> None:
    b = Build()
    flat = b.reshape(b.conv(b.input(2, 4, 5, 5), 6, 1), 2, 150)
    check(b.done(b.gemm(flat, 3), b.un("Tanh", flat)), 2)


def test_fusion_across_removed_transposes() -> None:
    b = Build()
    y = b.transpose(b.conv(b.input(2, 4, 5, 5), 6, 1), 0, 2, 3, 1)
    y = b.relu(b.add(b.mul(y, b.const(6)), b.const(1, 1, 1, 6)))
    p = check(b.done(b.conv(b.transpose(y, 0, 3, 1, 2), 4, 1)), 2, optimized=True)
    assert ops(p) == ["Transpose", "Conv", "Conv", "Transpose"]


def test_awkward_outputs() -> None:
    b = Build()
    x = b.input(2, 4, 5, 5)
    c = b.const(3, 2)
    y = b.conv(x, 6, 1)
    g = b.done(x, y, y, c, b.transpose(y, 0, 2, 3, 1))
    p = check(g)
    assert ops(p).count("Copy") == 3
    check(g, optimized=True)


def test_nhwc_model_has_no_transposes() -> None:
    check(SKELETONS["resnet_nhwc"](2), 0, optimized=True)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", SKELETONS)
def test_skeletons(name: str, n: int) -> None:
    p = check(SKELETONS[name](n), optimized=True)
    expected = {"resnet_nhwc": 0, "shufflenet": 4}.get(name, 1)
    assert ops(p).count("Transpose") == expected
    assert not {"BatchNormalization", "Relu", "Add", "Sigmoid"} & set(ops(p))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 24))
def test_random_graphs(seed: int, nodes: int) -> None:
    g = random_graph(seed, nodes)
    check(g)
    check(g, optimized=True)
