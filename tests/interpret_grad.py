"""The meaning of the backward nodes and updates in float64 numpy; part of interpret.py. All images are N C H W here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fastconv.graph import Array, Node

Arrays = list[Array | None]


def _window(node: Node, x_shape: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple[int, int, Array, Array]]:
    """For each output pixel: its rows and columns of the image, those outside included."""
    at = node.attrs
    (kh, kw), (sh, sw), (dh, dw) = at["kernel_shape"], at.get("strides", (1, 1)), at.get("dilations", (1, 1))
    top, left = at.get("pads", (0, 0, 0, 0))[:2]
    for p in range(out[2]):
        for q in range(out[3]):
            yield p, q, p * sh + dh * np.arange(kh) - top, q * sw + dw * np.arange(kw) - left


def _taps(node: Node, w_shape: tuple[int, ...], x_shape: tuple[int, ...], out: tuple[int, ...]) -> Iterator[tuple]:
    """For each pair of an output pixel and a filter tap inside the image: (p, q, r, s, h, w)."""
    at = node.attrs
    (sh, sw), (dh, dw) = at.get("strides", (1, 1)), at.get("dilations", (1, 1))
    top, left = at.get("pads", (0, 0, 0, 0))[:2]
    for r in range(w_shape[2]):
        for s in range(w_shape[3]):
            for p in range(out[2]):
                for q in range(out[3]):
                    h, w = p * sh + r * dh - top, q * sw + s * dw - left
                    if 0 <= h < x_shape[2] and 0 <= w < x_shape[3]:
                        yield p, q, r, s, h, w


def conv_backward_input(node: Node, g: Array, w: Array) -> Array:
    dx, group = np.zeros(node.output.shape), node.attrs.get("group", 1)
    cg, kg = w.shape[1], w.shape[0] // group
    for p, q, r, s, h, ww in _taps(node, w.shape, dx.shape, g.shape):
        for i in range(group):
            k = slice(i * kg, (i + 1) * kg)
            dx[:, i * cg : (i + 1) * cg, h, ww] += g[:, k, p, q] @ w[k, :, r, s]
    return dx


def conv_backward_weight(node: Node, x: Array, g: Array) -> Array:
    dw, group = np.zeros(node.output.shape), node.attrs.get("group", 1)
    cg, kg = dw.shape[1], dw.shape[0] // group
    for p, q, r, s, h, w in _taps(node, dw.shape, x.shape, g.shape):
        for i in range(group):
            k = slice(i * kg, (i + 1) * kg)
            dw[k, :, r, s] += g[:, k, p, q].T @ x[:, i * cg : (i + 1) * cg, h, w]
    return dw


def max_pool_backward(node: Node, g: Array, x: Array) -> Array:
    dx = np.zeros(x.shape)
    for p, q, rows, cols in _window(node, x.shape, g.shape):
        inside = [(h, w) for h in rows for w in cols if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]]
        values = np.stack([x[:, :, h, w] for h, w in inside])
        first = values.argmax(axis=0)
        for i, (h, w) in enumerate(inside):
            dx[:, :, h, w] += np.where(first == i, g[:, :, p, q], 0.0)
    return dx


def average_pool_backward(node: Node, g: Array) -> Array:
    dx = np.zeros(node.output.shape)
    _, _, H, W = dx.shape
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    for p, q, rows, cols in _window(node, dx.shape, g.shape):
        inside = [(h, w) for h in rows for w in cols if 0 <= h < H and 0 <= w < W]
        count = len(inside)
        if node.attrs.get("count_include_pad", 0):
            count = sum(-top <= h < H + bottom and -left <= w < W + right for h in rows for w in cols)
        for h, w in inside:
            dx[:, :, h, w] += g[:, :, p, q] / count
    return dx


def derivative(of: tuple[str, float, float], v: Array, from_output: bool) -> Array:
    """dy/dx where v is y (from_output; the textbook says it) or x (differences say it)."""
    op, a, b = of
    if from_output:
        table: dict[str, Callable[[], Array]] = {
            "Relu": lambda: (v > 0) * 1.0,
            "Clip": lambda: ((v > a) & (v < b)) * 1.0,
            "LeakyRelu": lambda: np.where(v < 0, a, 1.0),
            "Elu": lambda: np.where(v < 0, v + a, 1.0),
            "Selu": lambda: np.where(v < 0, v + a * b, b),
            "Sigmoid": lambda: v * (1 - v),
            "HardSigmoid": lambda: ((v > 0) & (v < 1)) * a,
            "Tanh": lambda: 1 - v * v,
            "Exp": lambda: v,
            "Sqrt": lambda: 0.5 / v,
            "Reciprocal": lambda: -v * v,
        }
        return table[op]()
    from tests.interpret import activate

    h = 1e-4  # sixth-order differences: error about 1e-13
    d = [(activate(v + k * h, of) - activate(v - k * h, of)) / (2 * k * h) for k in (1, 2, 3)]
    return 1.5 * d[0] - 0.6 * d[1] + 0.1 * d[2]


def _probabilities(x: Array, target: Array, smoothing: float) -> tuple[Array, Array]:
    z = x - x.max(axis=1, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    shares = np.eye(x.shape[1])[target.astype(int)] if target.ndim == 1 else target
    return log, shares * (1 - smoothing) + smoothing / x.shape[1]


def _moments(node: Node, x: Array) -> tuple[Array, Array, tuple[int, ...], Array]:
    """(normalised, deviation, axes of a mean, x in the shape in which they are meant)."""
    if node.op.startswith("Group"):
        z, axes = x.reshape(x.shape[0], node.attrs["groups"], -1), (2,)
    else:
        z, axes = x, (node.attrs["axis"],)
    deviation = np.sqrt(z.var(axis=axes, keepdims=True) + node.attrs["epsilon"])
    return (z - z.mean(axis=axes, keepdims=True)) / deviation, deviation, axes, z


def norm_backward(node: Node, g: Array, x: Array, scale: Array | None) -> list[Array]:
    axis = 1 if node.op.startswith("Group") else node.attrs["axis"]
    along = [-1 if i == axis else 1 for i in range(x.ndim)]
    others = tuple(i for i in range(x.ndim) if i != axis)
    hat, deviation, axes, z = _moments(node, x)
    gx = (g if scale is None else g * scale.reshape(along)).reshape(z.shape)
    mean, dot = gx.mean(axis=axes, keepdims=True), (gx * hat).mean(axis=axes, keepdims=True)
    dx = ((gx - mean - hat * dot) / deviation).reshape(x.shape)
    return [dx, (g * hat.reshape(x.shape)).sum(axis=others), g.sum(axis=others)]


def batch_norm_backward(node: Node, g: Array, x: Array, scale: Array, mean: Array, var: Array) -> list[Array]:
    c, axes = (1, -1, 1, 1), (0, 2, 3)
    deviation = np.sqrt(var + node.attrs["epsilon"])
    hat = (x - mean.reshape(c)) / deviation.reshape(c)
    dscale, dshift, n = (g * hat).sum(axis=axes), g.sum(axis=axes), g.size / scale.size
    dx = (scale / deviation).reshape(c) * (g - dshift.reshape(c) / n - hat * dscale.reshape(c) / n)
    return [dx, dscale, dshift]


def lrn_backward(node: Node, g: Array, x: Array) -> Array:
    at, C = node.attrs, x.shape[1]
    size, alpha, beta = at["size"], at.get("alpha", 1e-4), at.get("beta", 0.75)
    members = [range(max(0, i - (size - 1) // 2), min(C, i + size // 2 + 1)) for i in range(C)]
    base = at.get("bias", 1.0) + alpha / size * np.stack([(x[:, list(m)] ** 2).sum(axis=1) for m in members], axis=1)
    dx = g * base**-beta
    for i, m in enumerate(members):
        for j in m:
            dx[:, j] -= 2 * alpha * beta / size * g[:, i] * x[:, i] * base[:, i] ** (-beta - 1) * x[:, j]
    return dx


def dropout(node: Node, x: Array, seed: Array) -> Array:
    """Any mask that follows from the seed."""
    kept = np.random.default_rng(int(seed.reshape(()))).random(x.shape) >= node.attrs["rate"]
    return x * kept / (1 - node.attrs["rate"])


def evaluate_grad(node: Node, x: Arrays) -> list[Array] | None:
    """The outputs of a backward node; None for an operator that is none."""
    a: list[Array] = [np.zeros(0) if v is None else v for v in x]
    op, at = node.op, node.attrs
    if op == "UnaryBackward":
        return [a[0] * derivative(at["of"], a[1], at["from_output"])]
    if op == "SoftmaxBackward":
        return [a[1] * (a[0] - (a[0] * a[1]).sum(axis=at["axis"], keepdims=True))]
    if op == "LogSoftmaxBackward":
        return [a[0] - np.exp(a[1]) * a[0].sum(axis=at["axis"], keepdims=True)]
    if op == "SoftmaxCrossEntropy":
        log, shares = _probabilities(a[0], a[1], at.get("label_smoothing", 0.0))
        return [-(log * shares).sum(axis=1)]
    if op == "SoftmaxCrossEntropyBackward":
        log, shares = _probabilities(a[1], a[2], at.get("label_smoothing", 0.0))
        return [a[0][:, None] * (np.exp(log) * shares.sum(axis=1, keepdims=True) - shares)]
    if op == "BatchNormTrain":
        mean, var = a[0].mean(axis=(0, 2, 3)), a[0].var(axis=(0, 2, 3))
        c = (1, -1, 1, 1)
        y = (a[0] - mean.reshape(c)) / np.sqrt(var + at["epsilon"]).reshape(c) * a[1].reshape(c) + a[2].reshape(c)
        return [y, mean, var]
    if op == "SquaredNorm":
        return [np.array([sum((v**2).sum() for v in a)])]
    simple: dict[str, Callable[[], Array]] = {
        "ConvBackwardInput": lambda: conv_backward_input(node, a[0], a[1]),
        "ConvBackwardWeight": lambda: conv_backward_weight(node, a[0], a[1]),
        "GemmBackwardWeight": lambda: a[1].T @ a[0] if at.get("trans_b") else a[0].T @ a[1],
        "MaxPoolBackward": lambda: max_pool_backward(node, a[0], a[1]),
        "AveragePoolBackward": lambda: average_pool_backward(node, a[0]),
        "LRNBackward": lambda: lrn_backward(node, a[0], a[1]),
        "Dropout": lambda: dropout(node, a[0], a[1]),
    }
    if op in simple:
        return [simple[op]()]
    if op == "BatchNormBackward":
        return batch_norm_backward(node, *a)
    if op in ("LayerNormalizationBackward", "GroupNormalizationBackward"):
        return norm_backward(node, a[0], a[1], x[2])
    return None


def update(node: Node, x: Arrays) -> None:
    """Change the states x[0] (and slots x[2]) in place."""
    op, w, g = node.op, x[0], x[1]
    assert w is not None and g is not None
    if op == "MovingAverage":
        w[...] = node.attrs["momentum"] * w + (1 - node.attrs["momentum"]) * g
        return
    slots, hyper, factor = x[2], x[3], x[4] if len(x) > 4 else None
    assert hyper is not None
    g = g if factor is None else g * factor
    h = [float(v) for v in hyper]
    if node.attrs.get("decays"):
        w -= w * h[-1]
    if op == "Sgd":
        rate, momentum, nesterov = h[:3]
        if slots is None:
            w -= rate * g
        else:
            slots[0] = momentum * slots[0] - rate * g
            w += momentum * slots[0] - rate * g if nesterov else slots[0]
    elif op == "Adam":
        assert slots is not None
        slots[0] += (g - slots[0]) * h[1]
        slots[1] += (g * g - slots[1]) * h[2]
        w -= h[0] * slots[0] / (np.sqrt(slots[1]) + h[3])
    elif op == "RmsProp":
        assert slots is not None
        slots[0] += (g * g - slots[0]) * h[1]
        d = slots[0] + h[2]
        if node.attrs.get("centered"):
            slots[-1] += (g - slots[-1]) * h[1]
            d = d - slots[-1] ** 2
        step = h[0] * g / np.sqrt(d)
        if node.attrs.get("momentum"):
            slots[1] = h[3] * slots[1] + step
            step = slots[1]
        w -= step
    else:
        raise NotImplementedError(op)
