"""Write small ONNX networks by hand: a thin layer over onnx.helper with seeded weights, for nets.py.

Weights are Kaiming-normal and batch-norm statistics random (constant ones would hide swapped channels). Value names are
strings; the builder knows each value's channel count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]


class Builder:
    """One graph under construction. `opset` decides how operators that changed are written."""

    def __init__(
        self, seed: int, image: Sequence[int] = (3, 32, 32), opset: int = 17, input_name: str = "input"
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.channels: dict[str, int] = {}
        self._serial = 0
        self.x = self.input(input_name, image)

    # -- values -----------------------------------------------------------------------------------------------
    def input(self, name: str, shape: Sequence[int]) -> str:
        """A graph input with a symbolic batch "N" before `shape`."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))
        self.channels[name] = int(shape[0])
        return name

    def name(self, stem: str) -> str:
        self._serial += 1
        return f"{stem.lower()}_{self._serial}"

    def const(self, value: Any, dtype: npt.DTypeLike = np.float32, *, node: bool = False) -> str:
        """An initializer, or with `node` a Constant node, as tf2onnx and torch write for scalars."""
        name, array = self.name("const"), np.asarray(value, dtype=dtype)
        if node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int, node: bool = False) -> str:
        return self.const(values, np.int64, node=node)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Array:
        return (mean + std * self.rng.standard_normal(shape)).astype(np.float32)

    # -- operators --------------------------------------------------------------------------------------------
    def op(self, op_type: str, *inputs: str, channels: int | None = None, outputs: int = 1, **attrs: Any) -> str:
        """Append a node and return its first output, which keeps the first input's channel count unless told."""
        names = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=self.name(f"node_{op_type}"), **attrs))
        known = self.channels.get(inputs[0], 0) if channels is None else channels
        self.channels.update(dict.fromkeys(names, known))
        return names[0]

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        pads: Sequence[int] | None = None,
        *,
        group: int = 1,
        dilation: int = 1,
        bias: bool = False,
        **attrs: Any,
    ) -> str:
        """A convolution, "same" padding unless `pads` (top, left, bottom, right) or auto_pad says otherwise."""
        r, s = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = [stride, stride] if isinstance(stride, int) else list(stride)
        c = self.channels[x] // group
        w = self.normal(out, c, r, s, std=(2.0 / (c * r * s)) ** 0.5)
        inputs = [x, self.const(w)] + ([self.const(self.normal(out, std=0.3))] if bias else [])
        if "auto_pad" not in attrs:
            same = [(r - 1) * dilation // 2, (s - 1) * dilation // 2] * 2
            attrs["pads"] = same if pads is None else list(pads)
        attrs |= {"kernel_shape": [r, s], "strides": strides, "dilations": [dilation, dilation], "group": group}
        return self.op("Conv", *inputs, channels=out, **attrs)

    def bn(self, x: str, epsilon: float = 1e-5) -> str:
        c = self.channels[x]
        scale, variance = self.rng.uniform(0.5, 1.5, c), self.rng.uniform(0.5, 2.0, c)
        params = [scale, self.normal(c, std=0.3, mean=0.3), self.normal(c, std=0.3), variance]
        return self.op("BatchNormalization", x, *(self.const(p) for p in params), epsilon=epsilon)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def clip(self, x: str, low: float, high: float) -> str:
        """Attributes before opset 11, inputs since."""
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, self.const(low, node=True), self.const(high, node=True))

    def conv_bn_relu(self, x: str, out: int, kernel: int | tuple[int, int] = 3, *args: Any, **kwargs: Any) -> str:
        return self.relu(self.bn(self.conv(x, out, kernel, *args, **kwargs)))

    def pool(
        self, kind: str, x: str, kernel: int, stride: int, pads: Sequence[int] = (0, 0, 0, 0), **attrs: Any
    ) -> str:
        shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": list(pads)}
        return self.op(kind, x, **shape, **attrs)

    def concat(self, *xs: str, axis: int = 1) -> str:
        return self.op("Concat", *xs, axis=axis, channels=sum(self.channels[x] for x in xs))

    def mean(self, x: str, axes: tuple[int, ...] = (2, 3), keepdims: int = 1) -> str:
        """ReduceMean; the axes are an attribute before opset 18, an input since."""
        if self.opset < 18:
            return self.op("ReduceMean", x, axes=list(axes), keepdims=keepdims)
        return self.op("ReduceMean", x, self.ints(*axes), keepdims=keepdims)

    def dense(self, x: str, features: int, out: int, *, trans_b: bool = True, bias: bool = True) -> str:
        w = self.normal(*((out, features) if trans_b else (features, out)), std=features**-0.5)
        inputs = [x, self.const(w)] + ([self.const(self.normal(out, std=0.3))] if bias else [])
        return self.op("Gemm", *inputs, transB=int(trans_b), channels=out)

    def head(self, x: str, classes: int = 10) -> str:
        """Global average pooling, Flatten, Gemm."""
        x = self.op("Flatten", self.op("GlobalAveragePool", x), axis=1)
        return self.dense(x, self.channels[x], classes)

    # -- the end ----------------------------------------------------------------------------------------------
    def model(self, *outputs: tuple[str, Sequence[int | str]], ir_version: int = 8) -> onnx.ModelProto:
        """The checked model. Outputs are given with their shapes after the batch and renamed output, output1, ..."""
        infos = []
        for i, (value, shape) in enumerate(outputs):
            name = f"output{i or ''}"
            self.nodes.append(helper.make_node("Identity", [value], [name]))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))
        inputs = list(self.inputs)
        if ir_version < 4:  # before IR 4 every initializer is an input too
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.initializers]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], producer_name="tests")
        model.ir_version = ir_version
        onnx.checker.check_model(model, full_check=True)
        return model
