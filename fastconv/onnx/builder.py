"""What operator functions build with: nodes of the Graph, constants, and checks that name the ONNX node."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.graph import MAX_EXACT, Array, Graph, Shape, Value, Weight
from fastconv.onnx.branches import Branch
from fastconv.onnx.checks import Checks, short
from fastconv.onnx.weights import Constants

MAX_NODES: Final = 20_000
MAX_WINDOW: Final = 1 << 20  # positions of a filter; sides, strides and dilations of a pooling window

# These may have a constant as their first operand; every other operation is either folded or has a runtime input.
_CONST_FIRST: Final = frozenset(
    ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Concat", "MatMul", "Less", "LessOrEqual", "Equal",
     "Where", "Take", "Resample")
)  # fmt: skip
# These copy elements, or choose among them: they take every type and keep it.
_MOVES: Final = frozenset(
    ("Reshape", "Transpose", "Slice", "Concat", "Expand", "Pad", "Resample", "Take", "Where", "MaxPool")
)
MAX_TABLE: Final = 1 << 21  # positions that a table names


Bounds: TypeAlias = "tuple[int, int]"


class NeedsConstant(UnsupportedOpError):
    """An operand must be known before the network runs. `inputs`: the graph inputs that it is computed from."""

    def __init__(self, message: str, inputs: tuple[str, ...]) -> None:
        super().__init__(message)
        self.inputs = inputs


def _slice(start: int, step: int, count: int) -> slice:
    """`count` indices from `start` on."""
    end = start + step * count
    return slice(start, end if end >= 0 else None, step) if count else slice(0, 0)


class Builder(Checks):
    """A Graph in the making. Operator functions get it as their first argument."""

    def __init__(
        self, graph: Graph, store: Constants, enter_branch: Callable[[Branch], list[Value]] | None = None
    ) -> None:
        super().__init__()
        self.graph = graph
        self.store = store
        self.enter_branch = enter_branch or self._no_branch  # builds the nodes of a branch, gives its outputs
        self.open_ended: set[Value] = set()  # how many of their rows hold is known only after the run
        self._bounds: dict[Value, Bounds] = {}
        self._work = 0  # of computing the constants that this build needs
        self._counted: set[object] = set()  # keys of those that are in it: they are packed once

    def _no_branch(self, branch: Branch) -> list[Value]:
        self.unsupported("a branch")

    # -- operands ---------------------------------------------------------------------------------------------
    def runtime(self, v: Value, what: str = "input 0") -> Value:
        """A value that the network computes, or a float32 constant: the network then computes with it at each run."""
        if v.is_const and v.dtype != np.float32:
            self.unsupported(f"{what} ({v.name!r}) is a constant of {v.dtype}")
        return v

    def closed(self, v: Value | None) -> None:
        """Refuse a value whose shape depends on data."""
        if v is not None and v in self.open_ended:
            self.unsupported(f"{v.name!r} has a shape that depends on data: it can only be an output of the network")

    def constant(self, v: Value | None, what: str) -> Value:
        """A value that must be constant."""
        if v is None:
            self.fail(f"{what} is missing")
        if not v.is_const:
            message = f"{self.node.label}: {what} ({v.name!r}) is computed at run time, expected a constant"
            raise NeedsConstant(short(message), self._sources(v))
        return v

    def _sources(self, v: Value) -> tuple[str, ...]:
        """The names of the graph inputs that v is computed from."""
        wanted = {v}
        for node in reversed(self.graph.nodes):
            if not wanted.isdisjoint(node.outputs):
                wanted.update(u for u in node.inputs if u is not None)
        return tuple(i.name for i in self.graph.inputs if i in wanted)

    def f32(self, v: Value, what: str = "input") -> Value:
        """As float32: float16 and float64 constants are converted lazily, other types are an error."""
        if v.dtype == np.float32:
            return v
        if v.dtype.kind != "f":
            self.fail(f"{what} {v.name!r} is {v.dtype}, expected a float type")
        return self.fold(("cast", "f4"), [v], v.shape, np.float32, lambda a: a.astype(np.float32))

    def ints(self, v: Value | None, what: str) -> tuple[int, ...]:
        """The numbers of a constant integer tensor of rank 0 or 1."""
        v = self.constant(v, what)
        if v.dtype.kind not in "iu":
            self.fail(f"{what} ({v.name!r}) is {v.dtype}, expected integers")
        if v.rank > 1 or v.size > 1 << 16:
            self.fail(f"{what} ({v.name!r}) has shape {v.shape}, expected a short list")
        return tuple(int(i) for i in self.array(v).reshape(-1))

    def number(self, v: Value | None, what: str, like: Value | None = None) -> float:
        """The one number of a constant, of the type that `like` has."""
        v = self.constant(v, what)
        if like is not None and v.dtype != like.dtype and (like.is_const or v.dtype.kind != "f"):
            self.fail(f"{what} ({v.name!r}) is {v.dtype}, but {like.name!r} is {like.dtype}")
        if v.size != 1 or v.dtype.kind not in "fiub":
            self.fail(f"{what} ({v.name!r}) has {v.dtype} shape {v.shape}, expected one number")
        return float(self.array(v).reshape(()))

    def array(self, v: Value) -> Array:
        """The elements of a constant, needed now."""
        self._spend(v)
        return v.numpy()

    def need(self, v: Value) -> None:
        """Count what a constant of the finished Graph costs."""
        if v.weight is not None and v.weight.key not in self._counted:
            self._counted.add(v.weight.key)
            self._spend(v)

    def _spend(self, v: Value) -> None:
        """Fail where computing this constant, after all others, asks for too much."""
        assert v.weight is not None
        most = self.store.most_work
        self._work += self.store.work(v.weight, most)
        if self._work > most:
            where = f"{self._node.label}: " if self._node else ""
            raise ModelError(f"{where}computing {v.name!r} and the constants before it moves over {most:,} bytes")

    # -- results ----------------------------------------------------------------------------------------------
    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shape: Sequence[int],
        *,
        dtype: npt.DTypeLike | None = None,
        **attrs: Any,
    ) -> Value:
        """Append a node; returns its output, which is a computed value. Tensors without elements reach no kernel.

        Without `dtype` all is float32, but for operations that only move elements. With it the caller has checked the
        types of the operands.
        """
        if dtype is None:
            dtype = self._common_type(op, inputs)
        for v in inputs:
            if v in self.open_ended:
                assert v is not None
                self.unsupported(
                    f"{v.name!r} has a shape that depends on data: it can only be an output of the network"
                )
        first = inputs[0]
        if first is not None and first.is_const and op not in _CONST_FIRST:
            self.runtime(first)
        shape = self.shape(shape)
        y = self._emit(op, inputs, shape, np.dtype(dtype), attrs)
        if y.dtype.kind in "iu" and op in _MOVES:
            parts = [self.bounds(v) for v in inputs if v is not None and v.dtype == y.dtype]
            self._bounds[y] = (min(p[0] for p in parts), max(p[1] for p in parts))
        return y

    def _emit(
        self, op: str, inputs: Sequence[Value | None], shape: Shape, dtype: np.dtype[Any], attrs: dict[str, Any]
    ) -> Value:
        if 0 in shape or any(v is not None and v.size == 0 for v in inputs):
            return self._emit_empty(op, inputs, shape, dtype, attrs)
        return self._append(op, inputs, shape, dtype, attrs)

    def integer(
        self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], dtype: npt.DTypeLike, bounds: Bounds,
        **attrs: Any,
    ) -> Value:  # fmt: skip
        """Append a node that makes integers which lie within `bounds`."""
        y = self.emit(op, inputs, shape, dtype=dtype, **attrs)
        self._bounds[y] = bounds
        return y

    def bound(self, v: Value, bounds: Bounds) -> None:
        """Note what the numbers of an integer value lie within."""
        self._bounds[v] = bounds

    def bounds(self, v: Value) -> Bounds:
        """What the numbers of an integer value lie within. Inputs beyond 2^24 are refused when they come."""
        if v.is_const:
            array = self.array(v)
            return (int(array.min()), int(array.max())) if array.size else (0, 0)
        if v in self._bounds:
            return self._bounds[v]
        if v.dtype == np.bool_:
            return 0, 1
        info = np.iinfo(v.dtype)
        return max(int(info.min), -MAX_EXACT), min(int(info.max), MAX_EXACT)

    def _common_type(self, op: str, inputs: Sequence[Value | None]) -> np.dtype[Any]:
        """float32, or whatever type an operation moves."""
        if op in _MOVES:
            data = inputs[1:] if op == "Where" else inputs if op == "Concat" else inputs[:1]
            types = {v.dtype for v in data if v is not None}
            if len(types) != 1:
                self.fail(f"operands are of types {', '.join(sorted(map(str, types)))}")
            (dtype,) = types
            if dtype.kind in "iub" or dtype == np.float32:
                return dtype
        for i, v in enumerate(inputs):
            if v is not None and v.dtype != np.float32:
                self.unsupported(f"input {i} ({v.name!r}) is {v.dtype}: only float32 is computed at run time")
        return np.dtype(np.float32)

    def _append(
        self, op: str, inputs: Sequence[Value | None], shape: Shape, dtype: np.dtype[Any], attrs: dict[str, Any]
    ) -> Value:
        if len(self.graph.nodes) >= MAX_NODES:
            self.fail(f"the network has more than {MAX_NODES} operations")
        for v in inputs:
            if v is not None:
                self.need(v)
        return self.graph.add(op, inputs, shape, dtype=dtype, name=self._name, **attrs)

    def _emit_empty(
        self, op: str, inputs: Sequence[Value | None], shape: Shape, dtype: np.dtype[Any], attrs: dict[str, Any]
    ) -> Value:
        """An operation with an input or output that has no elements: a constant or the other inputs say it all."""
        source = self.const(np.zeros((1,) * len(shape), dtype))
        if 0 in shape or op in ("ReduceSum", "MatMul"):
            pass
        elif op == "Gemm":
            bias = inputs[2] if len(inputs) > 2 else None
            source = source if bias is None else bias
        elif op == "Pad":  # with mode "constant": the others need elements
            source = self.const(np.full((1,) * len(shape), attrs["value"], dtype))
        elif op == "Concat":
            rest = [v for v in inputs if v is not None and v.size]
            if len(rest) > 1:
                return self._append(op, rest, shape, dtype, attrs)
            if not rest[0].is_const:
                return rest[0]
            source = rest[0]
        else:
            self.unsupported(f"{op} of no elements")
        return self._append("Expand", [source], shape, dtype, {})

    def const(self, array: Array) -> Value:
        """A small constant, known by its content."""
        return self._value(self.store.small(array))

    def weight(self, weight: Weight, name: str) -> Value:
        """A constant with a name of its own."""
        return Value(name, weight.shape, weight.dtype, weight)

    def fold(
        self,
        tag: Hashable,
        inputs: Sequence[Value],
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        fn: Callable[..., Any],
        work: int = 0,
    ) -> Value:
        """A constant computed from constants; `tag` and the inputs must determine it. Lazy unless it is small."""
        dtype = np.dtype(dtype)
        shape = self.shape(shape, dtype.itemsize)
        weights = [v.weight for v in inputs if v.weight is not None]
        assert len(weights) == len(inputs)
        return self._value(self.store.fold(tag, weights, shape, dtype, fn, self.node.label, work))

    def _value(self, weight: Weight) -> Value:
        return Value(self.graph.fresh(self._name), weight.shape, weight.dtype, weight)

    # -- what many operators share ----------------------------------------------------------------------------
    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape to a shape of equal size; nothing where it is the same."""
        shape = self.shape(shape, x.dtype.itemsize)
        if shape == x.shape:
            return x
        n = 1
        for d in shape:
            n *= d
        if n != x.size:
            self.fail(f"shape {x.shape} cannot become {shape}")
        if x.is_const:
            return self.fold(("reshape",), [x], shape, x.dtype, lambda a: a.reshape(shape))
        return self.emit("Reshape", [x], shape)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Permute the axes."""
        perm = tuple(perm)
        shape = tuple(x.shape[p] for p in perm)
        if perm == tuple(range(x.rank)):
            return x
        if x.is_const:
            return self.fold(("transpose", perm), [x], shape, x.dtype, lambda a: a.transpose(perm))
        return self.emit("Transpose", [x], shape, perm=perm)

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Broadcast to a shape."""
        shape = self.shape(shape, x.dtype.itemsize)
        if shape == x.shape:
            return x
        if x.is_const:
            return self.fold(("expand",), [x], shape, x.dtype, lambda a: np.broadcast_to(a, shape))
        return self.emit("Expand", [x], shape)

    def slice(self, x: Value, starts: Sequence[int], steps: Sequence[int], shape: Sequence[int]) -> Value:
        """x[start :: step] per axis, `shape` elements of it. A negative step walks down."""
        starts, steps, shape = tuple(starts), tuple(steps), tuple(shape)
        if shape == x.shape and all(s == 1 for s, n in zip(steps, shape, strict=True) if n > 1):
            return x
        if x.is_const:
            part = tuple(map(_slice, starts, steps, shape))
            return self.fold(("slice", starts, steps), [x], shape, x.dtype, lambda a: a[part])
        back = [a for a, (t, n) in enumerate(zip(steps, shape, strict=True)) if t < 0 and n > 1]
        if not back:
            return self.emit("Slice", [x], shape, starts=starts, steps=steps)
        # Memory is only read upwards: take the same elements in rising order, then pick them from the last one on.
        low = [
            s + t * (n - 1) if a in back else s for a, (s, t, n) in enumerate(zip(starts, steps, shape, strict=True))
        ]
        x = self.slice(x, low, [abs(t) for t in steps], shape)
        for a in back:
            x = self.pick(x, a, range(shape[a] - 1, -1, -1))
        return x

    def pick(self, x: Value, axis: int, indices: Sequence[int]) -> Value:
        """x[..., indices, ...] along one axis, for non-negative indices in range."""
        shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
        if x.shape[axis] > MAX_EXACT or len(indices) > MAX_TABLE:
            self.unsupported(f"picking {len(indices)} of {x.shape[axis]} elements")
        table = self.const(np.array(indices, np.float32))
        return self.emit("Resample", [x, table, None], shape, axis=axis, taps=1)
