"""Features of a frozen network, kept in memory or in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastconv import layers as L
from fastconv.models import Sequential
from fastconv.preprocessing import Augmentation, Features, cache_features, image_dataset_from_directory

X = np.random.default_rng(0).uniform(0, 255, (11, 6, 5, 3)).astype(np.float32)
Y = np.arange(11)


def network() -> Sequential:
    return Sequential([L.Input((6, 5, 3)), L.Conv2D(4, 3), L.GlobalAveragePooling2D()])


def test_each_image_runs_once() -> None:
    model, seen = network(), []

    def counted(x: Any) -> Any:
        seen.append(len(x))
        return model(x)

    told: list[tuple[int, int]] = []
    kept = cache_features(counted, (X, Y), batch_size=4, progress=lambda *a: told.append(a), seed=3)
    assert seen == [4, 4, 3] and told == [(4, 11), (8, 11), (11, 11)]
    np.testing.assert_allclose(kept.x[0], model.predict(X), rtol=1e-5)
    assert len(kept) == 3 and not kept.on_disk
    first, second = ([np.concatenate(a) for a in zip(*kept, strict=True)] for _ in range(2))
    for x, y in (first, second):
        np.testing.assert_array_equal(np.sort(y), Y)
        np.testing.assert_array_equal(x, kept.x[0][y])
    assert not np.array_equal(first[1], second[1])
    kept.epoch, kept.start = 1, 2
    np.testing.assert_array_equal(np.concatenate([y for _, y in kept]), second[1][8:])


def test_views() -> None:
    """Each epoch takes one of the augmented copies of each image, all of them sooner or later."""
    augment = Augmentation(Sequential([L.Input((6, 5, 3)), L.RandomTranslation(0.5, 0.5)]), seed=1)
    model = network()
    kept = cache_features(model, (X, Y), batch_size=4, views=3, augment=augment)
    again = cache_features(model, (X, Y), batch_size=4, views=3, augment=augment)
    assert kept.x.shape == (3, 11, 4)
    np.testing.assert_array_equal(kept.x, again.x)
    assert not np.allclose(kept.x[0], kept.x[1])
    taken = set()
    for _ in range(12):
        for x, y in kept:
            for row, i in zip(x, y, strict=True):
                taken.add((int(i), int(np.flatnonzero((kept.x[:, i] == row).all(1))[0])))
    assert taken == {(i, v) for i in range(11) for v in range(3)}
    with pytest.raises(ValueError, match="augment"):
        cache_features(network(), (X, Y), views=2)


def test_a_file_where_memory_is_short(tmp_path: Path) -> None:
    model = network()
    here = cache_features(model, (X, Y), batch_size=4)
    there = cache_features(model, (X, Y), batch_size=4, memory=100, folder=tmp_path)
    assert there.on_disk and not list(tmp_path.iterdir())
    np.testing.assert_array_equal(there.x, here.x)
    for (x, y), (u, v) in zip(here, there, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        cache_features(network(), (X, Y), memory=100, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_dataset_with_broken_files(tmp_path: Path) -> None:
    for i in range(7):
        path = tmp_path / ("one", "two")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(X[i].astype(np.uint8)).save(path)
    (tmp_path / "one" / "2.png").write_bytes(b"no image")
    data = image_dataset_from_directory(
        tmp_path, image_size=(6, 5), batch_size=4, verbose=False, seed=2, on_skip=lambda *_: None
    )
    model = network()
    kept = cache_features(model, data)
    assert kept.samples == 6 and kept.seed == 2 and kept.batch_size == 4
    np.testing.assert_allclose(kept.x[0], model.predict(X[[0, 4, 6, 1, 3, 5]].astype(np.uint8)), rtol=1e-5)
    np.testing.assert_array_equal(kept.y, [0, 0, 0, 1, 1, 1])
    assert data.epoch == 0


def test_errors() -> None:
    with pytest.raises(ValueError, match="no images"):
        cache_features(network(), (X[:0], Y[:0]))
    for data in (None, X, (X, Y, Y)):
        with pytest.raises(ValueError, match="expected a Dataset or a pair of arrays"):
            cache_features(network(), data)
    assert cache_features(network(), (X, None)).y is None
    with pytest.raises(ValueError, match="batch_size=0"):
        Features(np.ones((1, 2, 3), np.float32), None, batch_size=0)
    with pytest.raises(ValueError, match="views, N"):
        Features(np.zeros((3, 4), np.float32), None)
