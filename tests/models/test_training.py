"""compile, fit, evaluate on real kernels: Keras' behaviour, determinism, what is frozen, networks from files."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

from fastconv import optimizers
from fastconv.callbacks import Callback
from fastconv.errors import ModelError, ShapeError
from fastconv.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    Normalization,
    set_random_seed,
)
from fastconv.layers.initializers import seeded
from fastconv.layers.variable import Variable
from fastconv.models import Model, Sequential
from fastconv.models.kept import Kept

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 8, 8, 3)).astype(np.float32)
Y = (X[:, :4].mean(axis=(1, 2, 3)) > X[:, 4:].mean(axis=(1, 2, 3))).astype(np.int64)


@pytest.fixture(autouse=True)
def same_weights() -> None:
    set_random_seed(2)


def network(seed: int = 1, dropout: float = 0.3) -> Model:
    with seeded(seed):
        return Sequential(
            [
                Input((8, 8, 3)), Conv2D(8, 3, padding="same", name="c1"), BatchNormalization(name="bn", momentum=0.8),
                MaxPooling2D(), Conv2D(8, 3, activation="relu", name="c2"), Flatten(), Dropout(dropout),
                Dense(2, activation="softmax", name="top"),
            ],
            name="net",
        )  # fmt: skip


def compiled(model: Model, optimizer: Any = "adam", **kwargs: Any) -> Model:
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], **kwargs)
    return model


def weights(model: Model) -> bytes:
    return b"".join(a.tobytes() for a in model.get_weights())


# -- learning -----------------------------------------------------------------------------------------------------
def test_fit_learns_and_predict_follows() -> None:
    model = compiled(network(dropout=0.0), optimizers.Adam(0.01))
    before = model.predict(X)
    history = model.fit(X, Y, batch_size=16, epochs=12, verbose=0, seed=0, validation_data=(X, Y))
    assert history is model.history and history.epoch == list(range(12))
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert np.abs(model.predict(X) - before).max() > 0.1
    loss, accuracy = model.evaluate(X, Y, verbose=0)
    assert [loss, accuracy] == pytest.approx([history.history[f"val_{n}"][-1] for n in ("loss", "accuracy")])
    assert accuracy == np.mean(model.predict(X).argmax(axis=1) == Y) > 0.9
    assert model.evaluate(X, Y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}


def test_a_step_equals_its_definition() -> None:
    """SGD without momentum: w - rate * gradient, with the gradient of Trainer.gradients."""
    model = compiled(network(dropout=0.0), optimizers.SGD(0.5))
    x, y = X[:8], Y[:8]
    loss, found = model.trainer().gradients([x], y.astype(np.float32))
    want = {v: v.array - np.float32(0.5) * found[v] for v in model.trainable_weights}
    assert model.train_on_batch(x, y)[0] == pytest.approx(loss, rel=1e-6)
    for v, w in want.items():
        np.testing.assert_allclose(v.array, w, rtol=1e-5, atol=1e-6, err_msg=v.path)


def test_the_same_seed_gives_the_same_bits_whatever_the_threads() -> None:
    made = []
    for threads, seed in ((1, 7), (2, 7), (3, 7), (2, 8)):
        model = compiled(network())
        model.threads = threads
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0, seed=seed)
        made.append(weights(model))
    assert made[0] == made[1] == made[2] != made[3]


def test_going_on_in_the_middle_gives_the_same_bits() -> None:
    whole = compiled(network())
    whole.fit(X, Y, batch_size=16, epochs=3, verbose=0, seed=7)

    class Stop(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.optimizer.iterations == 6:  # the second epoch's third batch of four
                self.model.stop_training = True

    first = compiled(network())
    first.fit(X, Y, batch_size=16, epochs=3, verbose=0, seed=7, callbacks=[Stop()])
    second = compiled(network(seed=5))
    second.set_weights(first.get_weights())
    state = pickle.loads(pickle.dumps(first.optimizer.state_for(first.trainable_weights)))
    second.optimizer.restore(second.trainable_weights, state)
    second.fit(X, Y, batch_size=16, epochs=3, verbose=0, seed=7, initial_epoch=1, initial_batch=2)
    assert weights(second) == weights(whole) != weights(first)


def test_set_weights_reaches_the_plan() -> None:
    model = compiled(network(dropout=0.0), optimizers.SGD(0.0))
    first = model.train_on_batch(X[:8], Y[:8])[0]
    kept = model.get_weights()
    model.set_weights([a * 0.5 for a in kept])
    assert model.train_on_batch(X[:8], Y[:8])[0] != first
    model.set_weights(kept)
    assert model.train_on_batch(X[:8], Y[:8])[0] == first


# -- weights of samples and classes -------------------------------------------------------------------------------
def test_sample_and_class_weights() -> None:
    """Class weights are sample weights by class, for classes as numbers and as shares."""
    made = []
    for kwargs in ({"sample_weight": np.where(Y == 1, 2.0, 0.5)}, {"class_weight": {0: 0.5, 1: 2.0}}, {}):
        model = compiled(network(dropout=0.0), optimizers.SGD(0.1))
        model.fit(X, Y, batch_size=25, epochs=1, verbose=0, seed=0, **kwargs)
        made.append(weights(model))
    assert made[0] == made[1] != made[2]
    one_hot = np.eye(2)[Y]
    model = network(dropout=0.0)
    model.compile(optimizers.SGD(0.1), "categorical_crossentropy")
    model.fit(X, one_hot, batch_size=25, epochs=1, verbose=0, seed=0, class_weight={0: 0.5, 1: 2.0})
    got, want = (np.frombuffer(b, np.float32) for b in (weights(model), made[0]))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="expected 8 numbers"):
        model.train_on_batch(X[:8], one_hot[:8], sample_weight=[1.0])
    with pytest.raises(ValueError, match="class 5"):
        model.train_on_batch(X[:8], one_hot[:8], class_weight={5: 1.0})


# -- freezing -----------------------------------------------------------------------------------------------------
def test_frozen_layers_do_not_move() -> None:
    model = network()
    for layer in model.layers[:-1]:
        layer.trainable = False
    compiled(model).fit(X, Y, epochs=1, verbose=0, seed=0)
    fresh = network()
    for layer, other in zip(model.layers, fresh.layers, strict=True):
        for a, b in zip(layer.get_weights(), other.get_weights(), strict=True):
            assert np.array_equal(a, b) == (layer.name != "top")


def test_fit_warns_where_flags_have_changed() -> None:
    model = compiled(network())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y, epochs=1, verbose=0)
    model.get_layer("c1").trainable = False
    with pytest.warns(UserWarning, match="trainable flags have changed since compile"):
        model.fit(X, Y, epochs=1, verbose=0)
    compiled(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y, epochs=1, verbose=0)


def test_frozen_weights_that_are_set_count_from_then_on() -> None:
    """Also without another compile: a step that was compiled before holds what they were."""
    model = Sequential(
        [Input((8, 8, 3)), Normalization(name="n"), Conv2D(4, 3, name="c"), Flatten(), Dense(2, activation="softmax")]
    )
    model.get_layer("c").trainable = False
    compiled(model, optimizers.SGD(0.0))
    losses = [model.train_on_batch(X[:8], Y[:8])[0]]
    (step,) = model.trainer().steps.values()
    model.train_on_batch(X[:8], Y[:8])
    assert list(model.trainer().steps.values()) == [step]  # nothing was set: the same step
    model.get_layer("c").set_weights([2 * a + 1 for a in model.get_layer("c").get_weights()])
    losses.append(model.train_on_batch(X[:8], Y[:8])[0])
    assert losses[-1] == pytest.approx(model.evaluate(X[:8], Y[:8], verbose=0)[0], rel=1e-5)
    model.get_layer("n").adapt(3 * X + 2)
    losses.append(model.train_on_batch(X[:8], Y[:8])[0])
    assert losses[-1] == pytest.approx(model.evaluate(X[:8], Y[:8], verbose=0)[0], rel=1e-5)
    assert len(set(losses)) == 3


def test_frozen_weights_that_are_set_during_a_step() -> None:
    """By another thread, say: the next step follows."""
    model = network(dropout=0.0)
    model.get_layer("c1").trainable = False
    compiled(model, optimizers.SGD(0.0))
    trainer = model.trainer()

    class Meanwhile:
        def run(self, *args: Any) -> None:
            trainer.executor = real
            real.run(*args)
            model.get_layer("c1").set_weights([2 * a + 1 for a in model.get_layer("c1").get_weights()])

    model.train_on_batch(X[:8], Y[:8])
    (step,) = trainer.steps.values()
    real, trainer.executor = trainer.executor, Meanwhile()
    model.train_on_batch(X[:8], Y[:8])
    model.train_on_batch(X[:8], Y[:8])
    assert list(trainer.steps.values()) != [step]


def test_where_memory_ends_or_weights_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same errors of a step, of its gradients and of the halves of a network."""
    model = network()
    for name in ("c1", "bn"):
        model.get_layer(name).trainable = False
    compiled(model)
    trainer, weight = model.trainer(), np.ones(8, np.float32)
    features = Kept(trainer.halves.below([X[:8]], True, 0, 0), [(8, 8, 8, 3)])

    def all_fail(message: str) -> None:
        for run in (
            lambda: trainer.step([X[:8]], Y[:8], weight, 0),
            lambda: trainer.gradients([X[:8]], Y[:8], weight),
            lambda: trainer.halves.above(features),
        ):
            with pytest.raises(ModelError, match=message):
                run()

    trainer.halves.above(features)

    class Full:
        def run(self, *args: Any) -> None:
            raise MemoryError

    executor, trainer.executor = trainer.executor, Full()
    all_fail("no memory for")
    trainer.executor = executor
    monkeypatch.setattr(Variable, "lives_in", lambda *args: False)
    all_fail("has moved to another device")


