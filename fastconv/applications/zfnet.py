"""ZFNet (Zeiler and Fergus 2013, figure 3): AlexNet with a smaller, denser first filter."""

from __future__ import annotations

from fastconv.applications.base import Architecture, application
from fastconv.applications.blocks import conv, dense
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Dropout, Flatten, LocalResponseNormalization, MaxPooling2D, Tensor


def network(x: Tensor) -> Tensor:
    x = conv(x, 96, 7, "conv1", "conv1", strides=2, padding=1)
    x = MaxPooling2D(3, strides=2, padding=1, name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = conv(x, 256, 5, "conv2", "conv2", strides=2)
    x = MaxPooling2D(3, strides=2, padding=1, name="pool2")(x)
    x = LocalResponseNormalization(name="norm2")(x)
    x = conv(x, 384, 3, "conv3", "conv3", padding="same")
    x = conv(x, 384, 3, "conv4", "conv4", padding="same")
    x = conv(x, 256, 3, "conv5", "conv5", padding="same")
    y: Tensor = MaxPooling2D(3, strides=2, name="pool5")(x)
    return y


def top(x: Tensor, classes: int, activation: str | None) -> Tensor:
    x = Flatten(name="flatten")(x)
    x = dense(x, 4096, "fc6", "fc6")
    x = Dropout(0.5, name="dropout6")(x)
    x = dense(x, 4096, "fc7", "fc7")
    x = Dropout(0.5, name="dropout7")(x)
    return dense(x, classes, "predictions", "fc8", activation)


ZFNet = application(
    Architecture("ZFNet", network, top, minimum=63),
    "ZFNet: 62,357,608 parameters, by the sizes of the paper's figure 3.",
)
preprocess_input = Preprocess("torch")

__all__ = ["ZFNet", "decode_predictions", "preprocess_input"]
