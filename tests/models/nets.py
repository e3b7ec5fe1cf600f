"""Small seeded CNNs as ONNX, with the structures of the families people export. NETS maps a name to its maker.

Each takes an image batch "input" [N, C, H, W] (nhwc: [N, H, W, C]) unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx

from .builder import Array, Builder

NETS: dict[str, Callable[[], onnx.ModelProto]] = {}


def net(make: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    NETS[make.__name__] = make
    return make


@cache
def serialized(name: str) -> bytes:
    return bytes(NETS[name]().SerializeToString())


def inputs(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, Array]:
    """Standard normal arrays for all inputs of a model."""
    constants = {t.name for t in model.graph.initializer}
    rng = np.random.default_rng(seed + batch)
    return {
        v.name: rng.standard_normal([d.dim_value or batch for d in v.type.tensor_type.shape.dim], dtype=np.float32)
        for v in model.graph.input
        if v.name not in constants
    }


# -- residual and plain ---------------------------------------------------------------------------------------------
def _bottleneck(b: Builder, x: str, mid: int, out: int, stride: int) -> str:
    y = b.conv_bn_relu(x, mid, 1)
    y = b.conv_bn_relu(y, mid, 3, stride)
    y = b.bn(b.conv(y, out, 1))
    short = x if stride == 1 and b.channels[x] == out else b.bn(b.conv(x, out, 1, stride))
    return b.relu(b.op("Add", y, short))


@net
def resnet() -> onnx.ModelProto:
    b = Builder(1, (3, 64, 64))
    x = b.conv_bn_relu(b.x, 16, 7, 2)
    x = b.pool("MaxPool", x, 3, 2, (1, 1, 1, 1))
    for mid, out, stride in ((8, 32, 1), (8, 32, 1), (20, 80, 2), (20, 80, 1)):
        x = _bottleneck(b, x, mid, out, stride)
    return b.model((b.head(x), [10]))


@net
def resnet_preactivation() -> onnx.ModelProto:
    """The sum is used twice, raw and activated, so the residual's epilogue must not swallow it."""
    b = Builder(2)
    x = b.conv(b.x, 24, 3)
    for stride in (1, 2):
        act = b.relu(b.bn(x))
        y = b.conv(b.relu(b.bn(b.conv(act, 24, 3, stride))), 24, 3)
        x = b.op("Add", b.conv(act, 24, 1, stride) if stride > 1 else x, y)
    return b.model((b.head(b.relu(b.bn(x))), [10]))


@net
def vgg() -> onnx.ModelProto:
    b = Builder(3, (3, 32, 32))
    x = b.x
    for out, convs in ((16, 2), (32, 2), (48, 3)):
        for _ in range(convs):
            x = b.relu(b.conv(x, out, 3, bias=True))
        x = b.pool("MaxPool", x, 2, 2)
    x = b.op("Flatten", x, axis=1)
    x = b.relu(b.dense(x, 48 * 4 * 4, 96))
    x = b.op("Dropout", x, b.const(0.5))
    x = b.relu(b.dense(x, 96, 64, trans_b=False))
    return b.model((b.op("Softmax", b.dense(x, 64, 17), axis=-1), [17]))


@net
def alexnet() -> onnx.ModelProto:
    """LRN, 11x11 stride 4, grouped 5x5, overlapping pools, a product with alpha and beta."""
    b = Builder(4, (3, 99, 99))
    x = b.relu(b.conv(b.x, 24, 11, 4, (2, 2, 2, 2), bias=True))
    x = b.pool("MaxPool", b.op("LRN", x, size=5, alpha=2e-2, beta=0.75, bias=1.0), 3, 2)
    x = b.relu(b.conv(x, 32, 5, group=2, bias=True))
    x = b.pool("MaxPool", b.op("LRN", x, size=3, alpha=5e-2, beta=0.5, bias=2.0), 3, 2)
    x = b.relu(b.conv(x, 36, 3, bias=True))
    x = b.op("Reshape", x, b.ints(0, -1), channels=36 * 25)
    w, c = b.const(b.normal(900, 20, std=0.05)), b.const(b.normal(20))
    x = b.op("Gemm", x, w, c, alpha=0.7, beta=1.3)
    return b.model((b.op("LogSoftmax", x, axis=1), [20]))