def test_packed_weights_of_the_frozen_part_are_kept() -> None:
    model = network(dropout=0.0)
    for name in ("c1", "bn"):
        model.get_layer(name).trainable = False
    compiled(model)
    model.predict(X[:8])
    frozen = {k: id(p) for k, p in model.runtime()._cache.packed.items()}
    model.train_on_batch(X[:8], Y[:8])
    model.predict(X[:8])
    after = model.runtime()._cache.packed
    same = [k for k in after if frozen.get(k) == id(after[k])]
    assert any(k not in frozen for k in after) and len(same) >= 2  # c1's panels and what stays of the rest


# -- errors -------------------------------------------------------------------------------------------------------
def test_errors() -> None:
    model = network()
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match="call compile"):
            call(X, Y)
    compiled(model)
    with pytest.raises(ShapeError, match="expected shape"):
        model.fit(X[:, :4], Y, verbose=0)
    with pytest.raises(ShapeError, match="one length"):
        model.fit(X, Y[:-1], verbose=0)
    with pytest.raises(ShapeError, match="classes from 0 to 1"):
        model.fit(X, Y + 1, verbose=0)
    with pytest.raises(ShapeError, match="no targets"):
        model.fit(X, verbose=0)
    with pytest.raises(ValueError, match="precision='half'"):
        model.compile("sgd", "mse", precision="half")
    for kwargs, message in (
        (dict(y=None, validation_split=0.2), "no targets"),
        (dict(validation_freq=0), "validation_freq=0"),
        (dict(batch_size=2.5), "batch_size=2.5"),
        (dict(steps_per_epoch=0), "steps=0"),
        (dict(y=Y.astype(str)), "targets that are numbers"),
        (dict(y={"top": Y}), "expected an array of targets, got dict"),
        (dict(callbacks=[3]), "expected Callback objects, got 3"),
        (dict(class_weight=[1, 2]), "expected a dict"),
        (dict(class_weight={"cat": 1}), "class 'cat'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(**{"x": X, "y": Y, "verbose": 0, **kwargs})
    with pytest.raises(ShapeError, match="expected an array, got list"):
        model.fit(iter([[X, Y]]), steps_per_epoch=1, verbose=0)
    with pytest.raises(ShapeError, match="expected 8 sample weights, got 3"):
        model.test_on_batch(X[:8], Y[:8], sample_weight=np.ones(3))
    with pytest.raises(TypeError, match="batchsize"):
        model.evaluate(X, Y, batchsize=3)
    with pytest.raises(ValueError, match="metric \\['accuracy'\\]"):
        model.compile("sgd", "mse", [["accuracy"]])


@pytest.mark.parametrize("wrong", ({"optimizer": "sdg"}, {"loss": "mes"}, {"metrics": ["acuracy"]}))
def test_a_compile_that_fails_changes_nothing(wrong: dict[str, Any]) -> None:
    model = compiled(network())
    model.train_on_batch(X[:8], Y[:8])
    before = dict(vars(model))
    with pytest.raises(ValueError, match="expected"):
        model.compile(**{"optimizer": "sgd", "loss": "mse", "precision": "strict", **wrong})
    assert vars(model) == before


def test_several_outputs_are_refused() -> None:
    inputs = Input((3,))
    model = Model(inputs, [Dense(2, name="a")(inputs), Dense(2, name="b")(inputs)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 3)), np.ones((4, 2))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        for target in (y, [y, y]):
            with pytest.raises(ModelError, match=r"2 outputs \(a, b\): \w+ expects one"):
                call(x, target)


def test_what_a_copy_keeps() -> None:
    """Pickled models keep what is saved beside their network."""
    inputs = Input((3,))
    for model in (Model(inputs, Dense(2)(inputs)), Sequential([Input((3,)), Dense(2)])):
        model.metadata, model.threads = {"classes": "a,b"}, 1
        other = pickle.loads(pickle.dumps(model))
        assert (other.metadata, other.threads) == ({"classes": "a,b"}, 1)
        for placed, precision in (
            (("cpu", "strict"), "strict"),
            (("cuda", "tf32"), "fp32"),
            (("cuda", "strict"), "strict"),
        ):
            model._placed = placed  # no device is needed for a copy
            other = pickle.loads(pickle.dumps(model))
            assert (other.device, other.precision, other.runtime().precision) == ("cpu", precision, precision)
