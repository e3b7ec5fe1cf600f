"""Checkpoints: named arrays and a JSON state in one file that is always whole.

The layout is that of safetensors (https://github.com/huggingface/safetensors): eight bytes with the header's length,
the header in JSON, the arrays; other tools can read the weights. `__metadata__` holds the state and a SHA-256 of header
and arrays. A full disk or a killed process at any moment leaves the checkpoint before it as it was (paths.replacing).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastconv.errors import FastconvError, ModelError
from fastconv.graph import Array
from fastconv.paths import open_file, replacing

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
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for piece in _pieces(ready):
            file.write(piece)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, state) of a checkpoint. Raises ModelError for a file that is broken or something else; OSError."""
    name = os.fspath(path)
    with open_file(path) as file:
        data = file.read()
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
        total = hashlib.sha256(head.replace(sum_.encode(), _NO_SUM.encode(), 1))
        total.update(memoryview(data)[8 + length :])
        if total.hexdigest() != sum_:
            raise ModelError(f"{name}: the checksum is wrong: the file was changed or damaged")
        state = json.loads(meta["state"])
        if not isinstance(state, dict):
            raise ModelError(f"{name}: its state is no JSON object")
        arrays = {key: _array(data, 8 + length, info) for key, info in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
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
