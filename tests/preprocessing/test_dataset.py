"""Folders of images as batches."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastconv.errors import FastconvError
from fastconv.preprocessing import Dataset, image_dataset_from_directory
from fastconv.preprocessing import dataset as module

COUNTS = {"ant": 11, "bee": 5, "cat": 8}


def paint(path: Path, value: int, size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every image has a colour of its own, so that batches can be told apart."""
    value = 0
    for name, count in COUNTS.items():
        for i in range(count):
            value += 1
            paint(tmp_path / name / f"{i:02d}.{('png', 'bmp')[i % 2]}", value)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    return tmp_path


def read(folder: Path, **kwargs: Any) -> Any:
    options = {"batch_size": 4, "image_size": (8, 10), "verbose": False}
    return image_dataset_from_directory(folder, **{**options, **kwargs})  # type: ignore[arg-type]


def values(batches: Any) -> list[tuple[int, int]]:
    """(colour, label) of every image that comes."""
    return [(int(x[0, 0, 0]), int(np.ravel(y)[0])) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]


def test_batches(folder: Path) -> None:
    data = read(folder, shuffle=False)
    assert data.class_names == ["ant", "bee", "cat"] and len(data) == 6 and len(data.file_paths) == 24
    batches = list(data)
    assert [len(x) for x, _ in batches] == [4] * 6
    x, y = batches[0]
    assert x.shape == (4, 8, 10, 3) and x.dtype == np.float32 and y.dtype == np.int32
    np.testing.assert_array_equal(x[1, 2, 3], [2, 253, 7])
    assert values(batches) == [(i + 1, 0 if i < 11 else 1 if i < 16 else 2) for i in range(24)]
    assert [len(x) for x, _ in read(folder, batch_size=7)] == [7, 7, 7, 3]
    assert not data.skipped


def test_orders_follow_from_seed_and_epoch(folder: Path) -> None:
    data = read(folder, seed=3)
    first, second = values(data), values(data)
    assert sorted(first) == sorted(second) == values(read(folder, shuffle=False))
    assert first != second and first != sorted(first)
    again = read(folder, seed=3)
    again.epoch = 1
    assert values(again) == second and values(read(folder, seed=4)) != first
    again.epoch, again.start = 1, 4
    assert values(again) == second[16:]
    assert len(values(again)) == 24  # the start counts for one iteration


def test_labels(folder: Path, tmp_path: Path) -> None:
    _, y = next(iter(read(folder, label_mode="categorical", shuffle=False, batch_size=24)))
    np.testing.assert_array_equal(y.sum(0), [11, 5, 8])
    assert y.dtype == np.float32 and y.shape == (24, 3)
    _, y = next(iter(read(folder, label_mode="binary", class_names=["cat", "bee"], batch_size=13, shuffle=False)))
    np.testing.assert_array_equal(y, [[0]] * 8 + [[1]] * 5)
    x = next(iter(read(folder, label_mode=None)))
    assert x.shape == (4, 8, 10, 3)
    alone = read(folder / "bee", labels=None, shuffle=False)
    assert [len(x) for x in alone] == [4, 1]
    grey = next(iter(read(folder, color_mode="grayscale")))[0]
    assert grey.shape == (4, 8, 10, 1)


def test_split_is_stratified(folder: Path) -> None:
    both = read(folder, validation_split=0.25, subset="both", seed=5)
    counts = [[int((d.labels == c).sum()) for c in range(3)] for d in both]
    assert counts == [[8, 4, 6], [3, 1, 2]]
    parts = [read(folder, validation_split=0.25, subset=s, seed=5) for s in ("training", "validation")]
    assert [d.file_paths for d in parts] == [d.file_paths for d in both]
    assert not set(parts[0].file_paths) & set(parts[1].file_paths)
    other = read(folder, validation_split=0.25, subset="validation", seed=6)
    assert other.file_paths != parts[1].file_paths
    assert values(both[1]) == values(both[1])  # validation keeps its order


def test_a_class_keeps_an_image_for_training(tmp_path: Path) -> None:
    for name, count in (("one", 1), ("two", 2)):
        for i in range(count):
            paint(tmp_path / name / f"{i}.png", i)
    train, test = read(tmp_path, validation_split=0.9, subset="both")
    assert list(train.labels) == [0, 1] and list(test.labels) == [1]


