"""The pictures of docs/transfer-learning.md: augmented photos, textures, the digits' learning curves and mistakes.

pip install "fastconv[demo,plots]" && python examples/transfer_learning.py docs/images
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from demo import photo
from digits import BATCH, RATE, digits, network, stratified
from pictures import keep, main, sheet
from PIL import Image
from textures import CLASSES, patches

from fastconv import layers, plots
from fastconv.callbacks import History
from fastconv.layers import set_random_seed
from fastconv.metrics import confusion_matrix
from fastconv.models import Sequential
from fastconv.optimizers import Adam
from fastconv.optimizers.schedules import CosineDecay
from fastconv.preprocessing import Augmentation, img_to_array, load_img

SHOWN = {
    "RandomFlip": lambda: layers.RandomFlip("horizontal"),
    "RandomRotation": lambda: layers.RandomRotation(0.1),
    "RandomTranslation": lambda: layers.RandomTranslation(0.2, 0.2),
    "RandomZoom": lambda: layers.RandomZoom(0.4),
    "RandomContrast": lambda: layers.RandomContrast(0.7),
    "RandomBrightness": lambda: layers.RandomBrightness(0.3),
}


def augmented(side: int = 80, draws: int = 5) -> Image.Image:
    """Several draws of each layer on the same photo, one row for each layer."""
    cat = load_img(photo("skimage", "data/chelsea.png"), target_size=(side, side), interpolation="bicubic")
    x = np.repeat(img_to_array(cat)[None], draws, axis=0)
    rows = []
    for make in SHOWN.values():
        changed = Augmentation(Sequential([layers.Input((side, side, 3)), make()]), seed=3)(x)
        rows.append([Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)) for image in changed])
    return sheet(rows)


def textures() -> Image.Image:
    """Six training patches of each class."""
    with tempfile.TemporaryDirectory() as folder:
        patches(Path(folder))
        rows = []
        for name in CLASSES:
            files = sorted((Path(folder) / "train" / name).iterdir())[::23][:6]
            rows.append([load_img(f) for f in files])
    return sheet(rows)


def learn_digits(folder: Path, seed: int = 0, epochs: int = 40) -> list[Path]:
    """Learning curves and confusion matrix of LeNet-5, a third of examples/digits.py's epochs."""
    set_random_seed(seed)
    x, y = digits()
    learn, test = stratified(y, seed)
    model = network()
    steps = -(-len(learn) // BATCH) * epochs
    model.compile(Adam(CosineDecay(RATE, steps)), "sparse_categorical_crossentropy", ["accuracy"])
    held = (x[test], y[test])
    history: History = model.fit(x[learn], y[learn], BATCH, epochs, verbose=0, validation_data=held, seed=seed)
    counts = confusion_matrix(y[test], model.predict(x[test]), 10)
    return [
        plots.learning_curves(history.history, folder / "digits-curves.png"),
        plots.confusion_matrix(counts, [str(i) for i in range(10)], folder / "digits-confusion.png"),
    ]


def draw(folder: Path, epochs: int = 40) -> list[Path]:
    """Write all pictures and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"augmentation": augmented(), "textures": textures()}
    paths = [keep(picture, folder / f"{name}.png") for name, picture in drawn.items()]
    for path in learn_digits(folder, epochs=epochs):
        with Image.open(path) as picture:
            smaller = picture.convert("RGB")
        paths.append(keep(smaller, path))
    return paths


if __name__ == "__main__":
    main(draw, "docs/transfer-learning.md")
