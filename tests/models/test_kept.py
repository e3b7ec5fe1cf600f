"""What a frozen part gives is kept while `fit` runs: the same weights, fewer runs, and only where that is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import layers as L
from fastconv import optimizers
from fastconv.callbacks import BackupAndRestore, Callback
from fastconv.errors import ShapeError
from fastconv.layers.initializers import seeded
from fastconv.models import Model, Sequential, kept
from fastconv.models.trainer import Halves

RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (37, 16, 16, 3)).astype(np.float32)
Y = RNG.integers(0, 3, 37)


def network(*random: L.Layer, head: float = 0.4, frozen: bool = True, skip: bool = False) -> Model:
    """Random layers, a frozen base with batch norm, a head with dropout. skip: the image goes around the base, too."""
    with seeded(3):
        image = L.Input((16, 16, 3))
        x = image
        for layer in random:
            x = layer(x)
        base = [L.Conv2D(16, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(4)]
        y = x
        for layer in base:
            y = layer(y)
            layer.trainable = not frozen
        if skip:
            y = L.Concatenate()([y, L.AveragePooling2D(4)(x)])
        y = L.Dropout(head)(L.Flatten()(L.Conv2D(8, 3, activation="relu")(y)))
        model = Model(image, L.Dense(3, activation="softmax")(y))
    if frozen:
        base[1].set_weights([RNG0 + 0.5, RNG0 - 0.2, RNG0, RNG0 + 0.7])
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model


RNG0 = np.random.default_rng(5).uniform(0, 1, 16).astype(np.float32)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(kind, samples) of each run of a half."""
    seen: list[tuple[Any, ...]] = []
    real = Halves._run

    def counted(self: Halves, which: Any, shapes: Any, *args: Any) -> Any:
        seen.append((which[0], shapes[0][0]))
        return real(self, which, shapes, *args)

    monkeypatch.setattr(Halves, "_run", counted)
    return seen


def taught(model: Model, *args: Any, **kwargs: Any) -> np.ndarray:
    model.fit(*(args or (X, Y)), epochs=kwargs.pop("epochs", 3), verbose=0, seed=4, **kwargs)
    return np.concatenate([w.numpy().ravel() for w in model.trainable_weights])


