"""Checkpoints: what is written comes back, and whatever happens while one is written, the one before it stays."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import checkpoint, paths
from fastconv.errors import FastconvError, ModelError
from fastconv.paths import replacing

ROOT = Path(__file__).resolve().parents[1]
STATE = {"epoch": 3, "rate": 0.1, "history": {"loss": [1.5, 0.1 + 0.2, float("nan")]}, "name": "bl\u00e5"}


def arrays(seed: int = 0, size: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w/kernel": rng.standard_normal((size, 3, 2)).astype(np.float32),
        "w/empty": np.empty((0, 4), np.float32),
        "step": np.array(7, np.int64),
        "mask": rng.integers(0, 256, 5).astype(np.uint8),
        "exact": rng.standard_normal(3),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    wanted = arrays()
    wanted["turned"] = wanted["w/kernel"].transpose(2, 0, 1)
    checkpoint.write(path, wanted, STATE)
    got, state = checkpoint.read(path)
    assert list(got) == list(wanted)
    for name, a in wanted.items():
        assert got[name].dtype == a.dtype
        np.testing.assert_array_equal(got[name], a)
        got[name][...] = 0  # it is the caller's own
    assert state.pop("history")["loss"][:2] == STATE["history"]["loss"][:2]  # type: ignore[index]
    assert state == {k: v for k, v in STATE.items() if k != "history"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]
    with pytest.raises(ValueError, match="complex"):
        checkpoint.write(path, {"x": np.zeros(2, complex)}, {})


def test_other_tools_read_it(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    checkpoint.write(tmp_path / "a.safetensors", arrays(), STATE)
    for name, a in library.load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(a, arrays()[name])


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, arrays(), STATE)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        with pytest.raises(ModelError):
            checkpoint.read(path)
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            checkpoint.read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ModelError, match="checksum"):
        checkpoint.read(path)


def test_a_header_that_lies(tmp_path: Path) -> None:
    """A right checksum does not make sizes right."""
    path = tmp_path / "a.ckpt"
    for entry in (
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 400]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "F32"},
        7,
    ):
        head = checkpoint._header({}, {}, checkpoint._NO_SUM)
        import hashlib
        import json

        header = {**json.loads(head), "x": entry}
        text = json.dumps(header).encode()
        data = b"\0" * 16
        text = text.replace(checkpoint._NO_SUM.encode(), hashlib.sha256(text + data).hexdigest().encode())
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(ModelError, match="not a checkpoint"):
            checkpoint.read(path)


# -- what may go wrong while one is written -----------------------------------------------------------------------
def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; Python ignores the signal and gets an error."""
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, arrays(1), STATE)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, len(before) - 1, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(OSError) as caught:
                checkpoint.write(path, arrays(2, 10_000), STATE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]
    checkpoint.write(path, arrays(2), STATE)


@pytest.mark.parametrize("call", ("fsync", "replace"))
def test_an_error_at_any_step_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, arrays(1), STATE)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paths.os, call, fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(path, arrays(2), STATE)
    monkeypatch.undo()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_file_and_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content before the name, the name before write returns."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note(fd: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    monkeypatch.setattr(paths.os, "fsync", note)
    monkeypatch.setattr(paths.os, "replace", lambda *a: (done.append("rename"), replace(*a)))
    checkpoint.write(tmp_path / "a.ckpt", arrays(), STATE)
    assert done == ["file", "rename", "folder"]


def test_two_writers(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with replacing(path) as file:
        with pytest.raises(FastconvError, match="another process"):
            checkpoint.write(path, arrays(), STATE)
        file.write_bytes(b"mine")
    assert path.read_bytes() == b"mine"


WRITER = """
import sys, numpy as np
from fastconv import checkpoint, paths
n = int(sys.argv[2])
while True:
    n += 1
    checkpoint.write(sys.argv[1], {"a": np.full(200_000, n, np.float32), "b": np.full(100_000, n)}, {"n": n})
    print(n, flush=True)
"""


def kill_while_writing(folder: Path, kills: int, seed: int) -> None:
    """Kill a process that writes one checkpoint after the other; the next one goes on where the file says.

    More than `kills`, up to ten times as many, until more than a tenth of them have hit a checkpoint being written.
    """
    path, rng, last = folder / "a.ckpt", random.Random(seed), 0
    inside = done = 0
    while done < kills or (inside <= kills // 10 and done < 10 * kills):
        done += 1
        command = [sys.executable, "-c", WRITER, str(path), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            first = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            told = [first, *(int(line) for line in writer.stdout.read().split())]
        inside += (folder / ".a.ckpt.part").exists()
        got, state = checkpoint.read(path)
        n = state["n"]
        assert n in (told[-1], told[-1] + 1), "what was reported as written is there"
        assert n > last and (got["a"] == n).all() and (got["b"] == n).all()
        last = n
    assert inside > kills // 10, "no kill hit a checkpoint being written: the test tests nothing"
    checkpoint.write(path, arrays(), STATE)
    assert [p.name for p in folder.iterdir()] == ["a.ckpt"]


def test_kills(tmp_path: Path) -> None:
    kill_while_writing(tmp_path, 5, 1)


@pytest.mark.full
def test_fifty_kills(tmp_path: Path) -> None:
    kill_while_writing(tmp_path, 50, 2)
