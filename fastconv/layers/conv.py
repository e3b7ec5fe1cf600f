"""Convolutions: Conv2D, DepthwiseConv2D, SeparableConv2D."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from fastconv.graph import Value
from fastconv.layers.activations import activation_name, emit_activation
from fastconv.layers.base import Dims, Layer, Scope
from fastconv.layers.initializers import Initializer, initializer
from fastconv.layers.variable import Variable
from fastconv.layers.windows import Padding, Windows, check_padding, pair, whole

ActivationName = str | Callable[..., Any] | None
Size = int | tuple[int, int]


def image_shape(layer: Layer, shape: Dims) -> tuple[int | None, int | None, int]:
    """(H, W, C) of an input that must be an image with a known number of channels."""
    if len(shape) != 4:
        raise ValueError(f"layer {layer.name!r}: expected an input [N, H, W, C], got shape {shape}")
    if shape[3] is None:
        raise ValueError(f"layer {layer.name!r}: the number of channels must be known, got shape {shape}")
    return shape[1], shape[2], shape[3]


def check_format(data_format: str | None) -> None:
    """Raises ValueError for images that are not channels-last."""
    if data_format not in (None, "channels_last"):
        raise ValueError(f"data_format={data_format!r}: layers are channels_last")


class Linear(Layer):
    """What convolutions and dense layers share: a bias that may be left out, and an activation."""

    def __init__(
        self, activation: ActivationName, use_bias: bool, bias_initializer: str | Initializer, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activation_name(activation)
        self.use_bias = bool(use_bias)
        self.bias_initializer = initializer(bias_initializer)

    @property
    def kernel(self) -> Variable | None:
        """The weights, None before they are built."""
        return self.variable("kernel")

    @property
    def bias(self) -> Variable | None:
        """The bias, None where there is none."""
        return self.variable("bias")

    def add_bias(self, units: int) -> None:
        """Make the bias, where one is wanted."""
        if self.use_bias:
            self.add_weight("bias", (units,), self.bias_initializer)


class _Convolution(Linear):
    """What all convolutions share: windows, and that the number of channels is fixed once they are built."""

    def __init__(
        self,
        kernel_size: Size,
        strides: Size,
        padding: Padding,
        data_format: str | None,
        dilation_rate: Size,
        activation: ActivationName,
        use_bias: bool,
        bias_initializer: str | Initializer,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, use_bias, bias_initializer, **kwargs)
        check_format(data_format)
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.padding = check_padding(padding)
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self.windows = Windows(self.kernel_size, self.strides, self.padding, self.dilation_rate)

    @abstractmethod
    def channels(self) -> tuple[int, int]:
        """How many channels come in and go out, once the layer is built."""

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        expected, k = self.channels()
        if c != expected:
            raise ValueError(f"layer {self.name!r}: expected {expected} input channels, got {c}")
        return (shapes[0][0], *self.windows.counts(h, w, f"layer {self.name!r}"), k)

    def _conv(
        self, scope: Scope, x: Value, kernel: Variable, bias: Variable | None, group: int, windows: Windows
    ) -> Value:
        """One Conv node."""
        n, _, h, w = x.shape
        inputs: list[Value | None] = [x, scope.weight(kernel)]
        if bias is not None:
            inputs.append(scope.weight(bias))
        p, q = windows.counts(h, w, f"layer {self.name!r}")
        assert p is not None and q is not None
        return scope.add(
            "Conv", inputs, (n, kernel.graph_shape[0], p, q), strides=windows.strides, dilations=windows.dilations,
            group=group, pads=windows.pads(h, w),
        )  # fmt: skip


class Conv2D(_Convolution):
    """Convolution of images [N, H, W, C] with `filters` kernels: [N, P, Q, filters].

    padding: "valid", "same", or explicit numbers (see fastconv.layers.windows). groups: channels are cut into as many
    parts, each with its own share of the filters. Weights: kernel [R, S, C / groups, filters], bias [filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: Size = (1, 1),
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
        self.filters, self.groups = whole(filters, "filters"), whole(groups, "groups")
        if self.filters % self.groups:
            raise ValueError(f"filters={filters!r}, groups={groups!r}: expected filters that divide into the groups")
        self.kernel_initializer = initializer(kernel_initializer)

    def build(self, *shapes: Dims) -> None:
        c = image_shape(self, shapes[0])[2]
        if c % self.groups:
            raise ValueError(f"layer {self.name!r}: {c} input channels do not divide into {self.groups} groups")
        shape = (self.filters, c // self.groups, *self.kernel_size)
        self.add_weight("kernel", shape, self.kernel_initializer, "conv")
        self.add_bias(self.filters)

    def channels(self) -> tuple[int, int]:
        return self.variables[0].graph_shape[1] * self.groups, self.filters

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        y = self._conv(scope, inputs[0], self.variables[0], self.bias, self.groups, self.windows)
        return emit_activation(scope, y, self.activation)


class _Depthwise(_Convolution):
    """What convolutions with a kernel of its own for each channel share."""

    def __init__(self, depth_multiplier: int, depthwise_initializer: str | Initializer, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.depth_multiplier = whole(depth_multiplier, "depth_multiplier")
        self.depthwise_initializer = initializer(depthwise_initializer)

    def add_depthwise(self, name: str, c: int) -> int:
        """Make the kernels for c channels; how many channels come out of them."""
        k = c * self.depth_multiplier
        shape = (k, 1, *self.kernel_size)
        self.add_weight(name, shape, self.depthwise_initializer, f"depthwise {self.depth_multiplier}")
        return k

    def channels(self) -> tuple[int, int]:
        k = self.variables[0].graph_shape[0]
        return k // self.depth_multiplier, k


class DepthwiseConv2D(_Depthwise):
    """Each channel with its own `depth_multiplier` kernels. Weights: kernel [R, S, C, multiplier], bias."""

    def __init__(
        self,
        kernel_size: Size,
        strides: Size = (1, 1),
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Size = (1, 1),
        activation: ActivationName = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            depth_multiplier, depthwise_initializer,
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, **kwargs,
        )  # fmt: skip

    def build(self, *shapes: Dims) -> None:
        self.add_bias(self.add_depthwise("kernel", image_shape(self, shapes[0])[2]))

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        y = self._conv(scope, inputs[0], self.variables[0], self.bias, inputs[0].shape[1], self.windows)
        return emit_activation(scope, y, self.activation)


class SeparableConv2D(_Depthwise):
    """A depthwise convolution and a 1x1 convolution after it (Chollet 2017).

    Weights: depthwise_kernel [R, S, C, multiplier], pointwise_kernel [1, 1, C * multiplier, filters], bias [filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: Size = (1, 1),
        depth_multiplier: int = 1,
        activation: ActivationName = None,
        use_bias: bool = True,
        depthwise_initializer: str | Initializer = "glorot_uniform",
        pointwise_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            depth_multiplier, depthwise_initializer,
            kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, bias_initializer, **kwargs,
        )  # fmt: skip
        self.filters = whole(filters, "filters")
        self.pointwise_initializer = initializer(pointwise_initializer)

    def build(self, *shapes: Dims) -> None:
        k = self.add_depthwise("depthwise_kernel", image_shape(self, shapes[0])[2])
        self.add_weight("pointwise_kernel", (self.filters, k, 1, 1), self.pointwise_initializer, "conv")
        self.add_bias(self.filters)

    def channels(self) -> tuple[int, int]:
        return super().channels()[0], self.filters

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        depthwise, pointwise = self.variables[:2]
        y = self._conv(scope, inputs[0], depthwise, None, inputs[0].shape[1], self.windows)
        y = self._conv(scope, y, pointwise, self.bias, 1, Windows((1, 1), (1, 1), "valid"))
        return emit_activation(scope, y, self.activation)
