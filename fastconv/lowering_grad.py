"""Lowering of backward passes, batch statistics and updates; see lowering.py and the vocabulary in graph.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from . import _core
from .graph import Node, Value
from .lowering import activation, lowers
from .packing_states import pack_input_gradient, packed_bytes
from .views import View, row_strides

if TYPE_CHECKING:
    from .compiler import Compiler
    from .target import Target

ALIGN = 64  # bytes, of each part of a workspace


# -- what the memory plan must know -------------------------------------------------------------------------------
def prepare(node: Node, isa: _core.Isa, target: Target) -> Node:
    """`node`, or what takes its place, with the bytes of its workspace as an attribute."""
    if node.op == "ConvBackwardInput":
        if _is_forward(node):
            return _as_forward(node)
        node.attrs["workspace_bytes"] = packed_bytes(node, isa, target)
    elif node.op in ("ConvBackwardWeight", "GemmBackwardWeight"):
        x, grad = (_dense_view(v) for v in node.inputs if v is not None)
        desc, op = _weight_desc(node, x, grad)
        _core.prepare(desc, isa, op)
        whole = target.direct_gradients and desc.direct
        node.attrs["workspace_bytes"] = 0 if whole else 4 * target.extent(desc, isa, op)[1]
    elif node.op in ("BatchNormTrain", "BatchNormBackward"):
        image = node.input(0 if node.op == "BatchNormTrain" else 1)
        C = image.shape[-1]
        desc = _core.BatchNorm(rows=image.size // C, C=C, x_ld=C)
        parts = 4 * target.extent(desc, isa, _core.Op.batch_norm_stats)[1]
        node.attrs["workspace_bytes"] = _aligned(parts) + 4 * 3 * C
    elif node.op in ("LayerNormalizationBackward", "GroupNormalizationBackward"):
        desc = _norm_desc(node, *(_dense_view(v) for v in (node.input(0), node.input(1), node.output)))
        node.attrs["workspace_bytes"] = 4 * target.extent_more(desc, isa, _core.Op.normalize_backward)[0]
    elif node.op == "SquaredNorm":
        descs = [_core.SquaredNorm(n=v.size) for v in node.inputs if v is not None]
        sizes = [target.extent(d, isa, _core.Op.squared_norm)[1] for d in descs]
        node.attrs["workspace_bytes"] = 4 * sum(sizes)
    return node


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _dense_view(v: Value) -> View:
    return View("arena", None, 0, v.shape, row_strides(v.shape))


def _pads_forward(node: Node) -> tuple[int, int, int, int]:
    """Padding of the forward convolution that computes dx at stride 1."""
    a, (R, S) = node.attrs, node.input(1).shape[2:]
    reach_h, reach_w = (R - 1) * a["dilations"][0], (S - 1) * a["dilations"][1]
    top, left = reach_h - a["pads"][0], reach_w - a["pads"][1]
    (_, P, Q, _), (_, H, W, _) = node.input(0).shape, node.output.shape
    return top, left, H - (P + top - reach_h), W - (Q + left - reach_w)


def _is_forward(node: Node) -> bool:
    """Whether dx is a convolution of g with turned weights: stride 1, and no padding wider than the filter."""
    C, K, groups = node.output.shape[-1], node.input(0).shape[-1], node.attrs["group"]
    multiplied = groups > 1 and groups == C and K != C
    return tuple(node.attrs["strides"]) == (1, 1) and min(_pads_forward(node)) >= 0 and not multiplied


def _as_forward(node: Node) -> Node:
    attrs = {**node.attrs, "pads": _pads_forward(node), "turned": True}
    return Node("Conv", list(node.inputs), list(node.outputs), attrs, node.name)


def workspace(c: Compiler, node: Node, at: int, size: int) -> int:
    """The tensor of `size` elements, `at` bytes into the node's workspace."""
    return c.tensor(View("arena", None, (c.workspace(node) + at) // 4, (size,), (1,)))


# -- convolutions and dense layers --------------------------------------------------------------------------------
@lowers("ConvBackwardInput")
def conv_backward_input(c: Compiler, node: Node) -> None:
    g, dx, a = c.view(node.input(0)), c.view(node.output), node.attrs
    residual = node.optional(3)
    res = None if residual is None else c.view(residual)
    (N, H, W, C), (_, P, Q, K), (R, S) = dx.shape, g.shape, node.input(1).shape[2:]
    groups = a["group"]
    depthwise = groups > 1 and groups == C == K
    desc = _core.Conv2dBackwardInput(
        N=N, H=H, W=W, C=C, K=K, P=P, Q=Q, R=R, S=S, groups=groups, stride_h=a["strides"][0], stride_w=a["strides"][1],
        dilation_h=a["dilations"][0], dilation_w=a["dilations"][1], pad_t=a["pads"][0], pad_l=a["pads"][1], g_ld=g.ld,
        x_image=H * W * dx.ld, x_row=W * dx.ld, x_ld=dx.ld, res_ld=res.ld if res else 0,
    )  # fmt: skip
    inputs = [c.tensor(g), pack_input_gradient(c, node, depthwise), c.tensor(res) if res else -1]
    name = "depthwise_backward_input" if depthwise else "conv2d_backward_input"
    flops = 2 * N * P * Q * K * (C // groups) * R * S
    c.emit(name, desc, inputs, c.tensor(dx), node, "phases", flops)


def _weight_desc(node: Node, x: View, g: View) -> tuple[Any, Any]:
    """The descriptor and the kernel that computes the sums."""
    a, dw = node.attrs, node.output.shape
    if node.op == "GemmBackwardWeight":
        (M, C), K = x.shape, g.shape[1]
        strides = (C, 1) if a.get("trans_b") else (1, K)
        desc = _core.Conv2dBackwardWeight(
            N=1, H=1, W=M, C=C, K=K, P=1, Q=M, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            x_image=M * x.ld, x_row=M * x.ld, x_ld=x.ld, g_ld=g.ld, dw_k=strides[0], dw_c=strides[1], dw_tap=1,
        )  # fmt: skip
        return desc, _core.Op.conv2d_backward_weight
    (N, H, W, C), (_, P, Q, K), (_, cg, R, S) = x.shape, g.shape, dw
    desc = _core.Conv2dBackwardWeight(
        N=N, H=H, W=W, C=C, K=K, P=P, Q=Q, R=R, S=S, groups=a["group"], stride_h=a["strides"][0],
        stride_w=a["strides"][1], dilation_h=a["dilations"][0], dilation_w=a["dilations"][1], pad_t=a["pads"][0],
        pad_l=a["pads"][1], x_image=H * W * x.ld, x_row=W * x.ld, x_ld=x.ld, g_ld=g.ld, dw_k=cg * R * S, dw_c=R * S,
        dw_tap=1,
    )  # fmt: skip
    depthwise = a["group"] > 1 and a["group"] == C
    return desc, _core.Op.depthwise_backward_weight if depthwise else _core.Op.conv2d_backward_weight


@lowers("ConvBackwardWeight", "GemmBackwardWeight")
def backward_weight(c: Compiler, node: Node) -> None:
    x, g, dw = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output)
    desc, op = _weight_desc(node, x, g)
    _core.prepare(desc, c.isa, op)
    pixels, taps = math.prod(g.shape[:-1]), math.prod(node.output.shape)
    if c.target.direct_gradients and desc.direct:
        c.emit(op.name, desc, [c.tensor(x), c.tensor(g)], c.tensor(dw), node, "pixels", 2 * pixels * taps)
        return
    size = c.target.extent(desc, c.isa, op)[1]
    sums = workspace(c, node, 0, size)
    c.emit(op.name, desc, [c.tensor(x), c.tensor(g)], sums, node, "pixels", 2 * pixels * taps)
    c.emit("conv2d_backward_weight_sum", desc, [sums], c.tensor(dw), node, "sum", 0, 4 * (size + node.output.size))


# -- pooling ------------------------------------------------------------------------------------------------------
@lowers("MaxPoolBackward", "AveragePoolBackward")
def pool_backward(c: Compiler, node: Node) -> None:
    views, dx, a = [c.view(v) for v in node.inputs if v is not None], c.view(node.output), node.attrs
    g, x, y = views if len(views) == 3 else (views[0], dx, views[0])
    (N, H, W, C), (_, P, Q, _), (R, S) = dx.shape, g.shape, a["kernel_shape"]
    top, left, bottom, right = a["pads"]
    desc = _core.Pool2dBackward(
        N=N, H=H, W=W, C=C, P=P, Q=Q, R=R, S=S, stride_h=a["strides"][0], stride_w=a["strides"][1],
        dilation_h=a["dilations"][0], dilation_w=a["dilations"][1], pad_t=top, pad_l=left, pad_b=bottom, pad_r=right,
        g_ld=g.ld, x_ld=x.ld, y_ld=y.ld, dx_ld=dx.ld, count_include_pad=int(a.get("count_include_pad", 0)),
    )  # fmt: skip
    name = "max_pool2d_backward" if node.op == "MaxPoolBackward" else "avg_pool2d_backward"
    c.emit(name, desc, [c.tensor(v) for v in views], c.tensor(dx), node, "pool", N * P * Q * C * R * S)


# -- element by element -------------------------------------------------------------------------------------------
@lowers("UnaryBackward")
def unary_backward(c: Compiler, node: Node) -> None:
    g, v, dx = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output)
    desc = _core.UnaryBackward(
        rows=dx.rows, n=dx.width, g_ld=g.ld, v_ld=v.ld, y_ld=dx.ld, act=activation(node.attrs["of"]),
        from_output=int(node.attrs["from_output"]),
    )  # fmt: skip
    c.emit("unary_backward", desc, [c.tensor(g), c.tensor(v)], c.tensor(dx), node, "rows", 2 * dx.rows * dx.width)


@lowers("Dropout")
def dropout(c: Compiler, node: Node) -> None:
    x, y, seed = c.view(node.input(0)), c.view(node.output), c.view(node.input(1))
    desc = _core.Dropout(rows=x.rows, n=x.width, x_ld=x.ld, y_ld=y.ld, rate=node.attrs["rate"])
    c.emit("dropout", desc, [c.tensor(x), c.tensor(seed)], c.tensor(y), node, "rows", x.rows * x.width)


# -- softmax ------------------------------------------------------------------------------------------------------
@lowers("SoftmaxBackward", "LogSoftmaxBackward")
def softmax_backward(c: Compiler, node: Node) -> None:
    g, y, dx, axis = c.view(node.input(0)), c.view(node.input(1)), c.view(node.output), node.attrs["axis"]
    outer, n, inner = (math.prod(dx.shape[i:j]) for i, j in ((0, axis), (axis, axis + 1), (axis + 1, len(dx.shape))))

    def strides(v: View) -> tuple[int, int]:
        step = v.strides[axis]
        return (v.strides[axis - 1] if axis > 0 else step * n), step

    (go, gn), (yo, yn), (xo, xn) = map(strides, (g, y, dx))
    desc = _core.SoftmaxBackward(
        outer=outer, n=n, inner=inner, g_outer=go, g_n=gn, y_outer=yo, y_n=yn, x_outer=xo, x_n=xn,
        log=int(node.op == "LogSoftmaxBackward"),
    )  # fmt: skip
    c.emit("softmax_backward", desc, [c.tensor(g), c.tensor(y)], c.tensor(dx), node, "softmax", 4 * outer * n * inner)


@lowers("SoftmaxCrossEntropy", "SoftmaxCrossEntropyBackward")
def softmax_cross_entropy(c: Compiler, node: Node) -> None:
    views, out = [c.view(v) for v in node.inputs if v is not None], c.view(node.output)
    x, target = views[-2:]
    backward = node.op == "SoftmaxCrossEntropyBackward"
    desc = _core.SoftmaxCrossEntropy(
        M=x.rows, K=x.width, x_ld=x.ld, t_ld=target.ld, dx_ld=out.ld if backward else 0,
        one_hot=int(len(target.shape) == 1), smoothing=float(node.attrs.get("label_smoothing", 0.0)),
    )  # fmt: skip
    name = "softmax_cross_entropy_backward" if backward else "softmax_cross_entropy"
    c.emit(name, desc, [c.tensor(v) for v in views], c.tensor(out), node, "rows", 8 * x.rows * x.width)


# -- normalisation ------------------------------------------------------------------------------------------------
@lowers("BatchNormTrain")
def batch_norm_train(c: Compiler, node: Node) -> None:
    x, scale, shift = (c.view(node.input(i)) for i in range(3))
    y, mean, var = (c.view(v) for v in node.outputs)
    C = x.width
    desc = _core.BatchNorm(rows=x.rows, C=C, x_ld=x.ld, y_ld=y.ld, epsilon=node.attrs["epsilon"])
    size = c.target.extent(desc, c.isa, _core.Op.batch_norm_stats)[1]
    sums, factor = workspace(c, node, 0, size), workspace(c, node, _aligned(4 * size), C)
    tx, tm, moved = c.tensor(x), c.tensor(mean), 4 * x.rows * C
    c.emit("batch_norm_stats", desc, [tx], sums, node, "statistics", 4 * x.rows * C, moved)
    more = [c.tensor(var), factor]
    c.emit("batch_norm_finish", desc, [sums, c.tensor(scale)], tm, node, "statistics", 0, 4 * size, more=more)
    inputs = [tx, tm, factor, c.tensor(shift)]
    c.emit("batch_norm_apply", desc, inputs, c.tensor(y), node, "rows", 2 * x.rows * C, 2 * moved)


@lowers("BatchNormBackward")
def batch_norm_backward(c: Compiler, node: Node) -> None:
    g, x, scale, mean, var = (c.view(node.input(i)) for i in range(5))
    dx, dscale, dshift = (c.view(v) for v in node.outputs)
    C = x.width
    desc = _core.BatchNorm(rows=x.rows, C=C, x_ld=x.ld, g_ld=g.ld, y_ld=dx.ld, epsilon=node.attrs["epsilon"])
    size = c.target.extent(desc, c.isa, _core.Op.batch_norm_backward_stats)[1]
    sums, factors = workspace(c, node, 0, size), workspace(c, node, _aligned(4 * size), 3 * C)
    data, moved = [c.tensor(g), c.tensor(x), c.tensor(mean)], 8 * x.rows * C
    c.emit("batch_norm_backward_stats", desc, data, sums, node, "statistics", 4 * x.rows * C, moved)
    inputs, more = [sums, c.tensor(var), c.tensor(scale)], [c.tensor(dshift), factors]
    c.emit("batch_norm_backward_finish", desc, inputs, c.tensor(dscale), node, "statistics", 0, 4 * size, more=more)
    c.emit(
        "batch_norm_backward_apply", desc, [*data, factors], c.tensor(dx), node, "rows", 5 * x.rows * C, 3 * moved // 2
    )


def _norm_desc(node: Node, g: View, x: View, dx: View) -> Any:
    if node.op == "LayerNormalizationBackward":
        outer, rows, groups = x.rows, 1, 1
    else:
        outer, rows, groups = x.shape[0], math.prod(x.shape[1:-1]), node.attrs["groups"]
    return _core.NormalizeBackward(
        outer=outer, rows=rows, groups=groups, width=x.width // groups, g_outer=rows * g.ld, g_row=g.ld,
        x_outer=rows * x.ld, x_row=x.ld, dx_outer=rows * dx.ld, dx_row=dx.ld, epsilon=node.attrs["epsilon"],
    )  # fmt: skip


@lowers("LayerNormalizationBackward", "GroupNormalizationBackward")
def norm_backward(c: Compiler, node: Node) -> None:
    g, x, scale = c.view(node.input(0)), c.view(node.input(1)), node.optional(2)
    dx, dscale, dshift = (c.view(v) for v in node.outputs)
    desc, C = _norm_desc(node, g, x, dx), x.width
    size = c.target.extent_more(desc, c.isa, _core.Op.normalize_backward)[0]
    sums = workspace(c, node, 0, size)
    inputs = [c.tensor(g), c.tensor(x), -1 if scale is None else c.tensor(c.view(scale))]
    c.emit("normalize_backward", desc, inputs, c.tensor(dx), node, "normalize", 20 * x.rows * C, more=[sums])
    for i, out in enumerate((dscale, dshift)):
        part = workspace(c, node, 4 * i * C, size - i * C)
        total = _core.Reduce(outer=1, n=size // (2 * C), inner=C, x_outer=size, x_n=2 * C, y_outer=C,
                             func=_core.ReduceFunc.sum)  # fmt: skip
        c.emit("reduce", total, [part], c.tensor(out), node, "sum", size // 2, 2 * size)


@lowers("LRNBackward")
def lrn_backward(c: Compiler, node: Node) -> None:
    g, x, y = (c.view(node.input(i)) for i in range(3))
    dx, a = c.view(node.output), node.attrs
    desc = _core.LrnBackward(
        rows=x.rows, C=x.width, g_ld=g.ld, x_ld=x.ld, y_ld=y.ld, dx_ld=dx.ld, size=a["size"], alpha=a["alpha"],
        beta=a["beta"], bias=a["bias"],
    )  # fmt: skip
    flops = x.rows * x.width * (4 * a["size"] + 8)
    c.emit("lrn_backward", desc, [c.tensor(v) for v in (g, x, y)], c.tensor(dx), node, "lrn", flops)


# -- updates ------------------------------------------------------------------------------------------------------
UPDATES = {"Sgd": "sgd", "Adam": "adam", "RmsProp": "rmsprop"}


@lowers(*UPDATES)
def update(c: Compiler, node: Node) -> None:
    w, g, hyper = (c.view(node.input(i)) for i in (0, 1, 3))
    slots, factor, a = node.optional(2), node.optional(4), node.attrs
    momentum = slots is not None if node.op == "Sgd" else bool(a.get("momentum"))
    desc = _core.Optimizer(
        n=node.input(0).size, momentum=int(momentum), centered=int(a.get("centered", False)),
        decays=int(a.get("decays", False)),
    )  # fmt: skip
    inputs = [c.tensor(g), c.tensor(hyper), -1 if factor is None else c.tensor(c.view(factor))]
    more = [] if slots is None else [c.tensor(c.view(slots))]
    c.emit(UPDATES[node.op], desc, inputs, c.tensor(w), node, "step", 4 * desc.n, more=more)


@lowers("MovingAverage")
def moving_average(c: Compiler, node: Node) -> None:
    state, value = c.view(node.input(0)), c.view(node.input(1))
    desc = _core.MovingAverage(n=node.input(0).size, momentum=node.attrs["momentum"])
    c.emit("moving_average", desc, [c.tensor(value)], c.tensor(state), node, "step", 3 * desc.n)


@lowers("SquaredNorm")
def squared_norm(c: Compiler, node: Node) -> None:
    at = 0
    for v in node.inputs:
        assert v is not None
        desc = _core.SquaredNorm(n=v.size)
        size = c.target.extent(desc, c.isa, _core.Op.squared_norm)[1]
        c.emit(
            "squared_norm", desc, [c.tensor(c.view(v))], workspace(c, node, 4 * at, size), node, "squares", 2 * v.size
        )
        at += size
    total = _core.Reduce(outer=1, n=at, inner=1, x_outer=at, x_n=1, y_outer=1, func=_core.ReduceFunc.sum)
    c.emit("reduce", total, [workspace(c, node, 0, at)], c.tensor(c.view(node.output)), node, "sum", at, 4 * at)
