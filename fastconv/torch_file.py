"""Read the tensors of a torch file (.pth, .pt) without torch and without running anything that the file says.

Two formats: the zip archive of torch 1.6 and later (data.pkl, and data/KEY with the raw bytes of each storage), and the
older stream (magic number, protocol 1001, system info, the object, the storage keys, then the storages). The pickle in
them is read by `torch_pickle`, which knows tensors and containers and nothing else. Sizes, offsets, strides and zip
entries are checked against the bytes that are there before any memory is taken.
"""

from __future__ import annotations

import abc
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from fastconv import torch_pickle
from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.foreign import HEAD, foreign
from fastconv.graph import Array
from fastconv.paths import open_file
from fastconv.torch_pickle import ITEMSIZE, Storage, Stream, Tensor, is_int

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
_MAX_LEAVES = 1_000_000


def load_state_dict(source: str | os.PathLike[str] | bytes, *, key: str | None = None) -> dict[str, Array]:
    """Read a state dict from a torch file, given as a path or as the file's bytes.

    Returns name -> array, in the file's order. Arrays are read-only and contiguous; tensors that share a storage may
    share memory. float16 and bfloat16 are widened to float32, all other types are kept. A checkpoint that wraps its
    state dict (`checkpoint["state_dict"]`, "model", ...) is unwrapped; `key` chooses another entry. Nested dicts
    become dotted names; entries that are no tensors are left out.

    Raises ModelError for a file that is broken, truncated, malicious or no torch file; UnsupportedOpError for one that
    is valid but big-endian, compressed or older than torch 0.1.10; OSError where the file cannot be opened.
    """
    name = "torch file" if isinstance(source, bytes) else os.fspath(source)
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as file:
        head = file.read(4)
        file.seek(0)
        reader: _Reader = _ZipReader(file, name) if head == b"PK\x03\x04" else _LegacyReader(file, name)
        tensors = list(_leaves(_choose(reader.root, key, name), name))
        if not tensors:
            raise ModelError(f"{name}: no tensors: expected a state dict, got a {type(reader.root).__name__}")
        return {label: reader.array(tensor, label) for label, tensor in tensors}


def _choose(root: Any, key: str | None, name: str) -> Any:
    if key is not None:
        if not isinstance(root, dict) or key not in root:
            have = ", ".join(map(str, list(root)[:8])) if isinstance(root, dict) else type(root).__name__
            raise ModelError(f"{name}: no entry {key!r}: the file has {have}")
        return root[key]
    if isinstance(root, dict) and not any(isinstance(v, Tensor) for v in root.values()):
        for wrapper in _WRAPPERS:
            if isinstance(root.get(wrapper), dict):
                return root[wrapper]
    return root


