"""What published networks expect of their input: size, crop, filter, colour order and normalisation, by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.errors import FastconvError, ShapeError
from fastconv.preprocessing.image import INTERPOLATIONS, MAX_PIXELS, load_img, resampling, to_mode

if TYPE_CHECKING:
    from PIL.Image import Image

# of ImageNet's pixels
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue, from 0 to 1
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red, from 0 to 255
METADATA = "fastconv.preset"  # key of an ONNX file's metadata
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Preset:
    """How an image becomes network input: resize, crop, then (pixel * scale - mean) / std.

    resize          (height, width) that the image is scaled to cover, keeping its aspect; equal numbers mean "the
                    shorter side". None: not resized
    crop            (height, width) cut out of the centre. None: not cropped
    squash          (height, width) that the image is stretched to, instead of resize and crop
    interpolation   one of nearest, bilinear, bicubic, lanczos, box, hamming (Pillow's, with antialias)
    rounding        the longer side's length: "down" as torchvision does, or "nearest"
    channels        "rgb" or "bgr"; mean and std are in this order
    layout          "NCHW" or "NHWC"
    """

    name: str = "custom"
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    squash: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    rounding: str = "nearest"
    mean: tuple[float, float, float] = _ZERO
    std: tuple[float, float, float] = _ONE
    scale: float = 1.0
    channels: str = "rgb"
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        def check(ok: bool, what: str, expected: str) -> None:
            if not ok:
                raise ShapeError(f"preset {self.name!r}: {what} {getattr(self, what)!r}: expected {expected}")

        check(self.interpolation in INTERPOLATIONS, "interpolation", f"one of {', '.join(INTERPOLATIONS)}")
        check(self.rounding in ("down", "nearest"), "rounding", "down or nearest")
        check(self.channels in ("rgb", "bgr"), "channels", "rgb or bgr")
        check(self.layout in ("NCHW", "NHWC"), "layout", "NCHW or NHWC")
        check(len(self.mean) == 3 and all(np.isfinite(self.mean)), "mean", "three numbers")
        check(len(self.std) == 3 and all(np.isfinite(v) and v > 0 for v in self.std), "std", "three positive numbers")
        check(bool(np.isfinite(self.scale)), "scale", "a number")
        for name in ("mean", "std"):  # arrays, too; a file keeps plain numbers
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        object.__setattr__(self, "scale", float(self.scale))
        for what in ("resize", "crop", "squash"):
            size = getattr(self, what)
            ok = size is None or (len(size) == 2 and min(size) >= 1 and size[0] * size[1] <= MAX_PIXELS)
            check(ok, what, f"(height, width), 1 to {MAX_PIXELS} pixels")
        covers = not (self.resize and self.crop) or all(r >= c for r, c in zip(self.resize, self.crop, strict=True))
        check(covers, "crop", f"at most resize {self.resize}")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every result, or None where it follows the image."""
        return self.squash or self.crop

    def to_metadata(self) -> dict[str, str]:
        """This preset as an entry of a model file's metadata."""
        return {METADATA: json.dumps(asdict(self))}

    def for_size(self, height: int, width: int) -> Preset:
        """The same preset for a network of that input size; the share that the crop keeps stays the same."""
        if self.size == (height, width):
            return self
        if self.resize and self.crop:
            wanted = (round(self.resize[0] * height / self.crop[0]), round(self.resize[1] * width / self.crop[1]))
            return replace(self, resize=wanted, crop=(height, width))
        if self.crop or self.resize:
            return replace(self, resize=(height, width), crop=(height, width))
        return replace(self, squash=(height, width))

    def geometry(self, image: Image) -> Image:
        """Resize and crop only; the result is still a Pillow image."""
        if self.squash:
            height, width = self.squash
            return (
                image
                if image.size == (width, height)
                else image.resize((width, height), resampling(self.interpolation))
            )
        if self.resize:
            width, height = self._covering(image.width, image.height, self.resize)
            if width * height > MAX_PIXELS:
                raise ShapeError(f"image of {image.width} x {image.height} pixels is too narrow for {self.name!r}")
            if image.size != (width, height):
                image = image.resize((width, height), resampling(self.interpolation))
        if self.crop:
            height, width = self.crop
            if image.width < width or image.height < height:
                raise ShapeError(
                    f"image of {image.width} x {image.height} pixels is smaller than crop {width} x {height}"
                )
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return image

    def _covering(self, width: int, height: int, box: tuple[int, int]) -> tuple[int, int]:
        fit = int if self.rounding == "down" else round
        if box[0] * width <= box[1] * height:  # the width is what binds
            return box[1], max(box[0], fit(box[1] * height / width))
        return max(box[1], fit(box[0] * width / height)), box[0]

    def apply(self, image: Image | npt.NDArray[Any] | str | os.PathLike[str]) -> npt.NDArray[np.float32]:
        """One image (Pillow, uint8 array [H, W, 3] or [H, W], or a file's path) as float32 [1, 3, H, W].

        The layout "NHWC" gives [1, H, W, 3]. Raises ShapeError for sizes that do not fit; see load_img for files.
        """
        pixels = np.asarray(self.geometry(self._open(image)))
        if self.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        if self.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        shape = (3, 1, 1) if self.layout == "NCHW" else (3,)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        out: npt.NDArray[np.float32] = np.multiply(pixels, np.float32(self.scale), dtype=np.float32, order="C")
        out -= mean
        out /= std
        return out[None]

    def apply_all(self, images: Iterable[Image | npt.NDArray[Any] | str]) -> npt.NDArray[np.float32]:
        """Several images as one batch; all must come out at one size, else ShapeError."""
        parts = [self.apply(image) for image in images]
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise ShapeError(f"preset {self.name!r}: a batch of images of different sizes: {sorted(shapes)}")
        return np.concatenate(parts)

    def _open(self, image: Image | npt.NDArray[Any] | str | os.PathLike[str]) -> Image:
        from PIL import Image as PilImage

        if isinstance(image, (str, os.PathLike)):
            return load_img(image)
        if isinstance(image, np.ndarray):
            ok = image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)))
            if not ok or image.size == 0:
                raise ShapeError(f"image: expected uint8 [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}")
            image = PilImage.fromarray(np.ascontiguousarray(image))
        if not isinstance(image, PilImage.Image):
            raise ShapeError(f"image: expected a Pillow image, an array or a path, got {type(image).__name__}")
        return to_mode(image)


