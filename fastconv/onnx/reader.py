"""ONNX model -> Graph.

`read` scans a model and settles what does not depend on input shapes: operator sets, names, order, which function
handles each node, attribute types. `OnnxModel.build` then makes the Graph for concrete input shapes; it infers and
checks every shape and folds what is constant. Large weights are only referred to, never read.

Computed tensors are float32. Constants of type float16, bfloat16 and float64 become float32 where they meet one. A cast
of a computed tensor to float16 rounds it so; what is computed from it then is float32 again, more exact than the file
asks. A cast to float64 changes nothing. Integers and bools are moved, compared and chosen (see graph.py), not added or
multiplied. Constants may be of any numeric type. Quantised operators, loops, sequences and sparse tensors are
UnsupportedOpErrors; an If whose condition is constant becomes the branch it takes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastconv.errors import ModelError, ShapeError, UnsupportedOpError
from fastconv.graph import Graph, Shape, Value
from fastconv.onnx import (
    ops_choose,
    ops_const,
    ops_image,
    ops_math,
    ops_nn,
    ops_norm,
    ops_old,
    ops_reduce,
    ops_shape,
    topology,
)
from fastconv.onnx.branches import Branch, settle
from fastconv.onnx.builder import Builder
from fastconv.onnx.functions import inline
from fastconv.onnx.registry import MAX_OPSET, MIN_OPSET, Operator, bind_attributes, bind_inputs, lookup
from fastconv.onnx.scan import Dims, NodeProto, ScannedModel, SerializableModel, Source, scan
from fastconv.onnx.weights import BFLOAT16, DTYPES, Constants

__all__ = ["InputInfo", "OnnxModel", "OutputInfo", "read"]

MAX_INPUTS_AND_OUTPUTS = 4096  # of the graph, together; initializers do not count

# Importing them fills the registry.
_REGISTERED = (ops_choose, ops_const, ops_image, ops_math, ops_nn, ops_norm, ops_old, ops_reduce, ops_shape)

DType: TypeAlias = "np.dtype[Any]"
_Env: TypeAlias = "dict[str, Value | None]"


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input as the file declares it; a dimension is a number, a symbolic name or None (unknown)."""

    name: str
    shape: Dims
    dtype: DType


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """An output as the file declares it; `shape` is None where the file does not say."""

    name: str
    shape: Dims | None
    dtype: DType


@dataclass(frozen=True, slots=True)
class _Step:
    node: NodeProto
    operator: Operator
    attributes: dict[str, Any]