def _leaves(root: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor below root with its dotted name, without recursion; a file can nest and share as it likes."""
    todo: list[tuple[str, int, Any]] = [("", 0, root)]
    for _ in range(_MAX_LEAVES):
        if not todo:
            return
        label, depth, item = todo.pop()
        if isinstance(item, Tensor):
            yield label, item
        elif isinstance(item, (dict, list, tuple)):
            if depth >= 32 or len(todo) + len(item) > _MAX_LEAVES:
                break
            pairs = list(item.items()) if isinstance(item, dict) else list(enumerate(item))
            if len(label) > 1024 or any(isinstance(k, str) and len(k) > 1024 for k, _ in pairs):
                raise ModelError(f"{name}: an entry's name is longer than 1024 characters: {label[:60]!r}...")
            prefix = f"{label}." if label else ""
            todo.extend((f"{prefix}{k}", depth + 1, v) for k, v in reversed(pairs))
    raise ModelError(f"{name}: nested more than 32 deep, or more than {_MAX_LEAVES} entries")


class _Reader(abc.ABC):
    """What both formats share: turn a tensor's description into an array."""

    root: Any

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.stream = Stream(cast(io.BufferedIOBase, file), name)
        self._bytes: dict[str, bytes] = {}
        # Strided views are copied: bounded, or a small file could ask for the same storage a thousand times.
        self._copies_left = 4 * self.stream.size + (64 << 20)

    @abc.abstractmethod
    def storage(self, storage: Storage) -> bytes:
        """The bytes of a storage."""

    def array(self, t: Tensor, label: str) -> Array:
        """The tensor's elements, checked against its storage."""
        where = f"{self.name}: tensor {label!r}"
        size = ITEMSIZE[t.dtype]
        numel, span = 1, size
        for d in t.size:
            numel *= d
            span *= max(d, 1)
        if span >= 1 << 62:
            raise ModelError(f"{where}: size {t.size!r:.200} overflows")
        have = t.storage.numel * ITEMSIZE[t.storage.dtype] // size
        last = t.offset + sum((d - 1) * s for d, s in zip(t.size, t.stride, strict=True))
        if t.offset > have or (numel and last >= have):
            raise ModelError(
                f"{where}: size {t.size}, strides {t.stride} and offset {t.offset} reach element {last}, "
                f"but storage {t.storage.key!r} has {have}"
            )
        data = self.storage(t.storage)
        stored = np.dtype("<u2" if t.dtype == "bf16" else "u1" if t.dtype == "bool" else t.dtype)
        if numel:
            strides = tuple(s * size if d > 1 else size for d, s in zip(t.size, t.stride, strict=True))
            start = t.storage.base * ITEMSIZE[t.storage.dtype] + t.offset * size
            view: Array = np.ndarray(t.size, stored, buffer=data, offset=start, strides=strides)
        else:
            view = np.empty(t.size, stored)
        widen = t.dtype in ("bf16", "<f2")
        if widen or t.dtype == "bool" or not view.flags.c_contiguous:
            self._copies_left -= numel * (4 if widen else size)
            if self._copies_left < 0:
                raise ModelError(f"{where}: the tensors of this file are far larger than the file itself")
        if t.dtype == "bf16":
            out: Array = (view.astype(np.uint32) << np.uint32(16)).view(np.float32)
        elif t.dtype == "<f2":
            out = view.astype(np.float32)
        elif t.dtype == "bool":
            out = view != 0
        else:
            out = np.ascontiguousarray(view).reshape(t.size).astype(stored.newbyteorder("="), copy=False)
        out.flags.writeable = False
        return out


class _ZipReader(_Reader):
    """torch >= 1.6. Members must be stored, not compressed, as torch writes them, and must fit in the file together."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        try:
            self.zip = zipfile.ZipFile(file)
            infos = self.zip.infolist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError, EOFError) as e:
            raise ModelError(f"{name}: not a readable zip archive: {e}") from None
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in self.members:
                raise ModelError(f"{name}: two members are called {info.filename!r:.200}")
            self.members[info.filename] = info
        if sum(info.file_size for info in infos) > self.stream.size:
            raise ModelError(f"{name}: the members claim more bytes than the file has ({self.stream.size})")
        pickles = [n for n in self.members if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
        if len(pickles) != 1:
            raise ModelError(f"{name}: a zip archive, but no torch file: expected one data.pkl, got {len(pickles)}")
        self.prefix = pickles[0][: -len("data.pkl")]
        if f"{self.prefix}constants.pkl" in self.members:
            raise UnsupportedOpError(f"{name}: a TorchScript archive: expected a state dict saved with torch.save")
        if f"{self.prefix}byteorder" in self.members and self.read("byteorder") != b"little":
            raise UnsupportedOpError(f"{name}: a big-endian torch file")
        self.root = torch_pickle.load(Stream(io.BytesIO(self.read("data.pkl")), f"{name}: data.pkl"))

    def read(self, member: str) -> bytes:
        info = self.members[self.prefix + member]
        where = f"{self.name}: member {info.filename!r:.200}"
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UnsupportedOpError(f"{where}: compressed or encrypted; torch writes neither")
        if info.file_size != info.compress_size or info.file_size > self.stream.size:
            raise ModelError(f"{where}: {info.file_size} bytes from {info.compress_size} stored bytes")
        try:
            with self.zip.open(info) as f:
                data = f.read()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError, RuntimeError, zlib.error) as e:
            raise ModelError(f"{where}: cannot be read: {e}") from None
        if len(data) != info.file_size:
            raise ModelError(f"{where}: expected {info.file_size} bytes, got {len(data)}")
        return data

    def storage(self, storage: Storage) -> bytes:
        if storage.key not in self._bytes:
            if f"{self.prefix}data/{storage.key}" not in self.members:
                raise ModelError(f"{self.name}: storage {storage.key!r:.200} is missing from the archive")
            self._bytes[storage.key] = self.read(f"data/{storage.key}")
        data = self._bytes[storage.key]
        need = storage.root_numel * ITEMSIZE[storage.dtype]
        if len(data) < need:
            raise ModelError(f"{self.name}: storage {storage.key!r:.200}: expected {need} bytes, got {len(data)}")
        return data


class _LegacyReader(_Reader):
    """torch < 1.6, or `_use_new_zipfile_serialization=False`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        first = file.read(1)
        file.seek(0)
        magic = torch_pickle.load(self.stream) if first == b"\x80" else None
        if not is_int(magic) or magic != _MAGIC:
            file.seek(0)
            what = foreign(file.read(HEAD))
            found = "" if what is None or "pickle" in what else f", but {what}"
            raise ModelError(f"{name}: not a torch file{found}: expected a zip archive or torch's magic number")
        protocol = torch_pickle.load(self.stream)
        if protocol != _PROTOCOL:
            raise ModelError(f"{name}: torch protocol {protocol!r:.60}: expected {_PROTOCOL}")
        info = torch_pickle.load(self.stream)
        if not isinstance(info, dict):
            raise ModelError(f"{name}: system info is a {type(info).__name__}: expected a dict")
        if info.get("little_endian") is not True:
            raise UnsupportedOpError(f"{name}: a big-endian torch file")
        self.root = torch_pickle.load(self.stream)
        keys = torch_pickle.load(self.stream)
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) != len(keys):
            raise ModelError(f"{name}: the storage keys are not a list of different strings")
        wanted = {t.storage.key: t.storage for _, t in _leaves(self.root, name)}
        for storage_key in keys:
            storage = wanted.get(storage_key)
            if storage is None:  # its element size is unknown, so what follows cannot be found
                raise ModelError(f"{name}: storage {storage_key!r:.200} belongs to no tensor of the file")
            numel = int.from_bytes(self.stream.take(8), "little", signed=True)
            if numel != storage.root_numel:
                raise ModelError(f"{name}: storage {storage_key!r:.200}: {numel} elements, not {storage.root_numel}")
            self._bytes[storage_key] = self.stream.take(numel * ITEMSIZE[storage.dtype])

    def storage(self, storage: Storage) -> bytes:
        if storage.key not in self._bytes:
            raise ModelError(f"{self.name}: storage {storage.key!r:.200} is missing from the file")
        data = self._bytes[storage.key]
        need = storage.root_numel * ITEMSIZE[storage.dtype]
        if len(data) < need:
            raise ModelError(f"{self.name}: storage {storage.key!r:.200}: expected {need} bytes, got {len(data)}")
        return data
