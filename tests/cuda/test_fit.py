"""Training with device="cuda": the same weights as the CPU's, but for rounding."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import layers, models, optimizers
from fastconv.errors import DeviceError, ModelError
from fastconv.layers.initializers import seeded
from fastconv.target import training_precision
from fastconv.training_state import load_training
from tests.models import nets

F32 = np.ndarray[Any, np.dtype[np.float32]]


def network(kind: str = "conv") -> models.Sequential:
    """A stem, strides, depthwise, normalisations, both pools, dropout; small enough for an emulator."""
    if kind == "dense":
        made = [layers.Dense(17, activation="gelu"), layers.Dense(11, activation="tanh"), layers.Dense(4)]
        return models.Sequential([layers.Input((9,)), *made, layers.Softmax()], name=kind)
    made = [
        layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.Conv2D(12, 3, strides=2, padding="same", activation="swish"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.25, seed=5),
        layers.Dense(5, activation="softmax"),
    ]
    return models.Sequential([layers.Input((17, 19, 3)), *made], name=kind)


def data(model: models.Sequential, n: int = 6) -> tuple[F32, Any]:
    rng = np.random.default_rng(8)
    classes = model.output_shape[1]
    return rng.standard_normal((n, *model.input_shape[1:]), np.float32), rng.integers(0, classes, n)


def trained(kind: str, optimizer: Any, device: str, precision: str = "fp32", steps: int = 3) -> models.Sequential:
    with seeded(11):
        model = network(kind)
    x, y = data(model)
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], device=device, precision=precision)
    model.fit(x, y, batch_size=len(x), epochs=steps, verbose=0, seed=2)
    return model


def distance(a: models.Sequential, b: models.Sequential) -> float:
    """The largest difference of a weight, of the largest magnitude in its array."""

    def apart(u: F32, v: F32) -> float:
        return float(np.abs(u - v).max() / (np.abs(v).max() or 1.0))

    return max(apart(u.array, v.array) for u, v in zip(a.weights, b.weights, strict=True))


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda: optimizers.Adam(1e-3, epsilon=1e-3, global_clipnorm=0.5),
    "rmsprop": lambda: optimizers.RMSprop(1e-3, epsilon=1e-3, centered=True, clipvalue=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ("conv", "dense"))
def test_weights_are_the_cpus(kind: str, name: str) -> None:
    cpu, gpu = (trained(kind, OPTIMIZERS[name](), device) for device in ("cpu", "cuda"))
    assert distance(gpu, cpu) < 2e-5
    assert gpu.history is not None and cpu.history is not None
    np.testing.assert_allclose(gpu.history.history["loss"], cpu.history.history["loss"], rtol=1e-5)
    x, y = data(gpu)
    np.testing.assert_allclose(gpu.predict(x), cpu.predict(x), rtol=1e-4, atol=1e-6)
    assert gpu.runtime().device == "cuda" and cpu.runtime().device == "cpu"
    np.testing.assert_allclose(gpu.evaluate(x, y, verbose=0), cpu.evaluate(x, y, verbose=0), rtol=1e-4)


def test_tf32() -> None:
    cpu, gpu = trained("conv", "sgd", "cpu"), trained("conv", "sgd", "cuda", "tf32")
    assert 1e-5 < distance(gpu, cpu) < 2e-2  # of biases that were zero: of the gradients, whose operands are rounded


def test_gradients_are_the_cpus() -> None:
    """Each layer's own gradient, before any optimiser."""
    found = []
    for device in ("cpu", "cuda"):
        model = trained("conv", "sgd", device, steps=1)
        x, y = data(model)
        targets = model.loss.targets(y, (len(x), 5))  # type: ignore[union-attr]
        found.append(model.trainer().gradients([x], targets))
    (loss, cpu), (other, gpu) = found
    assert abs(loss - other) < 1e-5
    for a, b in zip(gpu.values(), cpu.values(), strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


def test_frozen_part_and_graph() -> None:
    """Below the lowest weight that learns everything is as in inference; runs are replays from the second on."""
    models_ = []
    for device in ("cpu", "cuda"):
        with seeded(3):
            model = network()
        for layer in model.layers[:4]:
            layer.trainable = False
        x, y = data(model)
        model.compile("sgd", "sparse_categorical_crossentropy", device=device)
        model.fit(x, y, batch_size=len(x), epochs=3, verbose=0, seed=2)
        models_.append(model)
    cpu, gpu = models_
    assert distance(gpu, cpu) < 2e-5
    (step,) = gpu.trainer().steps.values()
    assert gpu.trainer().executor.captured(step.compiled.plan)


def test_weights_come_and_go() -> None:
    """Reading, assigning, saving and pickling see the device's values; back on the CPU it goes on from them."""
    model = trained("dense", "sgd", "cuda")
    x, y = data(model)
    dense = model.layers[0]
    before = dense.kernel.numpy().copy()
    model.train_on_batch(x, y)
    after = dense.kernel.numpy().copy()
    assert not np.array_equal(before, after)
    dense.kernel.assign(before)
    np.testing.assert_array_equal(dense.kernel.numpy(), before)
    loss = model.train_on_batch(x, y)
    assert not np.array_equal(dense.kernel.numpy(), before)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.layers[0].kernel.numpy(), dense.kernel.numpy())
    dense.kernel.assign(before)
    model.compile("sgd", "sparse_categorical_crossentropy", device="cpu")
    assert model.runtime().device == "cpu"
    for v in model.weights:
        assert np.isfinite(v.array).all()
    assert isinstance(model.train_on_batch(x, y), float) and np.isfinite(loss).all()


