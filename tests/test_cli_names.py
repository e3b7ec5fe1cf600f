"""What a model file says of itself: class names and the preset that it was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv import layers as L
from fastconv.applications import Xception
from fastconv.applications.imagenet import MODES, preprocess
from fastconv.data import names_from_metadata, names_to_metadata
from fastconv.errors import ShapeError
from fastconv.models import Sequential
from fastconv.preprocessing import preset
from fastconv.preprocessing.presets import for_mode, from_metadata

from .cli_tools import call, one_line

pytest.importorskip("onnx")
__all__ = ["call"]
NAMES = ("ant", "b\u00e4r", "cat \u2028 x")


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    model = Sequential([L.Input((24, 20, 3)), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])
    model.layers[-1].set_weights([np.eye(3), np.zeros(3)])
    wanted = preset("keras").for_size(24, 20)
    model.metadata = {**names_to_metadata(NAMES), **wanted.to_metadata(), "other": "kept"}
    model.save(tmp_path / "taught.onnx")
    return tmp_path / "taught.onnx"


def test_names_and_preset_travel(taught: Path, tmp_path: Path) -> None:
    model = fastconv.load(taught)
    assert model.class_names == NAMES and model.metadata["other"] == "kept"
    assert from_metadata(model.metadata) == preset("keras").for_size(24, 20)
    model.save(tmp_path / "again.onnx")
    assert fastconv.load(tmp_path / "again.onnx").metadata == model.metadata


def test_predict_uses_them(call: Any, taught: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 30), (30, 200, 90)).save(photo)
    got = call("predict", photo, "--model", taught, "--json")
    assert got.code == 0 and got.json["preset"] == "keras"
    first = got.json["images"][0]["predictions"][0]
    assert first["label"] == NAMES[1]
    want = np.exp(np.array([30, 200, 90]) / 127.5 - 1)
    assert abs(first["probability"] - (want / want.sum())[1]) < 1e-5
    other = call("predict", photo, "--model", taught, "--json", "--preset", "unit")
    assert other.json["preset"] == "unit"
    labels = tmp_path / "labels.txt"
    labels.write_text("x\ny\nz\n")
    got = call("predict", photo, "--model", taught, "--json", "--labels", labels)
    assert got.json["images"][0]["predictions"][0]["label"] == "y"
    text = call("predict", photo, "--model", taught, "--top", 3)
    assert "\u2028" not in text.out and "cat \ufffd x" in text.out  # nothing unprintable reaches the terminal


def test_wrong_metadata(call: Any, taught: Path, tmp_path: Path) -> None:
    for text in ("[", '"ant"', "[]", "[1, 2]", "null", "[" * 100_000):
        assert names_from_metadata({"class_names": text}) is None
    assert from_metadata({}) is None
    for text in ("[", "7", '{"colour": 1}', '{"resize": [0, 1]}', '{"mean": 3}'):
        with pytest.raises(ShapeError):
            from_metadata({"fastconv.preset": text})
    model = fastconv.load(taught)
    source: Any = model._onnx
    source.metadata["fastconv.preset"] = "{}]"
    model.save(tmp_path / "bad.onnx")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (9, 9)).save(photo)
    one_line(call("predict", photo, "--model", tmp_path / "bad.onnx"), "fastconv.preset")


@pytest.mark.parametrize("ending", ["onnx", "fcplan"])
def test_applications_say_what_their_images_are(call: Any, tmp_path: Path, ending: str) -> None:
    """Xception's weights want -1 to 1, not torchvision's normalisation, and were tested on 299 of 333 pixels, bicubic:
    predict gives what the network itself gives for such an image."""
    model = Xception(weights=None, classes=3, input_shape=(75, 75, 3), seed=1)
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0] * 1000, np.zeros(3)])
    path, photo = tmp_path / f"net.{ending}", tmp_path / "photo.png"
    model.save(path)
    assert model.metadata == {}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (168, 168, 3), np.uint8))
    image.save(photo)
    got = call("predict", photo, "--model", path, "--top", 3, "--json")
    assert got.json["preset"] == "xception"
    found = {p["class"]: p["probability"] for p in got.json["images"][0]["predictions"]}
    cut = image.resize((84, 84), Image.Resampling.BICUBIC).crop((4, 4, 79, 79))  # 75 of 84 are 299 of 333
    want = model.predict(model.preprocess_input(np.asarray(cut)[None]))[0]
    np.testing.assert_allclose([found[i] for i in range(3)], want, atol=1e-5)


def test_every_mode_has_a_preset() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for mode in (*MODES, "none"):
        got = replace(for_mode(mode), squash=None, resize=None, crop=None, layout="NHWC").apply(pixels)
        np.testing.assert_allclose(got[0], preprocess(pixels, mode), atol=1e-4)
