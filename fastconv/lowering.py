"""One function per operation of a physical graph: append it to a Plan.

Each function is named after its operator and gets the compiler and the node. All geometry here is physical: images are
N H W C, a tensor is rows of its last axis with row stride `ld` (see passes/memory.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import _core, stems
from .errors import UnsupportedOpError
from .graph import Node
from .selection import Choice, Chosen, choice_name, shape_of
from .selection import Shape as ConvShape
from .views import View, broadcast_strides, collapse, row_strides

if TYPE_CHECKING:
    from .compiler import Compiler

Lowering = Callable[["Compiler", Node], None]
LOWERINGS: dict[str, Lowering] = {}

UNARY = {
    "Relu": "clip", "Clip": "clip", "LeakyRelu": "leaky_relu", "Elu": "elu", "Selu": "selu", "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid", "HardSwish": "hard_swish", "Swish": "swish", "Tanh": "tanh", "Softplus": "softplus",
    "Mish": "mish", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Erf": "erf",
    "Neg": "neg", "Abs": "abs", "Floor": "floor", "Ceil": "ceil", "Trunc": "trunc", "Round": "round", "Sign": "sign",
    "RoundHalf": "round_half",
}  # fmt: skip
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min", "Pow": "pow",
          "PRelu": "prelu", "Less": "less", "LessOrEqual": "less_equal", "Equal": "equal"}  # fmt: skip


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    def register(fn: Lowering) -> Lowering:
        for name in names:
            LOWERINGS[name] = fn
        return fn

    return register


# -- descriptors --------------------------------------------------------------------------------------------------
def activation(spec: tuple[str, float, float] | None) -> Any:
    """The fused attribute `activation` as the kernels' Activation."""
    if spec is None:
        return _core.Activation(func=_core.Func.identity)
    op, alpha, beta = spec
    if op == "Relu":
        return _core.Activation(func=_core.Func.clip, alpha=0.0, beta=math.inf)
    if op == "Gelu":
        return _core.Activation(func=_core.Func.gelu_tanh if alpha else _core.Func.gelu)
    return _core.Activation(func=getattr(_core.Func, UNARY[op]), alpha=alpha, beta=beta)


def unary_spec(node: Node) -> tuple[str, float, float]:
    """A unary node as (operator, alpha, beta), the form of the fused attribute."""
    a = node.attrs
    match node.op:
        case "Clip":
            lo, hi = a.get("min"), a.get("max")
            return "Clip", -math.inf if lo is None else float(lo), math.inf if hi is None else float(hi)
        case "Gelu":
            return "Gelu", 1.0 if a.get("approximate") == "tanh" else 0.0, 0.0
        case "Selu":
            return "Selu", float(a["alpha"]), float(a["gamma"])
        case _:
            return node.op, float(a.get("alpha", 0.0)), float(a.get("beta", 0.0))


