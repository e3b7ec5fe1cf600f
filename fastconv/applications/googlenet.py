"""GoogLeNet (Szegedy et al. 2014, table 1) as torchvision publishes it: with batch normalisation, and 3x3 filters where
the paper has 5x5. The auxiliary classifiers served training only and are left out."""

from __future__ import annotations

from fastconv.applications.base import Architecture, application
from fastconv.applications.blocks import conv_bn
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Concatenate, MaxPooling2D, Tensor
from fastconv.preprocessing.presets import published

# 1x1, then reduction and 3x3, reduction and "5x5", and the 1x1 after pooling
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def unit(x: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
    conv, bn = f"{name}.conv", f"{name}.bn"
    return conv_bn(x, filters, size, strides, names=(conv, bn, f"{name}.relu"), torch_names=(conv, bn), epsilon=1e-3)


def inception(x: Tensor, name: str) -> Tensor:
    a, b1, b2, c1, c2, d = INCEPTIONS[name]
    name = f"inception{name}"
    left = unit(x, a, 1, f"{name}.branch1")
    middle = unit(unit(x, b1, 1, f"{name}.branch2.0"), b2, 3, f"{name}.branch2.1")
    right = unit(unit(x, c1, 1, f"{name}.branch3.0"), c2, 3, f"{name}.branch3.1")
    pool = MaxPooling2D(3, strides=1, padding=1, ceil_mode=True, name=f"{name}.branch4.0")(x)
    y: Tensor = Concatenate(name=name)([left, middle, right, unit(pool, d, 1, f"{name}.branch4.1")])
    return y


def network(x: Tensor) -> Tensor:
    x = unit(x, 64, 7, "conv1", strides=2)
    x = MaxPooling2D(3, strides=2, ceil_mode=True, name="maxpool1")(x)
    x = unit(x, 64, 1, "conv2")
    x = unit(x, 192, 3, "conv3")
    x = MaxPooling2D(3, strides=2, ceil_mode=True, name="maxpool2")(x)
    for name in INCEPTIONS:
        if name == "4a":
            x = MaxPooling2D(3, strides=2, ceil_mode=True, name="maxpool3")(x)
        if name == "5a":
            x = MaxPooling2D(2, strides=2, ceil_mode=True, name="maxpool4")(x)
        x = inception(x, name)
    return x


GoogLeNet = application(
    Architecture(
        "GoogLeNet", network, mode="tf", keras_mode="tf", preset=published("googlenet", 256, 224, signed=True),
        published="googlenet", ignored=("aux1.", "aux2."),
    ),
    "GoogLeNet, nine inception blocks: 6,624,904 parameters.",
)  # fmt: skip
preprocess_input = Preprocess("tf")

__all__ = ["GoogLeNet", "decode_predictions", "preprocess_input"]
