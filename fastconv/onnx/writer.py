"""Graph -> ONNX file, in opset 17, which nearly every runtime reads.

A Graph has concrete shapes. To leave the batch open, the source is built for two batch sizes, and what differs between
them is written as depending on the batch. Weights beyond EMBEDDED bytes go into a second file, NAME.onnx.data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.errors import ModelError, ShapeError
from fastconv.graph import Graph, Weight
from fastconv.onnx.write_nodes import NodeWriter
from fastconv.paths import replacing, target_path

if TYPE_CHECKING:
    import onnx

    from fastconv.source import Source

EMBEDDED = 1 << 30  # bytes of weights; a protobuf ends at 2 GiB
ALIGNMENT = 4096


def write_source(
    source: Source,
    path: str | os.PathLike[str],
    shape: Sequence[int | None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, with an open batch where the source's is open. The file is checked, then moved into place.

    shape: of the input, with or without the batch, where the source leaves other sizes open.
    Raises ShapeError where sizes are missing, UnsupportedOpError for what ONNX's opset 17 cannot say, OSError.
    """
    target = target_path(path)
    shapes = _input_shapes(source, shape)
    free = [not isinstance(i.shape[0], int) if i.shape else False for i in source.inputs]
    if any(free):
        first, second = (_build(source, shapes, free, batch) for batch in (2, 3))
    else:
        first = second = _build(source, shapes, free, 1)
    writer = NodeWriter(first, second)
    model = writer.model([o.name for o in source.outputs], metadata or {})
    _check(model, writer.large, target)
    with replacing(target) as file:
        if sum(w.nbytes for _, w in writer.large) > EMBEDDED:
            data = target.with_name(f"{target.name}.data")
            with replacing(data) as beside:  # gets its place first, when both are written
                _write_beside(model, writer.large, file, beside, data.name)
        else:
            _write(model, writer.large, file)


def _check(model: onnx.ModelProto, large: list[tuple[str, Weight]], target: Path) -> None:
    """Raises ModelError for what is not valid ONNX. Large weights stand in as inputs."""
    import onnx
    from onnx import checker, helper

    light = onnx.ModelProto()
    light.CopyFrom(model)
    for name, w in large:
        kind = helper.np_dtype_to_tensor_dtype(w.dtype)
        light.graph.input.append(helper.make_tensor_value_info(name, kind, w.shape))
    try:
        checker.check_model(light, full_check=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ModelError(f"{target}: the file that was made is not valid ONNX: {e}") from e


def _tensors(large: list[tuple[str, Weight]]) -> list[onnx.TensorProto]:
    """The weights' heads."""
    from onnx import TensorProto, helper

    kinds = [helper.np_dtype_to_tensor_dtype(w.dtype) for _, w in large]
    return [TensorProto(name=name, dims=w.shape, data_type=k) for (name, w), k in zip(large, kinds, strict=True)]


def _write_beside(model: onnx.ModelProto, large: list[tuple[str, Weight]], file: Path, beside: Path, name: str) -> None:
    """The model, and its large weights into a file that will have this name. Holds one weight in memory at a time."""
    from onnx import TensorProto, external_data_helper

    tensors = _tensors(large)
    with open(beside, "wb") as out:
        for tensor, (_, w) in zip(tensors, large, strict=True):
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            tensor.raw_data = b""  # what the next line asks for
            external_data_helper.set_external_data(tensor, name, out.tell(), w.nbytes)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            out.write(_bytes(w))
    model.graph.initializer.extend(tensors)
    file.write_bytes(model.SerializeToString())


def _write(model: onnx.ModelProto, large: list[tuple[str, Weight]], file: Path) -> None:
    """The model with its weights. Holds one weight in memory at a time."""
    tensors = _tensors(large)
    # By hand, as protobuf would copy every weight several times: the graph is the model's field 7, its initializers are
    # the graph's field 5, their raw data are field 9; each is a tag, a length and as many bytes.
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    heads = [t.SerializeToString() + b"\x4a" + _varint(w.nbytes) for t, (_, w) in zip(tensors, large, strict=True)]
    heads = [b"\x2a" + _varint(len(h) + w.nbytes) + h for h, (_, w) in zip(heads, large, strict=True)]
    size = len(graph) + sum(len(h) + w.nbytes for h, (_, w) in zip(heads, large, strict=True))
    with open(file, "wb") as out:
        out.write(model.SerializeToString() + b"\x3a" + _varint(size) + graph)
        for head, (_, w) in zip(heads, large, strict=True):
            out.write(head)
            out.write(_bytes(w))


def _bytes(weight: Weight) -> memoryview:
    array = np.ascontiguousarray(weight.numpy(), weight.dtype.newbyteorder("<"))
    return array.data.cast("B")


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _input_shapes(source: Source, shape: Sequence[int | None] | None) -> list[list[int | None]]:
    shapes = []
    for info in source.inputs:
        dims: list[int | None] = [d if isinstance(d, int) else None for d in info.shape]
        if shape is not None and len(source.inputs) == 1:
            asked = [None, *shape] if len(shape) == len(dims) - 1 else list(shape)
            if len(asked) != len(dims) or any(d not in (None, a) for d, a in zip(dims[1:], asked[1:], strict=True)):
                raise ShapeError(f"shape {tuple(shape)} does not fit input {info.name!r} of shape {info.shape}")
            dims = [dims[0], *asked[1:]]
        if any(d is None for d in dims[1:]):
            raise ShapeError(f"input {info.name!r} has free sizes {info.shape}: give a shape to save it for")
        shapes.append(dims)
    return shapes


def _build(source: Source, shapes: list[list[int | None]], free: list[bool], batch: int) -> Graph:
    feeds = {
        info.name: (batch if f else int(dims[0] or 1), *(int(d or 0) for d in dims[1:])) if dims else ()
        for info, dims, f in zip(source.inputs, shapes, free, strict=True)
    }
    return source.build(feeds)
