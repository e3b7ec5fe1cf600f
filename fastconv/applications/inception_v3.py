"""InceptionV3 (Szegedy et al. 2015, table 1): large filters taken apart into small and into one-dimensional ones.

Blocks A to E are the paper's figures 5 to 7 and the two reductions; convolutions are named as torchvision names them,
the blocks' outputs "mixed0" to "mixed10" as Keras does.
"""

from __future__ import annotations

from typing import Any

from fastconv.applications.base import Architecture, application, pooled_top
from fastconv.applications.blocks import conv_bn, dense
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import AveragePooling2D, Concatenate, GlobalAveragePooling2D, MaxPooling2D, Tensor
from fastconv.models import Model
from fastconv.preprocessing.presets import published


def unit(x: Tensor, filters: int, size: Any, name: str, strides: int = 1, padding: Any = None) -> Tensor:
    conv, bn = f"{name}.conv", f"{name}.bn"
    return conv_bn(
        x, filters, size, strides, padding, names=(conv, bn, f"{name}.relu"), torch_names=(conv, bn), epsilon=1e-3
    )


def chain(x: Tensor, name: str, *units: tuple[Any, ...]) -> Tensor:
    """Units one after the other: (name's end, filters, size[, strides, padding])."""
    for end, filters, size, *rest in units:
        x = unit(x, filters, size, f"{name}{end}", *rest)
    return x


def mean(x: Tensor, name: str) -> Tensor:
    y: Tensor = AveragePooling2D(3, strides=1, padding=1, count_include_pad=True, name=f"{name}.pool")(x)
    return y


def block_a(x: Tensor, name: str, pool: int) -> list[Tensor]:
    return [
        unit(x, 64, 1, f"{name}.branch1x1"),
        chain(x, f"{name}.branch5x5", ("_1", 48, 1), ("_2", 64, 5)),
        chain(x, f"{name}.branch3x3dbl", ("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)),
        unit(mean(x, name), pool, 1, f"{name}.branch_pool"),
    ]


def block_b(x: Tensor, name: str) -> list[Tensor]:
    return [
        unit(x, 384, 3, f"{name}.branch3x3", 2, "valid"),
        chain(x, f"{name}.branch3x3dbl", ("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3, 2, "valid")),
        MaxPooling2D(3, strides=2, name=f"{name}.pool")(x),
    ]


def block_c(x: Tensor, name: str, c: int) -> list[Tensor]:
    row, column = (1, 7), (7, 1)
    return [
        unit(x, 192, 1, f"{name}.branch1x1"),
        chain(x, f"{name}.branch7x7", ("_1", c, 1), ("_2", c, row), ("_3", 192, column)),
        chain(
            x, f"{name}.branch7x7dbl", ("_1", c, 1), ("_2", c, column), ("_3", c, row), ("_4", c, column),
            ("_5", 192, row),
        ),
        unit(mean(x, name), 192, 1, f"{name}.branch_pool"),
    ]  # fmt: skip


def block_d(x: Tensor, name: str) -> list[Tensor]:
    return [
        chain(x, f"{name}.branch3x3", ("_1", 192, 1), ("_2", 320, 3, 2, "valid")),
        chain(
            x, f"{name}.branch7x7x3", ("_1", 192, 1), ("_2", 192, (1, 7)), ("_3", 192, (7, 1)),
            ("_4", 192, 3, 2, "valid"),
        ),
        MaxPooling2D(3, strides=2, name=f"{name}.pool")(x),
    ]  # fmt: skip


def block_e(x: Tensor, name: str) -> list[Tensor]:
    left = unit(x, 384, 1, f"{name}.branch3x3_1")
    right = chain(x, f"{name}.branch3x3dbl", ("_1", 448, 1), ("_2", 384, 3))
    return [
        unit(x, 320, 1, f"{name}.branch1x1"),
        unit(left, 384, (1, 3), f"{name}.branch3x3_2a"),
        unit(left, 384, (3, 1), f"{name}.branch3x3_2b"),
        unit(right, 384, (1, 3), f"{name}.branch3x3dbl_3a"),
        unit(right, 384, (3, 1), f"{name}.branch3x3dbl_3b"),
        unit(mean(x, name), 192, 1, f"{name}.branch_pool"),
    ]


def network(x: Tensor) -> Tensor:
    x = unit(x, 32, 3, "Conv2d_1a_3x3", 2, "valid")
    x = unit(x, 32, 3, "Conv2d_2a_3x3", 1, "valid")
    x = unit(x, 64, 3, "Conv2d_2b_3x3")
    x = MaxPooling2D(3, strides=2, name="maxpool1")(x)
    x = unit(x, 80, 1, "Conv2d_3b_1x1", 1, "valid")
    x = unit(x, 192, 3, "Conv2d_4a_3x3", 1, "valid")
    x = MaxPooling2D(3, strides=2, name="maxpool2")(x)
    blocks: list[tuple[Any, ...]] = [
        (block_a, "5b", 32), (block_a, "5c", 64), (block_a, "5d", 64), (block_b, "6a"),
        (block_c, "6b", 128), (block_c, "6c", 160), (block_c, "6d", 160), (block_c, "6e", 192),
        (block_d, "7a"), (block_e, "7b"), (block_e, "7c"),
    ]  # fmt: skip
    for i, (block, name, *sizes) in enumerate(blocks):
        x = Concatenate(name=f"mixed{i}")(block(x, f"Mixed_{name}", *sizes))
    return x


def with_auxiliary(model: Model, classifier_activation: str | None = "softmax") -> Model:
    """A model with the auxiliary classifier of the paper's section 4 as its second output, for training.

    `model` is an InceptionV3 with its top; the layers are shared, those of the classifier are new and random. Together
    27,161,264 parameters.
    """
    x = AveragePooling2D(5, strides=3, name="AuxLogits.pool")(model.get_layer("mixed7").output)
    x = unit(x, 128, 1, "AuxLogits.conv0")
    x = unit(x, 768, 5, "AuxLogits.conv1", 1, "valid")
    x = GlobalAveragePooling2D(name="AuxLogits.avg_pool")(x)
    y = dense(x, model.output_shape[-1], "AuxLogits.predictions", "AuxLogits.fc", classifier_activation)
    both = Model(model.input, [model.output, y], name=f"{model.name}_auxiliary")
    both.preprocess_input = model.preprocess_input
    return both


InceptionV3 = application(
    Architecture(
        "InceptionV3", network, pooled_top, size=299, minimum=75, mode="tf", keras_mode="tf",
        preset=published("inception_v3", 342, 299, signed=True), published="inception_v3", ignored=("AuxLogits.",),
    ),
    "InceptionV3: 23,834,568 parameters, 27,161,264 with the auxiliary classifier (see `with_auxiliary`).",
)  # fmt: skip
preprocess_input = Preprocess("tf")

__all__ = ["InceptionV3", "decode_predictions", "preprocess_input", "with_auxiliary"]
