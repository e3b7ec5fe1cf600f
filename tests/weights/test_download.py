"""Fetching weights from a server on loopback that breaks off, lies about length and serves wrong bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.applications import VGG16, EfficientNetLite0
from fastconv.errors import DownloadError, ModelError
from fastconv.weights import cache_folder, download, published
from tests.weights.server import Behaviour, serving

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = "net-01234567.pth"


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of our own, no waiting, no proxy."""
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.001)


def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, sha256: str = SHA) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"net": {"url": f"{url}/{NAME}", "sha256": sha256}}))
    monkeypatch.setenv("FASTCONV_WEIGHTS_INDEX", str(path))


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("weights/*") if not p.name.startswith("."))


def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sha256: str = SHA, **kwargs: Any) -> Behaviour:
    behaviour = Behaviour(**{"content": CONTENT, **kwargs})
    with serving(behaviour) as url:
        table(monkeypatch, tmp_path, url, sha256)
        path = published("net")
    assert path == cache_folder() / "weights" / NAME
    assert path.read_bytes() == CONTENT
    assert visible(cache_folder()) == [NAME]
    return behaviour


def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, left: list[str], **kwargs: Any) -> Behaviour:
    behaviour = Behaviour(**{"content": CONTENT, **kwargs})
    with serving(behaviour) as url:
        table(monkeypatch, tmp_path, url)
        with pytest.raises(DownloadError, match=text) as error:
            published("net")
    for hint in ("FASTCONV_WEIGHTS_INDEX", "weights=", str(cache_folder() / "weights" / NAME)):
        assert hint in str(error.value)
    assert visible(cache_folder()) == left
    return behaviour


def test_once_and_then_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fetch(monkeypatch, tmp_path).requests == [None]
    with serving(Behaviour(b"")) as url:
        table(monkeypatch, tmp_path, url, SHA[:8])
        assert published("net").read_bytes() == CONTENT


def test_goes_on_where_a_connection_broke_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requests = fetch(monkeypatch, tmp_path, limit=70_000).requests
    assert len(requests) == 5 and requests[0] is None
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in requests[1:] if r]
    assert starts == sorted(starts) and starts[0] > 0


def test_goes_on_with_the_part_of_an_earlier_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:123_457])
    assert fetch(monkeypatch, tmp_path).requests == ["bytes=123457-"]


def test_a_part_of_another_file_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert fetch(monkeypatch, tmp_path).requests == ["bytes=1000-", None]
    (cache_folder() / "weights" / NAME).unlink()
    part.write_bytes(b"x" * len(CONTENT))  # as long as the file: the server has nothing to add
    assert fetch(monkeypatch, tmp_path).requests == [f"bytes={len(CONTENT)}-", None]


def test_a_whole_part_needs_only_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    fetch(monkeypatch, tmp_path)


def test_a_server_that_cannot_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert fetch(monkeypatch, tmp_path, ranges=False).requests == ["bytes=1000-"]


def test_a_server_without_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetch(monkeypatch, tmp_path, unsized=True)


def test_a_server_that_is_busy_at_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(fetch(monkeypatch, tmp_path, statuses=[503, 429, 500]).requests) == 4


def test_silence_counts_as_broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    refused(monkeypatch, tmp_path, "timed out", [f"{NAME}.part"], stall=0.5, ranges=False)


def test_never_more_than_a_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It begins anew each time and always breaks off at the same place."""
    refused(monkeypatch, tmp_path, "broke off", [f"{NAME}.part"], limit=1000, ranges=False)
    assert (cache_folder() / "weights" / f"{NAME}.part").stat().st_size <= 1000


def test_a_length_that_is_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All bytes came, yet more were promised: the hash decides, not the server's word."""
    for ranges in (False, True):
        fetch(monkeypatch, tmp_path, claim=100, ranges=ranges)
        (cache_folder() / "weights" / NAME).unlink()
    refused(monkeypatch, tmp_path, "broke off", [f"{NAME}.part"], claim=100, ranges=False, content=CONTENT[:-1])


def test_a_length_that_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused(monkeypatch, tmp_path, "the bytes are wrong", [], claim=-100)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", CONTENT[:-1] + b"?", CONTENT + b"more"])
def test_wrong_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    refused(monkeypatch, tmp_path, "the bytes are wrong", [], content=content)


def test_wrong_bytes_in_the_second_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    wrong = CONTENT[:1000] + b"?" * (len(CONTENT) - 1000)
    behaviour = refused(monkeypatch, tmp_path, "the bytes are wrong", [], content=wrong)
    assert behaviour.requests == ["bytes=1000-", None]


