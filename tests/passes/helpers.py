"""Small graphs for the tests of the passes: a builder with shape inference, random graphs, and model skeletons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.graph import Array, Graph, Value


def out_size(size: int, k: int, stride: int, pads: int, dilation: int = 1) -> int:
    return (size + pads - (k - 1) * dilation - 1) // stride + 1


class Build:
    """A logical graph under construction; each method appends one node and returns its output."""

    def __init__(self, seed: int = 0) -> None:
        self.g = Graph("test")
        self.rng = np.random.default_rng(seed)

    def input(self, *shape: int, name: str = "x") -> Value:
        return self.g.add_input(name, shape)

    def const(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Value:
        return self.g.constant(self.rng.uniform(low, high, shape).astype(np.float32))

    def number(self, x: float, *shape: int) -> Value:
        return self.g.constant(np.full(shape, x, np.float32))

    def conv(
        self, x: Value, k: int, size: int = 1, *, stride: int = 1, pad: int = 0, group: int = 1, bias: bool = True
    ) -> Value:
        n, c, h, w = x.shape
        scale = 1.5 / math.sqrt(c // group * size * size)
        inputs = [x, self.const(k, c // group, size, size, low=-scale, high=scale), self.const(k) if bias else None]
        shape = (n, k, out_size(h, size, stride, 2 * pad), out_size(w, size, stride, 2 * pad))
        window: dict[str, Any] = {"strides": (stride, stride), "dilations": (1, 1), "group": group, "pads": (pad,) * 4}
        return self.g.add("Conv", inputs, shape, **window)

    def gemm(self, x: Value, k: int, *, trans_b: bool = True, bias: bool = True) -> Value:
        m, c = x.shape
        scale = 1.5 / math.sqrt(c)
        w = self.const(*((k, c) if trans_b else (c, k)), low=-scale, high=scale)
        return self.g.add("Gemm", [x, w, self.const(k) if bias else None], (m, k), trans_b=trans_b)

    def bn(self, x: Value) -> Value:
        c = x.shape[1]
        params = [self.const(c), self.const(c), self.const(c), self.const(c, low=0.3, high=2.0)]
        return self.g.add("BatchNormalization", [x, *params], x.shape, epsilon=1e-3)

    def un(self, op: str, x: Value, **attrs: Any) -> Value:
        return self.g.add(op, [x], x.shape, **attrs)

    def bin(self, op: str, a: Value, b: Value) -> Value:
        return self.g.add(op, [a, b], np.broadcast_shapes(a.shape, b.shape))

    def relu(self, x: Value) -> Value:
        return self.un("Relu", x)

    def add(self, a: Value, b: Value) -> Value:
        return self.bin("Add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.bin("Mul", a, b)

    def pool(self, op: str, x: Value, k: int, stride: int, pad: int = 0, **attrs: Any) -> Value:
        n, c, h, w = x.shape
        shape = (n, c, out_size(h, k, stride, 2 * pad), out_size(w, k, stride, 2 * pad))
        window: dict[str, Any] = {"strides": (stride, stride), "dilations": (1, 1), "pads": (pad,) * 4}
        return self.g.add(op, [x], shape, kernel_shape=(k, k), **{**window, **attrs})

    def mean(self, x: Value, axes: tuple[int, ...] = (2, 3), keepdims: int = 1, op: str = "ReduceMean") -> Value:
        shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes]
        return self.g.add(op, [x], shape, axes=axes, keepdims=keepdims)

    def reshape(self, x: Value, *shape: int) -> Value:
        return self.g.add("Reshape", [x], shape)

    def transpose(self, x: Value, *perm: int) -> Value:
        return self.g.add("Transpose", [x], [x.shape[a] for a in perm], perm=perm)

    def concat(self, axis: int, *parts: Value) -> Value:
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        return self.g.add("Concat", parts, shape, axis=axis)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        shape = list(x.shape)
        shape[axis] = len(range(start, stop, step))
        starts = tuple(start if a == axis else 0 for a in range(x.rank))
        steps = tuple(step if a == axis else 1 for a in range(x.rank))
        return self.g.add("Slice", [x], shape, starts=starts, steps=steps)

    def pad(self, x: Value, *pads: tuple[int, int], value: float = 0.0) -> Value:
        shape = [d + b + a for d, (b, a) in zip(x.shape, pads, strict=True)]
        return self.g.add("Pad", [x], shape, pads=pads, value=value, mode="constant")

    def shuffle(self, x: Value, g: int) -> Value:
        n, c, h, w = x.shape
        y = self.transpose(self.reshape(x, n, g, c // g, h, w), 0, 2, 1, 3, 4)
        return self.reshape(y, n, c, h, w)

    def done(self, *outputs: Value) -> Graph:
        self.g.outputs = list(outputs)
        return self.g


def feeds(graph: Graph, seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {v.name: rng.uniform(-2.0, 2.0, v.shape).astype(np.float32) for v in graph.inputs}


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# -- skeletons of well-known networks, small channels, full depth where memory is measured -----------------------
def resnet(
    blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 4, size: int = 64, n: int = 1, nhwc: bool = False
) -> Graph:
    b = Build()
    x = b.input(n, size, size, 3) if nhwc else b.input(n, 3, size, size)
    y = b.transpose(x, 0, 3, 1, 2) if nhwc else x
    y = b.relu(b.bn(b.conv(y, width, 7, stride=2, pad=3, bias=False)))
    y = b.pool("MaxPool", y, 3, 2, 1)
    for stage, count in enumerate(blocks):
        k = width << stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            z = b.relu(b.bn(b.conv(y, k, 1, bias=False)))
            z = b.relu(b.bn(b.conv(z, k, 3, stride=stride, pad=1, bias=False)))
            z = b.bn(b.conv(z, 4 * k, 1, bias=False))
            if not i:
                y = b.bn(b.conv(y, 4 * k, 1, stride=stride, bias=False))
            y = b.relu(b.add(z, y))
    y = b.mean(y)
    y = b.gemm(b.reshape(y, n, y.shape[1]), 10)
    return b.done(b.un("Softmax", y, axis=1))


def densenet(blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 4, size: int = 64, n: int = 1) -> Graph:
    b = Build()
    y = b.relu(b.bn(b.conv(b.input(n, 3, size, size), 2 * growth, 7, stride=2, pad=3, bias=False)))
    y = b.pool("MaxPool", y, 3, 2, 1)
    for stage, count in enumerate(blocks):
        features = [y]
        for _ in range(count):
            z = b.relu(b.bn(b.concat(1, *features)))
            z = b.relu(b.bn(b.conv(z, 4 * growth, 1, bias=False)))
            features.append(b.conv(z, growth, 3, pad=1, bias=False))
        y = b.bn(b.concat(1, *features))
        if stage + 1 < len(blocks):
            y = b.conv(b.relu(y), y.shape[1] // 2, 1, bias=False)
            y = b.pool("AveragePool", y, 2, 2, count_include_pad=0)
    y = b.mean(b.relu(y))
    return b.done(b.gemm(b.reshape(y, n, y.shape[1]), 10))


def inception(blocks: int = 4, width: int = 8, size: int = 32, n: int = 1) -> Graph:
    b = Build()
    y = b.relu(b.conv(b.input(n, 3, size, size), width, 3, stride=2, pad=1))
    for i in range(blocks):
        one = b.relu(b.bn(b.conv(y, width, 1)))
        three = b.relu(b.conv(b.relu(b.conv(y, width, 1)), 2 * width, 3, pad=1))
        split = b.relu(b.conv(y, width, 1))
        pair = b.concat(1, b.relu(b.conv(split, width, 3, pad=1)), b.relu(b.conv(split, width, 1)))
        pooled = b.relu(b.conv(b.pool("MaxPool", y, 3, 1, 1), width, 1))
        y = b.concat(1, one, three, pair, pooled)
        if i == 1:
            y = b.pool("MaxPool", y, 3, 2, 1)
    y = b.mean(y, keepdims=0)
    return b.done(b.gemm(y, 10))


def shufflenet(units: int = 3, width: int = 16, size: int = 16, n: int = 1) -> Graph:
    b = Build()
    y = b.relu(b.conv(b.input(n, 3, size, size), width, 3, stride=2, pad=1))
    for _ in range(units):
        half = width // 2
        left, right = b.slice(y, 1, 0, half), b.slice(y, 1, half, width)
        right = b.relu(b.bn(b.conv(right, half, 1)))
        right = b.bn(b.conv(right, half, 3, pad=1, group=half))
        right = b.relu(b.bn(b.conv(right, half, 1)))
        y = b.shuffle(b.concat(1, left, right), 2)
    return b.done(b.gemm(b.mean(y, keepdims=0), 10))


def efficientnet(blocks: int = 3, width: int = 8, size: int = 16, n: int = 1) -> Graph:
    b = Build()

    def swish(v: Value) -> Value:
        return b.mul(v, b.un("Sigmoid", v))

    y = swish(b.bn(b.conv(b.input(n, 3, size, size), width, 3, stride=2, pad=1)))
    for _ in range(blocks):
        z = swish(b.bn(b.conv(y, 4 * width, 1)))
        z = swish(b.bn(b.conv(z, 4 * width, 3, pad=1, group=4 * width)))
        gate = b.un("Sigmoid", b.conv(swish(b.conv(b.mean(z), 4, 1)), 4 * width, 1))
        z = b.bn(b.conv(b.mul(z, gate), width, 1))
        y = b.add(z, y)
    return b.done(b.gemm(b.reshape(b.mean(y), n, width), 10))


SKELETONS = {
    "resnet": lambda n: resnet((1, 2), n=n, size=32),
    "densenet": lambda n: densenet((3, 4), n=n, size=32),
    "inception": lambda n: inception(n=n),
    "shufflenet": lambda n: shufflenet(n=n),
    "efficientnet": lambda n: efficientnet(n=n),
    "resnet_nhwc": lambda n: resnet((1, 2), n=n, size=32, nhwc=True),
}


# -- random graphs ----------------------------------------------------------------------------------------------
def random_graph(seed: int, nodes: int = 14) -> Graph:
    """A random logical graph: images, vectors and reshaped things, branches, several outputs, repeated readers."""
    b = Build(seed)
    rng = b.rng
    n = int(rng.choice([1, 1, 2]))
    h, w = int(rng.choice([4, 6])), int(rng.choice([4, 6]))
    pool: list[Value] = [b.input(n, int(rng.choice([1, 2, 4, 6])), h, w)]
    if rng.random() < 0.3:
        pool.append(b.input(n, 4, h, w, name="x2"))

    def pick(rank: int | None = None, shape: tuple[int, ...] | None = None) -> Value | None:
        fit = [v for v in pool if (rank is None or v.rank == rank) and (shape is None or v.shape == shape)]
        if not fit:
            return None
        weights = np.arange(1, len(fit) + 1, dtype=float) ** 2
        return fit[int(rng.choice(len(fit), p=weights / weights.sum()))]

    for _ in range(nodes):
        made = _random_node(b, rng, pick, pool)
        if made is not None and made.size <= 4096:
            pool.append(made)
    made_by_nodes = [v for v in pool if v not in b.g.inputs] or [b.relu(pool[0])]
    count = min(len(made_by_nodes), int(rng.integers(1, 4)))
    last = made_by_nodes[-1]
    outputs = [made_by_nodes[int(i)] for i in rng.choice(len(made_by_nodes), count)]
    if last not in outputs:
        outputs.append(last)
    if rng.random() < 0.1:
        outputs.append(pool[0])  # a graph input as an output
    return b.done(*outputs)


UNARIES: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}),
    ("Clip", {"min": -0.5, "max": 1.0}),
    ("LeakyRelu", {"alpha": 0.1}),
    ("Elu", {"alpha": 0.7}),
    ("Selu", {"alpha": 1.6, "gamma": 1.05}),
    ("Sigmoid", {}),
    ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("HardSwish", {}),
    ("Swish", {}),
    ("Tanh", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Softplus", {}),
    ("Mish", {}),
    ("Neg", {}),
    ("Abs", {}),
]


KINDS = (
    *("where", "resample", "layernorm", "groupnorm", "rank"),
    *("conv", "bn", "un", "un", "arith", "add", "add", "concat", "concat", "slice", "slice", "pool", "mean", "affine"),
    *("transpose", "reshape", "reshape", "shuffle", "softmax", "pad", "gemm", "gate", "lrn"),
)


def _random_node(b: Build, rng: np.random.Generator, pick: Any, pool: list[Value]) -> Value | None:
    kind = str(rng.choice(KINDS))
    image, value = pick(4), pick()
    assert value is not None
    if kind in ("conv", "pool", "bn", "shuffle", "mean", "gate", "lrn") and image is None:
        return None
    if kind == "conv":
        size = int(rng.choice([1, 1, 3]))
        return b.conv(image, int(rng.choice([2, 4, 6])), size, pad=size // 2, bias=bool(rng.integers(2)))
    if kind == "pool":
        op = str(rng.choice(["MaxPool", "AveragePool"]))
        return b.pool(op, image, 3, 1, 1) if min(image.shape[2:]) >= 2 else None
    if kind == "bn":
        return b.bn(image)
    if kind == "lrn":
        return b.g.add("LRN", [image], image.shape, size=3, alpha=0.1, beta=0.75, bias=1.0)
    if kind == "shuffle":
        return b.shuffle(image, 2) if image.shape[1] % 2 == 0 else None
    if kind == "mean":
        return b.mean(image, keepdims=int(rng.integers(2)))
    if kind == "gate":
        return b.mul(image, b.un("Sigmoid", b.mean(image)))
    if kind == "un":
        op, attrs = UNARIES[int(rng.integers(len(UNARIES)))]
        return b.un(op, value, **attrs)
    if kind in ("arith", "affine"):
        axis = int(rng.integers(value.rank))
        shape = [d if a == axis else 1 for a, d in enumerate(value.shape)]
        c = b.const(*shape, low=0.5, high=1.5) if rng.random() < 0.7 else b.number(1.25)
        if kind == "affine":
            return b.add(b.mul(value, c), b.const(*shape))
        op = str(rng.choice(["Add", "Sub", "Mul", "Div"]))
        return b.bin(op, value, c) if rng.random() < 0.7 or op == "Div" else b.bin(op, c, value)
    if kind == "add":
        other = pick(shape=value.shape)
        return b.bin(str(rng.choice(["Add", "Add", "Mul", "Max"])), value, other)
    if kind == "concat":
        axis = int(rng.choice([1, 1, 1, int(rng.integers(value.rank))])) if value.rank > 1 else 0
        same = [v for v in pool if v.rank == value.rank and _matches(v, value, axis)]
        parts = [same[int(i)] for i in rng.integers(len(same), size=int(rng.integers(1, 4)))]
        return b.concat(axis, *parts, value)
    if kind in ("where", "resample", "layernorm", "groupnorm", "rank"):
        return _random_choice(b, rng, kind, value, image, pick)
    if kind == "slice":
        axis = int(rng.choice([min(1, value.rank - 1), int(rng.integers(value.rank))]))
        d = value.shape[axis]
        if d < 2:
            return None
        start = int(rng.integers(0, d - 1))
        return b.slice(value, axis, start, int(rng.integers(start + 1, d + 1)), int(rng.choice([1, 1, 1, 2])))
    if kind == "transpose":
        return b.transpose(value, *(int(a) for a in rng.permutation(value.rank)))
    if kind == "reshape":
        return _random_reshape(b, rng, value)
    if kind == "softmax":
        return b.un("Softmax", value, axis=int(rng.integers(value.rank)))
    if kind == "pad":
        return b.pad(value, *((int(rng.integers(2)), int(rng.integers(2))) for _ in range(value.rank)))
    n = value.shape[0]
    flat = value if value.rank == 2 else b.reshape(value, n, value.size // n)
    return b.gemm(flat, int(rng.choice([3, 4])), trans_b=bool(rng.integers(2)))


def _random_choice(
    b: Build, rng: np.random.Generator, kind: str, value: Value, image: Value | None, pick: Any
) -> Value | None:
    """What chooses, resizes and normalises."""
    if kind == "where":
        low = b.g.add("Less", [value, b.number(0.3333)], value.shape, dtype=np.bool_)
        return b.g.add("Where", [low, value, pick(shape=value.shape)], value.shape)
    if kind == "groupnorm":
        if image is None:
            return None
        c = image.shape[1]
        vectors = [b.const(c), b.const(c) if rng.random() < 0.5 else None]
        groups = int(rng.choice([g for g in range(1, c + 1) if c % g == 0]))
        return b.g.add("GroupNormalization", [image, *vectors], image.shape, groups=groups, epsilon=0.1)
    axis = int(rng.integers(value.rank))
    d = value.shape[axis]
    if kind == "layernorm":
        vectors = [b.const(d), b.const(d) if rng.random() < 0.5 else None]
        return b.g.add("LayerNormalization", [value, *vectors], value.shape, axis=axis, epsilon=0.1)
    shape = list(value.shape)
    shape[axis] = int(rng.integers(1, 6))
    if kind == "rank":
        k = shape[axis] = min(shape[axis], d)
        index = b.g.add("TopK", [value], shape, dtype=np.int64, axis=axis, k=k, largest=bool(rng.integers(2)))
        return b.g.add("Take", [value, index], shape, axis=axis)
    taps = int(rng.integers(1, 4))
    index = b.g.constant(rng.integers(0, d, shape[axis] * taps).astype(np.float32))
    weight = b.const(shape[axis] * taps) if taps > 1 else None
    return b.g.add("Resample", [value, index, weight], shape, axis=axis, taps=taps)


def _matches(a: Value, b: Value, axis: int) -> bool:
    return all(i == axis or d == e for i, (d, e) in enumerate(zip(a.shape, b.shape, strict=True)))


def _random_reshape(b: Build, rng: np.random.Generator, v: Value) -> Value:
    """Merge two neighbouring axes, split one, flatten, or add an axis of size 1."""
    shape = list(v.shape)
    a = int(rng.integers(len(shape)))
    kind = int(rng.integers(4))
    if kind == 0 and a + 1 < len(shape):
        shape[a : a + 2] = [shape[a] * shape[a + 1]]
    elif kind == 1 and shape[a] % 2 == 0 and len(shape) < 5:
        shape[a : a + 1] = [2, shape[a] // 2] if rng.random() < 0.5 else [shape[a] // 2, 2]
    elif kind == 2:
        shape = [shape[0], v.size // shape[0]]
    elif len(shape) < 5:
        shape.insert(a, 1)
    return b.reshape(v, *shape)
