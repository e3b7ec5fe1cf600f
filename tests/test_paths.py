"""Files appear when they are whole; nothing but a file is replaced or read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastconv
from fastconv import checkpoint
from fastconv.data import load_labels
from fastconv.errors import ModelError
from fastconv.paths import replacing, target_path
from fastconv.preprocessing import load_img
from fastconv.tuning import Tuning
from fastconv.weights import read_weights

from .small import network


def test_what_ends_badly_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), replacing(path) as partial:
            partial.write_text("half")
            raise error
        assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]
    (tmp_path / ".a.txt.part").write_text("what a killed process has left, and more")
    with replacing(path) as partial:
        assert partial.read_text() == ""
        partial.write_text("after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", (errno.ENOLCK, errno.ENOTSUP, errno.EIO))
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where there are no locks a file is written without one; another error is no reason to try for ever."""

    def flock(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    path = tmp_path / "a.txt"
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)), replacing(path):
            pass
        assert not path.exists()
    else:
        with replacing(path) as partial:
            partial.write_text("whole")
        assert path.read_text() == "whole"


def test_places(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, error, words in (
        (tmp_path / "no" / "a", FileNotFoundError, "no such folder"),
        (tmp_path, IsADirectoryError, "is a folder"),
        (tmp_path / "pipe", FileExistsError, "is a device or a pipe"),
        (Path("/dev/null"), FileExistsError, "is a device or a pipe"),
    ):
        with pytest.raises(error, match=words):
            target_path(path)
        with pytest.raises(error, match=words):
            Tuning().save(path)
    model = fastconv.load(network())
    for path in (tmp_path / "no" / "a.fcplan", tmp_path / "b.fcplan"):
        (tmp_path / "b.fcplan").mkdir(exist_ok=True)
        with pytest.raises(OSError, match=r"no such folder|is a folder"):
            model.save(path, shape=(1, 3, 20, 18))
    assert sorted(os.listdir(tmp_path)) == ["b.fcplan", "pipe"]


READERS: dict[str, Callable[[Path], Any]] = {
    ".fcplan": fastconv.load,
    ".ckpt": checkpoint.read,
    ".safetensors": read_weights,
    ".pth": read_weights,
    ".json": Tuning.load,
    ".txt": load_labels,
    ".png": load_img,
}


@pytest.mark.parametrize("ending", READERS)
def test_nobody_waits_for_a_pipe(tmp_path: Path, ending: str) -> None:
    """Nor reads a device without an end."""
    path, read = tmp_path / f"a{ending}", READERS[ending]
    with pytest.raises(FileNotFoundError):
        read(path)
    os.mkfifo(tmp_path / "pipe")
    for place, words in (
        (tmp_path / "pipe", "device or a pipe"),
        ("/dev/zero", "device or a pipe"),
        (tmp_path, "Is a"),
    ):
        path.symlink_to(place)
        with pytest.raises((OSError, ModelError), match=f"{words}|no regular file"):
            read(path)
        path.unlink()
