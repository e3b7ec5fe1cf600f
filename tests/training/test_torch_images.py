"""Images as torchvision shows them to the networks whose weights it publishes; `make test-full` runs it with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.export import import_torchvision
from fastconv import applications
from fastconv.preprocessing.presets import of_function
from fastconv.weights.download import _FILES

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
NAMES = {"InceptionV3": "Inception_V3", **{f"EfficientNetB{i}": f"EfficientNet_B{i}" for i in range(8)}}
ALL = ["AlexNet", "VGG16", "VGG19", "GoogLeNet", *(f"ResNet{n}" for n in (18, 34, 50, 101, 152)), *NAMES]


@pytest.mark.parametrize("name", ALL)
def test_published_preprocessing(name: str) -> None:
    """The preset that `save` writes gives the pixels of the weights' own transform, of an image with odd sides."""
    weights = getattr(import_torchvision().models, f"{NAMES.get(name, name)}_Weights").IMAGENET1K_V1
    assert Path(weights.url).name in _FILES.values()
    model = getattr(applications, name)(weights=None)
    preset = of_function(model.preprocess_input)
    assert preset is not None
    noise = np.random.default_rng(0).integers(0, 256, (41, 53, 3), np.uint8)
    image = Image.fromarray(noise).resize((733, 555))
    want: Any = weights.transforms()(image).numpy()
    if name in ("GoogLeNet", "InceptionV3"):  # torchvision's networks go on to -1 to 1 themselves
        mean, std = (np.reshape(v, (3, 1, 1)) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        want = (want * std + mean) * 2 - 1
    np.testing.assert_allclose(preset.apply(image)[0], want, atol=1e-5)
