"""Layers with Keras' names and arguments, channels last, on fastconv's Graph.

>>> x = Input(shape=(32, 32, 1))
>>> y = Conv2D(6, 5, activation="tanh")(x)
"""

from __future__ import annotations

from fastconv.layers.augment import (
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from fastconv.layers.base import Layer, Tensor
from fastconv.layers.conv import Conv2D, DepthwiseConv2D, SeparableConv2D
from fastconv.layers.core import (
    Activation,
    Cropping2D,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    Permute,
    ReLU,
    Rescaling,
    Reshape,
    Softmax,
    ZeroPadding2D,
)
from fastconv.layers.initializers import set_random_seed
from fastconv.layers.input import Input, InputLayer
from fastconv.layers.merge import Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract
from fastconv.layers.norm import BatchNormalization, LocalResponseNormalization, Normalization
from fastconv.layers.pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D
from fastconv.layers.variable import Variable

MaxPool2D, AvgPool2D = MaxPooling2D, AveragePooling2D
GlobalAvgPool2D, GlobalMaxPool2D = GlobalAveragePooling2D, GlobalMaxPooling2D

__all__ = [
    "Activation",
    "Add",
    "Average",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GlobalMaxPooling2D",
    "Input",
    "InputLayer",
    "Layer",
    "LeakyReLU",
    "LocalResponseNormalization",
    "MaxPool2D",
    "MaxPooling2D",
    "Maximum",
    "Minimum",
    "Multiply",
    "Normalization",
    "Permute",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "ReLU",
    "Rescaling",
    "Reshape",
    "SeparableConv2D",
    "Softmax",
    "Subtract",
    "Tensor",
    "Variable",
    "ZeroPadding2D",
    "set_random_seed",
]
