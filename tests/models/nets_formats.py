"""More of nets.py: what exporters of other frameworks and old files do, and operators that fuse with nothing."""

from __future__ import annotations

import numpy as np
import onnx

from .builder import Builder
from .nets import net


@net
def nhwc() -> onnx.ModelProto:
    """As tf2onnx writes a Keras model: NHWC input, a Transpose around each convolution, bias added in NHWC, SAME
    padding as asymmetric pads, MatMul + Add."""
    b = Builder(31, (41, 41, 3))
    x = b.x
    for c, out, stride, pads in ((3, 16, 2, (0, 0, 1, 1)), (16, 24, 1, (1, 1, 1, 1)), (24, 32, 2, (0, 0, 1, 1))):
        y = b.op("Transpose", x, perm=[0, 3, 1, 2], channels=c)
        y = b.conv(y, out, 3, stride, pads)
        y = b.op("Transpose", y, perm=[0, 2, 3, 1])
        x = b.relu(b.op("Add", y, b.const(b.normal(out, std=0.3))))
    y = b.op("Transpose", x, perm=[0, 3, 1, 2], channels=32)
    y = b.op("Transpose", b.pool("MaxPool", y, 2, 2), perm=[0, 2, 3, 1])
    y = b.op("Reshape", y, b.ints(-1, 5 * 5 * 32))
    y = b.relu(b.op("Add", b.op("MatMul", y, b.const(b.normal(800, 40, std=0.05))), b.const(b.normal(40))))
    y = b.op("Add", b.op("MatMul", y, b.const(b.normal(40, 9, std=0.2))), b.const(b.normal(9)))
    return b.model((b.op("Softmax", y, axis=-1), [9]))


@net
def nhwc_flatten_after_mean() -> onnx.ModelProto:
    b = Builder(32, (32, 32, 3))
    x = b.op("Transpose", b.x, perm=[0, 3, 1, 2], channels=3)
    x = b.conv_bn_relu(x, 20, 3, 2)
    x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    x = b.mean(x, (1, 2), keepdims=0)
    return b.model((b.dense(x, 20, 7), [7]))


@net
def asymmetric_pads() -> onnx.ModelProto:
    """Pads that differ on all sides, auto_pad in its three spellings, and an explicit Pad before a convolution."""
    b = Builder(33, (3, 37, 35))
    x = b.conv_bn_relu(b.x, 16, 3, 2, (0, 1, 2, 0))
    x = b.conv_bn_relu(x, 20, 3, 2, auto_pad="SAME_UPPER")
    x = b.pool("MaxPool", x, 3, 1, (0, 2, 1, 0))
    x = b.conv_bn_relu(x, 20, 4, auto_pad="SAME_LOWER")
    x = b.op("Pad", x, b.ints(0, 0, 1, 0, 0, 0, 0, 2), b.const(0.5), mode="constant")
    x = b.conv_bn_relu(x, 24, (3, 2), auto_pad="VALID")
    x = b.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    return b.model((b.head(x), [10]))


@net
def dilated() -> onnx.ModelProto:
    b = Builder(34, (3, 33, 33))
    x = b.conv_bn_relu(b.x, 16, 3, 2)
    x = b.conv_bn_relu(x, 16, 3, dilation=2)
    x = b.op("Add", x, b.conv_bn_relu(x, 16, 3, dilation=4, group=2))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1], dilations=[2, 2])
    return b.model((b.head(x), [10]))


@net
def old_ir() -> onnx.ModelProto:
    """IR 3 and opset 7: initializers are inputs too, Dropout has a ratio attribute, BatchNormalization comes last."""
    b = Builder(35, (3, 28, 28), opset=7)
    x = b.pool("MaxPool", b.conv_bn_relu(b.x, 12, 5), 2, 2)
    x = b.bn(b.relu(b.conv(x, 24, 3, 2, bias=True)))
    x = b.op("Dropout", b.op("Flatten", x, axis=1), ratio=0.5)
    x = b.dense(x, 24 * 7 * 7, 10)
    return b.model((b.op("Softmax", x, axis=1), [10]), ir_version=3)


@net
def activations() -> onnx.ModelProto:
    b = Builder(36, (3, 24, 24))
    x = b.op("LeakyRelu", b.bn(b.conv(b.x, 18, 3)), alpha=0.1)
    x = b.op("PRelu", b.bn(b.conv(x, 18, 3)), b.const(b.normal(18, 1, 1, std=0.3)))
    x = b.op("Elu", b.bn(b.conv(x, 18, 3, 2)), alpha=0.7)
    x = b.op("Selu", b.bn(b.conv(x, 18, 1)))
    x = b.op("Tanh", b.bn(b.conv(x, 18, 3)))
    y = b.bn(b.conv(x, 18, 1))
    erf = b.op("Erf", b.op("Div", y, b.const(np.sqrt(2.0))))
    y = b.op("Mul", b.op("Mul", y, b.op("Add", erf, b.const(1.0))), b.const(0.5))
    z = b.bn(b.conv(y, 18, 1))
    z = b.op("Mul", z, b.op("Tanh", b.op("Softplus", z)))
    return b.model((b.head(b.op("Add", b.op("Sigmoid", z), x)), [10]))


