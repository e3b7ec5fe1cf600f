"""What a frozen part gives for folders of images: which files and labels belong to what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastconv import layers as L
from fastconv.errors import FastconvError
from fastconv.preprocessing import image_dataset_from_directory
from tests.models.test_kept import X, Y, both, network, runs, taught  # noqa: F401  a fixture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / f"c{y}").mkdir(exist_ok=True)
        Image.fromarray((x * 255).astype(np.uint8)).save(tmp_path / f"c{y}" / f"{i:02}.png")
    return tmp_path


def test_folders_of_images(photos: Path, runs: list[Any]) -> None:  # noqa: F811
    """Broken files are left out of the same batches as without keeping; labels follow their images."""
    (photos / "c1" / "00.png").write_bytes(b"no image")
    (photos / "c2" / "99.png").write_bytes(b"no image")

    def folder() -> Any:
        found = image_dataset_from_directory(photos, image_size=(16, 16), batch_size=8, seed=2, verbose=False,
                                             on_skip=lambda *_: None)  # fmt: skip
        for _ in found:  # what is broken is known from the start: else the first epoch's batches differ
            pass
        return found

    both(lambda: network(L.Rescaling(1 / 255)), folder(), validation_data=folder())
    assert runs
    runs.clear()
    mapped = folder().map(lambda x, y: (x[:, ::-1], y))  # who knows what it does next time
    taught(network(L.Rescaling(1 / 255)), mapped)
    assert not runs
    taught(network(L.Rescaling(1 / 255)), mapped, cache_features=True)
    assert runs


def test_a_class_of_which_nothing_can_be_read(photos: Path) -> None:
    """It is an error where something learns from the folder, and none where a network is only shown it."""

    def folder() -> Any:
        return image_dataset_from_directory(photos, image_size=(16, 16), batch_size=8, verbose=False,
                                            on_skip=lambda *_: None)  # fmt: skip

    whole = folder()
    for path in (photos / "c1").iterdir():
        path.write_bytes(b"no image")
    test, images = folder(), int((Y != 1).sum())
    model = network(L.Rescaling(1 / 255))
    taught(model, X, Y, validation_data=test)
    assert len(test.skipped) == (Y == 1).sum() and test.samples == images
    assert len(model.predict(folder())) == images and np.isfinite(model.evaluate(folder())).all()
    for data in (test, folder(), whole):  # of the first it is known already
        with pytest.raises(FastconvError, match=r"class 'c1': no image can be read in .*c1: "):
            taught(model, data)
        with pytest.raises(FastconvError, match="class 'c1'"):
            list(data)
    other = folder()
    model.predict(other)
    assert other.epoch == 1


@pytest.mark.parametrize("times", (0.5, 2, (1, 2)))
def test_maps_that_change_the_number_of_images(photos: Path, times: Any) -> None:
    """No feature would belong to a file. times: more images, or more images than labels."""
    rows = times if isinstance(times, tuple) else (times, times)

    def change(*parts: np.ndarray) -> Any:
        return tuple(np.resize(a, (int(n * len(a)), *a.shape[1:])) for a, n in zip(parts, rows, strict=True))

    folder = image_dataset_from_directory(photos, image_size=(16, 16), batch_size=8, seed=2, verbose=False)
    with pytest.raises(ValueError, match="cache_features: expected 8 images"):
        taught(network(L.Rescaling(1 / 255)), folder.map(change), cache_features=True)
    both(network, X, Y, validation_data=folder.map(change) if rows[0] == rows[1] else folder)
    (photos / "c1" / "99.png").write_bytes(b"no image")  # not a map's doing
    found = image_dataset_from_directory(photos, image_size=(16, 16), batch_size=8, seed=2, verbose=False,
                                         on_skip=lambda *_: None)  # fmt: skip
    taught(network(L.Rescaling(1 / 255)), found, cache_features=True)
