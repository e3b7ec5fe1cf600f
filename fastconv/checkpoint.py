"""Checkpoints: named arrays and a JSON state in one file that is always whole.

The layout is that of safetensors (https://github.com/huggingface/safetensors): eight bytes with the header's length,
the header in JSON, the arrays; other tools can read the weights. `__metadata__` holds the state and a SHA-256 of header
and arrays. The file is written beside its place, flushed to the disk and then renamed, so that a full disk or a killed
process at any moment leaves the checkpoint before it as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.errors import FastconvError, ModelError
from fastconv.graph import Array

FORMAT = "fastconv checkpoint 1"
_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
_NAMES = {t: name for name, t in _TYPES.items()}
_MAX_HEADER = 64 << 20  # bytes
_PIECE = 4 << 20  # bytes hashed and written at once
_NO_SUM = "0" * 64


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`. Arrays: float32, float64, int64 or uint8. state: anything that JSON can hold.

    Raises OSError (no space, no permission) and FastconvError where another process is writing it; the old file stays.
    """
    ready = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    for name, a in ready.items():
        if a.dtype not in _NAMES:
            raise ValueError(f"checkpoint: array {name!r}: expected float32, float64, int64 or uint8, got {a.dtype}")
    head = _header(ready, state, _NO_SUM)
    total = hashlib.sha256(head)
    for piece in _pieces(ready):
        total.update(piece)
    head = head.replace(_NO_SUM.encode(), total.hexdigest().encode(), 1)
    with replacing(path) as file:
        _write_all(file, len(head).to_bytes(8, "little") + head)
        for piece in _pieces(ready):
            _write_all(file, piece)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, state) of a checkpoint. Raises ModelError for a file that is broken or something else; OSError."""
    name = os.fspath(path)
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_MAX_HEADER, len(data) - 8):
        raise ModelError(f"{name}: not a checkpoint")
    head = data[8 : 8 + length]
    try:
        header = json.loads(head)
        meta = header.pop("__metadata__")
        if meta["format"] != FORMAT:
            raise ModelError(f"{name}: expected {FORMAT!r}, got {meta['format']!r}")
        sum_ = str(meta["sha256"])
        blank = head.replace(sum_.encode(), _NO_SUM.encode(), 1)
        if hashlib.sha256(blank + data[8 + length :]).hexdigest() != sum_:
            raise ModelError(f"{name}: the checksum is wrong: the file was changed or damaged")
        state = json.loads(meta["state"])
        arrays = {key: _array(data, 8 + length, info) for key, info in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        if isinstance(e, FastconvError):
            raise
        raise ModelError(f"{name}: not a checkpoint: {e}") from None
    return arrays, state


def _array(data: bytes, base: int, info: Any) -> Array:
    kind, shape, (start, stop) = _TYPES[info["dtype"]], tuple(int(d) for d in info["shape"]), info["data_offsets"]
    if min(shape, default=1) < 0 or start < 0 or stop - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"shape {shape} does not fit {start} to {stop}")
    if base + stop > len(data):
        raise ValueError(f"data from {start} to {stop} lie beyond the end")
    count = math.prod(shape)
    return np.frombuffer(data, kind, count, base + start).astype(kind.newbyteorder("=")).reshape(shape)


def _header(arrays: Mapping[str, Array], state: Mapping[str, Any], total: str) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"sha256": total, "format": FORMAT, "state": json.dumps(state)}}
    offset = 0
    for name, a in arrays.items():
        stop = offset + a.nbytes
        entries[name] = {"dtype": _NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8)


def _pieces(arrays: Mapping[str, Array]) -> Iterator[memoryview]:
    for a in arrays.values():
        flat = a.reshape(-1).view(np.uint8).data
        for i in range(0, len(flat), _PIECE):
            yield flat[i : i + _PIECE]


def _write_all(file: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[int]:
    """A file descriptor to write to; when the block ends well, what was written is on the disk and at `path`.

    What an earlier, killed process left half written is overwritten. Raises OSError, and FastconvError where another
    process writes the same file just now; `path` stays as it was then.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.part")
    file = _locked(partial)
    try:
        os.ftruncate(file, 0)
        yield file
        os.fsync(file)
        os.replace(partial, target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        partial.unlink(missing_ok=True)
        if e.filename is not None or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, os.fspath(path)) from None  # which file the disk has no space for
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _locked(partial: Path) -> int:
    """`partial`, open and ours alone. It may have been renamed away between opening and locking: then once more."""
    while True:
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(partial) and os.path.samestat(os.fstat(file), os.stat(partial)):
                return file
        except BlockingIOError:
            os.close(file)
            raise FastconvError(f"{partial}: another process is writing it") from None
        except OSError:
            pass  # renamed away between the two looks
        os.close(file)
