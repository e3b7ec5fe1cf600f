"""Networks as the exporters of Keras (tf2onnx) and Paddle write them, and heads of detectors and segmenters."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .builder import Builder
from .nets import net


# -- Keras 3 through tf2onnx ----------------------------------------------------------------------------------------
def _to_nchw(b: Builder, x: str, channels: int) -> str:
    return b.op("Transpose", x, perm=[0, 3, 1, 2], channels=channels)


def _to_nhwc(b: Builder, x: str) -> str:
    return b.op("Transpose", x, perm=[0, 2, 3, 1])


def _keras_bn(b: Builder, x: str, channels: int) -> str:
    """In NHWC: a Mul and an Add with vectors along the last axis."""
    y = b.op("Mul", x, b.const(b.rng.uniform(0.5, 1.5, channels)))
    return b.op("Add", y, b.const(b.normal(channels, std=0.3)))


def _keras_conv(b: Builder, x: str, c: int, out: int, size: int, stride: int = 1, group: int = 1) -> str:
    """Padding SAME as tf2onnx resolves it, the weight from R S C K by a Transpose of a constant."""
    before, after = ((size - stride) // 2, (size - stride + 1) // 2) if size > stride else (0, 0)
    w = b.const(b.normal(size, size, c // group, out, std=(2.0 / (size * size * (c // group))) ** 0.5))
    kernel = b.op("Transpose", w, perm=[3, 2, 0, 1])
    y = b.op(
        "Conv", _to_nchw(b, x, c), kernel, channels=out, strides=[stride] * 2, group=group,
        pads=[before, before, after, after], kernel_shape=[size] * 2,
    )  # fmt: skip
    return _to_nhwc(b, y)


def _relu6(b: Builder, x: str) -> str:
    return b.op("Min", b.op("Relu", x), b.const(6.0))


def _keras_batch(b: Builder, x: str) -> str:
    """The batch as an int32 vector of one element: Shape, Cast, StridedSlice."""
    shape = b.op("Cast", b.op("Shape", x), to=TensorProto.INT32)
    return b.op("Squeeze", b.op("Slice", shape, b.ints(0), b.ints(1), b.ints(0)), b.ints(0))


def _keras_reshape(b: Builder, x: str, *shape: int) -> str:
    """Reshape to (batch, *shape) by a chain of Shape, Cast, Slice, Unsqueeze and Concat."""
    parts = [b.op("Unsqueeze", _keras_batch(b, x), b.ints(0))]
    parts += [b.op("Unsqueeze", b.const(d, np.int32), b.ints(0)) for d in shape]
    target = b.op("Cast", b.op("Concat", *parts, axis=0), to=TensorProto.INT64)
    return b.op("Reshape", x, target)


@net
def keras_resnet() -> onnx.ModelProto:
    """ZeroPadding2D before the stem and the pool, batch norm as Mul and Add, GlobalAveragePooling2D, MatMul and Add."""
    b = Builder(61, (64, 64, 3))
    x = b.op("Pad", b.x, b.ints(0, 3, 3, 0, 0, 3, 3, 0), b.const(0.0), mode="constant")
    w = b.op("Transpose", b.const(b.normal(7, 7, 3, 16, std=0.12)), perm=[3, 2, 0, 1])
    x = _to_nhwc(b, b.op("Conv", _to_nchw(b, x, 3), w, channels=16, strides=[2, 2], kernel_shape=[7, 7]))
    x = b.relu(_keras_bn(b, b.op("Add", x, b.const(b.normal(16, std=0.3))), 16))
    x = b.op("Pad", x, b.ints(0, 1, 1, 0, 0, 1, 1, 0), b.const(0.0), mode="constant")
    x = _to_nhwc(b, b.op("MaxPool", _to_nchw(b, x, 16), kernel_shape=[3, 3], strides=[2, 2]))
    c = 16
    for out, stride in ((24, 1), (24, 1), (40, 2)):
        y = b.relu(_keras_bn(b, _keras_conv(b, x, c, 12, 1, stride), 12))
        y = b.relu(_keras_bn(b, _keras_conv(b, y, 12, 12, 3), 12))
        y = _keras_bn(b, _keras_conv(b, y, 12, out, 1), out)
        if c != out:
            x = _keras_bn(b, _keras_conv(b, x, c, out, 1, stride), out)
        x, c = b.relu(b.op("Add", x, y)), out
    x = b.mean(x, (1, 2), keepdims=0)
    x = b.op("Add", b.op("MatMul", x, b.const(b.normal(c, 10, std=0.2))), b.const(b.normal(10)))
    return b.model((b.op("Softmax", x, axis=-1), [10]))


@net
def keras_mobilenet() -> onnx.ModelProto:
    """Depthwise convolutions, Relu6 as Min, squeeze and excite with reshapes by shape, Flatten by shape."""
    b = Builder(62, (32, 32, 3), opset=18)
    x = _relu6(b, _keras_bn(b, _keras_conv(b, b.x, 3, 16, 3, 2), 16))
    for stride in (1, 2):
        y = _relu6(b, _keras_bn(b, _keras_conv(b, x, 16, 48, 1), 48))
        w = b.op("Transpose", b.op("Reshape", b.const(b.normal(3, 3, 48, 1, std=0.4)), b.ints(3, 3, 1, 48)),
                 perm=[3, 2, 0, 1])  # fmt: skip
        pads = [1, 1, 1, 1] if stride == 1 else [0, 0, 1, 1]
        y = b.op("Conv", _to_nchw(b, y, 48), w, channels=48, group=48, strides=[stride] * 2, pads=pads)
        y = _relu6(b, _keras_bn(b, _to_nhwc(b, y), 48))
        gate = _keras_reshape(b, b.mean(y, (1, 2), keepdims=0), 1, 1, 48)
        gate = b.relu(_keras_conv(b, gate, 48, 12, 1))
        gate = b.op("Sigmoid", _keras_conv(b, gate, 12, 48, 1))
        y = _keras_bn(b, _keras_conv(b, b.op("Mul", y, gate), 48, 16, 1), 16)
        x = b.op("Add", x, y) if stride == 1 else y
    x = _keras_reshape(b, b.op("Mul", x, b.op("Sigmoid", x)), 8 * 8 * 16)
    x = b.op("Add", b.op("MatMul", x, b.const(b.normal(1024, 7, std=0.05))), b.const(b.normal(7)))
    return b.model((x, [7]))


@net
def keras_unet() -> onnx.ModelProto:
    """UpSampling2D and Conv2DTranspose in NHWC, joined with skips; pixel softmax at the end."""
    b = Builder(63, (16, 16, 3), opset=13)
    skip = b.relu(_keras_conv(b, b.x, 3, 8, 3))
    down = _to_nhwc(b, b.op("MaxPool", _to_nchw(b, skip, 8), kernel_shape=[2, 2], strides=[2, 2]))
    down = b.relu(_keras_conv(b, down, 8, 16, 3))
    up = b.op(
        "Resize", _to_nchw(b, down, 16), "", b.const([1, 1, 2, 2], node=True), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    x = b.relu(_keras_conv(b, b.op("Concat", _to_nhwc(b, up), skip, axis=3), 24, 8, 3))
    w = b.const(b.normal(8, 8, 2, 2, std=0.3))
    x = _to_nhwc(b, b.op("ConvTranspose", _to_nchw(b, x, 8), w, strides=[2, 2], channels=8))
    x = _keras_conv(b, x, 8, 4, 1)
    return b.model((b.op("Softmax", x, axis=-1), [32, 32, 4]))


# -- Paddle ---------------------------------------------------------------------------------------------------------
class Paddle(Builder):
    """All parameters are Constant nodes."""

    def const(self, value: object, dtype: object = np.float32, *, node: bool = True) -> str:
        return super().const(value, dtype, node=True)  # type: ignore[arg-type]

    def hard_swish(self, x: str) -> str:
        """x * Clip(x + 3, 0, 6) / 6"""
        gate = self.clip(self.op("Add", x, self.const([3.0])), 0.0, 6.0)
        return self.op("Div", self.op("Mul", x, gate), self.const([6.0]))

    def hard_sigmoid(self, x: str) -> str:
        return self.op("HardSigmoid", x, alpha=0.2, beta=0.5)


@net
def paddle_mobilenet() -> onnx.ModelProto:
    """PP-LCNet's blocks: hundreds of Constants, hard swish spelled out, Shape-Slice-Concat-Reshape before the head."""
    b = Paddle(64, opset=11)
    x = b.hard_swish(b.bn(b.conv(b.x, 16, 3, 2)))
    for i, out in enumerate((32, 32, 64, 64, 64)):
        x = b.hard_swish(b.bn(b.conv(x, b.channels[x], 5 if i > 2 else 3, 2 if i == 2 else 1, group=b.channels[x])))
        if i > 2:
            gate = b.relu(b.conv(b.op("GlobalAveragePool", x), 16, 1, bias=True))
            gate = b.hard_sigmoid(b.conv(gate, b.channels[x], 1, bias=True))
            x = b.op("Mul", x, gate)
        x = b.hard_swish(b.bn(b.conv(x, out, 1)))
    x = b.hard_swish(b.conv(b.op("GlobalAveragePool", x), 96, 1))
    batch = b.op("Slice", b.op("Cast", b.op("Shape", x), to=TensorProto.INT64), b.ints(0), b.ints(1), b.ints(0))
    x = b.op("Reshape", x, b.op("Concat", batch, b.ints(96), axis=0))
    x = b.op("Add", b.op("MatMul", x, b.const(b.normal(96, 10, std=0.1))), b.const(b.normal(10)))
    return b.model((b.op("Softmax", x, axis=1), [10]))


