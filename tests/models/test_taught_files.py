"""Networks from files that are taught: a new head, all of it, and back into a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import optimizers
from fastconv.errors import ModelError
from fastconv.layers import BatchNormalization, Conv2D, Dense, GlobalAveragePooling2D, Input, set_random_seed
from fastconv.layers.initializers import seeded
from fastconv.models import Model, Sequential, load_model

RNG = np.random.default_rng(0)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """A classifier with a batch norm between its convolutions."""
    set_random_seed(4)
    inputs = Input((16, 16, 3))
    x = Conv2D(8, 3, padding="same", use_bias=False, name="a")(inputs)
    x = BatchNormalization(name="n")(x)
    x = Conv2D(8, 3, activation="relu", name="b")(x)
    model = Model(inputs, Dense(5, activation="softmax", name="d")(GlobalAveragePooling2D(name="g")(x)), name="net")
    bn = model.get_layer("n")
    bn.set_weights([RNG.uniform(0.5, 1.5, 8) for _ in range(4)])
    model.save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_head_on_a_network_from_a_file(onnx_file: Path) -> None:
    base = fastconv.load(onnx_file).without_top(pooling="avg")
    with seeded(1):
        model = base.add_head(3, hidden=(16,), dropout=0.2)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((24, 16, 16, 3)).astype(np.float32)
    y = np.arange(24) % 3
    x[..., 0] += y[:, None, None] - 1  # classes differ in the mean of a channel
    assert model.output_shape == (None, 3)
    assert [v.path for v in model.trainable_weights] == [
        f"{n}/{w}" for n in ("head_dense_1", "predictions") for w in ("kernel", "bias")
    ]
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    features = base(x)
    found = model.fit(x, y, epochs=20, verbose=0, seed=0).history["loss"]
    assert min(found[-5:]) < found[0]
    np.testing.assert_array_equal(base(x), features)

    # unfreeze all of it: the batch norm trains, and its statistics move
    model.trainable = True
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    before = model.get_weights()
    further = model.fit(x, y, epochs=15, verbose=0, seed=0).history["loss"]
    assert min(further[-5:]) < 0.8 * further[0]
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(moved)


def test_what_a_file_learns_can_be_saved_and_loaded(onnx_file: Path, tmp_path: Path) -> None:
    model = fastconv.load(onnx_file).as_layers()
    x = RNG.standard_normal((8, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), fastconv.load(onnx_file)(x), rtol=1e-5, atol=1e-6)
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, RNG.integers(0, 5, 8), epochs=5, verbose=0, seed=0)
    model.save(tmp_path / "taught.onnx")
    again = fastconv.load(tmp_path / "taught.onnx")
    np.testing.assert_allclose(again(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_load_model_saves_what_it_loaded_and_goes_on(onnx_file: Path, tmp_path: Path) -> None:
    """Metadata too: the names of the classes stay in the file."""
    taught = load_model(onnx_file)
    taught.metadata = {"class_names": '["a", "b", "c", "d", "e"]'}
    taught.save(tmp_path / "named.onnx")
    again = load_model(tmp_path / "named.onnx", threads=1)
    assert again.metadata == taught.metadata and again.threads == 1
    x, y = RNG.standard_normal((8, 16, 16, 3)).astype(np.float32), np.arange(8) % 5
    np.testing.assert_array_equal(again.predict(x), taught.predict(x))
    again.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    losses = again.fit(x, y, epochs=3, verbose=0, seed=0).history["loss"]
    assert losses[-1] < losses[0]
    taught.save(tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="load_weights"):
        load_model(tmp_path / "weights.safetensors")


def test_who_asks_a_loaded_network_to_learn_is_told_how(onnx_file: Path) -> None:
    """compile, fit, predict of Keras are those of models of layers."""
    model = fastconv.load(onnx_file)
    for call in (
        lambda: model.compile("adam", "mse"),  # type: ignore[arg-type]
        lambda: model.compile(metrics=["accuracy"]),
        lambda: model.compile(optimizers.Adam(), loss="mse"),  # type: ignore[arg-type]
        lambda: model.fit,
        lambda: model.predict,
        lambda: Sequential([Input((16, 16, 3)), model, Dense(3)]),
    ):
        with pytest.raises((TypeError, AttributeError, ValueError), match=r"as_layers\(\).*add_head"):
            call()
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = model.nothing
    assert model.compile((1, 16, 16, 3)) is model.compile([1, 16, 16, 3])
