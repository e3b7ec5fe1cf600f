"""VGG16 (Simonyan and Zisserman 2014, table 1), with the layers and names that Keras gives it."""

from __future__ import annotations

from fastconv.applications import vgg
from fastconv.applications.base import Architecture, application
from fastconv.applications.imagenet import Preprocess, decode_predictions

VGG16 = application(
    Architecture("VGG16", vgg.network((2, 2, 3, 3, 3)), vgg.top, published="vgg16"),
    "VGG16: 13 convolutions and 3 dense layers, 138,357,544 parameters.",
)
preprocess_input = Preprocess("torch")

__all__ = ["VGG16", "decode_predictions", "preprocess_input"]