@net
def paddle_detector_neck() -> onnx.ModelProto:
    """A feature pyramid: Resize by 2 to sizes computed from shapes, leaky activation as Max."""
    b = Paddle(65, (3, 32, 32), opset=13)
    small = b.conv_bn_relu(b.conv_bn_relu(b.x, 16, 3, 2), 24, 3, 2)
    low = b.conv_bn_relu(small, 24, 3, 2)
    hw = b.op("Mul", b.op("Slice", b.op("Shape", low), b.ints(2), b.ints(4), b.ints(0)), b.ints(2, 2))
    sizes = b.op("Concat", b.op("Slice", b.op("Shape", low), b.ints(0), b.ints(2), b.ints(0)), hw, axis=0)
    up = b.op("Resize", low, "", "", sizes, mode="linear", coordinate_transformation_mode="align_corners")
    x = b.concat(up, small)
    x = b.bn(b.conv(x, 20, 3))
    x = b.op("Max", x, b.op("Mul", x, b.const(0.1)))
    return b.model((b.op("Sigmoid", b.conv(x, 6, 1, bias=True)), [6, 8, 8]))


# -- heads ----------------------------------------------------------------------------------------------------------
@net
def style_transfer() -> onnx.ModelProto:
    """Reflection padding, instance normalisation, up-sampling by Resize and by depth to space."""
    b = Builder(66, (3, 20, 24))
    x = b.op("Pad", b.x, b.ints(0, 0, 2, 2, 0, 0, 2, 2), mode="reflect")
    x = b.conv(x, 16, 3, 2)
    x = b.relu(b.op("InstanceNormalization", x, b.const(b.rng.uniform(0.5, 1.5, 16)), b.const(b.normal(16))))
    x = b.op(
        "Resize",
        x,
        "",
        b.const([1, 1, 2, 2], node=True),
        mode="cubic",
        coordinate_transformation_mode="pytorch_half_pixel",
    )
    x = b.conv(x, 32, 3)
    x = b.op("DepthToSpace", x, blocksize=2, mode="CRD", channels=8)
    return b.model((b.op("Tanh", b.conv(x, 3, 3, bias=True)), [3, 48, 56]))


@net
def convnext_block() -> onnx.ModelProto:
    """Depthwise 7x7, LayerNormalization in NHWC between Transposes, two dense layers with Gelu, layer scale."""
    b = Builder(67, (3, 32, 32), opset=20)
    x = b.conv(b.x, 24, 4, 4, (0, 0, 0, 0), bias=True)
    y = b.op("Transpose", b.conv(x, 24, 7, group=24, bias=True), perm=[0, 2, 3, 1])
    y = b.op("LayerNormalization", y, b.const(b.rng.uniform(0.5, 1.5, 24)), b.const(b.normal(24)), epsilon=1e-6)
    y = b.op("Gelu", b.op("Add", b.op("MatMul", y, b.const(b.normal(24, 96, std=0.2))), b.const(b.normal(96))))
    y = b.op("Add", b.op("MatMul", y, b.const(b.normal(96, 24, std=0.1))), b.const(b.normal(24)))
    y = b.op("Transpose", b.op("Mul", y, b.const(b.normal(24))), perm=[0, 3, 1, 2])
    return b.model((b.head(b.op("Add", x, y)), [10]))
