"""A pickle machine for torch files that can make containers, numbers, strings and tensor descriptions, nothing else.

Python's own unpickler calls whatever a file names and sizes its memo by what a file claims. This machine knows a fixed
list of names (`GLOBALS`), each with its own checked constructor; it never imports, looks up an attribute or calls
anything of the file's choosing. Its memory is bounded: strings by the bytes that are really there, everything else by
MAX_STEPS instructions. Instructions are those that CPython's picklers emit for protocols 2 to 5.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastconv.errors import ModelError

MAX_STEPS = 2_000_000  # a state dict takes about 40 instructions per tensor
_MARK = object()

# torch's storage classes: numpy dtype of an element as stored ("bf16" has none in numpy and is widened)
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "bool",
    "UntypedStorage": "u1",
}
DTYPES = {
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    "bfloat16": "bf16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "bool",
}
ITEMSIZE = {"<f4": 4, "<f8": 8, "<f2": 2, "bf16": 2, "<i8": 8, "<i4": 4, "<i2": 2, "i1": 1, "u1": 1, "bool": 1}


@dataclass(frozen=True)
class Global:
    """A name that a file may refer to; `kind` says what it stands for, `value` its dtype where it is a type."""

    name: str
    kind: str
    value: str = ""


@dataclass(frozen=True)
class Storage:
    """A run of `numel` elements of `dtype` that begins at element `base` of the storage `key`."""

    key: str
    dtype: str
    numel: int
    root_numel: int
    base: int = 0


@dataclass(frozen=True)
class Tensor:
    """A strided window onto a Storage; offset and strides count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _globals() -> dict[str, Global]:
    table = [
        Global("collections.OrderedDict", "dict"),
        Global("torch._utils._rebuild_tensor_v2", "tensor"),
        Global("torch._utils._rebuild_tensor_v3", "tensor"),
        Global("torch._utils._rebuild_parameter", "parameter"),
        Global("torch.Size", "size"),
        Global("torch.storage.UntypedStorage", "storage", "u1"),
        Global("torch.storage._UntypedStorage", "storage", "u1"),
        *(Global(f"torch.{name}", "storage", dtype) for name, dtype in STORAGES.items()),
        *(Global(f"torch.{name}", "dtype", dtype) for name, dtype in DTYPES.items()),
    ]
    return {g.name: g for g in table}


GLOBALS = _globals()


class Stream:
    """A binary file whose end is known: `take` never asks for more than is there."""

    def __init__(self, file: io.BufferedIOBase, what: str) -> None:
        self.file, self.what = file, what
        here = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(here)
        self.left = self.size - here

    def take(self, n: int) -> bytes:
        """The next n bytes. Raises ModelError where fewer are left."""
        data = self.file.read(n) if n <= self.left else b""
        if len(data) != n:
            raise ModelError(f"{self.what}: truncated: expected {n} more bytes, got {self.left}")
        self.left -= n
        return data

    def line(self) -> str:
        data = self.file.readline(1024)
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise ModelError(f"{self.what}: a name in the pickle is longer than 1024 bytes or cut off")
        return data[:-1].decode("utf-8", "replace")


