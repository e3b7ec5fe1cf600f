"""Opens a model and scans its structure: names, shapes, attributes and where each tensor's bytes lie.

The C++ scanner does the work without holding the file; here its result gets types. No shape or operator is judged yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from fastconv import _core
from fastconv.errors import ModelError
from fastconv.foreign import foreign

if TYPE_CHECKING:
    from fastconv._core import ModelFile, OnnxTensor


@runtime_checkable
class SerializableModel(Protocol):
    """What is needed of an onnx.ModelProto; the onnx package itself is never imported."""

    def SerializeToString(self) -> bytes: ...


Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | SerializableModel"
Dims: TypeAlias = "tuple[int | str | None, ...]"
Attr: TypeAlias = "tuple[int, Any, str]"  # AttributeProto.type, value, ref_attr_name


@dataclass(slots=True)
class NodeProto:
    """One node as the file has it. `opset` is the version of the default operator set that holds for it."""

    op_type: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attr]
    opset: int = 0

    @property
    def label(self) -> str:
        """How messages call it: its name, or that of what it makes where it has none."""
        name = self.name or next((o for o in self.outputs if o), "")
        domain = f"{self.domain}." if self.domain not in ("", "ai.onnx") else ""
        return f"node {name!r} ({domain}{self.op_type})"


@dataclass(slots=True)
class FunctionProto:
    """A model-local function."""

    name: str
    domain: str
    overload: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    defaults: dict[str, Attr]
    nodes: list[NodeProto]
    opsets: dict[str, int]


@dataclass(slots=True)
class ScannedModel:
    """A ModelProto without its large payloads. `folder` is where external data may lie, None if it may not."""

    file: ModelFile
    folder: str | None
    ir_version: int
    producer: str
    name: str
    opsets: dict[str, int]
    nodes: list[NodeProto]
    initializers: tuple[OnnxTensor, ...]
    inputs: tuple[tuple[str, int, Dims | None], ...]
    outputs: tuple[tuple[str, int, Dims | None], ...]
    metadata: dict[str, str]
    functions: list[FunctionProto]


def open_file(path: str, *, follow: bool = True) -> ModelFile:
    """A regular file as a ModelFile. OSError where it cannot be opened, ModelError where it is no regular file."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block
    fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    return _core.ModelFile(fd)


def open_source(source: Source) -> tuple[ModelFile, str | None]:
    """The source as a ModelFile, and the folder of a path."""
    if isinstance(source, (str, os.PathLike)):
        path = os.path.abspath(os.fspath(source))
        return open_file(path), os.path.dirname(path)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _core.ModelFile.from_bytes(bytes(source)), None
    if isinstance(source, SerializableModel):
        return _core.ModelFile.from_bytes(source.SerializeToString()), None
    raise TypeError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")


def scan(source: Source) -> ScannedModel:
    """Scan a model. ModelError names the byte where the file is broken, or says what it is where it is none."""
    where = f"{os.fspath(source)}: " if isinstance(source, (str, os.PathLike)) else ""
    try:
        file, folder = open_source(source)
        raw = file.scan()
    except ModelError as e:
        raise ModelError(f"{where}{_none(source) or e}") from None
    if raw["ir_version"] < 1:
        raise ModelError(where + (_none(source) or f"ir_version is {raw['ir_version']}, expected a positive number"))
    return ScannedModel(
        file=file,
        folder=folder,
        ir_version=raw["ir_version"],
        producer=raw["producer"],
        name=raw["name"],
        opsets=_opsets(raw["opsets"], "the model"),
        nodes=[NodeProto(*n) for n in raw["nodes"]],
        initializers=raw["initializers"],
        inputs=raw["inputs"],
        outputs=raw["outputs"],
        metadata=raw["metadata"],
        functions=[
            FunctionProto(
                **{
                    **f,
                    "nodes": [NodeProto(*n) for n in f["nodes"]],
                    "opsets": _opsets(f["opsets"], f"function {f['name']!r}"),
                }
            )
            for f in raw["functions"]
        ],
    )


def _none(source: Source) -> str:
    what = foreign(source)
    return f"this is no ONNX model but {what}" if what else ""


def _opsets(pairs: tuple[tuple[str, int], ...], where: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for domain, version in pairs:
        key = "" if domain == "ai.onnx" else domain
        if out.setdefault(key, version) != version:
            raise ModelError(f"{where} imports operator set {key!r} twice, as versions {out[key]} and {version}")
    return out


def with_opset(nodes: list[NodeProto], opset: int) -> list[NodeProto]:
    """Copies of the nodes that know their operator set."""
    return [replace(n, opset=opset) for n in nodes]
