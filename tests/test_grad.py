"""Every backward rule, by central differences in float64 (tests/interpret.py says what nodes mean)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv.errors import UnsupportedOpError
from fastconv.grad import RULES, grad, gradients
from fastconv.graph import Graph, Value
from tests.interpret import interpret

STEP = 1e-5


def central(graph: Graph, feeds: dict[str, np.ndarray], name: str) -> np.ndarray:
    """dLoss/d(feed) by differences of the only output."""
    out = np.zeros(feeds[name].shape)
    for i in np.ndindex(out.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = {**feeds, name: feeds[name].copy()}
            moved[name][i] += step
            ends.append(float(interpret(graph, moved)[0].sum()))
        out[i] = (ends[0] - ends[1]) / (2 * STEP)
    return out


def check(shapes: list[tuple[int, ...]], build: Callable[..., Value], low: float = -2.0, fixed: int = 0) -> Graph:
    """Build y from inputs of these shapes; the loss is sum(y * random). The last `fixed` inputs get no gradient."""
    rng = np.random.default_rng(0)
    g = Graph("t")
    inputs = [g.add_input(f"x{i}", s) for i, s in enumerate(shapes)]
    y = build(g, *inputs)
    weighted = g.add("Mul", [y, g.constant(rng.standard_normal(y.shape))], y.shape)
    loss = g.add("ReduceSum", [weighted], (), axes=tuple(range(y.rank)), keepdims=0)
    g.outputs.append(loss)
    wanted = inputs[: len(inputs) - fixed]
    feeds = {v.name: rng.uniform(low, 2.0, v.shape) for v in inputs}
    both = grad(g, loss, wanted)
    got = interpret(both, feeds)[1:]
    for v, d in zip(wanted, got, strict=True):
        want = central(g, feeds, v.name)
        np.testing.assert_allclose(d, want, rtol=1e-6, atol=1e-7 * max(1.0, np.abs(want).max()), err_msg=v.name)
        assert np.abs(want).max() > 0, v.name
    return both


def op(name: str, shape: tuple[int, ...], **attrs: Any) -> Callable[..., Value]:
    return lambda g, *inputs: g.add(name, inputs, shape, **attrs)


CONVS = [
    ((2, 3, 6, 5), (4, 3, 3, 3), (6, 5), {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}),
    ((2, 4, 7, 6), (6, 2, 3, 2), (4, 7), {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 2, 3), "group": 2}),
    ((1, 3, 6, 6), (6, 1, 3, 3), (2, 2), {"strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 3}),
    ((3, 4, 4, 4), (5, 4, 1, 1), (4, 4), {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}),
]


@pytest.mark.parametrize("x, w, out, attrs", CONVS)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, int], attrs: dict[str, Any]) -> None:
    check([x, w, (w[0],)], op("Conv", (x[0], w[0], *out), **attrs))


@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm(trans_b: bool) -> None:
    check([(3, 4), (5, 4) if trans_b else (4, 5), (5,)], op("Gemm", (3, 5), trans_b=trans_b))


def test_matmul() -> None:
    check([(2, 3, 4), (4, 5)], op("MatMul", (2, 3, 5)))
    check([(1, 3, 4), (2, 4, 5)], op("MatMul", (2, 3, 5)))


WINDOW = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 0, 1), "dilations": (1, 1)}


@pytest.mark.parametrize("name", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("extra", [{}, {"count_include_pad": 1}])
def test_pools(name: str, extra: dict[str, int]) -> None:
    check([(2, 3, 6, 5)], op(name, (2, 3, 3, 5), **WINDOW, **extra))


UNARY: list[tuple[str, dict[str, Any], float]] = [
    ("Relu", {}, -2), ("Clip", {"min": -0.5, "max": 1.0}, -2), ("LeakyRelu", {"alpha": 0.2}, -2),
    ("LeakyRelu", {"alpha": -0.3}, -2), ("Elu", {"alpha": 0.7}, -2), ("Selu", {"alpha": 1.2, "gamma": 1.1}, -2),
    ("Sigmoid", {}, -2), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, -2), ("HardSwish", {}, -2), ("Swish", {}, -2),
    ("Tanh", {}, -2), ("Gelu", {"approximate": "none"}, -2), ("Gelu", {"approximate": "tanh"}, -2),
    ("Softplus", {}, -2), ("Mish", {}, -2), ("Exp", {}, -2), ("Log", {}, 0.3), ("Sqrt", {}, 0.3),
    ("Reciprocal", {}, 0.3), ("Erf", {}, -2), ("Neg", {}, -2), ("Abs", {}, -2), ("Copy", {}, -2),
]  # fmt: skip


@pytest.mark.parametrize("name, attrs, low", UNARY)
def test_unary(name: str, attrs: dict[str, Any], low: float) -> None:
    check([(3, 7)], op(name, (3, 7), **attrs), low)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"])
@pytest.mark.parametrize("a, b", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 1, 4))])
def test_binary(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check([a, b], op(name, np.broadcast_shapes(a, b)), 0.3)


def test_equal_ones_share_the_gradient() -> None:
    g = Graph("t")
    x = g.add_input("x", (2,))
    y = g.add("Max", [x, g.constant(np.array([1.0, 0.0]))], (2,))
    loss = g.add("ReduceSum", [y], (), axes=(0,), keepdims=0)
    g.outputs.append(loss)
    assert interpret(grad(g, loss, [x]), {"x": np.array([1.0, 2.0])})[1].tolist() == [0.5, 1.0]


def test_prelu() -> None:
    check([(2, 3, 2, 2), (3, 1, 1)], op("PRelu", (2, 3, 2, 2)))


def test_where() -> None:
    def build(g: Graph, a: Value, b: Value) -> Value:
        c = g.add("Less", [a, g.constant(np.zeros((1, 1)))], a.shape, dtype=bool)
        return g.add("Where", [c, a, b], a.shape)

    check([(2, 3), (3,)], build)


@pytest.mark.parametrize("name", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes, keepdims, shape", [((1, 2), 0, (2,)), ((0,), 1, (1, 3, 4)), ((2,), 0, (2, 3))])
def test_reductions(name: str, axes: tuple[int, ...], keepdims: int, shape: tuple[int, ...]) -> None:
    check([(2, 3, 4)], op(name, shape, axes=axes, keepdims=keepdims))


def test_norms() -> None:
    check([(2, 5, 3), (3,), (3,)], op("LayerNormalization", (2, 5, 3), axis=2, epsilon=0.1))
    check([(2, 5)], lambda g, x: g.add("LayerNormalization", [x, None, None], (2, 5), axis=1, epsilon=0.1))
    check([(2, 4, 3, 2), (4,), (4,)], op("GroupNormalization", (2, 4, 3, 2), groups=2, epsilon=0.1))
    check([(2, 6, 2, 2)], op("LRN", (2, 6, 2, 2), size=3, alpha=0.4, beta=0.6, bias=1.5))
    check([(2, 6, 2, 2)], op("LRN", (2, 6, 2, 2), size=4, alpha=0.4, beta=0.6, bias=1.5))
    shape = (2, 3, 2, 2)
    check([shape, (3,), (3,), (3,), (3,)], op("BatchNormalization", shape, epsilon=0.1), 0.3, fixed=2)
    check([shape, (3,), (3,)], op("Affine", shape, axis=1))


def test_batch_norm_train() -> None:
    def build(g: Graph, x: Value, scale: Value, shift: Value) -> Value:
        return g.add_many("BatchNormTrain", [x, scale, shift], [x.shape, scale.shape, shift.shape], epsilon=0.1)[0]

    check([(3, 2, 2, 3), (2,), (2,)], build)


def test_constant_statistics_leave_only_constant_factors() -> None:
    """A frozen batch norm costs one product with constants."""
    g = Graph("t")
    x = g.add_input("x", (1, 2, 3, 3))
    constants = [g.constant(np.full(2, v, np.float32)) for v in (1.5, 0.1, 0.2, 0.9)]
    y = g.add("BatchNormalization", [x, *constants], x.shape, epsilon=0.1)
    before = len(g.nodes)
    from fastconv.passes import remove_dead

    g.outputs.extend(d for d in gradients(g, y, [x]) if d is not None)
    made = remove_dead(g).nodes
    assert [n.op for n in made] == ["Mul"] and before == 1
    assert all(v is None or v.is_const for v in made[0].inputs)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax(name: str) -> None:
    check([(2, 3, 4)], op(name, (2, 3, 4), axis=1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    classes = np.array([0.0, 2.0, 1.0])
    shares = np.random.default_rng(1).uniform(size=(3, 4))
    for target in (classes, shares):
        check(
            [(3, 4)],
            lambda g, x, target=target: g.add(
                "SoftmaxCrossEntropy", [x, g.constant(target)], (3,), label_smoothing=smoothing
            ),
        )


def test_dropout() -> None:
    check([(4, 5)], lambda g, x: g.add("Dropout", [x, g.constant(np.array([7.0]))], x.shape, rate=0.4))


def test_moves() -> None:
    check([(2, 3, 4)], op("Transpose", (4, 2, 3), perm=(2, 0, 1)))
    check([(2, 3, 4)], op("Reshape", (6, 4)))
    check([(2, 1, 4)], op("Expand", (2, 3, 4)))
    check([(2, 3), (2, 1), (2, 2)], op("Concat", (2, 6), axis=1))
    check([(4, 5)], op("Slice", (2, 3), starts=(1, 2), steps=(1, 1)))
    check([(7, 8)], op("Slice", (2, 3), starts=(1, 1), steps=(3, 2)))
    check([(7, 8)], op("Slice", (3, 4), starts=(0, 1), steps=(3, 2)))
    check([(3, 4)], op("Pad", (6, 4), pads=((1, 2), (0, 0)), value=0.5, mode="constant"))
    check([(3, 4)], op("Pad", (4, 3), pads=((2, -1), (-1, 0)), value=0.5, mode="constant"))
    for mode in ("reflect", "edge"):
        check([(3, 4)], op("Pad", (6, 6), pads=((2, 1), (0, 2)), mode=mode))


def test_resample() -> None:
    index, weight = np.array([0, 1, 1, 2, 3, 3]), np.random.default_rng(2).uniform(size=6)

    def build(g: Graph, x: Value) -> Value:
        return g.add("Resample", [x, g.constant(index), g.constant(weight)], (2, 3, 3), axis=1, taps=2)

    check([(2, 4, 3)], build)
    check([(2, 4, 3)], lambda g, x: g.add("Resample", [x, g.constant(index), None], (2, 6, 3), axis=1, taps=1))


def test_a_value_with_several_readers_gets_the_sum() -> None:
    def build(g: Graph, x: Value) -> Value:
        a, b = g.add("Tanh", [x], x.shape), g.add("Exp", [x], x.shape)
        return g.add("Mul", [g.add("Add", [a, b], x.shape), x], x.shape)

    check([(2, 3)], build)


def test_steps_stop_gradients() -> None:
    g = Graph("t")
    x = g.add_input("x", (3,))
    y = g.add("Round", [x], (3,))
    g.outputs.append(y)
    assert gradients(g, y, [x]) == [None]
    assert len(g.nodes) == 1
    assert interpret(grad(g, y, [x]), {"x": np.ones(3)})[1].tolist() == [0, 0, 0]


def test_nothing_is_appended_below_the_lowest_wanted_weight() -> None:
    g = Graph("t")
    x = g.add_input("x", (2, 3))
    w1, w2 = g.constant(np.ones((4, 3))), g.add_state("w2", (5, 4))
    h = g.add("Relu", [g.add("Gemm", [x, w1], (2, 4), trans_b=True)], (2, 4))
    y = g.add("Gemm", [h, w2], (2, 5), trans_b=True)
    before = len(g.nodes)
    gradients(g, y, [w2])
    assert [n.op for n in g.nodes[before:]] == ["GemmBackwardWeight"]


def test_unknown_operators_are_errors() -> None:
    g = Graph("t")
    x = g.add_input("x", (3,))
    y = g.add("Mystery", [x], (3,), name="who")
    with pytest.raises(UnsupportedOpError, match="'who': operator Mystery has no gradient"):
        gradients(g, y, [x])
    assert "Mystery" not in RULES
