"""Compiled graphs with backward nodes, statistics and updates against tests/interpret.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from fastconv.compiler import WeightCache, compile_graph
from fastconv.graph import Array, Graph, Value
from fastconv.passes import optimize
from tests.interpret import interpret

LEVELS = [getattr(_core.Isa, name) for name in _core.isa_levels()]


class Bench:
    """A graph under construction, with random inputs and states."""

    def __init__(self, seed: int = 0) -> None:
        self.graph = Graph("backward")
        self.rng = np.random.default_rng(seed)
        self.feeds: dict[str, Array] = {}
        self.states: dict[str, Array] = {}

    def input(self, *shape: int, values: Array | None = None) -> Value:
        v = self.graph.add_input(f"x{len(self.feeds)}", shape)
        self.feeds[v.name] = self._random(shape) if values is None else values.astype(np.float32)
        return v

    def state(self, *shape: int, values: Array | None = None) -> Value:
        v = self.graph.add_state(f"s{len(self.states)}", shape)
        self.states[v.name] = self._random(shape) if values is None else values.astype(np.float32)
        return v

    def constant(self, *shape: int) -> Value:
        return self.graph.constant(self._random(shape))

    def _random(self, shape: Sequence[int]) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)

    def run(self, isa: Any, threads: int = 1) -> tuple[list[Array], dict[str, Array]]:
        """Outputs and states after one run of the compiled graph."""
        cache = WeightCache()
        memory = {name: cache.store.put(array) for name, array in self.states.items()}
        compiled = compile_graph(self.graph, isa, cache, states=memory)
        outputs = [np.full(shape, np.nan, np.float32) for _, shape in compiled.outputs]
        arrays = [np.ascontiguousarray(self.feeds[name]) for name, _ in compiled.inputs]
        _core.Executor(threads).run(compiled.plan, [*arrays, *outputs])
        return outputs, {name: memory[name].numpy().reshape(a.shape).copy() for name, a in self.states.items()}

    def check(self, isa: Any, *outputs: Value, tolerance: float = 2e-5) -> None:
        self.graph.outputs = list(outputs)
        states = {name: a.astype(np.float64) for name, a in self.states.items()}
        want = interpret(self.graph, self.feeds, states=states)
        got, after = self.run(isa)
        for y, w in zip(got, want, strict=True):
            np.testing.assert_allclose(y, w, rtol=0, atol=tolerance * max(1.0, float(np.abs(w).max(initial=0))))
        for name, a in states.items():
            np.testing.assert_allclose(after[name], a, rtol=0, atol=tolerance * max(1.0, float(np.abs(a).max())))
        again, after_two = self.run(isa, threads=3)
        for a, b in zip([*got, *after.values()], [*again, *after_two.values()], strict=True):
            np.testing.assert_array_equal(a, b, "the result depends on the number of threads")


isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
CONVOLUTIONS = {
    "3x3": (2, 5, 9, 8, 7, 3, 3, dict(pads=(1, 1, 1, 1))),
    "3x3-wide": (2, 40, 12, 12, 48, 3, 3, dict(pads=(1, 1, 1, 1))),
    "1x7-wide": (1, 64, 9, 17, 64, 1, 7, dict(pads=(0, 3, 0, 3))),
    "1x1": (2, 20, 7, 7, 33, 1, 1, {}),
    "1x1-stride": (2, 20, 8, 7, 33, 1, 1, dict(strides=(2, 2))),
    "stride2": (2, 12, 9, 10, 18, 3, 3, dict(strides=(2, 2), pads=(1, 1, 1, 1))),
    "stem": (2, 3, 19, 21, 18, 7, 7, dict(strides=(2, 2), pads=(3, 3, 3, 3))),
    "asymmetric": (1, 6, 9, 8, 7, 3, 2, dict(pads=(0, 1, 2, 0))),
    "dilated": (1, 6, 11, 10, 7, 3, 3, dict(pads=(2, 2, 2, 2), dilations=(2, 2))),
    "much-padding": (1, 3, 4, 4, 5, 3, 3, dict(pads=(3, 3, 3, 3))),
    "groups": (2, 8, 7, 7, 12, 3, 3, dict(pads=(1, 1, 1, 1), group=4)),
    "groups-stride": (2, 8, 7, 7, 12, 3, 3, dict(pads=(1, 1, 1, 1), strides=(2, 1), group=4)),
    "depthwise": (2, 19, 9, 9, 19, 3, 3, dict(pads=(1, 1, 1, 1), group=19)),
    "depthwise-stride": (2, 19, 9, 8, 19, 5, 5, dict(pads=(2, 2, 2, 2), strides=(2, 2), group=19)),
    "depthwise-times2": (2, 6, 9, 8, 12, 3, 3, dict(pads=(1, 1, 1, 1), group=6)),
}


def convolution(b: Bench, name: str) -> tuple[Value, tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """x, the shapes of w and y, and the attributes."""
    N, C, H, W, K, R, S, given = CONVOLUTIONS[name]
    at = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1, **given}
    (sh, sw), (dh, dw), pads = at["strides"], at["dilations"], at["pads"]
    P = (H + pads[0] + pads[2] - (R - 1) * dh - 1) // sh + 1
    Q = (W + pads[1] + pads[3] - (S - 1) * dw - 1) // sw + 1
    return b.input(N, C, H, W), (K, C // at["group"], R, S), (N, K, P, Q), at


@isas
@pytest.mark.parametrize("frozen", (False, True))
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(isa: Any, name: str, frozen: bool) -> None:
    """Forward with weights that change, and both gradients, through the passes of a whole step."""
    b = Bench(1)
    x, w_shape, y_shape, at = convolution(b, name)
    w, bias, g = b.constant(*w_shape) if frozen else b.state(*w_shape), b.state(w_shape[0]), b.input(*y_shape)
    y = b.graph.add("Conv", [x, w, bias], y_shape, **at)
    relu = b.graph.add("Relu", [y], y_shape)
    dy = b.graph.add("UnaryBackward", [g, relu], y_shape, of=("Relu", 0.0, 0.0), from_output=True)
    dx = b.graph.add("ConvBackwardInput", [dy, w], x.shape, **at)
    dw = b.graph.add("ConvBackwardWeight", [x, dy], w_shape, **at)
    db = b.graph.add("ReduceSum", [dy], (w_shape[0],), axes=(0, 2, 3), keepdims=0)
    total = b.graph.add("Add", [dx, x], x.shape)
    b.check(isa, relu, dw, db, total)


@isas
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_factors_of_a_frozen_norm(isa: Any, name: str) -> None:
    """Those of the gradient go into a frozen convolution's weights; a gradient that others read keeps its product."""
    for shared in (False, True):
        b = Bench(1)
        x, w_shape, y_shape, at = convolution(b, name)
        w, g, factor = b.constant(*w_shape), b.input(*y_shape), b.constant(1, w_shape[0], 1, 1)
        dy = b.graph.add("Mul", [g, factor], y_shape)
        dx = b.graph.add("ConvBackwardInput", [dy, w], x.shape, **at)
        b.check(isa, *([dx, dy] if shared else [dx]))
        assert [n.op for n in optimize(b.graph).nodes].count("Mul") == int(shared)