class OnnxModel:
    """A model whose names, order and operators are known to be sound. Safe to build from several threads."""

    def __init__(self, source: Source) -> None:
        scanned = scan(source)
        # What a pickle needs: the path, or the bytes.
        self._source: str | bytes = (
            os.path.abspath(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else _as_bytes(source)
        )
        self._bound: dict[str, npt.NDArray[Any]] = {}
        self._free_batch = False
        self.name = scanned.name
        self.producer = scanned.producer
        self.ir_version = scanned.ir_version
        self.metadata = scanned.metadata
        self.opset = _opset(scanned)
        self._store = Constants(scanned.file, scanned.folder)

        self._initializers = {t.name: t for t in scanned.initializers}
        if "" in self._initializers:
            raise ModelError("an initializer has no name")
        if len(self._initializers) < len(scanned.initializers):
            raise ModelError(f"initializer {_repeated([t.name for t in scanned.initializers])!r} exists twice")
        names = [name for name, _, _ in scanned.inputs]
        if "" in names:
            raise ModelError("a graph input has no name")
        if len(set(names)) < len(names):
            raise ModelError(f"graph input {_repeated(names)!r} exists twice")
        self.inputs = tuple(_input(*i) for i in scanned.inputs if i[0] not in self._initializers)
        self.outputs = tuple(_output(*o) for o in scanned.outputs)
        if not self.outputs:
            raise ModelError("the graph has no output")
        if len(self.inputs) + len(self.outputs) > MAX_INPUTS_AND_OUTPUTS:
            raise UnsupportedOpError(
                f"the graph has {len(self.inputs)} inputs and {len(self.outputs)} outputs, expected at most "
                f"{MAX_INPUTS_AND_OUTPUTS} together"
            )

        known = {*names, *self._initializers}
        nodes = topology.sort(settle(inline(scanned, self.opset)), known)
        made = known.union(*(n.outputs for n in nodes)) - {""}
        for o in self.outputs:
            if o.name not in made:
                raise ModelError(f"graph output {o.name!r} is made by no node")
        self._steps = [_step(n) for n in topology.reachable(nodes, [o.name for o in self.outputs])]
        self._node_count = len(nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._source, self._bound, self._free_batch)

    def _copy(self) -> OnnxModel:
        """The same model; it shares what was read."""
        made = object.__new__(OnnxModel)
        vars(made).update(vars(self))
        return made

    def __repr__(self) -> str:
        return f"<OnnxModel {self.name!r}, opset {self.opset}, {self._node_count} nodes>"

    def bind(self, constants: Mapping[str, npt.NDArray[Any]]) -> OnnxModel:
        """This model with some inputs bound to values: they count as constants, and are no inputs any more.

        Raises ShapeError for a name that is no input, and for a value that does not fit its declaration.
        """
        bound = self._copy()
        bound._bound = {**self._bound, **constants}
        for name, array in constants.items():
            info = next((i for i in self.inputs if i.name == name), None)
            if info is None:
                raise ShapeError(f"the model has no input {name!r}; its inputs are {[i.name for i in self.inputs]}")
            if array.dtype != info.dtype or len(array.shape) != len(info.shape):
                raise ShapeError(f"input {name!r}: expected {info.dtype} {info.shape}, got {array.dtype} {array.shape}")
        bound.inputs = tuple(i for i in self.inputs if i.name not in constants)
        return bound

    def with_free_batch(self) -> OnnxModel:
        """This model with an open first axis of inputs and outputs, also where the file fixes it. That its nodes can
        do another batch is not said: `build` raises then."""
        freed = self._copy()
        freed._free_batch = True
        freed.inputs = tuple(replace(i, shape=_open(i.shape)) for i in self.inputs)
        freed.outputs = tuple(replace(o, shape=o.shape and _open(o.shape)) for o in self.outputs)
        return freed

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        """The Graph for these input shapes, which may be left out where the file fixes them.
        Raises ShapeError for an input that is missing, unknown or does not fit its declaration; ModelError or
        UnsupportedOpError, naming the node, for a model that cannot work at these shapes.
        """
        graph = Graph(self.name)
        env: dict[str, Value | None] = {"": None}
        named: set[int] = set()  # ids of the values in env, which keeps them alive
        b = Builder(graph, self._store, lambda branch: self._run_branch(b, env, named, branch))
        for name, array in self._bound.items():
            env[name] = x = b.const(np.ascontiguousarray(array).reshape(array.shape))
            named.add(id(x))
        for info, shape in zip(self.inputs, self._input_shapes(shapes), strict=True):
            env[info.name] = x = graph.add_input(info.name, shape, _held(info))
            named.add(id(x))
        self._run(b, env, named, self._steps)
        for o in self.outputs:
            v = self._operand(b, env, o.name)
            assert v is not None
            if o.dtype != v.dtype and not (o.dtype == np.float16 and v.dtype == np.float32):
                raise UnsupportedOpError(f"output {o.name!r} is declared {o.dtype}, but is computed as {v.dtype}")
            b.need(v)
            graph.outputs.append(v)
        _drop_dead(graph)
        return graph

    def _run(self, b: Builder, env: _Env, named: set[int], steps: Sequence[_Step]) -> None:
        for step in steps:
            b.enter(step.node)
            args = [self._operand(b, env, name) for name in step.node.inputs]
            named.update(map(id, args))
            made = step.operator.fn(b, *args, **step.attributes)
            self._bind(env, named, step.node, made if isinstance(made, list) else [made])

    def _run_branch(self, b: Builder, env: _Env, named: set[int], branch: Branch) -> list[Value]:
        """The branch's nodes as part of the graph. An operator that only the other branch needs is never looked up."""
        for name, tensor in branch.initializers.items():
            env[name] = v = b.weight(self._store.tensor(tensor, ("branch", name)), name)
            named.add(id(v))
        nodes = topology.sort(branch.nodes, {*branch.captured, *branch.initializers})
        self._run(b, env, named, [_step(n) for n in topology.reachable(nodes, branch.outputs)])
        outputs = [self._operand(b, env, name) for name in branch.outputs]
        return [v for v in outputs if v is not None]

    # -- parts of build -----------------------------------------------------------------------------------------
    def _input_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Shape]:
        names = [i.name for i in self.inputs]
        for name in shapes:
            if name not in names:
                raise ShapeError(f"the model has no input {name!r}; its inputs are {names}")
        symbols: dict[str, int] = {}
        out = []
        for info in self.inputs:
            if info.name in shapes:
                shape = tuple(int(d) for d in shapes[info.name])
            elif all(isinstance(d, int) for d in info.shape):
                shape = tuple(d for d in info.shape if isinstance(d, int))
            else:
                raise ShapeError(f"input {info.name!r} needs a shape: the model declares {info.shape}")
            if len(shape) != len(info.shape):
                raise ShapeError(f"input {info.name!r}: expected shape {info.shape}, got {shape}")
            for i, (want, got) in enumerate(zip(info.shape, shape, strict=True)):
                expected = symbols.setdefault(want, got) if isinstance(want, str) else want
                if got < 0 or (expected is not None and expected != got):
                    raise ShapeError(
                        f"input {info.name!r}, dimension {i}: expected {want} of {info.shape}, got {shape}"
                    )
            size = 4
            for d in shape:
                size *= max(d, 1)
            if size > 1 << 40:
                raise ShapeError(f"input {info.name!r}: shape {shape} asks for more than 2^40 bytes")
            out.append(shape)
        return out

    def _operand(self, b: Builder, env: dict[str, Value | None], name: str) -> Value | None:
        if name in env:
            v = env[name]
            if v is None and name:
                b.unsupported(f"optional output {name!r} of an earlier node is needed")
            return v
        weight = self._store.tensor(self._initializers[name], ("initializer", name))
        env[name] = v = b.weight(weight, name)
        return v

    @staticmethod
    def _bind(env: dict[str, Value | None], named: set[int], node: NodeProto, made: list[Value]) -> None:
        """Enter what a node made; a value that is new (not an input handed through) takes the output's name."""
        for i, name in enumerate(node.outputs):
            if not name:
                continue
            v = env[name] = made[i] if i < len(made) else None  # None: an optional output that is not made
            if v is not None and id(v) not in named:
                v.name = name
                named.add(id(v))


