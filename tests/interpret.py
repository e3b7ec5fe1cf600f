"""A float64 numpy interpreter of Graph: the meaning of the vocabulary, written as obviously as possible.

`interpret(graph, feeds)` reads a logical graph (N C H W). With physical=True, Conv, the pools and LRN read and write
N H W C and every other operation follows the axes named by its attributes. Slow on purpose; only tests use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from fastconv.graph import Array, Graph, Node, Value
from tests import reference
from tests.interpret_grad import evaluate_grad, update

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _clip(x: Array, low: float, high: float) -> Array:
    return np.minimum(np.maximum(x, low), high)


def _gelu(x: Array, tanh: bool) -> Array:
    if tanh:
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def activate(x: Array, activation: tuple[str, float, float]) -> Array:
    """The fused form (operator, alpha, beta) of every activation, and the unary operators through `unary`."""
    op, a, b = activation
    table: dict[str, Callable[[], Array]] = {
        "Relu": lambda: np.maximum(x, 0.0),
        "Clip": lambda: _clip(x, a, b),
        "LeakyRelu": lambda: np.where(x < 0, a * x, x),
        "Elu": lambda: np.where(x < 0, a * np.expm1(np.minimum(x, 0.0)), x),
        "Selu": lambda: b * np.where(x < 0, a * np.expm1(np.minimum(x, 0.0)), x),
        "Sigmoid": lambda: _sigmoid(x),
        "HardSigmoid": lambda: _clip(a * x + b, 0.0, 1.0),
        "HardSwish": lambda: x * _clip(x / 6.0 + 0.5, 0.0, 1.0),
        "Swish": lambda: x * _sigmoid(x),
        "Tanh": lambda: np.tanh(x),
        "Gelu": lambda: _gelu(x, bool(a)),
        "Softplus": lambda: np.logaddexp(x, 0.0),
        "Mish": lambda: x * np.tanh(np.logaddexp(x, 0.0)),
        "Exp": lambda: np.exp(x),
        "Log": lambda: np.log(x),
        "Sqrt": lambda: np.sqrt(x),
        "Reciprocal": lambda: 1.0 / x,
        "Erf": lambda: _erf(x),
        "Neg": lambda: -x,
        "Abs": lambda: np.abs(x),
        "Floor": lambda: np.floor(x),
        "Ceil": lambda: np.ceil(x),
        "Trunc": lambda: np.trunc(x),
        "Round": lambda: np.rint(x),
        "Sign": lambda: np.sign(x),
        "RoundHalf": lambda: x.astype(np.float16).astype(np.float64),
    }
    return table[op]()


UNARY = frozenset(
    (
        "Relu",
        "Clip",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Tanh",
        "Gelu",
        "Softplus",
        "Mish",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Erf",
        "Neg",
        "Abs",
        "Floor",
        "Ceil",
        "Trunc",
        "Round",
        "Sign",
        "RoundHalf",
    )
)

BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Pow": np.power,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
}


def unary(node: Node, x: Array) -> Array:
    at = node.attrs
    parameters: dict[str, tuple[float, float]] = {
        "Clip": (at.get("min", -np.inf), at.get("max", np.inf)),
        "LeakyRelu": (at.get("alpha", 0.01), 0.0),
        "Elu": (at.get("alpha", 1.0), 0.0),
        "Selu": (at.get("alpha", 1.6732632423543772), at.get("gamma", 1.0507009873554805)),
        "HardSigmoid": (at.get("alpha", 0.2), at.get("beta", 0.5)),
        "Gelu": (float(at.get("approximate", "none") in ("tanh", True)), 0.0),
    }
    return activate(x, (node.op, *parameters.get(node.op, (0.0, 0.0))))


def conv(x: Array, w: Array, node: Node, out: tuple[int, ...]) -> Array:
    """x[N,C,H,W], w[K,C/group,R,S] to [N,K,P,Q]."""
    at = node.attrs
    (sh, sw), (dh, dw) = at.get("strides", (1, 1)), at.get("dilations", (1, 1))
    top, left, bottom, right = at.get("pads", (0, 0, 0, 0))
    group = at.get("group", 1)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    _, k, p, q = out
    cg, kg = x.shape[1] // group, k // group
    y = np.zeros(out)
    for g in range(group):
        xg = x[:, g * cg : (g + 1) * cg]
        for r in range(w.shape[2]):
            for s in range(w.shape[3]):
                tap = xg[:, :, r * dh : r * dh + sh * (p - 1) + 1 : sh, s * dw : s * dw + sw * (q - 1) + 1 : sw]
                y[:, g * kg : (g + 1) * kg] += np.einsum("nchw,kc->nkhw", tap, w[g * kg : (g + 1) * kg, :, r, s])
    return y


def pool(x: Array, node: Node, out: tuple[int, ...]) -> Array:
    """x[N,C,H,W] to [N,C,P,Q]. Averages count padding if count_include_pad, never what hangs over the padding."""
    at = node.attrs
    (kh, kw), (sh, sw), (dh, dw) = at["kernel_shape"], at.get("strides", (1, 1)), at.get("dilations", (1, 1))
    top, left, bottom, right = at.get("pads", (0, 0, 0, 0))
    average = node.op == "AveragePool"
    _, _, h, w = x.shape
    _, _, p, q = out
    below = max(0, (p - 1) * sh + (kh - 1) * dh + 1 - (h + top + bottom))
    beyond = max(0, (q - 1) * sw + (kw - 1) * dw + 1 - (w + left + right))
    pads = ((0, 0), (0, 0), (top, bottom + below), (left, right + beyond))
    padded = np.pad(x, pads, constant_values=0.0 if average else -np.inf)
    weight = np.zeros((h + top + bottom + below, w + left + right + beyond))
    if at.get("count_include_pad", 0):
        weight[: h + top + bottom, : w + left + right] = 1.0
    else:
        weight[top : top + h, left : left + w] = 1.0
    y = np.zeros(out)
    for i in range(p):
        for j in range(q):
            rows = i * sh + dh * np.arange(kh)
            cols = j * sw + dw * np.arange(kw)
            window = padded[:, :, rows[:, None], cols[None, :]]
            if average:
                y[:, :, i, j] = window.sum(axis=(2, 3)) / weight[rows[:, None], cols[None, :]].sum()
            else:
                y[:, :, i, j] = window.max(axis=(2, 3))
    return y


def lrn(x: Array, node: Node) -> Array:
    at = node.attrs
    size, c = at["size"], x.shape[1]
    total = np.zeros_like(x)
    for i in range(c):
        low, high = max(0, i - (size - 1) // 2), min(c, i + size // 2 + 1)
        total[:, i] = (x[:, low:high] ** 2).sum(axis=1)
    return x / (at.get("bias", 1.0) + at.get("alpha", 1e-4) / size * total) ** at.get("beta", 0.75)


def _along(vector: Array, rank: int, axis: int) -> Array:
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def _spatial(node: Node, x: list[Array | None], physical: bool) -> Array:
    """Conv, MaxPool, AveragePool, LRN: computed in N C H W."""
    first, out = x[0], node.output.shape
    assert first is not None
    if physical:
        first = np.moveaxis(first, -1, 1)
        out = (out[0], out[-1], *out[1:-1])
    if node.op == "Conv":
        w = x[1]
        assert w is not None
        if "scale" in node.attrs:
            w = w * np.asarray(node.attrs["scale"], np.float64)[:, None, None, None]
        y = conv(first, w, node, out)
        if len(x) > 2 and x[2] is not None:
            y = y + x[2][:, None, None]
    else:
        y = _image_operation(node, first, x, out)
    y = np.moveaxis(y, 1, -1) if physical else y
    return y + x[3] if len(x) > 3 and x[3] is not None else y


def _image_operation(node: Node, first: Array, x: list[Array | None], out: tuple[int, ...]) -> Array:
    if node.op == "LRN":
        return lrn(first, node)
    if node.op == "GroupNormalization":
        n, c = first.shape[:2]
        z = first.reshape(n, node.attrs["groups"], -1)
        z = (z - z.mean(axis=2, keepdims=True)) / np.sqrt(z.var(axis=2, keepdims=True) + node.attrs["epsilon"])
        y = z.reshape(first.shape)
        scale, shift = (None if v is None else v[:, None, None] for v in x[1:3])
        assert c == first.shape[1]
        return y * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)
    return pool(first, node, out)


def _layer_norm(node: Node, x: list[Array | None]) -> Array:
    first, axis = x[0], node.attrs["axis"]
    assert first is not None
    z = first - first.mean(axis=axis, keepdims=True)
    y = z / np.sqrt((z**2).mean(axis=axis, keepdims=True) + node.attrs["epsilon"])
    scale, shift = (None if v is None else _along(v, first.ndim, axis) for v in x[1:3])
    return y * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)


def _affine_sample(node: Node, x: Array, matrix: Array, physical: bool) -> Array:
    at = node.attrs
    images = x if physical else x.transpose(0, 2, 3, 1)
    p, q = node.output.shape[1:3] if physical else node.output.shape[2:]
    bilinear = at["interpolation"] == "bilinear"
    y = reference.affine_sample(images, matrix, (p, q), at["fill_mode"], bilinear, at["fill_value"])
    return y if physical else y.transpose(0, 3, 1, 2)


def _resample(node: Node, x: list[Array | None]) -> Array:
    first, index, weight = x
    assert first is not None and index is not None
    axis, taps = node.attrs["axis"], node.attrs["taps"]
    z = np.moveaxis(first, axis, 0)[index.astype(int).reshape(-1, taps)]  # [P, taps, ...]
    if weight is not None:
        z = z * weight.reshape(-1, taps, *[1] * (first.ndim - 1))
    return np.moveaxis(z.sum(axis=1), 0, axis)


def _arg(node: Node, x: Array) -> Array:
    """The first of equal extremes, or the last."""
    (axis,), last = node.attrs["axes"], bool(node.attrs["last"])
    z = np.flip(x, axis) if last else x
    y = np.expand_dims((np.argmax if node.op == "ArgMax" else np.argmin)(z, axis=axis), axis)
    y = x.shape[axis] - 1 - y if last else y
    return (y if node.attrs["keepdims"] else y.squeeze(axis)).astype(np.float64)


def _gemm(node: Node, x: list[Array | None]) -> Array:
    a, w = x[0], x[1]
    assert a is not None and w is not None
    y = a @ (w.T if node.attrs.get("trans_b") else w)
    if "scale" in node.attrs:
        y = y * np.asarray(node.attrs["scale"], np.float64)
    for extra in x[2:]:
        y = y if extra is None else y + extra
    return y


def _softmax(node: Node, x: Array) -> Array:
    axis = node.attrs["axis"]
    z = x - x.max(axis=axis, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return log if node.op == "LogSoftmax" else np.exp(log)


def _slice(node: Node, x: Array) -> Array:
    at = node.attrs
    index = [s + t * np.arange(d) for s, t, d in zip(at["starts"], at["steps"], node.output.shape, strict=True)]
    return x[np.ix_(*index)]


def _pad(node: Node, x: Array) -> Array:
    pads, mode = node.attrs["pads"], node.attrs.get("mode", "constant")
    if mode == "constant":
        cut = tuple(slice(max(0, -b), d - max(0, -a)) for (b, a), d in zip(pads, x.shape, strict=True))
        grow = [(max(0, b), max(0, a)) for b, a in pads]
        return np.pad(x[cut], grow, constant_values=node.attrs.get("value", 0.0))
    return np.pad(x, pads, mode=mode)


def evaluate(node: Node, x: list[Array | None], physical: bool = False) -> Array:
    """The output of one node for float64 inputs."""
    op, at, first = node.op, node.attrs, x[0]
    assert first is not None
    rank = first.ndim
    if op in ("Conv", "MaxPool", "AveragePool", "LRN", "GroupNormalization"):
        y = _spatial(node, x, physical)
    elif op in UNARY:
        y = unary(node, first)
    elif op in BINARY:
        assert x[1] is not None
        y = BINARY[op](first, x[1])
    elif op == "Gemm":
        y = _gemm(node, x)
    elif op == "MatMul":
        y = np.matmul(first, x[1])
    elif op == "Where":
        y = np.where(first != 0, x[1], x[2])  # type: ignore[arg-type]
    elif op == "LayerNormalization":
        y = _layer_norm(node, x)
    elif op == "Resample":
        y = _resample(node, x)
    elif op == "AffineSample":
        assert x[1] is not None
        y = _affine_sample(node, first, x[1], physical)
    elif op in ("ArgMax", "ArgMin"):
        y = _arg(node, first)
    elif op == "TopK":
        order = np.argsort(-first if at["largest"] else first, axis=at["axis"], kind="stable")
        y = np.take(order, range(at["k"]), axis=at["axis"]).astype(np.float64)
    elif op == "Take":
        assert x[1] is not None
        y = np.take_along_axis(first, x[1].astype(int), axis=at["axis"])
    elif op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"):
        reduce = {"ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceSum": np.sum}[op]
        y = np.asarray(reduce(first, axis=tuple(at["axes"]), keepdims=bool(at.get("keepdims", 1))))
    elif op == "BatchNormalization":
        axis = at.get("axis", 1)
        scale, bias, mean, var = (_along(v, rank, axis) for v in x[1:5] if v is not None)
        y = (first - mean) / np.sqrt(var + at.get("epsilon", 1e-5)) * scale + bias
    elif op == "Affine":
        assert x[1] is not None and x[2] is not None
        y = first * _along(x[1], rank, at["axis"]) + _along(x[2], rank, at["axis"])
    elif op in ("Softmax", "LogSoftmax"):
        y = _softmax(node, first)
    elif op == "Concat":
        y = np.concatenate([v for v in x if v is not None], axis=at["axis"])
    elif op == "Pad":
        y = _pad(node, first)
    elif op == "Slice":
        y = _slice(node, first)
    elif op == "Transpose":
        y = np.transpose(first, at["perm"])
    elif op == "Reshape":
        y = first.reshape(node.output.shape)
    elif op == "Expand":
        y = np.broadcast_to(first, node.output.shape)
    elif op == "Copy":
        y = first
    else:
        raise NotImplementedError(op)
    if "activation" in at:
        y = activate(y, at["activation"])
    if y.shape != node.output.shape:
        raise AssertionError(f"{node}: computed shape {y.shape}")
    return y


def interpret(
    graph: Graph,
    feeds: Mapping[str, Array],
    *,
    physical: bool = False,
    rounded: bool = False,
    states: Mapping[str, Array] | None = None,
) -> list[Array]:
    """The graph's outputs in float64. `rounded` stores each intermediate as float32, as an executor would.

    states: float64 arrays by name, which updates change in place.
    """
    known: dict[Value, Array] = {}
    for v in graph.inputs:
        known[v] = np.asarray(feeds[v.name], np.float64).reshape(v.shape)
    for v in graph.states:
        known[v] = (states or {})[v.name]

    def read(v: Value | None) -> Array | None:
        if v is None:
            return None
        return v.numpy().astype(np.float64).reshape(v.shape) if v.is_const else known[v]

    for node in graph.nodes:
        x = [read(v) for v in node.inputs]
        if not node.outputs:
            update(node, x)
            continue
        made = evaluate_grad(node, x)
        for v, y in zip(node.outputs, made or [evaluate(node, x, physical)], strict=True):
            y = np.asarray(y, order="C")
            if y.shape != v.shape:
                raise AssertionError(f"{node}: computed shape {y.shape}")
            known[v] = y.astype(np.float32).astype(np.float64) if rounded else y
    return [known[v] if v in known else v.numpy().astype(np.float64) for v in graph.outputs]