@isas
def test_concatenated_gradients(isa: Any) -> None:
    """Gradients of slices, written into and read from parts of one region."""
    b = Bench(2)
    at = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    x, g, w = b.input(1, 6, 8, 8), b.input(1, 20, 8, 8), b.state(8, 6, 3, 3)
    zero = (0,) * 4
    part = b.graph.add("Slice", [g], (1, 8, 8, 8), starts=(0, 12, 0, 0), steps=(1,) * 4)
    rest = b.graph.add("Slice", [g], (1, 12, 8, 8), starts=zero, steps=(1,) * 4)
    dx = b.graph.add("ConvBackwardInput", [part, w], x.shape, **at)
    dw = b.graph.add("ConvBackwardWeight", [x, part], w.shape, **at)
    both = b.graph.add("Concat", [dx, rest], (1, 18, 8, 8), axis=1)
    b.check(isa, dw, both)


@isas
@pytest.mark.parametrize("trans_b", (False, True))
@pytest.mark.parametrize(("M", "C", "K"), ((1, 70, 33), (4, 70, 33), (32, 70, 33), (2, 1030, 2050)))
def test_dense(isa: Any, trans_b: bool, M: int, C: int, K: int) -> None:
    b = Bench(3)
    x, g = b.input(M, C), b.input(M, K)
    w, bias = b.state(*((K, C) if trans_b else (C, K))), b.state(K)
    y = b.graph.add("Gemm", [x, w, bias], (M, K), trans_b=trans_b)
    dx = b.graph.add("Gemm", [g, w], (M, C), trans_b=not trans_b)
    dw = b.graph.add("GemmBackwardWeight", [x, g], w.shape, trans_b=trans_b)
    db = b.graph.add("ReduceSum", [g], (K,), axes=(0,), keepdims=0)
    b.check(isa, y, dx, dw, db)


