"""What `fit`, its callbacks and its layers say of arguments that will not do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import layers as L
from fastconv.callbacks import LearningRateScheduler, ReduceLROnPlateau
from fastconv.models import Sequential, kept
from fastconv.optimizers import SGD
from fastconv.optimizers.schedules import ExponentialDecay

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 6, 6, 1)).astype(np.float32)
Y = np.arange(12) % 3


def network(optimizer: Any = "sgd", loss: str = "sparse_categorical_crossentropy") -> Sequential:
    model = Sequential([L.Input((6, 6, 1)), L.Conv2D(2, 3), L.Flatten(), L.Dense(3, activation="softmax")])
    model.compile(optimizer, loss)
    return model


@pytest.mark.parametrize("wrong", ({"epochs": -1}, {"epochs": 1.5}, {"initial_epoch": -2}, {"verbose": 3}))
def test_numbers(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}={wrong[name]}: expected"):
        network().fit(X, Y, **{"verbose": 0, **wrong})


def test_one_hot_targets_of_a_sparse_loss() -> None:
    with pytest.raises(ValueError, match="one-hot targets go with categorical_crossentropy"):
        network().fit(X, np.eye(3, dtype=np.float32)[Y], verbose=0)


def batches(count: int) -> Iterator[Any]:
    for _ in range(count):
        yield X[:4], Y[:4]


def test_a_generator_that_runs_out() -> None:
    model = network()
    with (
        pytest.warns(UserWarning, match="ran out: this epoch has 1 batches instead of 3") as caught,
        pytest.raises(ValueError, match="ran out: it gave 4 batches, and none for this epoch"),
    ):
        model.fit(batches(4), epochs=3, steps_per_epoch=3, verbose=0)
    assert [w.filename for w in caught] == [__file__]
    model.fit(batches(6), epochs=2, steps_per_epoch=3, verbose=0)


def test_callbacks_that_set_the_rate_of_a_schedule() -> None:
    for callback in (LearningRateScheduler(lambda epoch, rate: rate), ReduceLROnPlateau("loss")):
        model = network(SGD(ExponentialDecay(0.1, 10, 0.5)))
        with pytest.raises(
            ValueError, match=f"^{type(callback).__name__}: .* is a ExponentialDecay: expected a number"
        ):
            model.fit(X, Y, verbose=0, callbacks=[callback])
        assert model.optimizer is not None and model.optimizer.schedule is not None


def test_a_schedule_of_one_argument() -> None:
    """A second one with a default is not the rate."""
    for schedule in (
        lambda epoch: 0.5**epoch, lambda epoch, factor=0.5: factor**epoch, lambda *numbers: 0.5 ** numbers[0],
        lambda epoch, rate, factor=0.5: rate * factor if epoch else 1.0, lambda epoch, *, factor=0.5: factor**epoch,
        lambda epoch, *rate: rate[0] / 2 if epoch else 1.0,
    ):  # fmt: skip
        rates = network().fit(X, Y, epochs=3, verbose=0, callbacks=[LearningRateScheduler(schedule)]).history
        assert rates["learning_rate"] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("factor", (1.5, (-2.0, 0.0), (0.0, 3.0), 30))
def test_factors_of_random_layers(factor: Any) -> None:
    """30 is degrees to somebody; Keras' factors are shares."""
    for make in (L.RandomRotation, L.RandomZoom, L.RandomBrightness, lambda f: L.RandomTranslation(f, 0.1)):
        with pytest.raises(ValueError, match="expected -1 <= lower <= upper <= 1"):
            make(factor)
    with pytest.raises(ValueError, match="width_factor"):
        L.RandomZoom(0.1, factor)


def test_no_bar_where_nothing_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    whole = kept.task

    def told(what: str, *args: Any) -> Any:
        shown.append(what)
        return whole(what, *args)

    monkeypatch.setattr(kept, "task", told)
    network().fit(X, Y, epochs=2, verbose=1)
    assert not shown
    model = network()
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=2, verbose=1, cache_features=True)
    assert shown == ["features of the frozen part"]