@net
def unfused_activations() -> onnx.ModelProto:
    """Activations whose producer is no convolution or has another reader, so that each is an operation of its own."""
    b = Builder(43, (3, 24, 24))
    x = b.op("LeakyRelu", b.x, alpha=0.2)
    x = b.op("Elu", b.pool("MaxPool", b.bn(b.conv(x, 18, 3)), 2, 2), alpha=0.6)
    y = b.bn(b.conv(x, 18, 3))
    x = b.op("HardSigmoid", b.concat(y, b.op("Selu", y, alpha=1.5, gamma=1.2)), alpha=0.3, beta=0.4)
    x = b.clip(b.pool("AveragePool", b.bn(b.conv(x, 20, 1)), 2, 2), -0.4, 1.1)
    x = b.op("Reshape", b.op("PRelu", x, b.const(b.normal(20, 1, 1, std=0.3))), b.ints(0, -1), channels=720)
    return b.model((b.dense(b.op("Tanh", x), 720, 10), [10]))


@net
def unfoldable_batch_norm() -> onnx.ModelProto:
    """Batch norm on the input, after a pool, and on a convolution's output that something else reads as well."""
    b = Builder(37, (5, 32, 32))
    x = b.conv(b.bn(b.x, 1e-3), 16, 3, 2)
    x = b.op("Sub", b.relu(b.bn(x)), x)
    x = b.bn(b.pool("AveragePool", x, 2, 2))
    x = b.conv(b.bn(x), 20, 3, bias=True)
    return b.model((b.head(b.op("Mul", x, b.const(b.normal(20, 1, 1, mean=1.0)))), [10]))


@net
def normalisation_and_focus() -> onnx.ModelProto:
    """Pixel normalisation in the graph, then a space-to-depth stem of strided slices, as detectors have."""
    b = Builder(38, (3, 40, 40))
    x = b.op("Div", b.op("Sub", b.x, b.const(b.normal(1, 3, 1, 1))), b.const([[[0.5]], [[0.7]], [[0.9]]]))
    parts = []
    for i in (0, 1):
        for j in (0, 1):
            y = b.op("Slice", x, b.ints(i), b.ints(2**31 - 1), b.ints(2), b.ints(2))
            parts.append(b.op("Slice", y, b.ints(j), b.ints(2**63 - 1), b.ints(3), b.ints(2)))
    x = b.conv_bn_relu(b.concat(*parts), 24, 3)
    x = b.conv_bn_relu(x, 24, 3, 2)
    return b.model((b.head(x), [10]))


@net
def global_reductions() -> onnx.ModelProto:
    """Channel and spatial attention: means and maxima over either axis, with and without kept dimensions."""
    b = Builder(39)
    x = b.conv_bn_relu(b.x, 20, 3, 2)
    shared = b.const(b.normal(20, 20, 1, 1, std=0.3))
    pooled = [b.op("Conv", b.op(kind, x), shared) for kind in ("GlobalAveragePool", "GlobalMaxPool")]
    x = b.op("Mul", x, b.op("Sigmoid", b.op("Add", *pooled)))
    maps = b.concat(b.mean(x, (1,)), b.op("ReduceMax", x, axes=[1], keepdims=1))
    b.channels[maps] = 2
    x = b.op("Mul", x, b.op("Sigmoid", b.conv(maps, 1, 7)))
    x = b.op("ReduceMean", x, axes=[-1], keepdims=0)
    x = b.op("ReduceMean", x, axes=[-1], keepdims=1)
    x = b.op("Squeeze", x, b.ints(2))
    return b.model((b.dense(x, 20, 10), [10]))


@net
def two_inputs_two_outputs() -> onnx.ModelProto:
    """Images of two sizes share weights; one output is a feature map, the other a class score."""
    b = Builder(40, (3, 24, 24), input_name="left")
    right = b.input("right", (3, 24, 24))
    w = b.const(b.normal(16, 3, 3, 3, std=0.27))
    left = b.relu(b.op("Conv", b.x, w, pads=[1] * 4, channels=16))
    other = b.relu(b.op("Conv", right, w, pads=[1] * 4, channels=16))
    joined = b.conv_bn_relu(b.op("Mul", left, other), 20, 3, 2)
    return b.model((joined, [20, 12, 12]), (b.head(b.op("Max", joined, b.const(0.2))), [10]))


@net
def channel_tails() -> onnx.ModelProto:
    """Channel counts around the vector widths: 1, 7, 9, 15, 17, 31, 33, 65."""
    b = Builder(41, (1, 19, 17))
    x = b.x
    for c in (7, 9, 15, 17, 31, 33, 65):
        x = b.conv_bn_relu(x, c, 3 if c % 2 and c < 20 else 1)
    return b.model((b.head(x, 3), [3]))


@net
def fully_convolutional() -> onnx.ModelProto:
    """No head: the output keeps its spatial axes, and the network's input is added to it."""
    b = Builder(42, (3, 20, 28))
    x = b.conv_bn_relu(b.x, 16, 3)
    x = b.conv(x, 3, 3, bias=True)
    return b.model((b.op("Add", x, b.x), [3, 20, 28]))
