"""Three real textures: EfficientNet-Lite0 learns brick, grass and gravel from scikit-image's pictures.

Training patches come from the upper five eighths of each picture, test patches from the rest: they share no pixel.

pip install "fastconv[demo,plots]" && python examples/textures.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from demo import photo
from PIL import Image

from fastconv import fine_tune
from fastconv.applications import EfficientNetLite0
from fastconv.finetune import FineTuned
from fastconv.preprocessing import Dataset, image_dataset_from_directory

CLASSES = ("brick", "grass", "gravel")
SIDE, STEP = 64, 32


def patches(folder: Path, step: int = STEP) -> dict[str, int]:
    """Write SIDE x SIDE patches to folder/train/CLASS and folder/test/CLASS; the number in each part."""
    counts = {"train": 0, "test": 0}
    for name in CLASSES:
        with Image.open(photo("skimage", f"data/{name}.png")) as opened:
            pixels = np.asarray(opened.convert("L"))
        border = pixels.shape[0] * 5 // 8
        for part, rows in (("train", pixels[:border]), ("test", pixels[border:])):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for top in range(0, rows.shape[0] - SIDE + 1, step):
                for left in range(0, rows.shape[1] - SIDE + 1, step):
                    patch = Image.fromarray(rows[top : top + SIDE, left : left + SIDE])
                    patch.save(folder / part / name / f"{top:03d}-{left:03d}.png")
                    counts[part] += 1
    return counts


def datasets(folder: Path, size: int, batch: int = 32) -> tuple[Dataset, Dataset]:
    """Training and test patches, enlarged to size x size."""
    made = [
        image_dataset_from_directory(
            folder / part, image_size=(size, size), interpolation="bicubic", batch_size=batch, seed=0,
            shuffle=part == "train", verbose=False,
        )
        for part in ("train", "test")
    ]  # fmt: skip
    return made[0], made[1]


def run(folder: Path, epochs: tuple[int, int] = (5, 2), size: int = 128, verbose: int = 1) -> FineTuned:
    """Teach the three classes; `accuracy` is that of the test patches."""
    patches(folder)
    base = EfficientNetLite0(include_top=False, pooling="avg", input_shape=(size, size, 3))
    return fine_tune(base, datasets(folder, size), epochs, augment=("flip", "zoom"), verbose=verbose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs=2, default=(5, 2), help="of the head, and of fine-tuning")
    parser.add_argument("--size", type=int, default=128, help="pixels to which patches are enlarged")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), tuple(options.epochs), options.size)
    print(f"{result.accuracy:.2%} of {int(result.confusion.sum())} test patches; label by prediction:")
    for name, row in zip(result.class_names, result.confusion, strict=True):
        print(f"  {name:8}{''.join(f'{n:6}' for n in row)}")


if __name__ == "__main__":
    main()
