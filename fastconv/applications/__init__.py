"""The architectures of the lecture and their relatives, with the API of keras.applications.

>>> from fastconv.applications.vgg16 import VGG16, preprocess_input, decode_predictions
>>> model = VGG16(weights=None, classes=10, seed=1)
"""

from __future__ import annotations

from fastconv.applications import (
    alexnet,
    efficientnet,
    efficientnet_lite,
    googlenet,
    inception_v3,
    lenet,
    resnet,
    resnet50,
    vgg16,
    vgg19,
    xception,
    zfnet,
)
from fastconv.applications.alexnet import AlexNet
from fastconv.applications.efficientnet import (
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
)
from fastconv.applications.efficientnet_lite import EfficientNetLite0
from fastconv.applications.googlenet import GoogLeNet
from fastconv.applications.inception_v3 import InceptionV3
from fastconv.applications.lenet import LeNet5
from fastconv.applications.resnet import ResNet18, ResNet34, ResNet50, ResNet101, ResNet152
from fastconv.applications.vgg16 import VGG16
from fastconv.applications.vgg19 import VGG19
from fastconv.applications.xception import Xception
from fastconv.applications.zfnet import ZFNet

__all__ = [
    "VGG16",
    "VGG19",
    "AlexNet",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetLite0",
    "GoogLeNet",
    "InceptionV3",
    "LeNet5",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "Xception",
    "ZFNet",
    "alexnet",
    "efficientnet",
    "efficientnet_lite",
    "googlenet",
    "inception_v3",
    "lenet",
    "resnet",
    "resnet50",
    "vgg16",
    "vgg19",
    "xception",
    "zfnet",
]