def _rebuild(source: str | bytes, bound: Mapping[str, npt.NDArray[Any]], free_batch: bool) -> OnnxModel:
    model = OnnxModel(source)
    return (model.with_free_batch() if free_batch else model).bind(bound)


def _open(shape: Dims) -> Dims:
    return (None, *shape[1:]) if shape and isinstance(shape[0], int) else shape


def _held(info: InputInfo) -> DType:
    """The dtype of the graph's value for an input."""
    if info.dtype == np.float16:
        return np.dtype(np.float32)
    if info.dtype != np.float32 and info.dtype.kind not in "iub":
        raise UnsupportedOpError(f"input {info.name!r} is {info.dtype}, which is not supported")
    return info.dtype


def _as_bytes(source: object) -> bytes:
    if isinstance(source, SerializableModel):
        return source.SerializeToString()
    assert isinstance(source, (bytes, bytearray, memoryview))
    return bytes(source)


def _repeated(names: list[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _opset(m: ScannedModel) -> int:
    opset = m.opsets.get("")
    if opset is None:
        raise ModelError(f"the model imports no ONNX operator set, only {sorted(m.opsets)}")
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UnsupportedOpError(f"opset {opset} is not supported, expected {MIN_OPSET} to {MAX_OPSET}")
    return opset


def _input(name: str, elem_type: int, shape: Dims | None) -> InputInfo:
    if elem_type == 0:
        raise UnsupportedOpError(f"input {name!r} is no tensor")
    if elem_type not in DTYPES or elem_type == BFLOAT16:
        raise UnsupportedOpError(f"input {name!r} has data type {elem_type}, which is not supported")
    if shape is None:
        raise UnsupportedOpError(f"input {name!r} has no shape")
    dims = tuple(None if d == -1 else d for d in shape)  # some exporters write -1 for unknown
    for d in dims:
        if isinstance(d, int) and d < 0:
            raise ModelError(f"input {name!r} has shape {shape} with a negative dimension")
    return InputInfo(name, dims, np.dtype(DTYPES[elem_type]))


def _output(name: str, elem_type: int, shape: Dims | None) -> OutputInfo:
    if not name:
        raise ModelError("a graph output has no name")
    if elem_type and (elem_type not in DTYPES or elem_type == BFLOAT16):
        raise UnsupportedOpError(f"output {name!r} has data type {elem_type}, which is not supported")
    dims = None if shape is None else tuple(None if isinstance(d, int) and d < 0 else d for d in shape)
    return OutputInfo(name, dims, np.dtype(DTYPES[elem_type or 1]))


def _step(node: NodeProto) -> _Step:
    op = lookup(node)
    bind_inputs(op, node)
    return _Step(node, op, bind_attributes(op, node))


def _drop_dead(graph: Graph) -> None:
    """Remove nodes that only fed a Shape, or an output that nobody reads."""
    wanted = {id(v) for v in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if any(id(v) in wanted for v in node.outputs):
            kept.append(node)
            wanted.update(id(v) for v in node.inputs if v is not None)
    graph.nodes = kept[::-1]


def read(source: Source) -> OnnxModel:
    """Read a model from a path, bytes or an onnx.ModelProto (the onnx package is not imported for it).

    Raises ModelError for a broken model, UnsupportedOpError for one that needs what fastconv does not have, OSError for
    a path that cannot be opened. External data is only read for a path, from the model's own folder.
    """
    return OnnxModel(source)