_TORCH: dict[str, Any] = {"mean": TORCH_MEAN, "std": TORCH_STD, "scale": 1 / 255}
_SIGNED: dict[str, Any] = {"mean": _ONE, "scale": 1 / 127.5}  # -1 to 1
_224: dict[str, Any] = {"resize": (256, 256), "crop": (224, 224)}


def published(name: str, resize: int, crop: int, interpolation: str = "bilinear", signed: bool = False) -> Preset:
    """How torchvision and timm test their weights: the shorter side, the centre, the filter; signed: -1 to 1."""
    numbers = _SIGNED if signed else _TORCH
    return Preset(name, (resize, resize), (crop, crop), interpolation=interpolation, rounding="down", **numbers)


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in [
        # torchvision's ImageNet weights, V1
        Preset("torchvision", **_224, **_TORCH, rounding="down"),
        # EfficientNet and most of what was trained since
        Preset("torch-bicubic", **_224, **_TORCH, interpolation="bicubic"),
        # Inception, Xception: 299 pixels, -1 to 1
        Preset("inception", resize=(342, 342), crop=(299, 299), **_SIGNED),
        # TensorFlow's MobileNet family: -1 to 1
        Preset("tf", **_224, **_SIGNED),
        # Caffe's VGG and ResNet: blue, green, red, mean subtracted
        Preset("caffe", **_224, mean=CAFFE_MEAN, channels="bgr"),
        # keras: load_img(target_size=(224, 224)), then the preprocess_input of MobileNetV2 and InceptionV3
        Preset("keras", squash=(224, 224), interpolation="nearest", **_SIGNED),
        # the same with preprocess_input of VGG16 and ResNet50
        Preset("keras-caffe", squash=(224, 224), interpolation="nearest", mean=CAFFE_MEAN, channels="bgr"),
        # 0 to 255, no resizing but to a model's fixed size
        Preset("raw"),
        # 0 to 1, likewise
        Preset("unit", scale=1 / 255),
    ]
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises FastconvError naming those that exist."""
    if name not in PRESETS:
        raise FastconvError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def for_mode(mode: object) -> Preset | None:
    """What `load_img` and a `preprocess_input` of that mode (caffe, tf, torch or none) do to an image; None for another
    mode."""
    names = {"caffe": "keras-caffe", "tf": "keras", "torch": "torchvision", "none": "raw"}
    return PRESETS[names[mode]] if isinstance(mode, str) and mode in names else None


def of_function(prepare: object) -> Preset | None:
    """How a network's `preprocess_input` wants its images: as its published weights were tested, else by its mode.

    None for a function of the users' own."""
    own = getattr(prepare, "preset", None)
    return own if isinstance(own, Preset) else for_mode(getattr(prepare, "mode", None))


def from_metadata(metadata: Mapping[str, str]) -> Preset | None:
    """The preset that a model file was trained with, where its metadata say it. Raises ShapeError for a wrong one."""
    if METADATA not in metadata:
        return None
    try:
        fields: dict[str, Any] = json.loads(metadata[METADATA])
        for name, value in fields.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        return Preset(**fields)
    except (TypeError, ValueError, AttributeError, RecursionError) as e:
        if isinstance(e, ShapeError):
            raise
        raise ShapeError(f"metadata {METADATA!r}: not a preset: {e}") from None