def test_another_part_than_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = cache_folder() / "weights" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    refused(monkeypatch, tmp_path, "another part", [f"{NAME}.part"], shift=5)
    assert part.read_bytes() == CONTENT[:1000]


def test_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(refused(monkeypatch, tmp_path, "404", [], statuses=[404] * 9).requests) == 1


def test_more_than_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    refused(monkeypatch, tmp_path, "more than 1,000 bytes", [])


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(Behaviour(b"")) as url:
        pass  # nobody listens there any more
    table(monkeypatch, tmp_path, url)
    with pytest.raises(DownloadError, match=r"refused.*Without a network: put the file at") as error:
        published("net")
    assert isinstance(error.value, OSError) and visible(cache_folder()) == []


def test_a_redirect_to_a_file_or_out_of_https(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local = tmp_path / NAME
    local.write_bytes(CONTENT)
    refused(monkeypatch, tmp_path, "not allowed", [], target=local.as_uri())


def test_several_processes_fetch_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    behaviour = Behaviour(CONTENT, stall=0.2)
    with serving(behaviour) as url:
        table(monkeypatch, tmp_path, url)
        code = "from fastconv.weights import published; print(published('net'))"
        root = Path(__file__).resolve().parents[2]
        running = [
            subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        paths = {p.communicate()[0].strip() for p in running}
    assert paths == {str(cache_folder() / "weights" / NAME)}
    assert behaviour.requests == [None]


def test_a_kill_leaves_a_part_that_is_taken_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    behaviour = Behaviour(CONTENT, stall=30)
    with serving(behaviour) as url:
        table(monkeypatch, tmp_path, url)
        code = "from fastconv.weights import published; published('net')"
        root = Path(__file__).resolve().parents[2]
        process = subprocess.Popen([sys.executable, "-c", code], cwd=root)
        part = cache_folder() / "weights" / f"{NAME}.part"
        waited = threading.Event()
        for _ in range(1000):
            if part.is_file() and part.stat().st_size:
                break
            waited.wait(0.01)
        process.kill()
        process.wait()
        assert visible(cache_folder()) == [f"{NAME}.part"]
        behaviour.stall = 0
        published("net")
    assert (behaviour.requests[-1] or "").startswith("bytes=")


# -- where files are looked for ---------------------------------------------------------------------------------------
def test_torchs_own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = tmp_path / "torch" / "hub" / "checkpoints" / NAME
    there.parent.mkdir(parents=True)
    there.write_bytes(CONTENT)
    with serving(Behaviour(CONTENT)) as url:
        table(monkeypatch, tmp_path, url)
        assert published("net") == there
        there.write_bytes(CONTENT[:-1])  # a broken one is not used, and not touched
        assert published("net") == cache_folder() / "weights" / NAME
    assert there.read_bytes() == CONTENT[:-1]


def test_a_broken_file_in_the_cache_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = cache_folder() / "weights" / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(b"broken")
    fetch(monkeypatch, tmp_path)


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FASTCONV_CACHE")
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fastconv"
    assert download._torch_folder() == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fastconv"


def test_the_built_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name carries the beginning of its hash, as torch's do."""
    monkeypatch.delenv("FASTCONV_WEIGHTS_INDEX", raising=False)
    table = download.index()
    assert len(table) == 19
    for entry in table.values():
        assert entry.url.startswith("https://")
        assert entry.name.endswith(f"-{entry.sha256}.pth") and len(entry.sha256) >= 8


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "expected an object"),
        ('{"net": 3}', "expected an url"),
        ('{"net": {"url": "http://a/b.pth"}}', "expected an url"),
        ('{"net": {"url": "http://a/b.pth", "sha256": "12"}}', "8 to 64"),
        ('{"net": {"url": "file:///etc/passwd", "sha256": "12345678"}}', "http or https"),
        ('{"net": {"url": "http://a/..%2fb", "sha256": "12345678"}}', "does not end with a file's name"),
        ('{"net": {"url": "http://a/", "sha256": "12345678"}}', "does not end with a file's name"),
    ],
)
def test_broken_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(text)
    monkeypatch.setenv("FASTCONV_WEIGHTS_INDEX", str(path))
    with pytest.raises(ModelError, match=problem):
        published("net")
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        published("net")


def test_an_index_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table(monkeypatch, tmp_path, "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="'vgg16'"):
        VGG16()
    with pytest.raises(DownloadError, match="'efficientnet_lite0'"):
        EfficientNetLite0()


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTCONV_CACHE", os.devnull)
    table(monkeypatch, tmp_path, "http://127.0.0.1:9")
    with pytest.raises(OSError):
        published("net")


def test_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch(monkeypatch, tmp_path)
    shown = capsys.readouterr().err
    assert NAME in shown and "of 0.3 MB" in shown and shown.endswith("\n")
