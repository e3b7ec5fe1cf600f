"""Optimisers and schedules: Keras' formulas, written out in float64; the updates are interpreted."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fastconv import optimizers
from fastconv.graph import Graph
from fastconv.layers.initializers import initializer
from fastconv.layers.variable import Variable
from fastconv.optimizers import schedules
from tests.interpret import interpret

G = np.random.default_rng(0).standard_normal((6, 4))  # gradients of six steps
W = np.array([0.5, -1.0, 2.0, 0.1])


def run(optimizer: optimizers.Optimizer, gradients: np.ndarray = G, path: str = "w") -> np.ndarray:
    """W after these gradients, by interpreting the graph of a step."""
    variable = Variable(path, (4,), initializer("zeros"))
    g = Graph("t")
    hyper = g.add_input("hyper", optimizer.hyper().shape)
    gradient = g.add_input("g", (4,))
    state = g.add_state("w", (4,))
    slots = optimizer.append(g, hyper, [(variable, state, gradient)])
    arrays = {"w": W.copy(), **{name: v.array.astype(np.float64) for name, v in slots.items()}}
    for row in gradients:
        interpret(g, {"hyper": optimizer.hyper(), "g": row}, states=arrays)
        optimizer.iterations += 1
    return arrays["w"]


def by_hand(step: Callable[[np.ndarray, np.ndarray, int], np.ndarray], gradients: np.ndarray = G) -> np.ndarray:
    w = W.copy()
    for t, g in enumerate(gradients, 1):
        w = step(w, g, t)
    return w


def test_sgd() -> None:
    assert optimizers.SGD().learning_rate == 0.01
    np.testing.assert_allclose(run(optimizers.SGD(0.1)), by_hand(lambda w, g, t: w - 0.1 * g), rtol=1e-6)
    for nesterov in (False, True):
        v = np.zeros(4)

        def step(w: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
            v[:] = 0.9 * v - 0.1 * g  # noqa: B023
            return w + (0.9 * v - 0.1 * g if nesterov else v)  # noqa: B023

        np.testing.assert_allclose(run(optimizers.SGD(0.1, 0.9, nesterov)), by_hand(step), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam(decay: float) -> None:
    m, v = np.zeros(4), np.zeros(4)

    def step(w: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
        m[:] = 0.8 * m + 0.2 * g
        v[:] = 0.95 * v + 0.05 * g * g
        alpha = 0.02 * math.sqrt(1 - 0.95**t) / (1 - 0.8**t)
        return w - w * decay * 0.02 - alpha * m / (np.sqrt(v) + 1e-3)

    made = optimizers.AdamW(0.02, decay, 0.8, 0.95, 1e-3) if decay else optimizers.Adam(0.02, 0.8, 0.95, 1e-3)
    np.testing.assert_allclose(run(made), by_hand(step), rtol=1e-5)


def test_rmsprop() -> None:
    for momentum, centered in ((0.0, False), (0.6, False), (0.6, True), (0.0, True)):
        square, mean, moved = np.zeros(4), np.zeros(4), np.zeros(4)

        def step(w: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
            square[:] = 0.8 * square + 0.2 * g * g  # noqa: B023
            mean[:] = 0.8 * mean + 0.2 * g  # noqa: B023
            d = square - mean**2 if centered else square  # noqa: B023
            moved[:] = momentum * moved + 0.01 * g / np.sqrt(d + 1e-2)  # noqa: B023
            return w - moved  # noqa: B023

        made = optimizers.RMSprop(0.01, 0.8, momentum, 1e-2, centered)
        np.testing.assert_allclose(run(made), by_hand(step), rtol=1e-5)


def test_clipping() -> None:
    big = 10 * G
    np.testing.assert_allclose(
        run(optimizers.SGD(0.1, clipvalue=0.5), big),
        by_hand(lambda w, g, t: w - 0.1 * np.clip(g, -0.5, 0.5), big),
        1e-6,
    )
    for name in ("clipnorm", "global_clipnorm"):

        def step(w: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
            return w - 0.1 * g * min(1.0, 2.0 / np.linalg.norm(g))

        np.testing.assert_allclose(run(optimizers.SGD(0.1, **{name: 2.0}), big), by_hand(step, big), 1e-6)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            run(optimizers.SGD(0.1, **{name: 100.0})),
            run(optimizers.SGD(0.1)),
            1e-6,  # type: ignore[arg-type]
        )


def test_decay_can_leave_weights_out() -> None:
    optimizer = optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    np.testing.assert_allclose(run(optimizer, path="top/bias"), run(optimizers.SGD(0.1)))
    want = by_hand(lambda w, g, t: w - w * 0.05 - 0.1 * g)
    np.testing.assert_allclose(run(optimizers.SGD(0.1, weight_decay=0.5)), want, rtol=1e-6)


def test_schedules() -> None:
    s = schedules
    assert s.ExponentialDecay(0.1, 10, 0.5)(5) == pytest.approx(0.1 * 0.5**0.5)
    assert s.ExponentialDecay(0.1, 10, 0.5, staircase=True)(19) == pytest.approx(0.05)
    cosine = s.CosineDecay(0.2, 100, alpha=0.1)
    assert [cosine(0), cosine(50), cosine(500)] == pytest.approx([0.2, 0.2 * (0.9 * 0.5 + 0.1), 0.02])
    warm = s.CosineDecay(0.0, 100, warmup_target=0.2, warmup_steps=10)
    assert [warm(0), warm(5), warm(10), warm(60), warm(110)] == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    steps = s.PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.1])
    assert [steps(i) for i in range(6)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.1]
    assert s.PolynomialDecay(0.1, 10, 0.0, power=2.0)(5) == pytest.approx(0.025)
    assert s.PolynomialDecay(0.1, 10, 0.0, cycle=True)(15) == pytest.approx(0.025)
    assert s.InverseTimeDecay(0.1, 10, 2.0)(5) == pytest.approx(0.05)
    linear = s.WarmUp(0.4, 4)
    assert [linear(i) for i in (0, 1, 3, 9)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert s.WarmUp(s.ExponentialDecay(0.4, 1, 0.5), 4)(5) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="decay_steps=0"):
        s.CosineDecay(0.1, 0)
    with pytest.raises(ValueError, match="one value more"):
        s.PiecewiseConstantDecay([1], [1.0])


def test_the_rate_can_be_set_and_scheduled() -> None:
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([0], [0.5, 0.25]))
    assert optimizer.learning_rate == 0.5
    optimizer.iterations = 3
    assert optimizer.learning_rate == 0.25 and optimizer.hyper()[0] == np.float32(0.25)
    optimizer.learning_rate = 0.1
    assert optimizer.learning_rate == 0.1 and optimizer.schedule is None


def test_state_goes_to_a_checkpoint_and_back() -> None:
    v = Variable("w", (4,), initializer("ones"))
    a, b = optimizers.Adam(0.1), optimizers.Adam(0.2)
    slot = a.slot(v)
    assert slot is not None and slot.shape == (2, 4)
    slot.set(np.arange(8).reshape(2, 4))
    a.iterations = 7
    b.restore([v], a.state_for([v]))
    assert b.iterations == 7 and b.learning_rate == 0.1 and b.slot(v).numpy().tolist() == slot.numpy().tolist()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="is SGD, the checkpoint's Adam"):
        optimizers.SGD().restore([v], a.state_for([v]))


def test_arguments() -> None:
    assert isinstance(optimizers.get("adamw"), optimizers.AdamW)
    for wrong in (
        lambda: optimizers.get("lion"),
        lambda: optimizers.SGD(-1.0),
        lambda: optimizers.SGD(momentum=2.0),
        lambda: optimizers.Adam(beta_1=1.0),
        lambda: optimizers.Adam(amsgrad=True),
        lambda: optimizers.RMSprop(epsilon=0.0),
        lambda: optimizers.SGD(clipnorm=1.0, clipvalue=1.0),
        lambda: optimizers.SGD(weight_decay=-1.0),
    ):
        with pytest.raises(ValueError, match=r"expected|not supported"):
            wrong()
