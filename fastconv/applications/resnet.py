"""ResNet (He et al. 2015, table 1). Bottlenecks halve the image in their 3x3 convolution, as the published weights of
torchvision and everybody since; names are Keras'."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.applications.base import Application, Architecture, application
from fastconv.applications.blocks import conv_bn
from fastconv.applications.imagenet import Preprocess, decode_predictions
from fastconv.layers import Activation, Add, MaxPooling2D, Tensor


def unit(
    x: Tensor, filters: int, size: int, strides: int, name: str, torch: str, i: int, activation: str | None = "relu"
) -> Tensor:
    """The block's i-th convolution; the 0th is the one beside the others, on the shortcut."""
    name = f"{name}_{i}"
    torch_names = (f"{torch}.conv{i}", f"{torch}.bn{i}") if i else (f"{torch}.downsample.0", f"{torch}.downsample.1")
    return conv_bn(
        x, filters, size, strides, names=(f"{name}_conv", f"{name}_bn", f"{name}_relu"), torch_names=torch_names,
        activation=activation,
    )  # fmt: skip


def joined(x: Tensor, shortcut: Tensor, name: str) -> Tensor:
    y: Tensor = Activation("relu", name=f"{name}_out")(Add(name=f"{name}_add")([shortcut, x]))
    return y


def basic(x: Tensor, filters: int, strides: int, name: str, torch: str) -> Tensor:
    """Two 3x3 convolutions (figure 5, left)."""
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = unit(x, filters, 1, strides, name, torch, 0, None)
    x = unit(x, filters, 3, strides, name, torch, 1)
    return joined(unit(x, filters, 3, 1, name, torch, 2, None), shortcut, name)


def bottleneck(x: Tensor, filters: int, strides: int, name: str, torch: str) -> Tensor:
    """1x1, 3x3 and 1x1 to four times the filters (figure 5, right)."""
    shortcut = x
    if strides > 1 or x.shape[-1] != 4 * filters:
        shortcut = unit(x, 4 * filters, 1, strides, name, torch, 0, None)
    x = unit(x, filters, 1, 1, name, torch, 1)
    x = unit(x, filters, 3, strides, name, torch, 2)
    return joined(unit(x, 4 * filters, 1, 1, name, torch, 3, None), shortcut, name)


def network(
    block: Callable[[Tensor, int, int, str, str], Tensor], repeats: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    def build(x: Tensor) -> Tensor:
        x = conv_bn(x, 64, 7, 2, names=("conv1_conv", "conv1_bn", "conv1_relu"), torch_names=("conv1", "bn1"))
        x = MaxPooling2D(3, strides=2, padding=1, name="pool1_pool")(x)
        for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), repeats, strict=True), 1):
            for i in range(count):
                strides = 2 if i == 0 and stage > 1 else 1
                x = block(x, filters, strides, f"conv{stage + 1}_block{i + 1}", f"layer{stage}.{i}")
        return x

    return build


def _resnet(
    depth: int, block: Callable[[Tensor, int, int, str, str], Tensor], repeats: tuple[int, ...], parameters: str
) -> Application:
    arch = Architecture(f"ResNet{depth}", network(block, repeats), published=f"resnet{depth}")
    return application(arch, f"ResNet{depth}: {parameters} parameters.")


ResNet18 = _resnet(18, basic, (2, 2, 2, 2), "11,689,512")
ResNet34 = _resnet(34, basic, (3, 4, 6, 3), "21,797,672")
ResNet50 = _resnet(50, bottleneck, (3, 4, 6, 3), "25,557,032")
ResNet101 = _resnet(101, bottleneck, (3, 4, 23, 3), "44,549,160")
ResNet152 = _resnet(152, bottleneck, (3, 8, 36, 3), "60,192,808")
preprocess_input = Preprocess("torch")

__all__ = ["ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", "decode_predictions", "preprocess_input"]
