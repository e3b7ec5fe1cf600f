"""Convolutions: Conv2D, DepthwiseConv2D, SeparableConv2D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv.graph import Value
from fastconv.layers.activations import activation_name, emit_activation
from fastconv.layers.base import Dims, Layer, Scope
from fastconv.layers.initializers import Initializer, initializer
from fastconv.layers.variable import Variable
from fastconv.layers.windows import Padding, check_padding, output_size, pads_of, pair

ActivationName = str | Callable[..., Any] | None


def image_shape(layer: Layer, shape: Dims) -> tuple[int | None, int | None, int]:
    """(H, W, C) of an input that must be an image with a known number of channels."""
    if len(shape) != 4:
        raise ValueError(f"layer {layer.name!r}: expected an input [N, H, W, C], got shape {shape}")
    if shape[3] is None:
        raise ValueError(f"layer {layer.name!r}: the number of channels must be known, got shape {shape}")
    return shape[1], shape[2], shape[3]


def check_format(data_format: str | None) -> None:
    if data_format not in (None, "channels_last"):
        raise ValueError(f"data_format={data_format!r}: layers are channels_last")


class _Convolution(Layer):
    """What all convolutions share: window, bias, activation."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int],
        padding: Padding,
        data_format: str | None,
        dilation_rate: int | tuple[int, int],
        activation: ActivationName,
        use_bias: bool,
        bias_initializer: str | Initializer,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = check_padding(padding)
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self.activation = activation_name(activation)
        self.use_bias = bool(use_bias)
        self.bias_initializer = initializer(bias_initializer)

    @property
    def kernel(self) -> Variable | None:
        return self.variable("kernel")

    @property
    def bias(self) -> Variable | None:
        return self.variable("bias")

    def _windows(self, height: int | None, width: int | None) -> tuple[int | None, int | None]:
        p, q = (
            output_size(
                size, self.kernel_size[i], self.strides[i], self.dilation_rate[i], self.padding, i, False,
                f"layer {self.name!r}",
            )
            for i, size in enumerate((height, width))
        )  # fmt: skip
        return p, q

    def _conv(self, scope: Scope, x: Value, kernel: Variable, bias: Variable | None, group: int, plain: bool) -> Value:
        """One Conv node; `plain` leaves the window out: 1x1, stride 1."""
        n, _, h, w = x.shape
        k = kernel.graph_shape[0]
        inputs: list[Value | None] = [x, scope.weight(kernel)]
        if bias is not None:
            inputs.append(scope.weight(bias))
        if plain:
            return scope.add(
                "Conv", inputs, (n, k, h, w), strides=(1, 1), dilations=(1, 1), group=group, pads=(0, 0, 0, 0)
            )
        p, q = self._windows(h, w)
        assert p is not None and q is not None
        (top, bottom), (left, right) = (
            pads_of(size, self.kernel_size[i], self.strides[i], self.dilation_rate[i], self.padding, i)
            for i, size in enumerate((h, w))
        )
        return scope.add(
            "Conv", inputs, (n, k, p, q), strides=self.strides, dilations=self.dilation_rate, group=group,
            pads=(top, left, bottom, right),
        )  # fmt: skip


class Conv2D(_Convolution):
    """Convolution of images [N, H, W, C] with `filters` kernels: [N, P, Q, filters].

    padding: "valid", "same", or explicit numbers (see fastconv.layers.windows). groups: channels are cut into as many
    parts, each with its own share of the filters. Weights: kernel [R, S, C / groups, filters], bias [filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: ActivationName = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, **kwargs
        )
        if not isinstance(filters, int) or filters < 1 or not isinstance(groups, int) or groups < 1 or filters % groups:
            raise ValueError(f"filters={filters!r}, groups={groups!r}: expected positive ints, filters divisible")
        self.filters, self.groups = filters, groups
        self.kernel_initializer = initializer(kernel_initializer)

    def build(self, *shapes: Dims) -> None:
        c = image_shape(self, shapes[0])[2]
        if c % self.groups:
            raise ValueError(f"layer {self.name!r}: {c} input channels do not divide into {self.groups} groups")
        shape = (self.filters, c // self.groups, *self.kernel_size)
        self.add_weight("kernel", shape, self.kernel_initializer, "conv")
        if self.use_bias:
            self.add_weight("bias", (self.filters,), self.bias_initializer)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        expected = self.variables[0].graph_shape[1] * self.groups
        if c != expected:
            raise ValueError(f"layer {self.name!r}: expected {expected} input channels, got {c}")
        return (shapes[0][0], *self._windows(h, w), self.filters)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        y = self._conv(scope, inputs[0], self.variables[0], self.bias, self.groups, plain=False)
        return emit_activation(scope, y, self.activation)


class DepthwiseConv2D(_Convolution):
    """Each channel with its own `depth_multiplier` kernels. Weights: kernel [R, S, C, multiplier], bias."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        activation: ActivationName = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, **kwargs
        )
        self.depth_multiplier = pair(depth_multiplier, "depth_multiplier")[0]
        self.depthwise_initializer = initializer(depthwise_initializer)

    def build(self, *shapes: Dims) -> None:
        c, m = image_shape(self, shapes[0])[2], self.depth_multiplier
        self.add_weight("kernel", (c * m, 1, *self.kernel_size), self.depthwise_initializer, f"depthwise {m}")
        if self.use_bias:
            self.add_weight("bias", (c * m,), self.bias_initializer)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        expected = self.variables[0].graph_shape[0] // self.depth_multiplier
        if c != expected:
            raise ValueError(f"layer {self.name!r}: expected {expected} input channels, got {c}")
        return (shapes[0][0], *self._windows(h, w), c * self.depth_multiplier)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        y = self._conv(scope, inputs[0], self.variables[0], self.bias, inputs[0].shape[1], plain=False)
        return emit_activation(scope, y, self.activation)


class SeparableConv2D(_Convolution):
    """A depthwise convolution and a 1x1 convolution after it (Chollet 2017).

    Weights: depthwise_kernel [R, S, C, multiplier], pointwise_kernel [1, 1, C * multiplier, filters], bias [filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        depth_multiplier: int = 1,
        activation: ActivationName = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        pointwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, **kwargs
        )
        self.filters = pair(filters, "filters")[0]
        self.depth_multiplier = pair(depth_multiplier, "depth_multiplier")[0]
        self.depthwise_initializer = initializer(depthwise_initializer)
        self.pointwise_initializer = initializer(pointwise_initializer)

    def build(self, *shapes: Dims) -> None:
        c, m = image_shape(self, shapes[0])[2], self.depth_multiplier
        depthwise = (c * m, 1, *self.kernel_size)
        self.add_weight("depthwise_kernel", depthwise, self.depthwise_initializer, f"depthwise {m}")
        self.add_weight("pointwise_kernel", (self.filters, c * m, 1, 1), self.pointwise_initializer, "conv")
        if self.use_bias:
            self.add_weight("bias", (self.filters,), self.bias_initializer)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        expected = self.variables[0].graph_shape[0] // self.depth_multiplier
        if c != expected:
            raise ValueError(f"layer {self.name!r}: expected {expected} input channels, got {c}")
        return (shapes[0][0], *self._windows(h, w), self.filters)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        depthwise, pointwise = self.variables[:2]
        y = self._conv(scope, inputs[0], depthwise, None, inputs[0].shape[1], plain=False)
        y = self._conv(scope, y, pointwise, self.bias, 1, plain=True)
        return emit_activation(scope, y, self.activation)
