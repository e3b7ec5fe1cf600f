"""Read an image file safely and turn it into an array. Needs Pillow, imported at the first call.

Image files are untrusted: anything that Pillow cannot decode, or that would decode to more than MAX_PIXELS, is a
FastconvError naming the file. A file that is not there or not readable stays an OSError.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastconv.errors import FastconvError, ShapeError
from fastconv.paths import open_file

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # Pillow's own threshold of a "decompression bomb": 256 MiB of RGB
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_MODES = {"rgb": "RGB", "rgba": "RGBA", "grayscale": "L"}


def resampling(name: str) -> Any:
    """Pillow's filter of that name. Bilinear, bicubic and lanczos widen when shrinking (antialias)."""
    from PIL import Image

    if name not in INTERPOLATIONS:
        raise ShapeError(f"interpolation {name!r}: expected one of {', '.join(INTERPOLATIONS)}")
    return Image.Resampling[name.upper()]


def to_mode(image: Image, color_mode: str = "rgb") -> Image:
    """Convert to 8 bits in "rgb", "rgba" or "grayscale". 16-bit images keep their upper byte; alpha is dropped."""
    from PIL import Image as PilImage

    if color_mode not in _MODES:
        raise ShapeError(f"color_mode {color_mode!r}: expected one of {', '.join(_MODES)}")
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow would clip at 255
        values = np.asarray(image)
        deep = image.mode != "I" or values.max(initial=0) > 255
        image = PilImage.fromarray((np.clip(values, 0, 65535) >> (8 if deep else 0)).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = _MODES[color_mode]
    return image if image.mode == mode else image.convert(mode)


def load_img(
    path: str | os.PathLike[str] | BinaryIO,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
) -> Image:
    """Read an image as 8-bit Pillow image, upright: the EXIF orientation is applied (Keras' own does not).

    `target_size` is (height, width); with `keep_aspect_ratio` the centre of the same aspect is cut out first. Only the
    first frame of an animation is read.
    Raises FastconvError for what is no image, a truncated one or one of more than MAX_PIXELS pixels; ShapeError for
    wrong arguments; OSError where the file cannot be opened.
    """
    from PIL import Image as PilImage
    from PIL import ImageOps, UnidentifiedImageError

    if isinstance(path, (str, os.PathLike)):
        with open_file(path) as file:
            return load_img(file, color_mode, target_size, interpolation, keep_aspect_ratio)
    if not hasattr(path, "read"):
        raise TypeError(f"load_img: expected a path or an open file, got {type(path).__name__}")
    size = check_reading(color_mode, target_size, interpolation)
    name = getattr(path, "name", "image")
    try:
        with PilImage.open(path) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise FastconvError(f"{name}: {width} x {height} pixels: expected at most {MAX_PIXELS}")
            if opened.format == "EPS":  # Pillow would start Ghostscript on it
                raise FastconvError(f"{name}: PostScript is not read")
            opened.load()
            image = to_mode(ImageOps.exif_transpose(opened), color_mode)
    except FastconvError:
        raise
    except UnidentifiedImageError:
        raise FastconvError(f"{name}: not an image that Pillow can read") from None
    except Exception as e:  # decoders raise a dozen types on broken data: OSError, SyntaxError, struct.error ...
        raise FastconvError(f"{name}: broken image: {e}") from e
    return image if size is None else _resize(image, *size, interpolation, keep_aspect_ratio)


def check_reading(color_mode: str, size: Any, interpolation: str) -> tuple[int, int] | None:
    """(height, width) as ints. Raises ShapeError for a size or for names that `load_img` does not know."""
    if color_mode not in _MODES:
        raise ShapeError(f"color_mode {color_mode!r}: expected one of {', '.join(_MODES)}")
    resampling(interpolation)  # whether it is known
    if size is None:
        return None
    given = tuple(size) if isinstance(size, (tuple, list, np.ndarray)) else ()
    if len(given) != 2 or not all(isinstance(v, (int, np.integer)) for v in given):
        raise ShapeError(f"size {size!r}: expected two ints, (height, width)")
    height, width = map(int, given)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ShapeError(f"size {size}: expected (height, width), 1 to {MAX_PIXELS} pixels")
    return height, width


def _resize(image: Image, height: int, width: int, interpolation: str, keep_aspect_ratio: bool) -> Image:
    if keep_aspect_ratio:
        w = min(image.width, max(1, image.height * width // height))
        h = min(image.height, max(1, image.width * height // width))
        left, top = (image.width - w) // 2, (image.height - h) // 2
        image = image.crop((left, top, left + w, top + h))
    return image if image.size == (width, height) else image.resize((width, height), resampling(interpolation))


def img_to_array(
    img: Image | npt.ArrayLike, data_format: str = "channels_last", dtype: npt.DTypeLike = "float32"
) -> npt.NDArray[Any]:
    """The pixels as [H, W, C] (or [C, H, W] with "channels_first"), values 0 to 255; greyscale gets C = 1.

    Raises ShapeError where the rank is neither 2 nor 3, or for an unknown data_format.
    """
    if data_format not in ("channels_last", "channels_first"):
        raise ShapeError(f"data_format {data_format!r}: expected channels_last or channels_first")
    array = np.asarray(img).astype(dtype)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ShapeError(f"image: expected rank 2 or 3, got shape {array.shape}")
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if data_format == "channels_first" else array
