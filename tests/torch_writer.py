"""Writes torch files by hand, with the instructions that torch's pickler emits, so that tests need no torch."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGE_OF = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip


@dataclass
class T:
    """A tensor to be written: a window onto storage `key`, of which `numel` elements are claimed."""

    key: str
    dtype: str
    numel: Any
    offset: Any
    size: Any
    stride: Any
    parameter: bool = False
    view: Any = None  # legacy: (view key, offset, numel)


@dataclass
class Raw:
    """Instructions to be copied as they are."""

    code: bytes


def tensor(key: str, array: np.ndarray, base: np.ndarray | None = None, **kw: Any) -> T:
    """Describe `array` as torch would: a view of the one-dimensional storage `base` (default: its own)."""
    if base is None:
        base = array = np.ascontiguousarray(array).reshape(array.shape)
    offset = 0
    if array.size:
        offset = (array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // array.itemsize
    stride = tuple(s // array.itemsize for s in array.strides)
    return T(key, str(array.dtype), base.size, offset, array.shape, stride, **kw)


def dump(value: Any) -> bytes:
    """One pickle of protocol 2."""
    return b"\x80\x02" + encode(value) + b"."


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(function: bytes, *args: Any) -> bytes:
    return function + encode(args) + b"R"


def encode(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.code
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if 0 <= value < 65536:
            return b"M" + struct.pack("<H", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, OrderedDict):
        items = b"".join(encode(k) + encode(v) for k, v in value.items())
        state = b"}(" + encode("_metadata") + b"}u" + b"b"
        return call(name("collections", "OrderedDict")) + b"(" + items + b"u" + state
    if isinstance(value, dict):
        return b"}(" + b"".join(encode(k) + encode(v) for k, v in value.items()) + b"u"
    if isinstance(value, T):
        pid: tuple[Any, ...] = ("storage", Raw(name("torch", STORAGE_OF[value.dtype])), value.key, "cpu", value.numel)
        if value.view is not False:  # False: the zip format, whose reference has no view
            pid += (value.view,)
        hooks = Raw(call(name("collections", "OrderedDict")))
        storage = Raw(encode(pid) + b"Q")
        rebuild = name("torch._utils", "_rebuild_tensor_v2")
        code = call(rebuild, storage, value.offset, value.size, value.stride, False, hooks)
        return call(name("torch._utils", "_rebuild_parameter"), Raw(code), True, hooks) if value.parameter else code
    raise TypeError(type(value))


def zip_file(root: Any, storages: dict[str, bytes], folder: str = "archive", **extra: Any) -> bytes:
    """A file of torch 1.6 or later. `extra`: pickle=b"..." replaces data.pkl, members={...} adds some."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", extra.get("compression", zipfile.ZIP_STORED)) as z:
        z.writestr(f"{folder}/data.pkl", extra["pickle"] if "pickle" in extra else dump(root))
        z.writestr(f"{folder}/byteorder", extra.get("byteorder", "little"))
        for key, data in storages.items():
            z.writestr(f"{folder}/data/{key}", data)
        z.writestr(f"{folder}/version", "3\n")
        for member, data in extra.get("members", {}).items():
            z.writestr(member, data)
    return out.getvalue()


def legacy_file(root: Any, storages: dict[str, tuple[int, bytes]], **extra: Any) -> bytes:
    """A file of torch before 1.6; `storages`: key -> (elements, bytes)."""
    info = {"protocol_version": 1001, "little_endian": extra.get("little", True), "type_sizes": {"int": 4}}
    parts = [dump(extra.get("magic", 0x1950A86A20F9469CFC6C)), dump(extra.get("protocol", 1001)), dump(info)]
    parts += [dump(root), dump(extra.get("keys", list(storages)))]
    parts += [struct.pack("<q", numel) + data for numel, data in storages.values()]
    return b"".join(parts)