def both(model: Any, *args: Any, **kwargs: Any) -> tuple[Model, Model]:
    first, second = model(), model()
    a, b = taught(first, *args, **kwargs), taught(second, *args, cache_features=False, **kwargs)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for name, values in second.history.history.items():
        np.testing.assert_allclose(first.history.history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    return first, second


@pytest.mark.parametrize("skip", (False, True))
def test_the_same_weights(runs: list[Any], skip: bool) -> None:
    """As without, up to rounding; every image once, in the validation too, whatever the number of epochs."""
    weight = np.linspace(0.5, 1.5, 37)
    more = dict(batch_size=8, sample_weight=weight, class_weight={1: 2.0}, validation_data=(X[:9], Y[:9]))
    both(lambda: network(skip=skip), X, Y, **more)
    assert [r for r in runs if r[0] == "below"] == [*[("below", 8)] * 4, ("below", 5), ("below", 8), ("below", 1)]
    assert [r for r in runs if r[0] == "above"] == [("above", 8), ("above", 1)] * 3


def test_nothing_of_the_frozen_part_is_in_the_step() -> None:
    model = network()
    taught(model)
    halves = model.trainer().halves
    below, above, _ = halves.graphs([(8, 16, 16, 3)], True)
    assert [n.op for n in below.nodes if n.op in ("Conv", "BatchNormalization", "MaxPool")] == [
        "Conv", "BatchNormalization", "MaxPool",
    ]  # fmt: skip
    assert [n.op for n in above.nodes].count("Conv") == 1 and not any("BatchNorm" in n.op for n in above.nodes)
    assert all(key[0] for key in model.trainer().steps)


def test_frozen_weights_that_are_set_between_two_fits() -> None:
    def twice(cached: bool) -> np.ndarray:
        model = network()
        taught(model, batch_size=8, cache_features=cached)
        convolution = next(la for la in model.layers if isinstance(la, L.Conv2D))
        convolution.set_weights([1 - a for a in convolution.get_weights()])
        return taught(model, batch_size=8, cache_features=cached)

    np.testing.assert_allclose(twice(True), twice(False), rtol=1e-4, atol=1e-5)


class At(Callback):
    """Calls `change(model)` at the beginning of an epoch."""

    def __init__(self, epoch: int, change: Callable[[Model], Any]) -> None:
        super().__init__()
        self.epoch, self.change = epoch, change

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            self.change(self.model)


def convolution(model: Model) -> L.Layer:
    return next(la for la in model.layers if isinstance(la, L.Conv2D))


def other_weights(model: Model) -> None:
    convolution(model).set_weights([1 - a for a in convolution(model).get_weights()])


def unfrozen(model: Model) -> None:
    convolution(model).trainable = True
    model.compile(optimizers.Adam(0.001), "sparse_categorical_crossentropy", ["accuracy"])


@pytest.mark.parametrize("change", (other_weights, unfrozen))
def test_a_callback_that_changes_the_frozen_part(change: Callable[[Model], Any]) -> None:
    """What is kept is made anew, for the validation too."""
    both(network, X, Y, batch_size=8, validation_data=(X[:9], Y[:9]), callbacks=[At(1, change)])


def test_a_callback_that_chooses_other_threads() -> None:
    def threads(model: Model) -> None:
        model.threads = 2

    def taught_with(*callbacks: Callback) -> bytes:
        model = network(L.RandomFlip())
        model.threads = 1
        return taught(model, batch_size=8, views=2, callbacks=callbacks).tobytes()

    assert taught_with(At(1, threads)) == taught_with()


def test_features_of_another_cut_are_no_images() -> None:
    """Also where a callback calls compile in the middle of an epoch."""

    class Unfreeze(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            unfrozen(self.model)

    with pytest.raises(ShapeError, match="features of the frozen part"):
        taught(network(), batch_size=8, callbacks=[Unfreeze()])
    model = network()
    features = kept.Kept([np.zeros((8, 3, 3, 3), np.float32)], [(8, 16, 16, 3)])
    with pytest.raises(ShapeError, match="features of the frozen part"):
        model.trainer().halves.above(features)


def test_another_number_of_views_cuts_elsewhere() -> None:
    frozen = [L.Conv2D(8, 3, trainable=False), L.Conv2D(8, 3, trainable=False)]
    layers = [L.Input((16, 16, 3)), frozen[0], L.RandomFlip(), frozen[1], L.Flatten(), L.Dense(3, activation="softmax")]
    model = Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    for views in (1, 2, 1):
        assert np.isfinite(taught(model, batch_size=8, cache_features=True, views=views)).all()


def test_the_same_bits_whatever_the_threads() -> None:
    made = []
    for threads in (1, 2, 3):
        model = network()
        model.threads = threads
        made.append(taught(model, batch_size=8).tobytes())
    assert len(set(made)) == 1


class Two:
    """Batches of one's own."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter([(X[:20], Y[:20]), (X[20:], Y[20:])])


def test_nothing_is_kept_above_what_is_random_or_learns(runs: list[Any]) -> None:
    taught(network(L.RandomFlip("horizontal"), L.RandomRotation(0.1)))
    taught(network(frozen=False))
    taught(network(), epochs=1)
    taught(network(), cache_features=False)
    batches = Two()
    taught(network(), batches)  # they may be others each time
    assert not runs
    taught(network(), validation_data=batches, cache_features=True)  # of the training data at least
    for model, data, words in (
        (network(L.RandomFlip()), (X, Y), "no convolution"),
        (network(), (batches,), "Two may differ"),
    ):
        with pytest.raises(ValueError, match=words):
            taught(model, *data, cache_features=True)


def test_what_is_left_of_a_fit_decides(runs: list[Any], tmp_path: Path) -> None:
    """One more epoch does not pay, none needs nothing; also where a callback says where to go on."""
    taught(network(), initial_epoch=2)
    taught(network(), initial_epoch=3, cache_features=True)
    taught(network(), initial_epoch=3, views=2)
    assert not runs

    class Stop(Callback):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.at = at

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations == self.at:
                raise KeyboardInterrupt

    whole = taught(network(), batch_size=8, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        taught(network(), batch_size=8, epochs=2, callbacks=[BackupAndRestore(tmp_path), Stop(7)])
    assert runs
    runs.clear()
    again = taught(network(), batch_size=8, epochs=2, callbacks=[BackupAndRestore(tmp_path), Stop(-1)])
    assert not runs and again.tobytes() == whole.tobytes()
    taught(network(), initial_epoch=1)
    assert runs


def test_a_cheap_part_is_not_kept(runs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose outputs cost more to read than to compute."""
    monkeypatch.setattr(kept, "WORTH", 1e6)
    taught(network())
    assert not runs
    taught(network(), cache_features=True)
    assert runs


def test_statistics_that_move_are_not_kept(runs: list[Any]) -> None:
    """A batch norm without weights uses its batch while it trains."""

    def model() -> Model:
        model = network()
        norm = next(la for la in model.layers if isinstance(la, L.BatchNormalization))
        norm.trainable = True
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    first, _ = both(model, batch_size=8)
    graph = first.trainer().halves.graphs([(8, 16, 16, 3)], True)[0]
    assert [n.op for n in graph.nodes if n.op != "Transpose"] == ["Conv"]


def test_views(runs: list[Any]) -> None:
    """So many draws of each image are kept, and the epochs take them in turns; the head's dropout stays random."""

    def model() -> Model:
        return network(L.RandomTranslation(0.4, 0.4), L.RandomFlip())

    whole = taught(model(), batch_size=8, epochs=4, views=3, validation_data=(X[:8], Y[:8]))
    assert [r for r in runs if r == ("below", 8)] == [("below", 8)] * (3 * 4 + 1)
    assert taught(model(), batch_size=8, epochs=4, views=3).tobytes() == whole.tobytes()
    assert taught(model(), batch_size=8, epochs=4, views=2).tobytes() != whole.tobytes()
    one = model()
    keeper = kept.Keeper(one, None, 3, 4, 0)
    data = keeper.training(kept.ArrayBatches([X], Y, None, 8, True, 4))
    assert isinstance(data, kept.KeptBatches) and data.views == 3
    (rows,) = data.arrays
    assert not np.allclose(rows[0], rows[1]) and not np.allclose(rows[1], rows[2])
    taken = set()
    for epoch in range(3):
        order = iter(data.order(epoch))
        for part, y, _ in data.epoch(epoch):
            for row, label in zip(part.arrays[0], y, strict=True):
                i = next(order)
                assert label == Y[i]
                taken.add((int(i), int(np.flatnonzero((rows[:, i] == row).reshape(3, -1).all(1))[0])))
    assert taken == {(i, v) for i in range(37) for v in range(3)}
    for bad in (0, -3, "2", 1.5):
        with pytest.raises(ValueError, match=r"views=.*: expected a positive int"):
            taught(model(), views=bad, epochs=1)
    with pytest.raises(ValueError, match="expected cache_features"):
        taught(model(), views=3, cache_features=False, epochs=1)
    with pytest.raises(ValueError, match="no convolution"):
        taught(network(frozen=False), views=2)


def test_a_sequential_that_is_not_built(runs: list[Any]) -> None:
    def model() -> Sequential:
        base = L.Conv2D(16, 3, trainable=False)
        model = Sequential([L.RandomFlip(), base, L.Flatten(), L.Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    taught(model(), batch_size=32, views=2)
    assert [r for r in runs if r[0] == "below"] == [("below", 32)] * 2 + [("below", 5)] * 2
    for kwargs in ({"views": 2}, {"cache_features": True}):
        with pytest.raises(ValueError, match="build it"):
            taught(model(), Two(), **kwargs)


@pytest.mark.parametrize("cached", (None, True, False))
def test_validation_data_of_a_wrong_length(cached: bool | None) -> None:
    for data in ((X,), (X, Y, None, 3)):
        with pytest.raises(ValueError, match="validation_data: expected"):
            taught(network(), validation_data=data, cache_features=cached)


def test_a_fit_that_is_gone_on_with(tmp_path: Path) -> None:
    """In the middle of the last epoch, too: the same bits."""
    more = dict(batch_size=8, views=2, epochs=3)

    def model() -> Model:
        return network(L.RandomFlip())

    whole = taught(model(), **more)

    class Stop(Callback):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.at = at

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations == self.at:
                raise KeyboardInterrupt

    for stop in (2, 8, 13):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            taught(model(), callbacks=[BackupAndRestore(folder, 1), Stop(stop)], **more)
        again = taught(model(), callbacks=[BackupAndRestore(folder, 1), Stop(0)], **more)
        assert again.tobytes() == whole.tobytes()


def test_where_memory_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = taught(network())
    monkeypatch.setattr(kept, "MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made: list[Any] = []
    real = kept.space
    monkeypatch.setattr(kept, "space", lambda *a: made.append(real(*a)) or made[-1])
    with pytest.warns(UserWarning, match="cache_features=True puts them into a file") as seen:
        network().fit(X, Y, epochs=2, verbose=0)
    assert [w.filename for w in seen] == [__file__]
    with pytest.warns(UserWarning, match="not kept"):
        np.testing.assert_allclose(taught(network()), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="puts them into a file"):
        taught(network(L.RandomFlip()), views=2)
    assert not made
    assert taught(network(), cache_features=True).tobytes() == whole.tobytes()
    assert isinstance(made[0], np.memmap) and not list(tmp_path.iterdir())
    monkeypatch.setattr(kept, "SHARE", 0.0)
    with pytest.raises(ValueError, match="free disk"):
        taught(network(), cache_features=True)


def test_dense_layers_and_a_batch_that_changes_its_shape() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Sequential([L.Input((4,)), L.Dense(64, trainable=False), L.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(np.ones((6, 4)), np.ones((6, 1)), 4, epochs=2, verbose=0, seed=0, cache_features=True)
    model = Sequential([L.Input((4,)), L.Dense(64, trainable=False), L.Dense(1)])
    model.compile("sgd", "mse")
    halves = model.trainer().halves
    kept_ = kept.Kept(halves.below([np.ones((6, 4), np.float32)], False, 0, 0), [(6, 4)])
    np.testing.assert_allclose(halves.above(kept_), model.predict(np.ones((6, 4))), rtol=1e-5)
