"""LeNet-5 from scratch on scikit-learn's digits, with augmentation: three seeds, a fifth of each class held out.

pip install "fastconv[demo]" && python examples/digits.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastconv.applications import LeNet5
from fastconv.callbacks import Callback, LambdaCallback
from fastconv.layers import Input, RandomRotation, RandomTranslation, RandomZoom, set_random_seed
from fastconv.models import Model, Sequential
from fastconv.optimizers import Adam
from fastconv.optimizers.schedules import CosineDecay

Array = npt.NDArray[Any]
EPOCHS, BATCH, RATE = 120, 32, 2e-3


def digits(size: int = 32, channels: int = 1) -> tuple[Array, Array]:
    """1797 images [N, size, size, channels] from 0 to 1, resized from 8x8, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = []
    for image in data.images:
        grey = Image.fromarray((image * (255 / 16)).astype(np.uint8))
        images.append(np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255)
    x = np.stack(images)[..., None]
    return np.repeat(x, channels, axis=-1), data.target


def stratified(labels: Array, seed: int, share: float = 0.2) -> tuple[Array, Array]:
    """Indices for training and for the test, the same share of each class."""
    rng = np.random.default_rng(seed)
    test = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        test[members[: round(share * len(members))]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def network() -> Model:
    """LeNet-5 behind random rotations, translations and zooms."""
    augmentation = [
        RandomRotation(0.03, fill_mode="constant"),
        RandomTranslation(0.06, 0.06, fill_mode="constant"),
        RandomZoom(0.1, 0.1, fill_mode="constant"),
    ]
    return Sequential([Input((32, 32, 1)), *augmentation, LeNet5(weights=None, input_shape=(32, 32, 1), classes=10)])


def train(
    seed: int, epochs: int = EPOCHS, callbacks: list[Callback] | None = None, threads: int | None = None
) -> float:
    """The accuracy on the held-out fifth."""
    set_random_seed(seed)
    x, y = digits()
    learn, test = stratified(y, seed)
    model = network()
    model.threads = threads
    steps = -(-len(learn) // BATCH) * epochs
    schedule = CosineDecay(RATE, steps)
    model.compile(Adam(schedule), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(x[learn], y[learn], BATCH, epochs, verbose=0, callbacks=callbacks or [], seed=seed)
    return float((model.predict(x[test]).argmax(1) == y[test]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    for seed in range(options.seeds):
        start = time.perf_counter()
        losses: list[float] = []
        log = LambdaCallback(on_epoch_end=lambda epoch, logs, kept=losses: kept.append(logs["loss"]))
        accuracy = train(seed, options.epochs, [log])
        print(f"seed {seed}: test accuracy {accuracy:.2%}, loss {losses[-1]:.4f}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
