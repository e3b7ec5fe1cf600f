"""Images to arrays: geometry and numbers against plain numpy, Keras' functions, and files that are no good images."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastconv.data import imagenet_labels, load_labels
from fastconv.errors import FastconvError, ModelError, ShapeError
from fastconv.preprocessing import PRESETS, Preset, img_to_array, load_img, preset


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that claims a size, whatever its data are."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# -- load_img, img_to_array --------------------------------------------------------------------------------------


def test_load_img_as_keras(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = picture(40, 30)
    image.save(path)
    np.testing.assert_array_equal(np.asarray(load_img(path)), np.asarray(image))
    assert load_img(str(path), target_size=(10, 20)).size == (20, 10)
    expected = image.resize((20, 10), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(load_img(path, target_size=(10, 20))), np.asarray(expected))
    cut = image.crop((5, 0, 35, 30)).resize((12, 12), Image.Resampling.BILINEAR)
    got = load_img(path, target_size=(12, 12), interpolation="bilinear", keep_aspect_ratio=True)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(cut))
    assert load_img(path, color_mode="grayscale").mode == "L"
    assert load_img(path, color_mode="rgba").mode == "RGBA"
    with open(path, "rb") as file:
        assert load_img(file).size == (40, 30)


def test_img_to_array() -> None:
    image = picture(5, 4)
    array = img_to_array(image)
    assert array.shape == (4, 5, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(array, np.asarray(image))
    assert img_to_array(image, data_format="channels_first", dtype="uint8").shape == (3, 4, 5)
    assert img_to_array(image.convert("L")).shape == (4, 5, 1)
    with pytest.raises(ShapeError, match="channels_up"):
        img_to_array(image, data_format="channels_up")
    with pytest.raises(ShapeError, match="rank"):
        img_to_array(np.zeros(3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    """A camera held in any of eight ways gives the same upright picture."""
    upright = picture(16, 8)
    back: dict[int, Any] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_img(tmp_path / "a.png")), np.asarray(upright))


def test_unusual_modes(tmp_path: Path) -> None:
    base = picture(6, 5)
    kinds = {"CMYK": {"format": "TIFF"}, "YCbCr": {"format": "TIFF", "compression": "tiff_lzw"}}
    for mode in ("L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr"):  # Pillow 12 misreads its own YCbCr without compression
        file = io.BytesIO()
        base.convert(mode).save(file, **kinds.get(mode, {"format": "PNG"}))
        file.seek(0)
        assert load_img(file).mode == "RGB", mode
    deep = Image.fromarray(np.array([[0, 0x80FF, 0xFFFF]], np.uint16))
    deep.save(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(load_img(tmp_path / "deep.png"))[0, :, 0], [0, 0x80, 0xFF])
    glass = base.convert("P")
    glass.save(tmp_path / "glass.png", transparency=bytes([0, 128, 255]))
    assert load_img(tmp_path / "glass.png").mode == "RGB"


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(4, 4).save(path)
    for kw in (
        {"color_mode": "cmyk"}, {"target_size": (0, 3)}, {"interpolation": "best"}, {"target_size": 224},
        {"target_size": (2, 2, 3)}, {"target_size": (2.5, 2)},
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            load_img(path, **kw)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a path or an open file"):
        load_img(None)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        load_img(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        load_img(tmp_path)


BROKEN = {
    "empty": b"",
    "text": b"not an image at all",
    "png header only": png(4, 4)[:20],
    "png without data": png(4, 4),
    "png truncated": png(40, 40, b"\x00" * (40 * 121))[:-30],
    "bomb of 4 gigapixels": png(65535, 65535),
    "bomb over the limit": png(10000, 9000),
    "zero pixels": png(0, 0),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(x) show\n%%EOF\n",
    "gif cut": b"GIF89a\xff\xff\xff\xff\x80\x00",
    "bmp nonsense": b"BM" + b"\xff" * 60,
    "tiff loop": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
}


@pytest.mark.parametrize("case", list(BROKEN))
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(BROKEN[case])
    with pytest.raises(FastconvError, match=r"broken\.png"):
        load_img(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_only_typed_errors(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    file = io.BytesIO()
    picture(12, 9).save(file, kind)
    damaged = bytearray(file.getvalue()[: data.draw(st.integers(1, len(file.getvalue())))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FastconvError):
        assert load_img(io.BytesIO(bytes(damaged))).mode == "RGB"


# -- presets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset(name: str) -> None:
    p = preset(name)
    out = p.apply(picture(320, 280))
    height, width = p.size or (280, 320)
    assert out.shape == (1, 3, height, width) and out.dtype == np.float32 and out.flags.c_contiguous
    assert p.for_size(96, 64).apply(picture(320, 280)).shape == (1, 3, 96, 64)


def test_torchvision_numbers() -> None:
    """256 on the shorter side, the longer truncated, centre 224, (x / 255 - mean) / std: written out again."""
    image = picture(400, 301)
    small = image.resize((int(256 * 400 / 301), 256), Image.Resampling.BILINEAR)
    left, top = round((small.width - 224) / 2), 16
    pixels = np.asarray(small.crop((left, top, left + 224, top + 224)), np.float64) / 255
    expected = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    np.testing.assert_allclose(preset("torchvision").apply(image)[0], expected, atol=2e-6)


def test_signed_and_caffe_numbers() -> None:
    image = Image.new("RGB", (300, 300), (255, 0, 128))
    signed = preset("inception").apply(image)[0, :, 0, 0]
    np.testing.assert_allclose(signed, [1, -1, 128 / 127.5 - 1], atol=1e-6)
    caffe = preset("caffe").apply(image)[0, :, 0, 0]
    np.testing.assert_allclose(caffe, [128 - 103.939, 0 - 116.779, 255 - 123.68], rtol=1e-6)
    np.testing.assert_array_equal(preset("raw").apply(image)[0, :, 5, 7], [255, 0, 128])


def test_layouts_and_inputs(tmp_path: Path) -> None:
    image = picture(50, 40)
    p = Preset(resize=(20, 20), crop=(16, 16))
    nhwc = Preset(resize=(20, 20), crop=(16, 16), layout="NHWC").apply(image)
    np.testing.assert_array_equal(p.apply(image), nhwc.transpose(0, 3, 1, 2))
    image.save(tmp_path / "a.png")
    for same in (np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image)[:, :, [0, 1, 2, 0]]):
        np.testing.assert_array_equal(p.apply(same), p.apply(image))
    assert p.apply(np.zeros((30, 30), np.uint8)).shape == (1, 3, 16, 16)
    assert p.apply_all([image, image, image]).shape == (3, 3, 16, 16)
    with pytest.raises(ShapeError, match="different sizes"):
        preset("raw").apply_all([image, picture(3, 3)])
    for bad in (np.zeros((3, 3), np.float32), np.zeros((3, 3, 7), np.uint8), np.zeros((0, 3, 3), np.uint8), 7):
        with pytest.raises(ShapeError):
            p.apply(bad)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["down", "nearest"]),
)
def test_crop_always_fits(width: int, height: int, h: int, w: int, rounding: str) -> None:
    """Any image covers any crop after the resize, and at least one side is exactly the wanted one."""
    p = Preset(resize=(h + 3, w + 3), crop=(h, w), rounding=rounding)
    assert p.apply(picture(width, height)).shape == (1, 3, h, w)
    covered = Preset(resize=(h + 3, w + 3), rounding=rounding).geometry(picture(width, height))
    assert covered.height >= h + 3 and covered.width >= w + 3
    assert covered.height == h + 3 or covered.width == w + 3


def test_sizes_of_other_networks() -> None:
    wide = preset("torchvision").for_size(299, 299)
    assert (wide.resize, wide.crop) == ((342, 342), (299, 299))
    assert preset("torchvision").for_size(224, 224) is preset("torchvision")
    assert preset("raw").for_size(32, 48).squash == (32, 48)
    assert preset("keras").for_size(96, 96).size == (96, 96)


def test_arrays_as_numbers() -> None:
    """A file's metadata take them, as they take a tuple's."""
    mean, std = np.array([0.5, 0.25, 0.75]), np.array([0.5, 1, 2], np.float32)
    given = Preset(mean=mean, std=std, scale=np.float32(0.5))  # type: ignore[arg-type]
    plain = Preset(mean=(0.5, 0.25, 0.75), std=(0.5, 1.0, 2.0), scale=0.5)
    assert given == plain and given.to_metadata() == plain.to_metadata()


def test_presets_that_cannot_be() -> None:
    for kw in (
        {"resize": (200, 200), "crop": (224, 224)},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"crop": (0, 1)},
        {"resize": (1 << 20, 1 << 20)},
        {"interpolation": "cubic"},
        {"layout": "CHWN"},
        {"channels": "rbg"},
        {"rounding": "up"},
    ):
        with pytest.raises(ShapeError, match=next(reversed(kw))):
            Preset(**kw)  # type: ignore[arg-type]
    with pytest.raises(FastconvError, match="torchvision"):
        preset("nonsense")
    with pytest.raises(ShapeError, match="smaller than"):
        Preset(crop=(10, 10)).apply(picture(9, 30))
    with pytest.raises(ShapeError, match="narrow"):
        preset("torchvision").apply(Image.new("RGB", (2, 50000)))


# -- labels ------------------------------------------------------------------------------------------------------


def test_imagenet_labels() -> None:
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    known = {0: "tench", 1: "goldfish", 285: "Egyptian cat", 657: "missile", 698: "palace", 967: "espresso"}
    assert {i: labels[i] for i in known} == known
    assert labels[999] == "toilet tissue"


def test_load_labels(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("\ufeffcat\ndog \n\nfish\n\n", encoding="utf-8")
    assert load_labels(path) == ("cat", "dog", "", "fish")
    for bad in (b"\xff\xfe\x00", b"", b"\n\n"):
        path.write_bytes(bad)
        with pytest.raises(ModelError, match=r"l\.txt"):
            load_labels(path)
    os.truncate(path, 17 << 20)
    with pytest.raises(ModelError, match="larger"):
        load_labels(path)
