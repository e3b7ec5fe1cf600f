"""Files appear when they are whole; nothing but a file is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastconv.paths import replacing, target_path
from fastconv.tuning import Tuning


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
    assert os.listdir(tmp_path) == ["pipe"]
