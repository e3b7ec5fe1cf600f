"""Gradients in float64, as obvious as can be: what the backward kernels mean. Images are N H W C.

tests/test_reference_backward.py checks each against central differences of tests/reference.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def conv2d_input(
    g: Array, w: Array, shape: tuple[int, ...], *, strides: Pair = (1, 1), dilations: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0), groups: int = 1,
) -> Array:  # fmt: skip
    """dx[N, H, W, C] of g[N, P, Q, K] and w[K, C/groups, R, S]."""
    return _conv2d(None, g, w, shape, strides, dilations, pads, groups)[0]


def conv2d_weight(
    x: Array, g: Array, shape: tuple[int, ...], *, strides: Pair = (1, 1), dilations: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0), groups: int = 1,
) -> Array:  # fmt: skip
    """dw[K, C/groups, R, S] of x[N, H, W, C] and g[N, P, Q, K]."""
    return _conv2d(x, g, np.zeros(shape), x.shape, strides, dilations, pads, groups)[1]


def _conv2d(
    x: Array | None, g: Array, w: Array, shape: tuple[int, ...], strides: Pair, dilations: Pair, pads: Pads, groups: int
) -> tuple[Array, Array]:
    top, left, bottom, right = pads
    N, H, W, C = shape
    _, P, Q, K = g.shape
    _, Cg, R, S = w.shape
    Kg = K // groups
    g = g.astype(np.float64)
    padded = np.zeros((N, H + top + bottom, W + left + right, C))
    if x is not None:
        padded[:, top : top + H, left : left + W] = x
    dx, dw = np.zeros_like(padded), np.zeros((K, Cg, R, S))
    for group in range(groups):
        c, k = slice(group * Cg, (group + 1) * Cg), slice(group * Kg, (group + 1) * Kg)
        for r in range(R):
            for s in range(S):
                rows = slice(r * dilations[0], r * dilations[0] + strides[0] * (P - 1) + 1, strides[0])
                columns = slice(s * dilations[1], s * dilations[1] + strides[1] * (Q - 1) + 1, strides[1])
                dx[:, rows, columns, c] += g[..., k] @ w[k, :, r, s].astype(np.float64)
                dw[k, :, r, s] = np.einsum("npqk,npqc->kc", g[..., k], padded[:, rows, columns, c])
    return dx[:, top : top + H, left : left + W], dw


def _windows(size: int, outputs: int, kernel: int, stride: int, dilation: int, before: int) -> list[list[int]]:
    """For each output of an axis, the pixels of its window, in order; those outside the image are left out."""
    starts = [i * stride - before for i in range(outputs)]
    return [[h for h in range(s, s + kernel * dilation, dilation) if 0 <= h < size] for s in starts]


def max_pool2d(
    g: Array, x: Array, kernel: Pair, *, strides: Pair = (1, 1), pads: Pads = (0, 0, 0, 0), dilations: Pair = (1, 1)
) -> Array:
    """The first maximum of each window, row by row, gets its g."""
    N, H, W, _C = x.shape
    _, P, Q, _ = g.shape
    dx = np.zeros(x.shape)
    rows = _windows(H, P, kernel[0], strides[0], dilations[0], pads[0])
    columns = _windows(W, Q, kernel[1], strides[1], dilations[1], pads[1])
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                cells = [(h, w) for h in rows[p] for w in columns[q]]
                if not cells:
                    continue
                values = np.stack([x[n, h, w] for h, w in cells])
                for c, best in enumerate(values.argmax(axis=0)):
                    dx[(n, *cells[best], c)] += g[n, p, q, c]
    return dx


def avg_pool2d(
    g: Array, shape: tuple[int, ...], kernel: Pair, *, strides: Pair = (1, 1), pads: Pads = (0, 0, 0, 0),
    dilations: Pair = (1, 1), count_include_pad: bool = False,
) -> Array:  # fmt: skip
    _, H, W, _ = shape
    _, P, Q, _ = g.shape
    dx = np.zeros(shape)
    rows = _windows(H, P, kernel[0], strides[0], dilations[0], pads[0])
    columns = _windows(W, Q, kernel[1], strides[1], dilations[1], pads[1])
    tall = _windows(H + pads[0] + pads[2], P, kernel[0], strides[0], dilations[0], 0)
    wide = _windows(W + pads[1] + pads[3], Q, kernel[1], strides[1], dilations[1], 0)
    for p in range(P):
        for q in range(Q):
            count = len(tall[p]) * len(wide[q]) if count_include_pad else len(rows[p]) * len(columns[q])
            for h in rows[p]:
                for w in columns[q]:
                    dx[:, h, w] += g[:, p, q].astype(np.float64) / count
    return dx


# -- activations --------------------------------------------------------------------------------------------------
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu_tanh(x: Array) -> Array:
    k = math.sqrt(2.0 / math.pi)
    t = np.tanh(k * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x)


def _mish(x: Array) -> Array:
    t = np.tanh(np.logaddexp(x, 0.0))
    return t + x * (1 - t * t) * _sigmoid(x)


def slope(name: str, alpha: float, beta: float) -> Callable[[Array], Array]:
    """f'(x) by the name of Func; at corners torch's."""
    a, b = alpha, beta
    with np.errstate(over="ignore"):
        table: dict[str, Callable[[Array], Array]] = {
            "identity": np.ones_like,
            "clip": lambda x: 1.0 * ((x > a) & (x < b)),
            "leaky_relu": lambda x: np.where(x > 0, 1.0, a),
            "elu": lambda x: np.where(x > 0, 1.0, a * np.exp(np.minimum(x, 0))),
            "selu": lambda x: b * np.where(x > 0, 1.0, a * np.exp(np.minimum(x, 0))),
            "sigmoid": lambda x: _sigmoid(x) * _sigmoid(-x),
            "hard_sigmoid": lambda x: a * ((a * x + b > 0) & (a * x + b < 1)),
            "hard_swish": lambda x: np.where(x < -3, 0.0, np.where(x > 3, 1.0, x / 3 + 0.5)),
            "swish": lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
            "tanh": lambda x: 1 - np.tanh(x) ** 2,
            "gelu": lambda x: 0.5 * (1 + _erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
            "gelu_tanh": _gelu_tanh,
            "softplus": _sigmoid,
            "mish": _mish,
            "exp": np.exp,
            "log": lambda x: 1 / x,
            "sqrt": lambda x: 0.5 / np.sqrt(x),
            "reciprocal": lambda x: -1 / x**2,
            "erf": lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x),
            "neg": lambda x: -np.ones_like(x),
            "abs": np.sign,
            "round_half": np.ones_like,
            **dict.fromkeys(("floor", "ceil", "trunc", "round", "sign"), np.zeros_like),
        }
    return table[name]


# -- softmax ------------------------------------------------------------------------------------------------------
def softmax(g: Array, y: Array, axis: int) -> Array:
    return y * (g - (g * y).sum(axis=axis, keepdims=True))


def log_softmax(g: Array, y: Array, axis: int) -> Array:
    return g - np.exp(y) * g.sum(axis=axis, keepdims=True)


def _targets(target: Array, classes: int, smoothing: float) -> Array:
    t = np.eye(classes)[target.astype(int)] if target.ndim == 1 else target.astype(np.float64)
    return (1 - smoothing) * t + smoothing / classes


def cross_entropy_loss(x: Array, target: Array, smoothing: float) -> Array:
    z = x - x.max(axis=1, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    loss: Array = -(_targets(target, x.shape[1], smoothing) * log).sum(axis=1)
    return loss


def cross_entropy(g: Array, x: Array, target: Array, smoothing: float) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    t = _targets(target, x.shape[1], smoothing)
    return g[:, None] * (e / e.sum(axis=1, keepdims=True) * t.sum(axis=1, keepdims=True) - t)


# -- normalisations -----------------------------------------------------------------------------------------------
def batch_norm(g: Array, x: Array, scale: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """(dx, dscale, dshift) for rows [rows, C]."""
    inverse = 1 / np.sqrt(x.var(axis=0) + epsilon)
    z = (x - x.mean(axis=0)) * inverse
    dx = scale * inverse * (g - g.mean(axis=0) - z * (g * z).mean(axis=0))
    return dx, (g * z).sum(axis=0), g.sum(axis=0)


def normalize(g: Array, x: Array, scale: Array | None, epsilon: float) -> tuple[Array, Array, Array]:
    """(dx, dscale, dshift) for x[outer, rows, groups, width]; scale, dscale and dshift [groups, width]."""
    mean, var = x.mean(axis=(1, 3), keepdims=True), x.var(axis=(1, 3), keepdims=True)
    inverse = 1 / np.sqrt(var + epsilon)
    z = (x - mean) * inverse
    h = g if scale is None else g * scale
    dx = inverse * (h - h.mean(axis=(1, 3), keepdims=True) - z * (h * z).mean(axis=(1, 3), keepdims=True))
    return dx, (g * z).sum(axis=(0, 1)), g.sum(axis=(0, 1))


def lrn(g: Array, x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """Along the last axis."""
    C = x.shape[-1]
    low = [max(0, c - (size - 1) // 2) for c in range(C)]
    high = [min(C, c + size // 2 + 1) for c in range(C)]
    d = np.stack([bias + alpha / size * (x[..., low[c] : high[c]] ** 2).sum(axis=-1) for c in range(C)], axis=-1)
    dx = g * d**-beta
    t = g * x * d ** (-beta - 1)
    for c in range(C):
        dx[..., low[c] : high[c]] -= 2 * alpha * beta / size * x[..., low[c] : high[c]] * t[..., c : c + 1]
    return dx
