"""Pooling: over windows, and over the whole image."""

from __future__ import annotations

from typing import Any

from fastconv.graph import Value
from fastconv.layers.base import Dims, Layer, Scope
from fastconv.layers.conv import Size, check_format, image_shape
from fastconv.layers.windows import Padding, Windows, check_padding, pair


class _Pooling(Layer):
    op = ""

    def __init__(
        self,
        pool_size: Size = (2, 2),
        strides: Size | None = None,
        padding: Padding = "valid",
        data_format: str | None = None,
        *,
        ceil_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.pool_size = pair(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, "strides")
        self.padding = check_padding(padding)
        self.windows = Windows(self.pool_size, self.strides, self.padding, ceil=bool(ceil_mode))
        if not isinstance(self.padding, str):
            for i, around in enumerate(self.padding):
                if max(around) >= self.pool_size[i]:
                    raise ValueError(f"padding={padding!r}: expected less than the window {self.pool_size}")

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        return (shapes[0][0], *self.windows.counts(h, w, f"layer {self.name!r}"), c)

    def attributes(self) -> dict[str, Any]:
        """What the node has beyond the windows."""
        return {}

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        x = inputs[0]
        n, c, h, w = x.shape
        p, q = self.windows.counts(h, w, f"layer {self.name!r}")
        assert p is not None and q is not None
        return scope.add(
            self.op, [x], (n, c, p, q), kernel_shape=self.pool_size, strides=self.strides, dilations=(1, 1),
            pads=self.windows.pads(h, w), **self.attributes(),
        )  # fmt: skip


class MaxPooling2D(_Pooling):
    """The largest value of each window. ceil_mode: a last window may run over the edge, as in Caffe's networks."""

    op = "MaxPool"


class AveragePooling2D(_Pooling):
    """The mean of each window. Padding does not count, as in Keras, unless count_include_pad says so."""

    op = "AveragePool"

    def __init__(
        self,
        pool_size: Size = (2, 2),
        strides: Size | None = None,
        padding: Padding = "valid",
        data_format: str | None = None,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, ceil_mode=ceil_mode, **kwargs)
        self.count_include_pad = bool(count_include_pad)

    def attributes(self) -> dict[str, Any]:
        return {"count_include_pad": self.count_include_pad}


class _GlobalPooling(Layer):
    op = ""

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.keepdims = bool(keepdims)

    def output_shape_of(self, *shapes: Dims) -> Dims:
        n, c = shapes[0][0], image_shape(self, shapes[0])[2]
        return (n, 1, 1, c) if self.keepdims else (n, c)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        n, c = inputs[0].shape[:2]
        shape = (n, c, 1, 1) if self.keepdims else (n, c)
        return scope.add(self.op, inputs, shape, axes=(2, 3), keepdims=self.keepdims)


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel: [N, H, W, C] to [N, C], or [N, 1, 1, C] with keepdims."""

    op = "ReduceMean"


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest value of each channel: [N, H, W, C] to [N, C], or [N, 1, 1, C] with keepdims."""

    op = "ReduceMax"