# -- branches and concatenations --------------------------------------------------------------------------------------
def _inception(b: Builder, x: str, include_pad: int) -> str:
    one = b.conv_bn_relu(x, 12, 1)
    seven = b.conv_bn_relu(b.conv_bn_relu(b.conv_bn_relu(x, 8, 1), 10, (1, 7)), 12, (7, 1))
    three = b.conv_bn_relu(x, 16, 1)
    three = b.concat(b.conv_bn_relu(three, 9, (1, 3)), b.conv_bn_relu(three, 7, (3, 1)))
    pool = b.pool("AveragePool", x, 3, 1, (1, 1, 1, 1), count_include_pad=include_pad)
    return b.concat(one, seven, three, b.conv_bn_relu(pool, 5, 1))


@net
def inception() -> onnx.ModelProto:
    b = Builder(5, (3, 41, 41))
    x = b.conv_bn_relu(b.x, 16, 3, 2, (0, 0, 0, 0))
    x = _inception(b, x, 1)
    reduced = b.conv_bn_relu(x, 20, 3, 2, (0, 0, 0, 0))
    x = b.concat(reduced, b.pool("MaxPool", x, 3, 2))
    x = _inception(b, x, 0)
    return b.model((b.head(x), [10]))


@net
def googlenet() -> onnx.ModelProto:
    """Pools in ceil mode whose last window is cut off, and a pool branch of stride 1."""
    b = Builder(6, (3, 50, 50))
    x = b.conv_bn_relu(b.x, 16, 7, 2)
    x = b.pool("MaxPool", x, 3, 2, ceil_mode=1)
    branch = b.conv_bn_relu(b.pool("MaxPool", x, 3, 1, (1, 1, 1, 1), ceil_mode=1), 8, 1)
    x = b.concat(b.conv_bn_relu(x, 8, 1), b.conv_bn_relu(b.conv_bn_relu(x, 6, 1), 16, 3), branch)
    x = b.pool("MaxPool", x, 2, 2, ceil_mode=1)
    x = b.pool("AveragePool", x, 3, 2, (1, 1, 0, 0), ceil_mode=1)
    return b.model((b.head(x), [10]))


