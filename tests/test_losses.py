"""Losses: numbers worked out by hand, and the training graph's form against numpy's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastconv import losses
from fastconv.errors import ShapeError
from fastconv.graph import Graph
from tests.interpret import interpret

P = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
ONE_HOT = np.array([[0, 1, 0], [0, 0, 1]])


def test_worked_numbers() -> None:
    want = (-math.log(0.95) - math.log(0.1)) / 2
    assert losses.CategoricalCrossentropy()(ONE_HOT, P) == pytest.approx(want)
    assert losses.SparseCategoricalCrossentropy()([1, 2], P) == pytest.approx(want)
    weighted = (-0.3 * math.log(0.95) - 0.7 * math.log(0.1)) / 2
    assert losses.CategoricalCrossentropy()(ONE_HOT, P, [0.3, 0.7]) == pytest.approx(weighted)
    mse = losses.MeanSquaredError()([[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
    assert mse == pytest.approx(0.5)
    binary = losses.BinaryCrossentropy()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]])
    assert binary == pytest.approx(-(math.log(0.4) + math.log(0.4) + math.log(0.6) + math.log(0.4)) / 4)
    logits = np.array([[-18.6, 0.51], [2.94, -12.8]])
    assert losses.BinaryCrossentropy(from_logits=True)([[0, 1], [0, 0]], logits) == pytest.approx(0.865457, rel=1e-4)


def test_smoothing() -> None:
    smooth = losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    x = np.array([[1.0, 2.0, 0.5]])
    log = x - np.log(np.exp(x).sum())
    assert smooth([[0, 1, 0]], x) == pytest.approx(-float((np.array([0.1, 0.8, 0.1]) * log).sum()))


CASES: list[tuple[losses.Loss, tuple[int, ...], str, str]] = [
    (losses.CategoricalCrossentropy(), (4, 3), "shares", "Softmax"),
    (losses.CategoricalCrossentropy(), (4, 3), "shares", ""),
    (losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), (4, 3), "shares", "logits"),
    (losses.SparseCategoricalCrossentropy(), (4, 3), "classes", "Softmax"),
    (losses.SparseCategoricalCrossentropy(from_logits=True), (2, 5, 4, 3), "classes", "logits"),
    (losses.SparseCategoricalCrossentropy(), (2, 5, 4, 3), "classes", "Softmax"),
    (losses.BinaryCrossentropy(), (4, 1), "shares", "Sigmoid"),
    (losses.BinaryCrossentropy(label_smoothing=0.2), (4, 3), "shares", ""),
    (losses.BinaryCrossentropy(from_logits=True), (4, 3), "shares", "logits"),
    (losses.MeanSquaredError(), (4, 3), "shares", "logits"),
    (losses.MeanSquaredError(), (2, 3, 4, 2), "shares", "logits"),
]


@pytest.mark.parametrize("loss, shape, targets, end", CASES, ids=lambda v: getattr(v, "name", str(v)))
def test_graphs_compute_the_same(loss: losses.Loss, shape: tuple[int, ...], targets: str, end: str) -> None:
    rng = np.random.default_rng(0)
    g = Graph("t")
    x = rng.standard_normal(shape)
    if not end:  # probabilities that no activation made
        x = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) * 0.9 + 0.02
    if len(shape) == 4:
        v = g.add_input("x", (shape[0], shape[3], *shape[1:3]))
        feed = x.transpose(0, 3, 1, 2)
        axis = 1
    else:
        v, feed, axis = g.add_input("x", shape), x, 1
    y = v
    if end in ("Softmax", "Sigmoid"):
        y = g.add(end, [v], v.shape, **({"axis": axis} if end == "Softmax" else {}))
    if len(shape) == 4:
        y = g.add("Transpose", [y], shape, perm=(0, 2, 3, 1))
    raw: Any = rng.uniform(0, 1, shape) if targets == "shares" else rng.integers(0, shape[-1], shape[:-1])
    if end == "Softmax" and targets == "shares":
        raw = raw / raw.sum(axis=-1, keepdims=True)
    target = loss.targets(raw, shape)
    t = g.add_input("t", target.shape)
    each = loss.emit(g, t, y)
    g.outputs = [y, each]
    out, got = interpret(g, {"x": feed, "t": target})
    assert got.shape == (shape[0],)
    np.testing.assert_allclose(got, loss.values(target, out), rtol=1e-6)
    ops = [n.op for n in g.nodes]
    assert ("Log" in ops or "Clip" in ops) == (not end)  # with a known end logits are used


def test_saturated_softmax_keeps_its_gradient() -> None:
    """A probability of exactly 0 for the right class: from the logits the loss is still right."""
    g = Graph("t")
    x = g.add_input("x", (1, 2))
    y = g.add("Softmax", [x], (1, 2), axis=1)
    g.outputs = [losses.SparseCategoricalCrossentropy().emit(g, g.constant(np.zeros(1)), y)]
    assert interpret(g, {"x": np.array([[0.0, 1000.0]])})[0] == pytest.approx(1000.0)


def test_targets_are_checked() -> None:
    sparse, dense = losses.SparseCategoricalCrossentropy(), losses.CategoricalCrossentropy()
    assert sparse.targets([[1], [2]], (2, 3)).tolist() == [1.0, 2.0]
    with pytest.raises(ShapeError, match="classes from 0 to 2, got 0 to 3"):
        sparse.targets([0, 3], (2, 3))
    with pytest.raises(ShapeError, match=r"classes of shape \(2,\), got targets of shape \(2, 3\)"):
        sparse.targets(ONE_HOT, (2, 3))
    with pytest.raises(ShapeError, match="go with sparse_categorical_crossentropy"):
        dense.targets([0, 1], (2, 3))
    assert losses.BinaryCrossentropy().targets([0, 1], (2, 1)).shape == (2, 1)


def test_names_and_options() -> None:
    assert isinstance(losses.get("mse"), losses.MeanSquaredError)
    with pytest.raises(ValueError, match="loss='hinge': expected a loss or one of categorical_crossentropy"):
        losses.get("hinge")
    for wrong in ({"label_smoothing": 2.0}, {"axis": 1}, {"reduction": "sum"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            losses.CategoricalCrossentropy(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown arguments gamma"):
        losses.MeanSquaredError(gamma=1)
    assert losses.MeanSquaredError(name="n").name == "n"
