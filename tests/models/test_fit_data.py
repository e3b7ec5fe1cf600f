"""What fit, evaluate and predict take: generators, sequences, arrays; other losses and other shapes of targets."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import optimizers
from fastconv.callbacks import Callback
from fastconv.errors import ShapeError
from fastconv.layers import Conv2D, Dense, Flatten, Input, set_random_seed
from fastconv.models import Model, Sequential
from tests.models.test_training import RNG, X, Y, compiled, network, weights


@pytest.fixture(autouse=True)
def same_weights() -> None:
    set_random_seed(2)


def test_generators_and_sequences() -> None:
    def endless() -> Iterator[Any]:
        while True:
            for i in range(0, 48, 16):
                yield X[i : i + 16], Y[i : i + 16]

    class Parts:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            return X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]

    made = []
    for data, steps in ((endless(), 3), (Parts(), None), (list(map(Parts().__getitem__, range(3))), None)):
        model = compiled(network())
        if isinstance(data, list):
            data = _Again(data)
        history = model.fit(data, epochs=2, steps_per_epoch=steps, verbose=0, seed=0)
        assert model.optimizer.iterations == 6 and len(history.history["loss"]) == 2
        made.append(weights(model))
    assert made[0] == made[1] == made[2]


class _Again:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def batches(count: int | None = None) -> Iterator[Any]:
    """A generator: it has no length, and where `count` is None no end."""
    for i in itertools.count() if count is None else range(count):
        yield X[16 * (i % 3) : 16 * (i % 3) + 16], Y[16 * (i % 3) : 16 * (i % 3) + 16]


def test_a_generator_without_steps_is_taken_to_its_end() -> None:
    model = compiled(network())
    model.fit(batches(5), verbose=0, seed=0)
    assert model.optimizer.iterations == 5
    assert model.evaluate(batches(3), verbose=0) == pytest.approx(model.evaluate(X[:48], Y[:48], verbose=0), rel=1e-6)
    np.testing.assert_array_equal(model.predict(x for x, _ in batches(2)), model.predict(X[:32], batch_size=16))
    with pytest.raises(ShapeError, match="no batch: a generator is used up after one epoch: give steps_per_epoch"):
        model.fit(batches(3), epochs=2, verbose=0, seed=0)
    assert model.optimizer.iterations == 8  # what the first epoch learnt stays


def test_a_finite_generator_to_validate_with() -> None:
    """It lasts for one epoch; then `fit` says what would go on."""
    model = compiled(network())
    with pytest.raises(ShapeError, match="the generator is used up: give steps, in fit validation_steps"):
        model.fit(X, Y, epochs=2, verbose=0, seed=0, validation_data=batches(2))
    history = model.fit(X, Y, epochs=2, verbose=0, seed=0, validation_data=batches(4), validation_steps=2)
    assert len(history.history["val_loss"]) == 2


def test_an_endless_generator_is_left_with_an_interrupt() -> None:
    """The weights are those of the last whole step, and training goes on from there."""

    class Interrupt(Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 4:
                raise KeyboardInterrupt

    model, want = compiled(network()), compiled(network())
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches(), verbose=0, seed=0, callbacks=[Interrupt()])
    want.fit(batches(4), verbose=0, seed=0)
    assert model.optimizer.iterations == 4 and weights(model) == weights(want)
    np.testing.assert_array_equal(model.predict(X), want.predict(X))
    for m in (model, want):
        m.fit(batches(2), verbose=0, seed=0)
    assert model.optimizer.iterations == 6 and weights(model) == weights(want)


def test_what_is_known_to_be_endless_needs_steps() -> None:
    model = compiled(network())
    parts = list(batches(3))
    for make in (lambda: itertools.cycle(parts), lambda: itertools.repeat(parts[0])):
        name = type(make()).__name__
        for call in (model.fit, model.evaluate, model.predict):
            with pytest.raises(ValueError, match=f"itertools.{name} never ends: say how many batches"):
                call(make(), verbose=0)
        with pytest.raises(ValueError, match="never ends"):
            model.fit(X, Y, validation_data=make(), verbose=0)
        model.fit(make(), steps_per_epoch=2, validation_data=make(), validation_steps=1, verbose=0)
        assert model.predict(make(), steps=2).shape == (32, 2)
    model.fit(itertools.repeat(parts[0], 2), verbose=0)
    assert model.optimizer.iterations == 2 + 2 + 2


def test_validation_split_takes_the_last_rows() -> None:
    model = compiled(network(dropout=0.0), optimizers.SGD(0.0))
    history = model.fit(X, Y, epochs=1, verbose=0, seed=0, validation_split=0.2).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(X[40:], Y[40:], verbose=0)[0])
    with pytest.raises(ValueError, match="leaves nothing"):
        model.fit(X, Y, validation_split=0.001, verbose=0)
    with pytest.raises(ValueError, match="expected arrays"):
        model.fit(_Again([(X, Y)]), validation_split=0.5, verbose=0)


def test_a_changed_network_is_trained_as_it_is_now() -> None:
    """Not by the steps that were compiled for the one before."""
    model = compiled(network(dropout=0.0))
    model.fit(X, Y, batch_size=25, epochs=1, verbose=0)
    model.pop()
    model.add(Dense(5, activation="softmax", name="other"))
    before = model.get_layer("other").get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y + 3, batch_size=25, epochs=1, verbose=0)
    assert not np.array_equal(before[0], model.get_layer("other").get_weights()[0])
    for _ in range(len(model.layers)):
        model.pop()
    with pytest.raises(ValueError, match="has no layers"):
        model.predict(X)
    for wrong in (0, -3, "2"):
        model = compiled(network())
        model.threads = wrong  # type: ignore[assignment]
        with pytest.raises(ValueError, match=f"threads={wrong!r}"):
            model.fit(X, Y, verbose=0)


def test_an_unbuilt_sequential_is_built_by_its_data() -> None:
    model = Sequential([Flatten(), Dense(2, activation="softmax")])
    compiled(model)
    model.fit(X, Y, epochs=1, verbose=0)
    assert model.input_shape == (None, 8, 8, 3)


def test_other_losses() -> None:
    x = RNG.standard_normal((40, 5)).astype(np.float32)
    target = (x.sum(axis=1) > 0).astype(np.float32)
    for end, loss in (("sigmoid", "binary_crossentropy"), (None, "mse")):
        model = Sequential([Input((5,)), Dense(8, activation="tanh"), Dense(1, activation=end)])
        model.compile(optimizers.Adam(0.05), loss, metrics="accuracy")
        found = model.fit(x, target, epochs=30, verbose=0, seed=0).history
        assert found["loss"][-1] < 0.5 * found["loss"][0] and found["accuracy"][-1] > 0.9


def test_segmentation() -> None:
    """A class for each pixel."""
    inputs = Input((6, 6, 2))
    model = Model(inputs, Conv2D(3, 3, padding="same", activation="softmax")(inputs))
    model.compile(optimizers.Adam(0.2), "sparse_categorical_crossentropy", ["accuracy"])
    x = RNG.standard_normal((12, 6, 6, 2)).astype(np.float32)
    y = (x[..., 0] > 0.5).astype(int) + (x[..., 0] > -0.5)
    found = model.fit(x, y, epochs=60, batch_size=4, verbose=0, seed=0).history
    assert found["accuracy"][-1] > 0.9
    assert model.evaluate(x, y, verbose=0)[1] > 0.9