@isas
def test_flattened(isa: Any) -> None:
    """A dense layer with a weight that changes behind a flattened image."""
    b = Bench(4)
    x, w, g = b.input(3, 6, 4, 5), b.state(120, 17), b.input(3, 17)
    image = b.graph.add("AveragePool", [x], (3, 6, 4, 5), kernel_shape=(1, 1), strides=(1, 1), dilations=(1, 1),
                        pads=(0, 0, 0, 0))  # fmt: skip
    flat = b.graph.add("Reshape", [image], (3, 120))
    y = b.graph.add("Gemm", [flat, w], (3, 17), trans_b=False)
    dflat = b.graph.add("Gemm", [g, w], (3, 120), trans_b=True)
    dw = b.graph.add("GemmBackwardWeight", [flat, g], w.shape, trans_b=False)
    dx = b.graph.add("Reshape", [dflat], x.shape)
    b.check(isa, y, dw, b.graph.add("Relu", [dx], x.shape))


@isas
@pytest.mark.parametrize("op", ("MaxPool", "AveragePool"))
@pytest.mark.parametrize(("kernel", "stride", "pad"), ((2, 2, 0), (3, 2, 1), (3, 1, 1)))
def test_pool(isa: Any, op: str, kernel: int, stride: int, pad: int) -> None:
    b = Bench(5)
    x = b.input(2, 19, 9, 10)
    P, Q = ((d + 2 * pad - kernel) // stride + 1 for d in (9, 10))
    at: dict[str, Any] = dict(kernel_shape=(kernel,) * 2, strides=(stride,) * 2, dilations=(1, 1), pads=(pad,) * 4)
    if op == "AveragePool":
        at["count_include_pad"] = 1
    g = b.input(2, 19, P, Q)
    y = b.graph.add(op, [x], g.shape, **at)
    b.check(isa, b.graph.add(f"{op}Backward", [g, x, y] if op == "MaxPool" else [g], x.shape, **at))


@isas
def test_batch_norm(isa: Any) -> None:
    b = Bench(6)
    x, g, scale, shift = b.input(3, 21, 7, 6), b.input(3, 21, 7, 6), b.state(21), b.state(21)
    moving = b.state(21)
    y, mean, var = b.graph.add_many("BatchNormTrain", [x, scale, shift], [x.shape, (21,), (21,)], epsilon=1e-3)
    dx, ds, dt = b.graph.add_many("BatchNormBackward", [g, x, scale, mean, var], [x.shape, (21,), (21,)], epsilon=1e-3)
    b.graph.add_many("MovingAverage", [moving, var], [], momentum=0.9)
    b.check(isa, y, mean, var, dx, ds, dt)


@isas
def test_norms(isa: Any) -> None:
    b = Bench(7)
    x, g, scale = b.input(3, 12, 5, 6), b.input(3, 12, 5, 6), b.state(12)
    group = b.graph.add_many(
        "GroupNormalizationBackward", [g, x, scale], [x.shape, (12,), (12,)], groups=4, epsilon=1e-3
    )
    layer = b.graph.add_many("LayerNormalizationBackward", [g, x, scale], [x.shape, (12,), (12,)], axis=1, epsilon=1e-3)
    at = dict(size=5, alpha=0.5, beta=0.75, bias=1.0)
    y = b.graph.add("LRN", [x], x.shape, **at)
    b.check(isa, *group, *layer, b.graph.add("LRNBackward", [g, x, y], x.shape, **at))


@isas
@pytest.mark.parametrize("op", ("Softmax", "LogSoftmax"))
@pytest.mark.parametrize("axis", (1, 2, 3))
def test_softmax(isa: Any, op: str, axis: int) -> None:
    b = Bench(8)
    x, g = b.input(2, 7, 4, 5), b.input(2, 7, 4, 5)
    y = b.graph.add(op, [x], x.shape, axis=axis)
    b.check(isa, b.graph.add(f"{op}Backward", [g, y], x.shape, axis=axis))


@isas
@pytest.mark.parametrize("shares", (False, True))
def test_cross_entropy(isa: Any, shares: bool) -> None:
    b = Bench(9)
    x, g = b.input(6, 11), b.input(6)
    values = b.rng.dirichlet(np.ones(11), 6) if shares else b.rng.integers(0, 11, 6)
    target = b.input(*values.shape, values=values)
    loss = b.graph.add("SoftmaxCrossEntropy", [x, target], (6,), label_smoothing=0.1)
    dx = b.graph.add("SoftmaxCrossEntropyBackward", [g, x, target], x.shape, label_smoothing=0.1)
    b.check(isa, loss, dx)


@isas
@pytest.mark.parametrize("op", ("Sgd", "Adam", "RmsProp"))
def test_updates(isa: Any, op: str) -> None:
    b = Bench(10)
    count = {"Sgd": 1, "Adam": 2, "RmsProp": 3}[op]
    g, factor = b.input(40, 33), b.input(1, values=np.array([0.5]))
    w, slots = b.state(40, 33), b.state(count, 40, 33, values=2 + 0.1 * b.rng.random((count, 40, 33)))
    hyper = {"Sgd": [0.1, 0.9, 1, 0.01], "Adam": [0.1, 0.1, 0.01, 1e-7, 0.01], "RmsProp": [0.1, 0.1, 4, 0.9, 0.01]}[op]
    at = {"momentum": True, "centered": True} if op == "RmsProp" else {}
    if op == "RmsProp":
        b.states[slots.name][2] *= np.float32(0.1)
    b.graph.add_many(op, [w, g, slots, b.input(len(hyper), values=np.array(hyper)), factor], [], decays=True, **at)
    norm = b.graph.add("SquaredNorm", [g, factor], (1,))
    b.check(isa, norm)


@isas
@pytest.mark.parametrize("shape", ((3, 70, 33, 31), (2, 8, 129, 128), (40000, 3), (1, 5, 200, 200)))
def test_sums_of_pixels(isa: Any, shape: tuple[int, ...]) -> None:
    b = Bench(12)
    x = b.input(*shape)
    axes = (0, 2, 3) if len(shape) == 4 else (0,)
    keep = b.graph.add("ReduceSum", [x], [1 if i in axes else d for i, d in enumerate(shape)], axes=axes, keepdims=1)
    b.check(isa, b.graph.add("ReduceSum", [x], (shape[1],), axes=axes, keepdims=0), keep)


@isas
def test_dropout(isa: Any) -> None:
    """The same elements forwards and backwards, whatever the layout of the neighbours."""
    b = Bench(11)
    x, g, seed = b.input(2, 6, 4, 5), b.input(2, 6, 4, 5), b.input(1, values=np.array([77]))
    y = b.graph.add("Dropout", [x, seed], x.shape, rate=0.5)
    dx = b.graph.add("Dropout", [b.graph.add("Relu", [g], g.shape), seed], g.shape, rate=0.5)
    b.graph.outputs = [y, dx]
    (got, back), _ = b.run(isa)
    kept = got != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(got[kept], 2 * b.feeds[x.name][kept], rtol=1e-6)
    np.testing.assert_allclose(back, np.where(kept, 2 * np.maximum(b.feeds[g.name], 0), 0), rtol=1e-6)
