"""Training graphs in float64, interpreted: gradients, updates, moving statistics, what is frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import optimizers
from fastconv.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
)
from fastconv.models import Model, Sequential
from tests.models.interpreted import Interpreted

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 6, 6, 2)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0])


def network(**kwargs: Any) -> Model:
    inputs = Input((6, 6, 2))
    x = Conv2D(4, 3, padding="same", name="c1")(inputs)
    x = BatchNormalization(name="bn", momentum=0.7)(x)
    x = Activation("relu")(x)
    y = Conv2D(4, 3, padding="same", activation="tanh", name="c2")(x)
    x = MaxPooling2D()(Add()([x, y]))
    return Model(inputs, Dense(3, activation="softmax", name="top")(Flatten()(x)), **kwargs)


def loss_of(model: Model, t: Interpreted) -> float:
    """The loss at the present states, by a step that changes nothing."""
    kept = {v: a.copy() for v, a in t.arrays.items()}
    found = t.step(X, Y)[0]
    for v, a in kept.items():
        t.arrays[v][...] = a
    return found


def test_a_step_follows_the_gradient() -> None:
    """SGD at rate 1: what a step takes off a weight is the loss's derivative (batch statistics included)."""
    model = network()
    model.compile(optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    t = Interpreted(model)
    weights = model.trainable_weights
    for v in weights:
        t.state(v)
    before = {v: t.state(v).copy() for v in weights}
    t.step(X, Y)
    taken = {v: before[v] - t.state(v) for v in weights}
    for v in weights:
        t.arrays[v][...] = before[v]
    for v in weights:
        for i in [tuple(RNG.integers(d) for d in v.graph_shape) for _ in range(6)]:
            ends = []
            for h in (1e-5, -1e-5):
                t.arrays[v][i] = before[v][i] + h
                ends.append(loss_of(model, t))
            t.arrays[v][i] = before[v][i]
            np.testing.assert_allclose(taken[v][i], (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-8, err_msg=v.path)
    assert len(weights) == 8


def test_moving_statistics() -> None:
    model = network()
    model.compile(optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    t = Interpreted(model)
    t.step(X, Y)
    bn = model.get_layer("bn")
    c1 = Model(model.input, model.get_layer("c1").output).predict(X).astype(np.float64)
    mean, var = bn.variable("moving_mean"), bn.variable("moving_variance")
    np.testing.assert_allclose(t.arrays[mean], 0.3 * c1.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(t.arrays[var], 0.7 + 0.3 * c1.var(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_frozen_layers_stay_inference_graphs() -> None:
    model = network()
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    graph, feeds, states = model.trainer().graph([X.shape], (5,))
    assert sorted(v.path for v in states.values()) == ["top/bias", "top/kernel"]
    names = [n.op for n in graph.nodes]
    assert "BatchNormTrain" not in names and not any("Backward" in n and n.startswith("Conv") for n in names)
    assert names.count("BatchNormalization") == 1 and not feeds


def test_training_false_keeps_statistics() -> None:
    base = Sequential([Input((6, 6, 2)), Conv2D(4, 3, name="c"), BatchNormalization(name="b"), Dropout(0.5)])
    inputs = Input((6, 6, 2))
    model = Model(inputs, Dense(3)(GlobalAveragePooling2D()(base(inputs, training=False))))
    model.compile(optimizers.SGD(0.1), "mse")
    graph, feeds, _ = model.trainer().graph([X.shape], (5, 3))
    assert "BatchNormTrain" not in [n.op for n in graph.nodes] and not feeds
    t = Interpreted(model)
    gamma = base.get_layer("b").variable("gamma")
    before = t.state(gamma).copy()
    first = t.step(X, np.ones((5, 3)))[0]
    assert t.step(X, np.ones((5, 3)))[0] < first
    assert np.any(t.arrays[gamma] != before)


def test_dropout_is_drawn_anew_at_each_step_from_the_seed() -> None:
    model = Sequential([Input((50,)), Dropout(0.5), Dense(2)])
    model.compile(optimizers.SGD(0.0), "mse")
    x, y = np.ones((4, 50), np.float32), np.zeros((4, 2))

    def losses(seed: int) -> list[float]:
        model.optimizer.iterations = 0
        t = Interpreted(model)
        return [t.step(x, y, seed=seed)[0] for _ in range(3)]

    assert len(set(losses(1))) == 3 and losses(1) == losses(1) != losses(2)


OPTIMIZERS = [
    optimizers.SGD(0.05),
    optimizers.SGD(0.05, momentum=0.9),
    optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    optimizers.Adam(0.01),
    optimizers.AdamW(0.01, weight_decay=0.2),
    optimizers.RMSprop(0.01),
    optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    optimizers.SGD(0.05, clipnorm=0.01),
    optimizers.SGD(0.05, clipvalue=0.001),
    optimizers.SGD(0.05, global_clipnorm=0.01),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.name}-{o.weight_decay}")
def test_optimizers_lower_the_loss(optimizer: optimizers.Optimizer) -> None:
    model = network()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    t = Interpreted(model)
    found = [t.step(X, Y)[0] for _ in range(8)]
    assert found[-1] < found[0]


def test_nothing_to_learn() -> None:
    model = network()
    model.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="depends on no trainable weight"):
        model.train_on_batch(X, Y)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputation_needs_less_memory_for_the_same_numbers(dropout: float) -> None:
    def deep() -> Model:
        from fastconv.layers.initializers import seeded

        with seeded(3):
            inputs = x = Input((24, 24, 2))
            for i in range(12):
                x = Conv2D(16, 3, padding="same", name=f"c{i}")(x)
                x = BatchNormalization(name=f"b{i}")(x) if i % 3 == 0 else x
                x = Activation("relu", name=f"r{i}")(x)
            return Model(inputs, Dense(3, activation="softmax")(Dropout(dropout)(GlobalAveragePooling2D()(x))))

    x, y = RNG.standard_normal((4, 24, 24, 2)).astype(np.float32), np.array([0, 1, 2, 0])
    sizes, weights = [], []
    for again in (False, True):
        model = deep()
        model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", recompute=again)
        losses = [model.train_on_batch(x, y, seed=1) for _ in range(3)]
        weights.append((losses, [a.tobytes() for a in model.get_weights()]))
        (step,) = model.trainer().steps.values()
        sizes.append(step.compiled.arena_bytes)
    assert weights[0] == weights[1]
    assert sizes[1] < 0.7 * sizes[0]
