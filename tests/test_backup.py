"""Checkpoints of any model's training: saved, loaded, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import checkpoint
from fastconv import layers as L
from fastconv.callbacks import BackupAndRestore, Callback, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from fastconv.errors import ModelError
from fastconv.models import Sequential
from fastconv.optimizers import SGD, Adam, RMSprop
from fastconv.training_state import load_training, save_training

RNG = np.random.default_rng(0)
X = RNG.standard_normal((22, 8, 8, 1)).astype(np.float32)
Y = RNG.integers(0, 3, 22)


def network(units: int = 3) -> Sequential:
    L.set_random_seed(7)
    layers = [
        L.Input((8, 8, 1)), L.RandomTranslation(0.2, 0.2), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(),
        L.Flatten(), L.Dropout(0.3), L.Dense(units, activation="softmax"),
    ]  # fmt: skip
    return Sequential(layers)


def fit(model: Sequential, callbacks: Any = (), epochs: int = 4, optimizer: Any = None, seed: int = 1) -> Any:
    model.compile(optimizer or Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model.fit(X, Y, 4, epochs, verbose=0, callbacks=list(callbacks), validation_data=(X, Y), seed=seed)


class Stop(Exception):
    pass


class StopAt(Callback):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stop


@pytest.mark.parametrize("freq", ("epoch", 1, 2))
def test_goes_on_to_the_same_weights(tmp_path: Path, freq: Any) -> None:
    """Six steps an epoch, with augmentation, dropout, moving statistics and a falling rate."""

    def plateau() -> ReduceLROnPlateau:
        return ReduceLROnPlateau(factor=0.5, patience=1, min_delta=10)

    whole = network()
    want = fit(whole, [plateau()])
    assert len(set(want.history["learning_rate"])) > 1
    for at in range(0, 24, 5):
        with pytest.raises(Stop):
            fit(network(), [plateau(), BackupAndRestore(tmp_path, freq), StopAt(at)])
        saved = (tmp_path / "training.ckpt").exists()
        assert saved == (at >= (6 if freq == "epoch" else freq))
        model = network()
        got = fit(model, [plateau(), BackupAndRestore(tmp_path, freq), StopAt(99)])
        for a, b in zip(whole.weights, model.weights, strict=True):
            np.testing.assert_array_equal(a.array, b.array, a.path)
        assert got.history["val_loss"] == want.history["val_loss"] and got.epoch == [0, 1, 2, 3]
        assert not (tmp_path / "training.ckpt").exists()


def test_a_backup_of_another_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(network(), [BackupAndRestore(tmp_path), StopAt(8)])
    for model, others, seed in (
        (network(), [StopAt(99)], 2),
        (network(), [StopAt(99), EarlyStopping()], 1),
        (network(), [ReduceLROnPlateau()], 1),
        (network(4), [StopAt(99)], 1),
    ):
        before = model.get_weights()
        with pytest.raises(ModelError):
            fit(model, [*others, BackupAndRestore(tmp_path)], seed=seed)
        assert model.optimizer is not None and model.optimizer.iterations == 0
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    arrays, state = checkpoint.read(tmp_path / "training.ckpt")
    for wrong in (
        {"epoch": None},
        {"batch": -1},
        {"callbacks": [{}, {}]},
        {"callbacks": [["StopAt", 3], ["History", 4]]},
    ):
        (tmp_path / "wrong").mkdir(exist_ok=True)
        checkpoint.write(tmp_path / "wrong" / "training.ckpt", arrays, {**state, "state": {**state["state"], **wrong}})
        model = network()
        with pytest.raises(ModelError):
            fit(model, [StopAt(99), BackupAndRestore(tmp_path / "wrong")])
        assert model.optimizer is not None and model.optimizer.iterations == 0
    kept = BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(network(), [StopAt(99), kept])
    assert (tmp_path / "training.ckpt").exists()
    with pytest.raises(ValueError, match="save_freq"):
        BackupAndRestore(tmp_path, 0)


def test_save_and_load(tmp_path: Path) -> None:
    model = network()
    fit(model, [ModelCheckpoint(tmp_path / "e{epoch}.ckpt")], epochs=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e1.ckpt", "e2.ckpt"]
    other = network()
    other.load_weights(tmp_path / "e2.ckpt")
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    save_training(model, tmp_path / "s.ckpt", {"note": [1, "a"]})
    other.compile(Adam(0.5), "sparse_categorical_crossentropy")
    assert load_training(other, tmp_path / "s.ckpt") == {"note": [1, "a"]}
    assert other.optimizer is not None and other.optimizer.iterations == 12 and other.optimizer.learning_rate == 0.01
    before = [v.array.copy() for v in other.weights]
    other.compile(SGD(0.1), "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match="is SGD, the checkpoint's Adam"):
        load_training(other, tmp_path / "s.ckpt")
    with pytest.raises(ModelError, match="has shape"):
        network(4).load_weights(tmp_path / "s.ckpt")
    with pytest.raises(ModelError, match="weights, the model"):
        Sequential([L.Input((2,)), L.Dense(1)]).load_weights(tmp_path / "s.ckpt")
    for a, v in zip(before, other.weights, strict=True):
        np.testing.assert_array_equal(a, v.array)
    with pytest.raises(ValueError, match="by_name"):
        other.load_weights(tmp_path / "s.ckpt", by_name=True)
    for ending in ("ckpt", "onnx"):
        with pytest.raises(ModelError, match=r"ends with \.safetensors"):
            other.save_weights(tmp_path / f"w.{ending}")


def test_load_weights_brings_the_optimiser_back(tmp_path: Path) -> None:
    whole = network()
    fit(whole, epochs=4)
    half = network()
    fit(half, epochs=2)
    half.save(tmp_path / "half.ckpt")
    again = network()
    again.compile(Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    again.load_weights(tmp_path / "half.ckpt")
    assert again.optimizer is not None and again.optimizer.iterations == 12
    again.fit(X, Y, 4, epochs=4, initial_epoch=2, verbose=0, seed=1)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_load_weights_keeps_what_was_compiled(tmp_path: Path) -> None:
    """A smaller rate for going on is not replaced by the file's; slots and steps come back."""
    model = network()
    fit(model, epochs=1)
    model.save(tmp_path / "a.ckpt")
    other = network()
    optimizer = Adam(1e-5, beta_1=0.5)
    other.compile(optimizer, "sparse_categorical_crossentropy")
    other.load_weights(tmp_path / "a.ckpt")
    assert (optimizer.learning_rate, optimizer.beta_1, optimizer.iterations) == (1e-5, 0.5, 6)
    assert any(map(np.any, optimizer.state_for(other.trainable_weights)["slots"]))