def test_checkpoint(tmp_path: Path) -> None:
    """Weights and slots of the device are saved; a CPU goes on from them."""
    model = trained("dense", "adam", "cuda", steps=2)
    model.save(tmp_path / "state.ckpt")
    with seeded(99):
        other = network("dense")
    other.compile("adam", "sparse_categorical_crossentropy")
    load_training(other, tmp_path / "state.ckpt")
    x, y = data(model)
    model.train_on_batch(x, y, seed=4), other.train_on_batch(x, y, seed=4)
    assert distance(model, other) < 2e-5


def test_shared_weights_do_not_go_stale() -> None:
    """Two models of one layer, each compiled for its own device: the first says that its weights have gone."""
    shared = layers.Dense(3, activation="softmax")
    made = []
    for device in ("cpu", "cuda"):
        model = models.Sequential([layers.Input((4,)), shared])
        model.compile("sgd", "sparse_categorical_crossentropy", device=device)
        made.append(model)
    x, y = np.ones((2, 4), np.float32), np.array([0, 1])
    made[0].train_on_batch(x, y)
    made[1].train_on_batch(x, y)
    with pytest.raises(ModelError, match="has moved to another device: call compile"):
        made[0].train_on_batch(x, y)


def test_network_from_a_file() -> None:
    """A head on a network that was loaded for the GPU: it trains there, and says so."""
    data, rng = nets.serialized("resnet"), np.random.default_rng(1)
    distances = []
    for device in ("cpu", "cuda"):
        base = fastconv.load(data, device=device, precision="strict")
        with seeded(6):
            model = base.add_head(4)
        assert model.device == device
        model.compile("sgd", "sparse_categorical_crossentropy")
        x = rng.standard_normal((3, *model.input_shape[1:]), np.float32) if not distances else distances[0][0]
        model.fit(x, np.array([0, 3, 1]), batch_size=3, epochs=3, verbose=0, seed=1)
        distances.append((x, model))
        assert model.device == device and model.runtime().device == device
    assert distance(distances[1][1], distances[0][1]) < 2e-5


def test_precision_that_nobody_names() -> None:
    """The model's where the device trains in it, whatever the device is called; else float32."""

    class Placed:
        def __init__(self, device: str, precision: str) -> None:
            self.device, self.precision = device, precision

    for device, precision, new, want in (
        ("cuda", "tf32", "cuda:0", "tf32"), ("cuda:1", "tf32", "cuda", "tf32"), ("cuda", "tf32", "cpu", "fp32"),
        ("cpu", "strict", "cuda", "strict"), ("cuda", "strict", "cpu", "strict"), ("cuda", "fp16", "cuda", "fp32"),
        ("cpu", "fp32", "cuda:0", "fp32"),
    ):  # fmt: skip
        assert training_precision(new, None, Placed(device, precision)) == want
        assert training_precision(new, "strict", Placed(device, precision)) == "strict"
    model = network("dense")
    model.compile("sgd", "mse", device="cuda", precision="tf32")
    model.compile("sgd", "mse", device="cuda:0")
    assert (model.device, model.precision) == ("cuda:0", "tf32")
    model.compile("sgd", "mse", precision="strict")
    model.compile("sgd", "mse", device="cpu")
    assert (model.device, model.precision) == ("cpu", "strict")


def test_refusals() -> None:
    model = network("dense")
    for precision in ("fp16", "bf16"):
        with pytest.raises(DeviceError, match=f"precision='{precision}': on 'cuda' training computes in one of"):
            model.compile("sgd", "mse", device="cuda", precision=precision)
    with pytest.raises(DeviceError, match="precision='tf32': on 'cpu' training"):
        model.compile("sgd", "mse", precision="tf32")
    with pytest.raises(ValueError, match="precision='half'"):
        model.compile("sgd", "mse", device="cuda", precision="half")
    with pytest.raises(DeviceError, match='expected "cpu", "cuda" or "cuda:N"'):
        model.compile("sgd", "mse", device="gpu")
