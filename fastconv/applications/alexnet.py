"""AlexNet in the form of "One weird trick" (Krizhevsky 2014), which torchvision publishes: one tower, no LRN."""

from __future__ import annotations

from fastconv.applications.base import Architecture, application
from fastconv.applications.blocks import conv, dense
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Dropout, Flatten, MaxPooling2D, Tensor


def network(x: Tensor) -> Tensor:
    x = conv(x, 64, 11, "conv1", "features.0", strides=4, padding=2)
    x = MaxPooling2D(3, strides=2, name="pool1")(x)
    x = conv(x, 192, 5, "conv2", "features.3", padding="same")
    x = MaxPooling2D(3, strides=2, name="pool2")(x)
    x = conv(x, 384, 3, "conv3", "features.6", padding="same")
    x = conv(x, 256, 3, "conv4", "features.8", padding="same")
    x = conv(x, 256, 3, "conv5", "features.10", padding="same")
    y: Tensor = MaxPooling2D(3, strides=2, name="pool5")(x)
    return y


def top(x: Tensor, classes: int, activation: str | None) -> Tensor:
    x = Flatten(name="flatten")(x)
    x = Dropout(0.5, name="dropout6")(x)
    x = dense(x, 4096, "fc6", "classifier.1")
    x = Dropout(0.5, name="dropout7")(x)
    x = dense(x, 4096, "fc7", "classifier.4")
    return dense(x, classes, "predictions", "classifier.6", activation)


AlexNet = application(
    Architecture("AlexNet", network, top, minimum=63, published="alexnet"),
    "AlexNet, five convolutions and three dense layers: 61,100,840 parameters.",
)
preprocess_input = Preprocess("torch")

__all__ = ["AlexNet", "decode_predictions", "preprocess_input"]
