"""VGG (Simonyan and Zisserman 2014, table 1): blocks of 3x3 convolutions, each followed by a 2x2 max pooling."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.applications.blocks import conv, dense
from fastconv.layers import Flatten, MaxPooling2D, Tensor


def network(repeats: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Five blocks with so many convolutions each."""

    def build(x: Tensor) -> Tensor:
        index = 0  # of the layer in torchvision's `features`, where ReLU and pooling count
        for block, (filters, count) in enumerate(zip((64, 128, 256, 512, 512), repeats, strict=True), 1):
            for i in range(1, count + 1):
                x = conv(x, filters, 3, f"block{block}_conv{i}", f"features.{index}", padding="same")
                index += 2
            x = MaxPooling2D(2, strides=2, name=f"block{block}_pool")(x)
            index += 1
        return x

    return build


def top(x: Tensor, classes: int, activation: str | None) -> Tensor:
    x = Flatten(name="flatten")(x)
    x = dense(x, 4096, "fc1", "classifier.0")
    x = dense(x, 4096, "fc2", "classifier.3")
    return dense(x, classes, "predictions", "classifier.6", activation)