def test_broken_files_are_reported_and_skipped(folder: Path) -> None:
    whole = (folder / "cat" / "00.png").read_bytes()
    bad = {
        folder / "ant" / "empty.png": b"",
        folder / "bee" / "cut.png": whole[: len(whole) // 2],
        folder / "cat" / "text.jpg": b"hello",
    }
    for path, content in bad.items():
        path.write_bytes(content)
    told: list[tuple[str, str]] = []
    data = read(folder, seed=1, on_skip=lambda path, problem: told.append((path, problem)))
    assert len(data) == 7
    first = values(data)
    assert sorted(first) == values(read(folder, shuffle=False, on_skip=lambda *_: None))
    assert {Path(p) for p, _ in told} == set(bad) and data.skipped == told
    assert all(problem and path not in problem for path, problem in told)
    assert len(data) == 6 and [len(x) for x, _ in data] == [4] * 6  # batches are filled up
    assert len(told) == 3  # reported once
    resumed = read(folder, seed=1)
    resumed.skip([p for p, _ in told])
    resumed.start = 3
    assert values(resumed) == first[12:]
    with pytest.warns(RuntimeWarning, match="skipped"):
        list(read(folder))


def test_folders_of_a_data_set_that_is_split_already(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            paint(tmp_path / part / name / "0.png", 3)
    with pytest.warns(UserWarning, match="train, val are taken for classes") as caught:
        assert read(tmp_path).class_names == ["train", "val"]
    assert [w.filename for w in caught] == [__file__]
    assert read(tmp_path / "train").class_names == ["a", "b"]


def test_map(folder: Path) -> None:
    data = read(folder, shuffle=False)
    made = data.map(lambda x, y: (x / 255, y)).map(lambda x, y: (x + 1, y * 2))
    x, _ = next(iter(made))
    np.testing.assert_allclose(x[0, 0, 0], np.array([1, 254, 7]) / 255 + 1, rtol=1e-6)
    assert len(made) == 6 and made.class_names == data.class_names
    assert next(iter(data.map(lambda x, y: x))).shape == (4, 8, 10, 3)


def threads() -> int:
    return sum(t.name.startswith("fastconv-images") for t in threading.enumerate())


def test_reads_ahead_within_bounds_and_ends_with_the_consumer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, decoded = threading.Event(), []
    original = Dataset._decode

    def decode(self: Dataset, path: str) -> Any:
        decoded.append(threading.current_thread().name)
        running.set()
        return original(self, path)

    monkeypatch.setattr(Dataset, "_decode", decode)
    for i in range(60):
        paint(folder / "many" / f"{i}.png", i)
    batches = iter(read(folder))
    assert not decoded
    next(batches)
    deadline = time.monotonic() + 10
    bound = 4 + module._AHEAD * 4 - 1  # a batch was given, two are ahead but for the one asked for next
    while len(decoded) < bound and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(decoded) == bound
    assert all(name.startswith("fastconv-images") for name in decoded)
    assert threads() > 0
    batches.close()
    assert threads() == 0
    batches = iter(read(folder))
    next(batches)
    del batches
    assert threads() == 0
    for _ in read(folder):
        pass
    assert threads() == 0


def test_a_bug_in_a_function_reaches_the_caller_and_ends_the_threads(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        list(read(folder).map(lambda x, y: 1 // 0))
    assert threads() == 0


def test_errors(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FastconvError, match=r"empty: no images"):
        read(folder)
    assert len(read(folder, class_names=["ant"]).file_paths) == 11
    with pytest.raises(ValueError, match="the folders of"):
        read(folder, class_names=["ant", "dog"])
    with pytest.raises(FastconvError, match="no images below"):
        read(folder / "empty", labels=None)
    with pytest.raises(FastconvError, match="one folder for each class"):
        read(folder / "bee")
    with pytest.raises(FileNotFoundError):
        read(folder / "nowhere")
    for kwargs, message in (
        (dict(validation_split=0.2), "both"),
        (dict(validation_split=1.0, subset="both"), "between 0 and 1"),
        (dict(validation_split=0.5, subset="test"), "training, validation or both"),
        (dict(label_mode="float"), "label_mode"),
        (dict(label_mode="binary", class_names=["ant"]), "two classes"),
        (dict(batch_size=0), "batch_size"),
        (dict(color_mode="cmyk"), "color_mode 'cmyk'"),  # not a reason to skip every image
        (dict(interpolation="best"), "interpolation 'best'"),
        (dict(image_size=8), "size 8"),
        (dict(image_size=(8.5, 8)), "two ints"),
    ):
        with pytest.raises(ValueError, match=message):
            read(folder, **kwargs)
    for path in sorted((folder / "bee").iterdir())[1:]:
        path.unlink()
    with pytest.raises(FastconvError, match="no class has a second image"):
        read(folder, class_names=["bee"], validation_split=0.5, subset="both")


def test_verbose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_dataset_from_directory(folder, validation_split=0.25, subset="both")
    assert capsys.readouterr().out.splitlines() == [
        "Found 18 files in 3 classes for training.", "Found 6 files in 3 classes for validation.",
    ]  # fmt: skip