# -- convolution and dense ----------------------------------------------------------------------------------------
@lowers("Conv")
def conv(c: Compiler, node: Node) -> None:
    shape = shape_of(node)
    chosen: Chosen = node.attrs["chosen"]
    N, H, W, C, K, P, Q, R, S = shape[:9]
    x, y = c.view(node.input(0)), c.view(node.output)
    bias, residual = node.optional(2), node.optional(3)
    res = c.view(residual) if residual is not None else None
    w, (top, left, _, _) = node.input(1), shape.pads
    geometry = dict(
        N=N, H=H, W=W, C=C, K=K, P=P, Q=Q, R=R, S=S, stride_h=shape.strides[0], stride_w=shape.strides[1],
        dilation_h=shape.dilations[0], dilation_w=shape.dilations[1], pad_t=top, pad_l=left, x_ld=x.ld, x_row=W * x.ld,
        x_image=H * W * x.ld, y_ld=y.ld, res_ld=res.ld if res else 0, act=activation(node.attrs.get("activation")),
    )  # fmt: skip
    x_tensor, seconds, choice, algorithm = c.tensor(x), chosen.seconds, chosen.choice, chosen.choice.algorithm
    group = 1
    if algorithm == "row_run":
        x_tensor, fields, border = stems.padded(c, node, shape, x, seconds)
        seconds -= border
        geometry.update(fields)
        group = stems.group_of(c, node, shape)
        geometry = stems.grouped(geometry, group, shape.strides[1])
    flops = 2 * N * P * Q * K * (C // shape.groups) * R * S
    moved = 4 * (N * H * W * C + w.size + node.output.size * (2 if res else 1))
    gate = node.optional(4)
    weights = c.packed(node, choice, group) if gate is None else _gated(c, node, choice, c.tensor(c.view(gate)))
    inputs = [x_tensor, weights, stems.repeated(c, bias, group), c.tensor(res) if res else -1]
    told: dict[str, Any] = {
        "seconds": seconds,
        "chosen_by": chosen.source if len(c.selection.candidates(shape, constant=w.is_const)) > 1 else "",
    }
    if algorithm == "winograd":
        _winograd(c, node, shape, choice, geometry, inputs, y, (flops, moved), told)
    elif algorithm == "depthwise":
        depthwise = _core.DepthwiseConv2d(multiplier=K // C, means=len(node.outputs) - 1, **geometry)
        _depthwise(c, node, depthwise, inputs, c.tensor(y), (flops, moved), told)
    else:
        desc = _core.Conv2d(groups=shape.groups, algorithm=getattr(_core.ConvAlgorithm, algorithm), **geometry)
        kernel = "grouped_conv2d" if algorithm == "grouped" else "conv2d"
        c.emit(kernel, desc, inputs, c.tensor(y), node, algorithm, flops, moved, **told)


def _gated(c: Compiler, node: Node, choice: Choice, gate: int) -> int:
    """The packed weights of a 1x1 convolution times the gate of their input channels, in the node's workspace."""
    widths = _core.conv2d_panels(node.output.shape[-1], c.isa)
    C = node.input(0).shape[-1]
    first, base, size = 0, c.workspace(node) // 4, C * sum(widths)
    for width, run in itertools.groupby(widths):
        shape = (len(list(run)), C, width)
        strides = row_strides(shape)
        desc = _core.Binary(
            rank=3, dims=shape, a_stride=strides, b_stride=(0, 1, 0), y_stride=strides, func=_core.BinaryFunc.mul,
            act=activation(None),
        )  # fmt: skip
        part = c.tensor(View("arena", None, base + first, (math.prod(shape),), (1,)))
        inputs = [c.packed_from(node, choice, first), gate]
        c.emit("binary", desc, inputs, part, node, "gate", math.prod(shape), 8 * math.prod(shape))
        first += math.prod(shape)
    return c.tensor(View("arena", None, base, (size,), (1,)))


def _depthwise(
    c: Compiler, node: Node, desc: Any, inputs: list[int], y: int, work: tuple[int, int], told: dict[str, Any]
) -> None:
    """One operation, or two where the sums of several bands of rows become the means of output 1."""
    if len(node.outputs) == 1:
        c.emit("depthwise_conv2d", desc, inputs, y, node, "depthwise", *work, **told)
        return
    N, P, _, K = node.output.shape
    means, bands = c.view(node.outputs[1]), _core.depthwise_bands(P)
    size = N * bands * K
    alone = bands == 1 and means.dense
    sums = c.tensor(means if alone else View("arena", None, c.workspace(node) // 4, (size,), (1,)))
    c.emit("depthwise_conv2d", desc, inputs, y, node, "depthwise+mean", *work, more=[sums], **told)
    if not alone:
        total = _core.Reduce(
            outer=N, n=bands, inner=K, x_outer=bands * K, x_n=K, y_outer=K if means.dense else means.ld,
            func=_core.ReduceFunc.sum,
        )  # fmt: skip
        c.emit("reduce", total, [sums], c.tensor(means), node, "mean", size, 4 * (size + N * K))


def _winograd(
    c: Compiler,
    node: Node,
    shape: ConvShape,
    choice: Choice,
    geometry: dict[str, Any],
    inputs: list[int],
    y: View,
    work: tuple[int, int],
    told: dict[str, Any],
) -> None:
    """One operation, or two with the transformed input of all tiles between them (see winograd_workspace)."""
    fields = ("N", "H", "W", "C", "K", "P", "Q", "pad_t", "pad_l", "x_image", "x_row", "x_ld", "y_ld", "res_ld", "act")
    form = dict(m=choice.m, r=max(shape.R, shape.S), axes=_core.winograd_axes(shape.R, shape.S))
    desc = _core.Winograd(pool=int("pooled" in node.attrs), **form, **{f: geometry[f] for f in fields})
    name = choice_name(choice, shape.R, shape.S)
    N, P, Q, C, K = (geometry[f] for f in ("N", "P", "Q", "C", "K"))
    size = _core.winograd_workspace(N, P, Q, C, K, **form) if c.target.splits_winograd else 0
    if size == 0:
        c.emit("winograd_conv2d", desc, inputs, c.tensor(y), node, name, *work, **told)
        return
    planes = c.tensor(View("arena", None, c.workspace(node) // 4, (size,), (1,)))
    moved = 4 * (geometry["x_image"] * N + size)
    first = min(told["seconds"] / 2, _core.moved_seconds(moved, c.isa))
    c.emit("winograd_input", desc, inputs[:1], planes, node, "tiles", 0, moved, seconds=first)
    told["seconds"] -= first
    c.emit("winograd_product", desc, [planes, *inputs[1:]], c.tensor(y), node, name, *work, **told)


@lowers("Gemm")
def gemm(c: Compiler, node: Node) -> None:
    x, y, w = c.view(node.input(0)), c.view(node.output), node.input(1)
    residual = node.optional(3)
    res = c.view(residual) if residual is not None else None
    M, C, K = x.rows, x.width, y.width
    lines = dict(x_ld=x.ld, y_ld=y.ld, res_ld=res.ld if res else 0, act=activation(node.attrs.get("activation")))
    inputs = [c.tensor(x), c.packed_linear(node), c.constant(node.optional(2)), c.tensor(res) if res else -1]
    work = 2 * M * C * K, 4 * (M * C + w.size + M * K)
    few = M <= _core.LINEAR_ROWS
    if few or not c.target.pixels_of_rows:
        how, seconds = "stream" if few else "gemm", _core.linear_seconds(M, C, K, c.isa)
        c.emit("linear", _core.Linear(M=M, C=C, K=K, **lines), inputs, c.tensor(y), node, how, *work, seconds=seconds)
        return
    sizes = dict(N=1, H=1, W=M, C=C, K=K, P=1, Q=M, R=1, S=1, groups=1)
    desc = _core.Conv2d(
        stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, x_row=M * x.ld, x_image=M * x.ld,
        algorithm=_core.ConvAlgorithm.gemm, **sizes, **lines,
    )  # fmt: skip
    shape = ConvShape(**sizes, strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))
    seconds = _core.conv2d_seconds(shape.core, "gemm", 0, c.isa)
    c.emit("conv2d", desc, inputs, c.tensor(y), node, "gemm", *work, seconds=seconds)


MAX_PRODUCTS = 4096  # calls that one MatMul may become


@lowers("MatMul")
def matmul(c: Compiler, node: Node) -> None:
    a, b, y = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output)
    M, K, N = a.shape[-2], a.shape[-1], b.shape[-1]
    lead = y.shape[:-2]
    a_lead, b_lead = broadcast_strides(_batch(a), lead), broadcast_strides(_batch(b), lead)
    dims, (sa, sb, sy) = collapse(lead or (1,), a_lead or (0,), b_lead or (0,), y.strides[:-2] or (0,))
    if math.prod(dims[:-1]) > MAX_PRODUCTS:
        raise UnsupportedOpError(f"node {node.name!r} (MatMul): batches of {list(a.shape)} x {list(b.shape)}")
    desc = _core.MatMul(
        batch=dims[-1], M=M, N=N, K=K, a_batch=sa[-1], a_ld=a.ld, b_batch=sb[-1], b_ld=b.ld, y_batch=sy[-1], y_ld=y.ld
    )
    # Batch axes that neither join nor broadcast alike: one call for each index of all but the last.
    for index in itertools.product(*map(range, dims[:-1])):
        parts = [
            View(v.kind, v.base, v.first + sum(i * s for i, s in zip(index, strides, strict=False)),
                 (dims[-1], *v.shape[-2:]), (strides[-1], *v.strides[-2:]))
            for v, strides in ((a, sa), (b, sb), (y, sy))
        ]  # fmt: skip
        ta, tb, ty = map(c.tensor, parts)
        c.emit("matmul", desc, [ta, tb], ty, node, "matmul", 2 * dims[-1] * M * N * K)


def _batch(v: View) -> View:
    return View(v.kind, v.base, v.first, v.shape[:-2], v.strides[:-2])


# -- pooling and reductions ---------------------------------------------------------------------------------------
@lowers("MaxPool", "AveragePool", "MaxPoolIndex")
def pool(c: Compiler, node: Node) -> None:
    x, y, a = c.view(node.input(0)), c.view(node.output), node.attrs
    (N, H, W, C), (_, P, Q, _) = x.shape, y.shape
    top, left, bottom, right = a["pads"]
    R, S = a["kernel_shape"]
    desc = _core.Pool2d(
        N=N, H=H, W=W, C=C, P=P, Q=Q, R=R, S=S, stride_h=a["strides"][0], stride_w=a["strides"][1],
        dilation_h=a["dilations"][0], dilation_w=a["dilations"][1], pad_t=top, pad_l=left, pad_b=bottom, pad_r=right,
        x_image=H * W * x.ld, x_row=W * x.ld, x_ld=x.ld, y_ld=y.ld,
        count_include_pad=int(a.get("count_include_pad", 0)), columns_first=int(a.get("columns_first", 0)),
    )  # fmt: skip
    name = {"MaxPool": "max_pool2d", "AveragePool": "avg_pool2d", "MaxPoolIndex": "max_pool2d_index"}[node.op]
    c.emit(name, desc, [c.tensor(x)], c.tensor(y), node, "pool", N * P * Q * C * R * S)


def _fold_axes(x: View, axes: Sequence[int]) -> tuple[int, int, int, int, int]:
    """(outer, n, inner, outer stride, n stride) of a reduction over neighbouring axes; see prepare._reductions."""
    first, last = axes[0], axes[-1]
    outer, n, inner = math.prod(x.shape[:first]), math.prod(x.shape[first : last + 1]), math.prod(x.shape[last + 1 :])
    stride_n = x.strides[last]
    stride_outer = x.strides[first - 1] if first > 0 else stride_n * n
    return outer, n, inner, stride_outer, stride_n


def parts_of_sum(node: Node) -> int:
    """Into how many parts a sum over all but the last axes is cut, each a chunk; 1 for other reductions.

    The sum over pixels of a gradient, for a bias, would else be cut by channels only, and read with gaps.
    """
    x, axes = node.input(0), node.attrs["axes"]
    n, inner = math.prod(x.shape[a] for a in axes), math.prod(x.shape[axes[-1] + 1 :])
    if node.op != "ReduceSum" or math.prod(x.shape[: axes[0]]) != 1 or inner == 1:
        return 1
    return int(min(64, n * inner // PART_ELEMENTS, n))


PART_ELEMENTS = 1 << 15
REDUCE = {"ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceSum": "sum", "ArgMax": "arg_max",
          "ArgMin": "arg_min"}  # fmt: skip


@lowers(*REDUCE)
def reduce(c: Compiler, node: Node) -> None:
    x, y, axes = c.view(node.input(0)), c.view(node.output), node.attrs["axes"]
    outer, n, inner, stride_outer, stride_n = _fold_axes(x, axes)
    y_outer = inner if y.dense else y.ld  # not dense: the slice of a concatenation, one row for each outer index
    func = ("last_" if node.attrs.get("last") else "") + REDUCE[node.op]
    parts = parts_of_sum(node)
    if parts > 1:
        _sum_in_parts(c, node, x, y, (n, inner, stride_n), parts)
        return
    desc = _core.Reduce(
        outer=outer, n=n, inner=inner, x_outer=stride_outer, x_n=stride_n, y_outer=y_outer,
        func=getattr(_core.ReduceFunc, func),
    )  # fmt: skip
    c.emit("reduce", desc, [c.tensor(x)], c.tensor(y), node, "reduce", outer * n * inner)


def _sum_in_parts(c: Compiler, node: Node, x: View, y: View, sizes: tuple[int, int, int], parts: int) -> None:
    """Sums of equally many rows, those of the rest, and their sum; `sizes`: n, inner, stride of n."""
    n, inner, step = sizes
    rows = n // parts
    whole, rest = n // rows, n % rows
    if whole > parts:
        whole, rest = parts, n - parts * rows

    def part(first: int, count: int) -> int:
        return c.tensor(View("arena", None, c.workspace(node) // 4 + first * inner, (count * inner,), (1,)))

    def total(outer: int, length: int) -> Any:
        return _core.Reduce(
            outer=outer, n=length, inner=inner, x_outer=rows * step, x_n=step, y_outer=inner, func=_core.ReduceFunc.sum
        )

    c.emit("reduce", total(whole, rows), [c.tensor(x)], part(0, whole), node, "parts", n * inner)
    if rest:
        tail = View(x.kind, x.base, x.first + whole * rows * step, (rest, inner), (step, 1))
        c.emit("reduce", total(1, rest), [c.tensor(tail)], part(whole, 1), node, "parts", 0, 4 * rest * inner)
    count = whole + (rest > 0)
    last = _core.Reduce(outer=1, n=count, inner=inner, x_outer=count * inner, x_n=inner, y_outer=inner,
                        func=_core.ReduceFunc.sum)  # fmt: skip
    c.emit("reduce", last, [part(0, count)], c.tensor(y), node, "sum", 0, 4 * count * inner)


@lowers("Softmax", "LogSoftmax")
def softmax(c: Compiler, node: Node) -> None:
    x, y, axis = c.view(node.input(0)), c.view(node.output), node.attrs["axis"]
    outer, n, inner, x_outer, x_n = _fold_axes(x, (axis,))
    _, _, _, y_outer, y_n = _fold_axes(y, (axis,))
    desc = _core.Softmax(
        outer=outer,
        n=n,
        inner=inner,
        x_outer=x_outer,
        x_n=x_n,
        y_outer=y_outer,
        y_n=y_n,
        log=int(node.op == "LogSoftmax"),
    )
    c.emit("softmax", desc, [c.tensor(x)], c.tensor(y), node, "softmax", 4 * outer * n * inner)


@lowers("LRN")
def lrn(c: Compiler, node: Node) -> None:
    x, y, a = c.view(node.input(0)), c.view(node.output), node.attrs
    desc = _core.Lrn(
        rows=x.rows, C=x.width, x_ld=x.ld, y_ld=y.ld, size=a["size"], alpha=a["alpha"], beta=a["beta"], bias=a["bias"]
    )
    c.emit("lrn", desc, [c.tensor(x)], c.tensor(y), node, "lrn", x.rows * x.width * (2 * a["size"] + 4))


# -- element by element -------------------------------------------------------------------------------------------
@lowers(*UNARY, "Gelu")
def unary(c: Compiler, node: Node) -> None:
    x, y = c.view(node.input(0)), c.view(node.output)
    desc = _core.Unary(rows=x.rows, n=x.width, x_ld=x.ld, y_ld=y.ld, act=activation(unary_spec(node)))
    c.emit("unary", desc, [c.tensor(x)], c.tensor(y), node, "rows", x.rows * x.width)


@lowers("Affine")
def affine(c: Compiler, node: Node) -> None:
    x, y = c.view(node.input(0)), c.view(node.output)
    axis = node.attrs.get("axis", -1) % max(len(x.shape), 1)
    if axis != len(x.shape) - 1:  # a tensor in ONNX order: two broadcast operations, the second in place
        last = activation(node.attrs.get("activation"))
        channel = tuple(int(i == axis) for i in range(len(x.shape)))
        steps = (("mul", x, node.input(1), activation(None)), ("add", y, node.input(2), last))
        for func, operand, vector, act in steps:
            dims, (da, db, dy) = collapse(y.shape, operand.strides, channel, y.strides)
            step = _core.Binary(
                rank=len(dims),
                dims=dims,
                a_stride=da,
                b_stride=db,
                y_stride=dy,
                func=getattr(_core.BinaryFunc, func),
                act=act,
            )
            inputs = [c.tensor(operand), c.constant(vector)]
            c.emit("binary", step, inputs, c.tensor(y), node, "broadcast", x.rows * x.width)
        return
    desc = _core.Affine(rows=x.rows, n=x.width, x_ld=x.ld, y_ld=y.ld, act=activation(node.attrs.get("activation")))
    inputs = [c.tensor(x), c.constant(node.input(1)), c.constant(node.input(2))]
    c.emit("affine", desc, inputs, c.tensor(y), node, "rows", 2 * x.rows * x.width)


@lowers(*BINARY)
def binary(c: Compiler, node: Node) -> None:
    a, b, y = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output)
    sa, sb = broadcast_strides(a, y.shape), broadcast_strides(b, y.shape)
    dims, (da, db, dy) = collapse(y.shape, sa, sb, y.strides)
    desc = _core.Binary(
        rank=len(dims), dims=dims, a_stride=da, b_stride=db, y_stride=dy,
        func=getattr(_core.BinaryFunc, BINARY[node.op]),
        act=activation(node.attrs.get("activation")),
    )  # fmt: skip
    c.emit("binary", desc, [c.tensor(a), c.tensor(b)], c.tensor(y), node, "broadcast", math.prod(dims))