def is_int(value: object) -> bool:
    """True for an int that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def load(stream: Stream) -> Any:
    """Run one pickle from the stream; returns dicts, lists, tuples, scalars, Tensors. Raises ModelError."""
    return _Machine(stream).run()


class _Machine:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def fail(self, message: str) -> ModelError:
        return ModelError(f"{self.stream.what}: {message}")

    # -- the loop -----------------------------------------------------------------------------------------------
    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.stream.take(1)
            if code == b".":
                value = self.pop()
                if self.stack:
                    raise self.fail("the pickle ends with values left on its stack")
                return value
            step = _STEPS.get(code)
            if step is None:
                raise self.fail(f"the pickle uses instruction {code!r}, which no tensor file needs; not executed")
            step(self)
        raise self.fail(f"the pickle has more than {MAX_STEPS} instructions")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.fail("the pickle takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.fail("the pickle reads the top of an empty stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise self.fail("the pickle closes a group that it never opened")

    def number(self, fmt: str) -> Any:
        return struct.unpack(fmt, self.stream.take(struct.calcsize(fmt)))[0]

    # -- values -------------------------------------------------------------------------------------------------
    def text(self, fmt: str) -> None:
        data = self.stream.take(self.number(fmt))
        try:
            self.stack.append(data.decode("utf-8"))
        except UnicodeDecodeError as e:
            raise self.fail(f"a string in the pickle is not UTF-8: {e}") from None

    def binary(self, fmt: str) -> None:
        self.stack.append(self.stream.take(self.number(fmt)))

    def long1(self) -> None:
        self.stack.append(int.from_bytes(self.stream.take(self.number("<B")), "little", signed=True))

    def proto(self) -> None:
        version = self.number("<B")
        if version > 5:
            raise self.fail(f"pickle protocol {version}: expected 2 to 5")

    def get(self, fmt: str) -> None:
        i = self.number(fmt)
        if i not in self.memo:
            raise self.fail(f"the pickle recalls entry {i}, which it never stored")
        self.stack.append(self.memo[i])

    def put(self, fmt: str) -> None:
        self.memo[self.number(fmt)] = self.top()

    # -- containers ---------------------------------------------------------------------------------------------
    def make_tuple(self, n: int) -> None:
        items = [self.pop() for _ in range(n)]
        self.stack.append(tuple(reversed(items)))

    def store(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise self.fail(f"the pickle stores items in a {type(target).__name__}: expected a dict and pairs")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # a nested tuple could take for ever to hash
                raise self.fail(f"a dict key is a {type(key).__name__}: expected str or int")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.fail(f"the pickle appends to a {type(target).__name__}: expected a list")
        target.extend(items)

    def setitem(self) -> None:
        value = self.pop()
        self.store([self.pop(), value])

    def build(self) -> None:
        """Attributes of an OrderedDict (torch's `_metadata`): nothing that a reader of tensors wants."""
        self.pop()
        if not isinstance(self.top(), OrderedDict):
            raise self.fail(f"the pickle sets attributes of a {type(self.top()).__name__}; not executed")

    # -- names and calls ----------------------------------------------------------------------------------------
    def find(self, module: object, name: object) -> None:
        full = f"{module}.{name}"
        if full not in GLOBALS:
            hint = "" if full.startswith(("os.", "posix.", "builtins.")) else " (save model.state_dict(), not a module)"
            raise self.fail(f"the pickle names {full!r}, which is not a tensor or a container; not executed{hint}")
        self.stack.append(GLOBALS[full])

    def stack_global(self) -> None:
        name = self.pop()
        self.find(self.pop(), name)

    def reduce(self) -> None:
        args = self.pop()
        what = self.pop()
        make = _MAKERS.get(what.kind) if isinstance(what, Global) else None
        if make is None or not isinstance(args, tuple):
            raise self.fail(f"the pickle calls {what.name if isinstance(what, Global) else type(what).__name__!r}")
        self.stack.append(make(self, args))

    def make_dict(self, args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
        if args:
            raise self.fail("an OrderedDict with constructor arguments: expected none")
        return OrderedDict()

    def make_size(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(args) != 1 or not isinstance(args[0], (tuple, list)):
            raise self.fail("torch.Size: expected one sequence")
        return tuple(args[0])

    def make_parameter(self, args: tuple[Any, ...]) -> Tensor:
        if not args or not isinstance(args[0], Tensor):
            raise self.fail("torch._utils._rebuild_parameter: expected a tensor")
        return args[0]

    def make_tensor(self, args: tuple[Any, ...]) -> Tensor:
        if len(args) < 4 or not isinstance(args[0], Storage):
            raise self.fail("torch._utils._rebuild_tensor: expected a storage, an offset, a size and strides")
        storage, offset, size, stride = args[:4]
        marker = args[6] if len(args) > 6 else None
        dtype = marker.value if isinstance(marker, Global) and marker.kind == "dtype" else storage.dtype
        ok = isinstance(size, (tuple, list)) and isinstance(stride, (tuple, list)) and len(size) == len(stride)
        if not ok or len(size) > 32 or not all(is_int(v) and v >= 0 for v in (offset, *size, *stride)):
            raise self.fail(f"a tensor with offset {offset!r:.60}, size {size!r:.200}, strides {stride!r:.200}")
        return Tensor(storage, dtype, offset, tuple(size), tuple(stride))

    def persistent(self) -> None:
        """('storage', class, key, location, numel[, None or (view key, offset, numel)])"""
        pid = self.pop()
        ok = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
        if not ok or not isinstance(pid[1], Global) or pid[1].kind != "storage" or not isinstance(pid[2], str):
            raise self.fail("a reference to something that is not a tensor's storage; not followed")
        numel, base, view = pid[4], 0, pid[5] if len(pid) == 6 else None
        root = numel
        if view is not None:
            if not isinstance(view, tuple) or len(view) != 3:
                raise self.fail(f"storage {pid[2]!r}: a view that is not (key, offset, size)")
            base, numel = view[1:]
        if not all(is_int(v) and 0 <= v < 1 << 62 for v in (root, numel, base)) or base + numel > root:
            raise self.fail(f"storage {pid[2]!r}: {numel!r:.60} elements at {base!r:.60} of {root!r:.60}")
        self.stack.append(Storage(pid[2], pid[1].value, numel, root, base))


_MAKERS: dict[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "dict": _Machine.make_dict,
    "size": _Machine.make_size,
    "tensor": _Machine.make_tensor,
    "parameter": _Machine.make_parameter,
}

_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.proto,
    b"\x95": lambda m: m.number("<Q"),  # FRAME: a hint on buffering
    b"(": lambda m: m.stack.append(_MARK),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.stack.append(m.top()),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"K": lambda m: m.stack.append(m.number("<B")),
    b"M": lambda m: m.stack.append(m.number("<H")),
    b"J": lambda m: m.stack.append(m.number("<i")),
    b"G": lambda m: m.stack.append(m.number(">d")),
    b"\x8a": _Machine.long1,
    b"X": lambda m: m.text("<I"),
    b"\x8c": lambda m: m.text("<B"),
    b"\x8d": lambda m: m.text("<Q"),
    b"C": lambda m: m.binary("<B"),
    b"B": lambda m: m.binary("<I"),
    b"\x8e": lambda m: m.binary("<Q"),
    b"}": lambda m: m.stack.append({}),
    b"]": lambda m: m.stack.append([]),
    b")": lambda m: m.stack.append(()),
    b"t": lambda m: m.stack.append(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"s": _Machine.setitem,
    b"u": lambda m: m.store(m.pop_to_mark()),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_to_mark()),
    b"q": lambda m: m.put("<B"),
    b"r": lambda m: m.put("<I"),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.top()),
    b"h": lambda m: m.get("<B"),
    b"j": lambda m: m.get("<I"),
    b"c": lambda m: m.find(m.stream.line(), m.stream.line()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
}