@net
def densenet() -> onnx.ModelProto:
    b = Builder(7, (3, 48, 48))
    x = b.pool("MaxPool", b.conv_bn_relu(b.x, 16, 7, 2), 3, 2, (1, 1, 1, 1))
    for layers in (3, 4):
        features = [x]
        for _ in range(layers):
            y = b.concat(*features) if len(features) > 1 else x
            y = b.conv_bn_relu(b.relu(b.bn(y)), 24, 1)
            features.append(b.conv(y, 10, 3))
        x = b.concat(*features)
        x = b.pool("AveragePool", b.conv(b.relu(b.bn(x)), b.channels[x] // 2, 1), 2, 2)
    return b.model((b.head(b.relu(b.bn(x))), [10]))


@net
def squeezenet() -> onnx.ModelProto:
    """Fire modules, and a head that is a convolution followed by pooling."""
    b = Builder(8, (3, 49, 49))
    x = b.relu(b.conv(b.x, 20, 3, 2, (0, 0, 0, 0), bias=True))
    for squeeze, expand in ((6, 16), (8, 24)):
        x = b.pool("MaxPool", x, 3, 2, ceil_mode=1)
        s = b.relu(b.conv(x, squeeze, 1, bias=True))
        x = b.concat(b.relu(b.conv(s, expand, 1, bias=True)), b.relu(b.conv(s, expand, 3, bias=True)))
    x = b.relu(b.conv(x, 10, 1, bias=True))
    return b.model((b.op("Flatten", b.op("GlobalAveragePool", x)), [10]))


# -- channel shuffles ---------------------------------------------------------------------------------------------
def _shuffle_dynamic(b: Builder, x: str) -> str:
    """As torch's classic exporter writes it with a symbolic batch: the shape is computed by nodes."""
    c, shape = b.channels[x], b.op("Shape", x)
    n, h, w = (b.op("Gather", shape, b.const(i, np.int64, node=True), axis=0) for i in (0, 2, 3))
    half = b.op("Div", b.op("Gather", shape, b.const(1, np.int64, node=True), axis=0), b.const(2, np.int64, node=True))
    two = b.const(2, np.int64, node=True)
    axes = b.ints(0, node=True)
    split = b.op("Concat", *(b.op("Unsqueeze", v, axes) for v in (n, two, half, h, w)), axis=0)
    y = b.op("Transpose", b.op("Reshape", x, split), perm=[0, 2, 1, 3, 4])
    joined = b.op("Concat", *(b.op("Unsqueeze", v, axes) for v in (n, b.const(-1, np.int64), h, w)), axis=0)
    return b.op("Reshape", y, joined, channels=c)


def _shuffle_static(b: Builder, x: str, size: int) -> str:
    c = b.channels[x]
    y = b.op("Reshape", x, b.ints(-1, 2, c // 2, size, size))
    y = b.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return b.op("Reshape", y, b.ints(-1, c, size, size), channels=c)


def _shuffle_branch(b: Builder, x: str, out: int, stride: int) -> str:
    y = b.conv_bn_relu(x, out, 1)
    y = b.bn(b.conv(y, out, 3, stride, group=out))
    return b.conv_bn_relu(y, out, 1)


def _shufflenet(seed: int, dynamic: bool) -> onnx.ModelProto:
    b = Builder(seed, (3, 48, 48))
    x = b.pool("MaxPool", b.conv_bn_relu(b.x, 12, 3, 2), 3, 2, (1, 1, 1, 1))
    down = b.conv_bn_relu(b.bn(b.conv(x, 12, 3, 2, group=12)), 18, 1)
    x = b.concat(down, _shuffle_branch(b, x, 18, 2))
    x = _shuffle_dynamic(b, x) if dynamic else _shuffle_static(b, x, 6)
    if dynamic:
        first = b.op("Slice", x, b.ints(0), b.ints(18), b.ints(1), channels=18)
        second = b.op("Slice", x, b.ints(18), b.ints(2**63 - 1), b.ints(1), channels=18)
    else:
        first = b.op("Split", x, b.ints(18, 18), axis=1, outputs=2, channels=18)
        second = b.nodes[-1].output[1]
    x = b.concat(first, _shuffle_branch(b, second, 18, 1))
    x = _shuffle_dynamic(b, x) if dynamic else _shuffle_static(b, x, 6)
    x = b.mean(b.conv_bn_relu(x, 32, 1), keepdims=0)
    return b.model((b.dense(x, 32, 10), [10]))


@net
def shufflenet() -> onnx.ModelProto:
    return _shufflenet(9, dynamic=False)


@net
def shufflenet_computed_shapes() -> onnx.ModelProto:
    return _shufflenet(10, dynamic=True)


# -- depthwise and squeeze-and-excite ---------------------------------------------------------------------------------
def _mobilenet(seed: int, opset: int) -> onnx.ModelProto:
    b = Builder(seed, (3, 40, 40), opset=opset)
    x = b.clip(b.bn(b.conv(b.x, 16, 3, 2)), 0.0, 6.0)
    for out, expand, stride in ((24, 4, 2), (24, 6, 1), (40, 3, 2)):
        c = b.channels[x] * expand
        y = b.clip(b.bn(b.conv(x, c, 1)), 0.0, 6.0)
        y = b.clip(b.bn(b.conv(y, c, 3, stride, group=c)), 0.0, 6.0)
        y = b.bn(b.conv(y, out, 1))
        x = b.op("Add", x, y) if stride == 1 and b.channels[x] == out else y
    return b.model((b.head(x), [10]))


@net
def mobilenet_v2() -> onnx.ModelProto:
    return _mobilenet(11, opset=17)


@net
def mobilenet_v2_clip_attributes() -> onnx.ModelProto:
    return _mobilenet(12, opset=9)


def _swish(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("Sigmoid", x))


def _paddle_hard_swish(b: Builder, x: str) -> str:
    y = b.clip(b.op("Add", x, b.const(3.0)), 0.0, 6.0)
    return b.op("Div", b.op("Mul", x, y), b.const(6.0))


def _hard_swish_by_sigmoid(b: Builder, x: str) -> str:
    """As torch's exporter writes it before opset 14."""
    return b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _se(b: Builder, x: str, act: Callable[[str], str], gate: Callable[[str], str], pool: Callable[[str], str]) -> str:
    c = b.channels[x]
    y = act(b.conv(pool(x), max(c // 4, 4), 1, bias=True))
    return b.op("Mul", x, gate(b.conv(y, c, 1, bias=True)))


def _mbconv(b: Builder, x: str, out: int, kernel: int, stride: int, act: Callable[[str], str], gate: str) -> str:
    c = b.channels[x] * 3
    y = act(b.bn(b.conv(x, c, 1)))
    y = act(b.bn(b.conv(y, c, kernel, stride, group=c)))
    if gate == "HardSigmoid":
        y = _se(b, y, b.relu, lambda v: b.op("HardSigmoid", v, alpha=1 / 6, beta=0.5), b.mean)
    else:
        y = _se(b, y, act, lambda v: b.op(gate, v), lambda v: b.op("GlobalAveragePool", v))
    y = b.bn(b.conv(y, out, 1))
    return b.op("Add", y, x) if stride == 1 and b.channels[x] == out else y


def _efficient(b: Builder, act: Callable[[str], str], gate: str) -> onnx.ModelProto:
    x = act(b.bn(b.conv(b.x, 16, 3, 2)))
    for out, kernel, stride in ((24, 3, 2), (24, 5, 1), (33, 5, 2)):
        x = _mbconv(b, x, out, kernel, stride, act, gate)
    return b.model((b.head(act(b.bn(b.conv(x, 64, 1)))), [10]))


@net
def efficientnet() -> onnx.ModelProto:
    b = Builder(13, (3, 48, 48), opset=18)
    return _efficient(b, lambda v: _swish(b, v), "Sigmoid")


@net
def mobilenet_v3() -> onnx.ModelProto:
    b = Builder(14, (3, 40, 40))
    return _efficient(b, lambda v: b.op("HardSwish", v), "HardSigmoid")


@net
def mobilenet_v3_opset11() -> onnx.ModelProto:
    b = Builder(15, (3, 40, 40), opset=11)
    return _efficient(b, lambda v: _hard_swish_by_sigmoid(b, v), "HardSigmoid")


@net
def paddle_lcnet() -> onnx.ModelProto:
    b = Builder(16, (3, 40, 40), opset=11)
    return _efficient(b, lambda v: _paddle_hard_swish(b, v), "HardSigmoid")


@net
def senet_dense_gate() -> onnx.ModelProto:
    """The gate is two Gemms between reshapes, as in the original SENet."""
    b = Builder(17)
    x = b.conv_bn_relu(b.x, 32, 3, 2)
    y = b.op("Reshape", b.op("GlobalAveragePool", x), b.ints(0, -1))
    y = b.op("Sigmoid", b.dense(b.relu(b.dense(y, 32, 8, bias=False)), 8, 32, bias=False))
    y = b.op("Mul", b.op("Unsqueeze", y, b.ints(2, 3)), x)
    return b.model((b.head(b.relu(b.op("Add", y, x))), [10]))


@net
def regnet() -> onnx.ModelProto:
    b = Builder(18, (3, 48, 48))
    x = b.conv_bn_relu(b.x, 16, 3, 2)
    for out, group, stride in ((32, 4, 2), (32, 4, 1), (72, 3, 2)):
        y = b.conv_bn_relu(x, out, 1)
        y = b.conv_bn_relu(y, out, 3, stride, group=group)
        y = _se(b, y, b.relu, lambda v: b.op("Sigmoid", v), lambda v: b.op("GlobalAveragePool", v))
        y = b.bn(b.conv(y, out, 1))
        short = x if stride == 1 else b.bn(b.conv(x, out, 1, stride))
        x = b.relu(b.op("Add", short, y))
    return b.model((b.head(x), [10]))


@net
def depth_multiplier() -> onnx.ModelProto:
    b = Builder(19, (3, 29, 31))
    x = b.relu(b.bn(b.conv(b.x, 12, 5, 2, group=3)))
    x = b.relu(b.bn(b.conv(x, 24, 3, group=12, dilation=2)))
    x = b.relu(b.conv(x, 24, 3, (2, 1), (0, 1, 2, 1), group=24, bias=True))
    return b.model((b.head(b.conv_bn_relu(x, 20, 1)), [10]))
