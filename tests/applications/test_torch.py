"""The applications against torch's own answers (torch_outputs.json, see torch_reference.py), without torch."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import applications
from fastconv.applications.inception_v3 import with_auxiliary
from tests.applications.states import TORCH, image, listing, sample, sizes, torch_shapes, write_pth

TOLERANCE = 1e-4
FLATTENED = ("AlexNet", "VGG16", "VGG19")
EXPECTED = json.loads(Path(__file__).with_name("torch_outputs.json").read_text())
LARGE = ("ResNet152", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7", "AlexNet", "VGG16", "VGG19")
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in TORCH]


def shapes_of(name: str, include_top: bool = True) -> dict[str, tuple[int, ...]]:
    return torch_shapes(getattr(applications, name)(weights=None, include_top=include_top))


@lru_cache(maxsize=2)
def state(name: str, folder: Path, include_top: bool) -> Path:
    return write_pth(folder / f"{name}{include_top}.pth", shapes_of(name, include_top))


def agree(got: list[float], want: list[float]) -> None:
    assert np.abs(np.subtract(got, want)).max() <= TOLERANCE * want[-1]


@pytest.mark.parametrize("name", TORCH)
def test_state_dict_is_torchs(name: str) -> None:
    """The same names and shapes, every one of them."""
    shapes = shapes_of(name)
    if name == "InceptionV3":
        shapes = torch_shapes(with_auxiliary(applications.InceptionV3(weights=None)))
    assert len(shapes) == EXPECTED[name]["tensors"]
    assert hashlib.sha256(listing(shapes.items()).encode()).hexdigest() == EXPECTED[name]["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_torchs(name: str, tmp_path: Path) -> None:
    path = state(name, tmp_path, False)
    model = getattr(applications, name)(weights=path, include_top=False)
    for size, want in zip(sizes(name), EXPECTED[name]["features"], strict=True):
        agree(sample(model.predict(image(size))), want)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchs(name: str, tmp_path: Path) -> None:
    path = state(name, tmp_path, True)
    size = (224, 224) if name in FLATTENED else sizes(name)[0]
    model = getattr(applications, name)(weights=path, input_shape=(*size, 3), classifier_activation=None)
    agree(sample(model.predict(image(size))), EXPECTED[name]["logits"])
    path.unlink()


def test_pooling_and_head_are_those_of_the_same_features(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "r.pth", shapes_of("ResNet18"))
    x = image((97, 75))
    maps = applications.ResNet18(weights=path, include_top=False).predict(x)
    for pooling, fn in (("avg", np.mean), ("max", np.max)):
        got = applications.ResNet18(weights=path, include_top=False, pooling=pooling).predict(x)
        np.testing.assert_allclose(got, fn(maps, axis=(1, 2)), rtol=1e-4, atol=1e-4 * maps.max())
    model = applications.ResNet18(weights=path, input_shape=(97, 75, 3))
    logits = applications.ResNet18(weights=path, input_shape=(97, 75, 3), classifier_activation=None).predict(x)
    e = np.exp(logits.astype(np.float64) - logits.max())
    np.testing.assert_allclose(model.predict(x), e / e.sum(), atol=1e-5)


# -- torchvision's own random state dicts, in full (make test-full) ------------------------------------------------
FOLDER = os.environ.get("FASTCONV_TEST_MODELS")
STATES = sorted(Path(FOLDER, "states").glob("*.pth")) if FOLDER else []


@pytest.mark.full
@pytest.mark.skipif(FOLDER is None, reason="FASTCONV_TEST_MODELS names no folder of exported models")
def test_states_are_there() -> None:
    assert {p.stem for p in STATES} >= set(TORCH) - {"EfficientNetB6", "EfficientNetB7"}


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", STATES, ids=[p.stem for p in STATES])
def test_own_state_dicts(path: Path) -> None:
    want: Any = np.load(path.with_suffix(".npz"))
    make = getattr(applications, path.stem)
    cut = make(weights=path, include_top=False)
    for i, size in enumerate(sizes(path.stem)):
        y = want[f"features{i}"]
        assert np.abs(cut.predict(image(size)) - y).max() <= TOLERANCE * np.abs(y).max()
    side = 299 if path.stem in ("InceptionV3", "Xception") else 224
    whole = make(weights=path, input_shape=(side, side, 3), classifier_activation=None)
    y = want["logits"]
    assert np.abs(whole.predict(image((side, side))) - y).max() <= TOLERANCE * np.abs(y).max()
