"""What every operation means: plain numpy in float64, as obvious as can be.

Images are N H W C, filters [K, C/groups, R, S], pads (top, left, bottom, right). Every function takes arrays of any
float type and returns float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Function = Callable[[Array], Array]


# -- element by element -------------------------------------------------------------------------------------------
def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.ravel()]).reshape(x.shape)


def _erfc(x: Array) -> Array:
    return np.array([math.erfc(v) for v in x.ravel()]).reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _gelu_tanh(x: Array) -> Array:  # (1 + tanh u) / 2 = sigmoid(2 u)
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


UNARY: dict[str, Callable[[Array, float, float], Array]] = {
    "identity": lambda x, a, b: x,
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "elu": lambda x, a, b: _elu(x, a),
    "selu": lambda x, a, b: b * _elu(x, a),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "hard_sigmoid": lambda x, a, b: np.maximum(0, np.minimum(1, a * x + b)),
    "hard_swish": lambda x, a, b: x * np.maximum(0, np.minimum(1, x / 6 + 0.5)),
    "swish": lambda x, a, b: x * _sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "gelu": lambda x, a, b: x * _erfc(-x / math.sqrt(2)) / 2,  # 1 + erf(z) = erfc(-z)
    "gelu_tanh": lambda x, a, b: _gelu_tanh(x),
    "softplus": lambda x, a, b: _softplus(x),
    "mish": lambda x, a, b: x * np.tanh(_softplus(x)),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: np.log(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "erf": lambda x, a, b: _erf(x),
    "neg": lambda x, a, b: -x,
    "abs": lambda x, a, b: np.abs(x),
    "floor": lambda x, a, b: np.floor(x),
    "ceil": lambda x, a, b: np.ceil(x),
    "trunc": lambda x, a, b: np.trunc(x),
    "round": lambda x, a, b: np.rint(x),
    "sign": lambda x, a, b: np.sign(x),
    "round_half": lambda x, a, b: x.astype(np.float16).astype(np.float64),
}

BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": np.maximum,
    "min": np.minimum,
    "pow": lambda a, b: a**b,
    "prelu": lambda a, b: np.where(a < 0, a * b, a),
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
}


def unary(x: AnyArray, func: str, alpha: float = 0.0, beta: float = 0.0) -> Array:
    with np.errstate(all="ignore"):
        return UNARY[func](np.asarray(x, np.float64), alpha, beta)


def activation(func: str = "identity", alpha: float = 0.0, beta: float = 0.0) -> Function:
    """`unary` with its parameters bound, for the `act` of other operations."""
    return lambda x: unary(x, func, alpha, beta)


IDENTITY = activation()


def binary(a: AnyArray, b: AnyArray, func: str, act: Function = IDENTITY) -> Array:
    with np.errstate(all="ignore"):
        return act(np.asarray(BINARY[func](np.asarray(a, np.float64), np.asarray(b, np.float64)), np.float64))


def affine(x: AnyArray, scale: AnyArray, shift: AnyArray, act: Function = IDENTITY) -> Array:
    """x [..., C] times scale [C] plus shift [C]."""
    return act(np.asarray(x, np.float64) * scale + shift)


# -- products -----------------------------------------------------------------------------------------------------
def conv2d(
    x: AnyArray,
    w: AnyArray,
    bias: AnyArray | None = None,
    residual: AnyArray | None = None,
    *,
    strides: Pair = (1, 1),
    dilations: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    groups: int = 1,
    act: Function = IDENTITY,
) -> Array:
    """x [N, H, W, C], w [K, C/groups, R, S], bias [K], residual [N, P, Q, K] -> [N, P, Q, K]."""
    K, Cg, R, S = w.shape
    top, left, bottom, right = pads
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    N, H, W, _ = padded.shape
    P = (H - (R - 1) * dilations[0] - 1) // strides[0] + 1
    Q = (W - (S - 1) * dilations[1] - 1) // strides[1] + 1
    y = np.zeros((groups, N * P * Q, K // groups))
    for r in range(R):
        for s in range(S):
            rows = r * dilations[0] + strides[0] * np.arange(P)
            columns = s * dilations[1] + strides[1] * np.arange(Q)
            taps = padded[:, rows][:, :, columns].reshape(N * P * Q, groups, Cg)
            weights = np.asarray(w[:, :, r, s], np.float64).reshape(groups, K // groups, Cg)
            y += taps.swapaxes(0, 1) @ weights.swapaxes(1, 2)
    y = y.swapaxes(0, 1).reshape(N, P, Q, K)
    if bias is not None:
        y += bias
    if residual is not None:
        y += residual
    return act(y)


def depthwise_conv2d(x: AnyArray, w: AnyArray, bias: AnyArray | None = None, residual: AnyArray | None = None, *,
                     strides: Pair = (1, 1), dilations: Pair = (1, 1), pads: Pads = (0, 0, 0, 0),
                     act: Function = IDENTITY) -> Array:  # fmt: skip
    """w [C * multiplier, 1, R, S]: output channel k reads input channel k // multiplier."""
    return conv2d(x, w, bias, residual, strides=strides, dilations=dilations, pads=pads, groups=x.shape[-1], act=act)


