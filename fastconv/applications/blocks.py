"""Two or three layers that networks repeat."""

from __future__ import annotations

from typing import Any

from fastconv.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Layer,
    SeparableConv2D,
    Tensor,
)
from fastconv.layers.windows import Padding


def named(layer: Layer, torch_name: str) -> Layer:
    """The layer, with its name in torch's state dicts."""
    layer.torch_name = torch_name
    return layer


def conv(x: Tensor, filters: int, size: Any, name: str, torch_name: str, **kwargs: Any) -> Tensor:
    """A convolution with ReLU and bias, as networks before batch normalisation have it."""
    kwargs.setdefault("activation", "relu")
    y: Tensor = named(Conv2D(filters, size, name=name, **kwargs), torch_name)(x)
    return y


def dense(x: Tensor, units: int, name: str, torch_name: str, activation: str | None = "relu") -> Tensor:
    y: Tensor = named(Dense(units, activation=activation, name=name), torch_name)(x)
    return y


def conv_bn(
    x: Tensor,
    filters: int | None,
    size: Any,
    strides: int = 1,
    padding: Padding | None = None,
    *,
    names: tuple[str, str, str],
    torch_names: tuple[str, str],
    activation: str | None = "relu",
    epsilon: float = 1e-5,
    separable: bool = False,
) -> Tensor:
    """Convolution, batch normalisation, activation. names: of the three; torch_names: of the first two.

    filters None: a depthwise convolution. padding None: (size - 1) / 2 on each side.
    """
    height, width = (size, size) if isinstance(size, int) else size
    pad = ((height - 1) // 2, (width - 1) // 2) if padding is None else padding
    common: dict[str, Any] = dict(strides=strides, padding=pad, use_bias=False, name=names[0])
    layer: Layer
    if separable:
        assert filters is not None
        layer = SeparableConv2D(filters, size, **common)
    elif filters is None:
        layer = DepthwiseConv2D(size, **common)
    else:
        layer = Conv2D(filters, size, kernel_initializer="he_normal", **common)
    x = named(layer, torch_names[0])(x)
    x = named(BatchNormalization(epsilon=epsilon, name=names[1]), torch_names[1])(x)
    if activation is not None:
        x = Activation(activation, name=names[2])(x)
    return x
