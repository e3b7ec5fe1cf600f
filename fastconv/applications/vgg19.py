"""VGG19 (Simonyan and Zisserman 2014, table 1), with the layers and names that Keras gives it."""

from __future__ import annotations

from fastconv.applications import vgg
from fastconv.applications.base import Architecture, application
from fastconv.applications.imagenet import Preprocess, decode_predictions

VGG19 = application(
    Architecture("VGG19", vgg.network((2, 2, 4, 4, 4)), vgg.top, published="vgg19"),
    "VGG19: 16 convolutions and 3 dense layers, 143,667,240 parameters.",
)
preprocess_input = Preprocess("torch")

__all__ = ["VGG19", "decode_predictions", "preprocess_input"]
