"""EfficientNet B0 to B7 (Tan and Le 2019, table 1): inverted bottlenecks with squeeze-and-excite, scaled in width,
depth and image size. Block names are Keras'; padding and preprocessing are those of the weights, trained in torch."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastconv.applications.base import Application, Architecture, application
from fastconv.applications.blocks import conv, conv_bn, dense
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Add, Dropout, GlobalAveragePooling2D, Multiply, Tensor
from fastconv.preprocessing.presets import published

# expansion, filter size, stride of the first block, output channels, blocks
STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


def scaled(channels: int, width: float) -> int:
    """A multiple of 8, at most a tenth below the exact number."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def unit(
    x: Tensor, filters: int | None, size: int, strides: int, name: str, torch: str, epsilon: float,
    activation: str | None = "swish",
) -> Tensor:  # fmt: skip
    stem = name.removesuffix("_conv").removesuffix("_dwconv")
    names = (name, f"{stem}_bn", f"{stem}_activation")
    return conv_bn(
        x, filters, size, strides, names=names, torch_names=(f"{torch}.0", f"{torch}.1"), activation=activation,
        epsilon=epsilon,
    )  # fmt: skip


def excite(x: Tensor, squeezed: int, name: str, torch: str) -> Tensor:
    """Squeeze-and-excite: scale each channel by what the mean image says (Hu et al. 2017)."""
    se = GlobalAveragePooling2D(keepdims=True, name=f"{name}se_squeeze")(x)
    se = conv(se, squeezed, 1, f"{name}se_reduce", f"{torch}.fc1", activation="swish")
    se = conv(se, int(x.shape[-1] or 0), 1, f"{name}se_expand", f"{torch}.fc2", activation="sigmoid")
    y: Tensor = Multiply(name=f"{name}se_excite")([x, se])
    return y


def block(
    x: Tensor, expand: int, size: int, strides: int, filters: int, name: str, torch: str, epsilon: float
) -> Tensor:
    """An inverted bottleneck."""
    shortcut, channels, part = x, int(x.shape[-1] or 0), 0
    if expand > 1:
        x = unit(x, channels * expand, 1, 1, f"{name}expand_conv", f"{torch}.block.0", epsilon)
        part = 1
    x = unit(x, None, size, strides, f"{name}dwconv", f"{torch}.block.{part}", epsilon)
    x = excite(x, max(1, channels // 4), name, f"{torch}.block.{part + 1}")
    x = unit(x, filters, 1, 1, f"{name}project_conv", f"{torch}.block.{part + 2}", epsilon, None)
    if strides == 1 and channels == filters:
        x = Add(name=f"{name}add")([x, shortcut])
    return x


def network(width: float, depth: float, epsilon: float) -> Callable[[Tensor], Tensor]:
    def build(x: Tensor) -> Tensor:
        x = unit(x, scaled(32, width), 3, 2, "stem_conv", "features.0", epsilon)
        filters = 0
        for stage, (expand, size, strides, channels, repeats) in enumerate(STAGES, 1):
            filters = scaled(channels, width)
            for i in range(math.ceil(depth * repeats)):
                name, torch = f"block{stage}{chr(ord('a') + i)}_", f"features.{stage}.{i}"
                x = block(x, expand, size, strides if i == 0 else 1, filters, name, torch, epsilon)
        return unit(x, 4 * filters, 1, 1, "top_conv", "features.8", epsilon)

    return build


def top(dropout: float) -> Callable[[Tensor, int, str | None], Tensor]:
    def build(x: Tensor, classes: int, activation: str | None) -> Tensor:
        x = GlobalAveragePooling2D(name="avg_pool")(x)
        x = Dropout(dropout, name="top_dropout")(x)
        return dense(x, classes, "predictions", "classifier.1", activation)

    return build


def _efficientnet(
    i: int, width: float, depth: float, size: int, dropout: float, tested: tuple[int, int], parameters: str
) -> Application:
    """tested: the side that torchvision resized images to where it tested the weights, and what it cut out."""
    arch = Architecture(
        f"EfficientNetB{i}", network(width, depth, 1e-3 if i >= 5 else 1e-5), top(dropout), size=size,
        keras_mode="none", preset=published(f"efficientnet_b{i}", *tested, "bicubic"), published=f"efficientnet_b{i}",
    )  # fmt: skip
    return application(arch, f"EfficientNet-B{i}: {parameters} parameters.")


EfficientNetB0 = _efficientnet(0, 1.0, 1.0, 224, 0.2, (256, 224), "5,288,548")
EfficientNetB1 = _efficientnet(1, 1.0, 1.1, 240, 0.2, (256, 240), "7,794,184")
EfficientNetB2 = _efficientnet(2, 1.1, 1.2, 260, 0.3, (288, 288), "9,109,994")
EfficientNetB3 = _efficientnet(3, 1.2, 1.4, 300, 0.3, (320, 300), "12,233,232")
EfficientNetB4 = _efficientnet(4, 1.4, 1.8, 380, 0.4, (384, 380), "19,341,616")
EfficientNetB5 = _efficientnet(5, 1.6, 2.2, 456, 0.4, (456, 456), "30,389,784")
EfficientNetB6 = _efficientnet(6, 1.8, 2.6, 528, 0.5, (528, 528), "43,040,704")
EfficientNetB7 = _efficientnet(7, 2.0, 3.1, 600, 0.5, (600, 600), "66,347,960")
preprocess_input = Preprocess("torch")

__all__ = [*(f"EfficientNetB{i}" for i in range(8)), "decode_predictions", "preprocess_input"]
