"""ONNX operators that compare, choose, rank and suppress. Comparisons of constants are folded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv.graph import MAX_EXACT, Array, Value
from fastconv.onnx.builder import MAX_TABLE, Builder
from fastconv.onnx.registry import OnnxBranch, operator


# -- comparisons ----------------------------------------------------------------------------------------------------
def _same_type(b: Builder, x: Value, y: Value) -> None:
    if x.dtype != y.dtype:
        b.fail(f"inputs {x.name!r} and {y.name!r} are {x.dtype} and {y.dtype}")


def compare(b: Builder, op: str, x: Value, y: Value, fn: Callable[[Array, Array], Any], *, swap: bool = False) -> Value:
    """`fn` is what the ONNX operator means; `op` says it in the graph, with the operands swapped if `swap`."""
    if x.dtype != y.dtype and {x.dtype.kind, y.dtype.kind} == {"f"}:
        x, y = b.f32(x), b.f32(y)
    _same_type(b, x, y)
    return _bools(b, op, [x, y], fn, swap)


def _bools(b: Builder, op: str, xs: list[Value], fn: Callable[[Array, Array], Any], swap: bool = False) -> Value:
    """Folded where both operands are constant."""
    shape = b.broadcast(*(x.shape for x in xs))
    if all(x.is_const for x in xs):
        return b.fold((b.node.op_type,), xs, shape, np.bool_, fn)
    return b.emit(op, xs[::-1] if swap else xs, shape, dtype=np.bool_)


@operator
def Equal_7(b: Builder, x: Value, y: Value) -> Value:
    return compare(b, "Equal", x, y, np.equal)


@operator
def Less_7(b: Builder, x: Value, y: Value) -> Value:
    return compare(b, "Less", x, y, np.less)


@operator
def Greater_7(b: Builder, x: Value, y: Value) -> Value:
    return compare(b, "Less", x, y, np.greater, swap=True)


@operator
def LessOrEqual_12(b: Builder, x: Value, y: Value) -> Value:
    return compare(b, "LessOrEqual", x, y, np.less_equal)


@operator
def GreaterOrEqual_12(b: Builder, x: Value, y: Value) -> Value:
    return compare(b, "LessOrEqual", x, y, np.greater_equal, swap=True)


def logical(b: Builder, op: str, x: Value, y: Value, fn: Callable[[Array, Array], Any]) -> Value:
    """The same of two bools."""
    for v in (x, y):
        if v.dtype != np.bool_:
            b.fail(f"input {v.name!r} is {v.dtype}, expected bool")
    return _bools(b, op, [x, y], fn)


@operator
def And_7(b: Builder, x: Value, y: Value) -> Value:
    return logical(b, "Min", x, y, np.logical_and)


@operator
def Or_7(b: Builder, x: Value, y: Value) -> Value:
    return logical(b, "Max", x, y, np.logical_or)


@operator
def Xor(b: Builder, x: Value, y: Value) -> Value:
    return _not(b, logical(b, "Equal", x, y, np.equal))


@operator
def Not(b: Builder, x: Value) -> Value:
    if x.dtype != np.bool_:
        b.fail(f"input {x.name!r} is {x.dtype}, expected bool")
    return _not(b, x)


def _not(b: Builder, x: Value) -> Value:
    if x.is_const:
        return b.fold(("Not",), [x], x.shape, np.bool_, np.logical_not)
    return b.emit("Equal", [x, b.const(np.zeros((), np.bool_))], x.shape, dtype=np.bool_)


@operator
def IsNaN_9(b: Builder, x: Value) -> Value:
    if x.is_const:
        return b.fold(("isnan",), [x], x.shape, np.bool_, np.isnan)
    x = b.f32(x)
    return _not(b, b.emit("Equal", [x, x], x.shape, dtype=np.bool_))


@operator
def IsInf_10(b: Builder, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    x = b.f32(b.runtime(x))
    if detect_negative and detect_positive:
        x = b.emit("Abs", [x], x.shape)
    bound = math.inf if detect_positive else -math.inf
    found = b.emit("Equal", [x, b.const(np.array(bound, np.float32))], x.shape, dtype=np.bool_)
    return found if detect_negative or detect_positive else b.expand(b.const(np.array(False)), x.shape)


@operator
def Where_9(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    if condition.dtype != np.bool_:
        b.fail(f"the condition is {condition.dtype}, expected bool")
    if x.dtype != y.dtype and {x.dtype.kind, y.dtype.kind} == {"f"}:
        x, y = b.f32(x), b.f32(y)
    _same_type(b, x, y)
    shape = b.broadcast(condition.shape, x.shape, y.shape)
    if condition.is_const and x.is_const and y.is_const:
        return b.fold(("where",), [condition, x, y], shape, x.dtype, np.where)
    if condition.is_const and condition.size and condition.size <= 1 << 16:
        picked = b.array(condition)
        if picked.all() or not picked.any():
            return b.expand(x if picked.all() else y, shape)
    if x.dtype.kind == "f":
        x, y = b.f32(x), b.f32(y)
    return b.emit("Where", [condition, x, y], shape)


@operator
def If(b: Builder, condition: Value, *captured: Value, then_branch: OnnxBranch, else_branch: OnnxBranch) -> list[Value]:
    condition = b.constant(condition, "the condition")
    if condition.dtype != np.bool_:
        b.fail(f"the condition is {condition.dtype}, expected bool")
    branch = then_branch if b.number(condition, "the condition") else else_branch
    if len(branch.outputs) != len(b.node.outputs):
        b.fail(f"a branch has {len(branch.outputs)} outputs, expected {len(b.node.outputs)}")
    return b.enter_branch(branch)


# -- ranks ----------------------------------------------------------------------------------------------------------
def _countable(b: Builder, x: Value, axis: int) -> None:
    b.runtime(x)
    if x.dtype != np.float32 and x.dtype.kind not in "iub":
        b.unsupported(f"input {x.name!r} is {x.dtype}")
    if not 1 <= x.shape[axis] <= MAX_EXACT:
        b.fail(f"axis {axis} of input {x.name!r} has {x.shape[axis]} elements, expected 1 to 2^24")


def _arg(b: Builder, op: str, x: Value, axis: int, keepdims: int, last: int) -> Value:
    axis = b.axis(axis, x.rank)
    if x.rank == 0:
        b.fail("the input is a scalar")
    _countable(b, x, axis)
    shape = [1 if i == axis else d for i, d in enumerate(x.shape) if keepdims or i != axis]
    within = (0, x.shape[axis] - 1)
    return b.integer(op, [x], shape, np.int64, within, axes=(axis,), keepdims=bool(keepdims), last=bool(last))


@operator
def ArgMax(b: Builder, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _arg(b, "ArgMax", x, axis, keepdims, select_last_index)


@operator
def ArgMin(b: Builder, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _arg(b, "ArgMin", x, axis, keepdims, select_last_index)


def _top_k(b: Builder, x: Value, k: int, axis: int, largest: int) -> list[Value]:
    axis = b.axis(axis, x.rank)
    _countable(b, x, axis)
    if not 0 <= k <= x.shape[axis]:
        b.fail(f"k is {k}, but axis {axis} of input {x.name!r} has {x.shape[axis]} elements")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    index = b.integer("TopK", [x], shape, np.int64, (0, x.shape[axis] - 1), axis=axis, k=k, largest=bool(largest))
    return [b.emit("Take", [x, index], shape, axis=axis), index]


@operator
def TopK(b: Builder, x: Value, *, k: int, axis: int = -1) -> list[Value]:
    return _top_k(b, x, k, axis, 1)


@operator
def TopK_10(b: Builder, x: Value, k: Value, *, axis: int = -1) -> list[Value]:
    return _top_k(b, x, int(b.number(k, "K")), axis, 1)


@operator
def TopK_11(b: Builder, x: Value, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> list[Value]:
    return _top_k(b, x, int(b.number(k, "K")), axis, largest)


@operator
def GatherElements_11(b: Builder, x: Value, indices: Value, *, axis: int = 0) -> Value:
    axis = b.axis(axis, x.rank)
    if indices.dtype.kind not in "iu" or indices.rank != x.rank:
        b.fail(f"indices ({indices.name!r}) are {indices.dtype} {indices.shape}, input {x.name!r} has shape {x.shape}")
    if any(i != axis and d != e for i, (d, e) in enumerate(zip(indices.shape, x.shape, strict=True))):
        b.unsupported(f"indices of shape {indices.shape} into only a part of {x.shape}")
    low, high = b.bounds(indices)
    length = x.shape[axis]
    if not -length <= low <= high < length:
        problem = f"indices ({indices.name!r}) may reach {low} to {high}, axis {axis} has {length} elements"
        b.fail(problem) if indices.is_const else b.unsupported(problem)
    if low < 0:
        if not indices.is_const:
            b.unsupported(f"indices ({indices.name!r}) may be negative")
        indices = b.fold(("wrap", length), [indices], indices.shape, np.int64, lambda a: a % length)
    if x.is_const and indices.is_const:
        return b.fold(("take", axis), [x, indices], indices.shape, x.dtype, lambda a, i: np.take_along_axis(a, i, axis))
    return b.emit("Take", [x, indices], indices.shape, axis=axis)


@operator
def OneHot_9(b: Builder, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    b.runtime(indices)
    count = int(b.number(depth, "depth"))
    if not 1 <= count <= MAX_TABLE:
        b.unsupported(f"depth is {count}, expected 1 to {MAX_TABLE}")
    if values.shape != (2,):
        b.fail(f"values ({values.name!r}) have shape {values.shape}, expected two")
    axis = b.axis(axis, indices.rank + 1)
    x = b.reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    shape = (*indices.shape[:axis], count, *indices.shape[axis:])
    along = [count if i == axis else 1 for i in range(len(shape))]
    numbers = np.arange(count).astype(indices.dtype)
    hot = b.emit("Equal", [x, b.const(numbers.reshape(along))], shape, dtype=np.bool_)
    if b.bounds(indices)[0] < 0:  # -1 is the last one
        wrapped = b.const((numbers - count).reshape(along))
        hot = b.emit("Max", [hot, b.emit("Equal", [x, wrapped], shape, dtype=np.bool_)], shape, dtype=np.bool_)
    off, on = (b.reshape(b.slice(values, [i], [1], [1]), ()) for i in (0, 1))
    return Where_9(b, hot, on, off)  # type: ignore[return-value]


@operator
def NonMaxSuppression_10(
    b: Builder,
    boxes: Value,
    scores: Value,
    most: Value | None = None,
    iou: Value | None = None,
    score: Value | None = None,
    *,
    center_point_box: int = 0,
) -> Value:
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4 or scores.shape[::2] != boxes.shape[:2]:
        b.fail(f"boxes have shape {boxes.shape} and scores {scores.shape}, expected (images, boxes, 4) and "
               f"(images, classes, boxes)")  # fmt: skip
    images, classes, count = scores.shape
    _countable(b, scores, 2)
    limit = 0 if most is None else int(b.number(most, "max_output_boxes_per_class"))
    threshold = 0.0 if iou is None else b.number(iou, "iou_threshold")
    if not 0.0 <= threshold <= 1.0:
        b.fail(f"iou_threshold is {threshold}, expected a number from 0 to 1")
    least = None if score is None else b.number(score, "score_threshold")
    if least is not None and math.isnan(least):
        b.fail("score_threshold is not a number")
    limit = max(0, min(limit, count))
    order = b.emit("TopK", [scores], scores.shape, dtype=np.int64, axis=2, k=count, largest=True)
    y = b.emit(
        "Suppress", [boxes, scores, order], (images * classes * limit, 3), dtype=np.int64,
        most=limit, iou=threshold, score=least, center=bool(center_point_box),
    )  # fmt: skip
    b.open_ended.add(y)
    return y