def linear(x: AnyArray, w: AnyArray, bias: AnyArray | None = None, residual: AnyArray | None = None,
           act: Function = IDENTITY) -> Array:  # fmt: skip
    """x [M, C], w [K, C], bias [K], residual [M, K] -> [M, K]."""
    y = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    if bias is not None:
        y += bias
    if residual is not None:
        y += residual
    return act(y)


def matmul(a: AnyArray, b: AnyArray) -> Array:
    return np.asarray(a, np.float64) @ np.asarray(b, np.float64)


# -- pooling and reductions ---------------------------------------------------------------------------------------
def _pool_cells(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> list[list[int]]:
    """The positions of each output's window along one axis; some may lie outside the image."""
    return [[p * stride - before + r * dilation for r in range(kernel)] for p in range(out)]


def pool_output(size: int, kernel: int, stride: int, dilation: int, before: int, after: int, ceil_mode: bool) -> int:
    """ONNX's output size; with ceil_mode the last window must still start in the image or the padding before it."""
    span = size + before + after - (kernel - 1) * dilation - 1
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + before else out


def max_pool2d(x: AnyArray, kernel: Pair, out: Pair, *, strides: Pair = (1, 1), dilations: Pair = (1, 1),
               pads: Pads = (0, 0, 0, 0)) -> Array:  # fmt: skip
    """Padding never wins; a window without any pixel gives -inf. `out` is (P, Q)."""
    N, H, W, C = x.shape
    y = np.full((N, *out, C), -np.inf)
    rows = _pool_cells(H, out[0], kernel[0], strides[0], dilations[0], pads[0])
    columns = _pool_cells(W, out[1], kernel[1], strides[1], dilations[1], pads[1])
    for p in range(out[0]):
        for q in range(out[1]):
            for h in rows[p]:
                for w in columns[q]:
                    if 0 <= h < H and 0 <= w < W:
                        y[:, p, q] = np.fmax(y[:, p, q], x[:, h, w])
    return y


def avg_pool2d(x: AnyArray, kernel: Pair, out: Pair, *, strides: Pair = (1, 1), dilations: Pair = (1, 1),
               pads: Pads = (0, 0, 0, 0), count_include_pad: bool = False) -> Array:  # fmt: skip
    """The divisor counts pixels, or cells up to the end of the padding; a window that counts nothing gives 0."""
    N, H, W, C = x.shape
    y = np.zeros((N, *out, C))
    rows = _pool_cells(H, out[0], kernel[0], strides[0], dilations[0], pads[0])
    columns = _pool_cells(W, out[1], kernel[1], strides[1], dilations[1], pads[1])
    for p in range(out[0]):
        for q in range(out[1]):
            count = 0
            for h in rows[p]:
                for w in columns[q]:
                    if 0 <= h < H and 0 <= w < W:
                        y[:, p, q] += x[:, h, w]
                        count += 1
                    elif count_include_pad and h < H + pads[2] and w < W + pads[3]:
                        count += 1
            y[:, p, q] /= max(count, 1)
    return y


def reduce(x: AnyArray, axes: Sequence[int], func: str) -> Array:
    fn: dict[str, Callable[..., Array]] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}
    y: Array = fn[func](np.asarray(x, np.float64), axis=tuple(axes))
    return y


def arg(x: AnyArray, func: str) -> Array:
    """[outer, n, inner] to [outer, inner]: the index of an extreme; func as the kernels call it."""
    last, fn = func.startswith("last_"), np.argmax if func.endswith("max") else np.argmin
    return fn(x[:, ::-1] if last else x, axis=1) * (-1 if last else 1) + (x.shape[1] - 1 if last else 0)