def test_load_weights_with_another_optimiser(tmp_path: Path) -> None:
    model = network()
    fit(model, epochs=1)
    model.save(tmp_path / "a.ckpt")
    for optimizer in (SGD(0.1), RMSprop(0.1, momentum=0.5)):  # the latter's slots have the shapes of Adam's
        other = network()
        other.compile(optimizer, "sparse_categorical_crossentropy")
        with pytest.warns(UserWarning, match=f"only the weights were read: .* is {type(optimizer).__name__}") as caught:
            other.load_weights(tmp_path / "a.ckpt")
        assert [w.filename for w in caught] == [__file__]
        assert optimizer.iterations == 0 and optimizer.learning_rate == 0.1
        np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_a_damaged_state_changes_nothing(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "a.ckpt"
    fit(model, epochs=1)
    model.save(path)
    arrays, state = checkpoint.read(path)
    optimizer = state["optimizer"]
    assert [n for n in arrays if n.startswith("slot/")]
    other = network()
    other.compile(Adam(0.5), "sparse_categorical_crossentropy")
    before = other.get_weights()
    for wrong_arrays, wrong, message in (
        (arrays, {**state, "state": None}, "not the checkpoint of a model"),
        (arrays, {**state, "weights": 3}, "not the checkpoint of a model"),
        (arrays, {**state, "optimizer": [1]}, "optimiser's state is damaged"),
        (arrays, {**state, "optimizer": {}}, "a number of steps"),
        (arrays, {**state, "optimizer": {**optimizer, "iterations": "many"}}, "a number of steps"),
        (arrays, {**state, "optimizer": {**optimizer, "learning_rate": -1}}, "learning_rate=-1"),
        ({n.replace("slot/0", "slot/99"): a for n, a in arrays.items()}, state, "optimiser's state is damaged"),
        ({n: a[:1] if n == "slot/3" else a for n, a in arrays.items()}, state, "slots of .*: expected shape"),
    ):
        checkpoint.write(path, wrong_arrays, wrong)
        with pytest.raises(ModelError, match=message):
            load_training(other, path)
        assert other.optimizer is not None and (other.optimizer.iterations, other.optimizer.learning_rate) == (0, 0.5)
        for a, b in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        slots = other.optimizer.state_for(other.trainable_weights)["slots"]
        assert not any(map(np.any, slots))
    checkpoint.write(path, arrays, [])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no JSON object"):
        checkpoint.read(path)
