"""Xception (Chollet 2017, figure 5): depthwise separable convolutions throughout. Names are Keras'; padding as in the
published weights, which were trained in torch."""

from __future__ import annotations

from fastconv.applications.base import Architecture, application
from fastconv.applications.blocks import conv_bn
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Activation, Add, MaxPooling2D, Tensor
from fastconv.preprocessing.presets import published


def separable(x: Tensor, filters: int, name: str, torch: tuple[str, str], before: bool, after: bool = False) -> Tensor:
    """A separable convolution with batch normalisation; ReLU comes before or after it."""
    if before:
        x = Activation("relu", name=f"{name}_act")(x)
    return conv_bn(
        x, filters, 3, names=(name, f"{name}_bn", f"{name}_act"), torch_names=torch,
        activation="relu" if after else None, separable=True,
    )  # fmt: skip


def block(x: Tensor, filters: list[int], index: int, halve: bool, first_relu: bool = True) -> Tensor:
    """Separable convolutions beside a shortcut."""
    torch, shortcut = f"block{index - 1}", x
    if halve:
        names = (f"block{index}_shortcut_conv", f"block{index}_shortcut_bn", "")
        shortcut = conv_bn(
            x, filters[-1], 1, 2, names=names, torch_names=(f"{torch}.skip", f"{torch}.skipbn"), activation=None
        )
    for i, k in enumerate(filters):
        place = 3 * i + (1 if first_relu else 0)  # in torch's list, where ReLU counts
        place_names = (f"{torch}.rep.{place}", f"{torch}.rep.{place + 1}")
        x = separable(x, k, f"block{index}_sepconv{i + 1}", place_names, before=first_relu or i > 0)
    if halve:
        x = MaxPooling2D(3, strides=2, padding=1, name=f"block{index}_pool")(x)
    y: Tensor = Add(name=f"block{index}_add")([x, shortcut])
    return y


def network(x: Tensor) -> Tensor:
    for i, (filters, strides) in enumerate([(32, 2), (64, 1)], 1):
        name = f"block1_conv{i}"
        x = conv_bn(
            x, filters, 3, strides, "valid", names=(name, f"{name}_bn", f"{name}_act"),
            torch_names=(f"conv{i}", f"bn{i}"),
        )  # fmt: skip
    x = block(x, [128, 128], 2, halve=True, first_relu=False)
    x = block(x, [256, 256], 3, halve=True)
    x = block(x, [728, 728], 4, halve=True)
    for index in range(5, 13):
        x = block(x, [728, 728, 728], index, halve=False)
    x = block(x, [728, 1024], 13, halve=True)
    x = separable(x, 1536, "block14_sepconv1", ("conv3", "bn3"), before=False, after=True)
    return separable(x, 2048, "block14_sepconv2", ("conv4", "bn4"), before=False, after=True)


Xception = application(
    Architecture(
        "Xception", network, size=299, minimum=71, mode="tf", keras_mode="tf",
        preset=published("xception", 333, 299, "bicubic", signed=True), published="xception",
    ),
    "Xception: 22,855,952 parameters.",
)  # fmt: skip
preprocess_input = Preprocess("tf")

__all__ = ["Xception", "decode_predictions", "preprocess_input"]