def normalize(
    x: AnyArray, scale: AnyArray | None, shift: AnyArray | None, epsilon: float
) -> Array:  # fmt: skip
    """x [outer, rows, groups, width]; scale and shift [groups, width]."""
    z = np.asarray(x, np.float64)
    y = (z - z.mean(axis=(1, 3), keepdims=True)) / np.sqrt(z.var(axis=(1, 3), keepdims=True) + epsilon)
    return y * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)


def resample(x: AnyArray, index: AnyArray, weight: AnyArray | None) -> Array:
    """x [outer, n, rows, C], index and weight [P, taps]."""
    taps = np.asarray(x, np.float64)[:, np.asarray(index, np.int64)]  # [outer, P, taps, rows, C]
    y: Array = (taps * (1.0 if weight is None else np.asarray(weight)[:, :, None, None])).sum(axis=2)
    return y


def softmax(x: AnyArray, axis: int, log: bool = False) -> Array:
    with np.errstate(all="ignore"):
        z = np.asarray(x, np.float64)
        z = z - z.max(axis=axis, keepdims=True)
        total = np.exp(z).sum(axis=axis, keepdims=True)
        y: Array = z - np.log(total) if log else np.exp(z) / total
        return y


def lrn(x: AnyArray, size: int, alpha: float, beta: float, bias: float) -> Array:
    """Across the last axis: channels c - (size - 1) // 2 to c + size // 2."""
    square, C = np.asarray(x, np.float64) ** 2, x.shape[-1]
    y = np.empty(x.shape)
    for c in range(C):
        near = square[..., max(0, c - (size - 1) // 2) : min(C, c + size // 2 + 1)].sum(axis=-1)
        y[..., c] = x[..., c] / (bias + alpha / size * near) ** beta
    return y


# -- moving -------------------------------------------------------------------------------------------------------
def copy(x: AnyArray, perm: Sequence[int]) -> Array:
    y: Array = np.asarray(x, np.float64).transpose(perm)
    return y


def pad(x: AnyArray, pads: Sequence[Pair], mode: str = "constant", value: float = 0.0) -> Array:
    """pads: (before, after) for each axis; negative ones crop. mode: constant, edge or reflect."""
    y = np.asarray(x, np.float64)
    for axis, (before, after) in enumerate(pads):
        n = y.shape[axis]
        index = np.arange(-before, n + after)
        if mode == "constant":
            inside = (index >= 0) & (index < n)
            shape = [1] * y.ndim
            shape[axis] = index.size
            y = np.where(inside.reshape(shape), np.take(y, np.clip(index, 0, n - 1), axis), value)
        elif mode == "edge":
            y = np.take(y, np.clip(index, 0, n - 1), axis)
        else:
            period = max(2 * (n - 1), 1)
            index %= period
            y = np.take(y, np.where(index < n, index, period - index), axis)
    return y


def affine_sample(
    x: Array, matrix: Array, size: tuple[int, int], fill: str, bilinear: bool, value: float = 0.0
) -> Array:
    """Images [N, H, W, C] sampled at columns a q + b p + t and rows d q + e p + u; each neighbour by itself."""
    n, h, w, c = x.shape
    y = np.zeros((n, *size, c))

    def pixel(image: Array, row: int, column: int) -> Array:
        modes = {"reflect": "symmetric", "wrap": "wrap", "nearest": "edge"}
        if fill == "constant":
            inside = 0 <= row < h and 0 <= column < w
            return image[row, column] if inside else np.full(c, value)
        rows, columns = (np.pad(np.arange(k), 400, mode=modes[fill])[400 + i] for k, i in ((h, row), (w, column)))
        return image[rows, columns]

    for i, p, q in np.ndindex(n, *size):
        a, b, t, d, e, u = matrix[i]
        column, row = a * q + b * p + t, d * q + e * p + u
        if not bilinear:
            y[i, p, q] = pixel(x[i], int(np.floor(row + 0.5)), int(np.floor(column + 0.5)))
            continue
        r, s = int(np.floor(row)), int(np.floor(column))
        for dr, ds in np.ndindex(2, 2):
            weight = abs(1 - dr - (row - r)) * abs(1 - ds - (column - s))
            y[i, p, q] += weight * pixel(x[i], r + dr, s + ds)
    return y
