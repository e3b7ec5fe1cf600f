"""Calls of operators for test_ops.py: operands, operator set, attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.onnx.helpers import OPSET


def array(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray:
    a = np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)
    return np.abs(a) + 0.5 if positive else a


class K:
    """A constant operand; everything else is a graph input."""

    def __init__(self, values: Any, dtype: Any = None) -> None:
        self.array = np.array(
            values, dtype or (np.int64 if not isinstance(values, (np.ndarray, np.generic)) else values.dtype)
        )


X = array(2, 6, 7, 8)
V = array(2, 6)
CASES: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("Conv", [X, K(array(4, 6, 3, 3)), K(array(4))], 17, {}),
    ("Conv", [X, K(array(6, 1, 3, 2))], 17, {"group": 6, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", [X, K(array(12, 1, 3, 3)), K(array(12))], 11, {"group": 6, "kernel_shape": [3, 3]}),
    ("Conv", [X, K(array(4, 6, 3, 2))], 17, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("Conv", [X, K(array(4, 6, 2, 4))], 17, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("Conv", [X, K(array(4, 6, 2, 4))], 17, {"auto_pad": "VALID"}),
    ("Conv", [array(2, 6, 9), K(array(4, 3, 3)), K(array(4))], 17, {"group": 2, "pads": [2, 1], "strides": [2]}),
    ("Conv", [array(2, 6, 9), K(array(4, 6, 3))], 17, {"auto_pad": "SAME_UPPER", "strides": [2]}),
    ("MaxPool", [X], 12, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("MaxPool", [X], 12, {"kernel_shape": [2, 3], "strides": [3, 3], "ceil_mode": 1}),
    ("MaxPool", [X], 12, {"kernel_shape": [2, 3], "dilations": [3, 2]}),
    ("MaxPool", [array(2, 3, 9)], 8, {"kernel_shape": [4], "strides": [2], "pads": [3, 1]}),
    ("AveragePool", [X], 11, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], 11, {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1], "count_include_pad": 1}),
    ("AveragePool", [X], 19, {"kernel_shape": [2, 2], "dilations": [2, 3], "strides": [2, 1], "ceil_mode": 1}),
    ("AveragePool", [X], 11, {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("AveragePool", [array(2, 3, 9)], 11, {"kernel_shape": [2], "auto_pad": "VALID"}),
    ("AveragePool", [array(2, 1, 6, 3, 4)], 11, {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 0, 0, 0]}),
    ("MaxPool", [array(2, 3, 7, 3, 4)], 12, {"kernel_shape": [3, 1, 1], "strides": [2, 1, 1], "ceil_mode": 1}),
    ("GlobalAveragePool", [X], 17, {}),
    ("GlobalAveragePool", [array(2, 3, 9)], 17, {}),
    ("GlobalMaxPool", [X], 17, {}),
    ("Gemm", [V, K(array(6, 5)), K(array(5))], 13, {}),
    ("Gemm", [V, K(array(5, 6)), K(array(1, 5))], 13, {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [V, K(array(5, 6)), K(array(2, 1))], 13, {"transB": 1, "beta": 2.0}),
    ("Gemm", [V, K(array(5, 2)), K(np.float32(3))], 13, {"transA": 1, "transB": 1, "alpha": -1.0}),
    ("Gemm", [V, K(array(6, 5)), array(2, 5)], 13, {"beta": 0.5}),
    ("Gemm", [V, array(6, 5), K(array(5))], 13, {"alpha": 2.0, "beta": 0.5}),
    ("Gemm", [K(V), array(5, 6)], 13, {"transB": 1, "alpha": 2.0}),
    ("Gemm", [V, K(array(6, 5)), K(array(5))], 7, {"beta": 0.0}),
    ("MatMul", [V, K(array(6, 5))], 13, {}),
    ("MatMul", [array(2, 3, 4, 6), K(array(6, 5))], 13, {}),
    ("MatMul", [array(6), K(array(6, 5))], 13, {}),
    ("MatMul", [V, K(array(6))], 13, {}),
    ("MatMul", [array(6), K(array(6))], 13, {}),
    ("MatMul", [array(3, 1, 4, 6), K(array(2, 6, 5))], 13, {}),
    ("MatMul", [array(2, 3, 4), array(1, 4, 5)], 13, {}),
    ("MatMul", [K(array(3, 4)), array(2, 4, 5)], 13, {}),
    *[("BatchNormalization", [x, *(K(array(6, seed=i)) for i in range(3)), K(array(6, positive=True))], v, a)
      for x, v, a in [(X, 15, {}), (X, 9, {"epsilon": 0.1}), (X, 14, {"momentum": 0.5}), (V, 15, {}),
                      (array(2, 6, 5), 15, {}),
                      (array(2, 6, 3, 2, 2), 15, {})]],
    ("LRN", [X], 13, {"size": 3}),
    ("LRN", [X], 13, {"size": 5, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
    *[(op, [X], v, {}) for op, v in [
        ("Relu", 14), ("LeakyRelu", 16), ("Elu", 7), ("Selu", 7), ("Sigmoid", 13), ("HardSigmoid", 7),
        ("HardSwish", 14),
        ("Tanh", 13), ("Softplus", 8), ("Mish", 18), ("Exp", 13), ("Erf", 13), ("Neg", 13), ("Abs", 13), ("Floor", 13),
        ("Ceil", 13), ("Gelu", 20), ("Identity", 14), ("Dropout", 13), ("Reciprocal", 13), ("Swish", 24)] ],
    ("Swish", [X], 24, {"alpha": 1.5}),
    ("Gelu", [X], 20, {"approximate": "tanh"}),
    ("Sqrt", [array(2, 3, positive=True)], 13, {}),
    ("Log", [array(2, 3, positive=True)], 13, {}),
    ("LeakyRelu", [X], 16, {"alpha": 0.2}),
    ("Elu", [X], 7, {"alpha": 0.2}),
    ("HardSigmoid", [X], 7, {"alpha": 0.3, "beta": 0.4}),
    ("Clip", [X], 10, {"min": -0.5, "max": 0.25}),
    ("Clip", [X], 10, {}),
    ("Clip", [X, K(np.float32(-0.5)), K(np.float32(0.5))], 13, {}),
    ("Clip", [X, None, K(np.float32(0.5))], 13, {}),
    ("Clip", [X, K(np.float32(-0.5))], 11, {}),
    ("Clip", [X, array(), K(np.float32(0.5))], 13, {}),
    *[(op, [X, y], 14, {}) for op in ("Add", "Sub", "Mul", "Div")
      for y in (array(2, 6, 7, 8, positive=True), K(array(6, 1, 1, positive=True)), array(2, 6, 1, 1, positive=True))],
    ("Sub", [K(array(1)), X], 14, {}),
    ("Add", [array(8), array(2, 6, 7, 1)], 14, {}),
    ("Pow", [array(2, 3, positive=True), K(np.float32(2.5))], 15, {}),
    ("Pow", [X, K(2)], 15, {}),
    ("PRelu", [X, K(array(6, 1, 1))], 16, {}),
    ("PRelu", [X, array(1)], 16, {}),
    *[(op, [X, K(array(8)), array(7, 1)], 13, {}) for op in ("Max", "Min", "Sum", "Mean")],
    ("Max", [X], 13, {}),
    *[(f"Reduce{r}", [X], 11, {"axes": [-1, 2]}) for r in ("Mean", "Max", "Sum")],
    ("ReduceMean", [X], 11, {"axes": [1], "keepdims": 0}),
    ("ReduceMean", [X], 11, {"keepdims": 0}),
    ("ReduceMean", [X, K([2, 3])], 18, {}),
    ("ReduceMax", [X, K([-1])], 18, {"keepdims": 0}),
    ("ReduceSum", [X, K([0, 1])], 13, {}),
    ("ReduceSum", [X], 13, {"noop_with_empty_axes": 1}),
    ("ReduceMean", [X], 18, {}),
    *[(op, [X], v, a) for op in ("Softmax", "LogSoftmax") for v, a in
      [(13, {}), (13, {"axis": 1}), (11, {}), (11, {"axis": 2}), (11, {"axis": -1}), (11, {"axis": 0})]],
    ("Softmax", [array(2, 6, 1, 1)], 11, {}),
    *[("Celu", [X], 12, a) for a in ({}, {"alpha": 0.6})],
    *[("ThresholdedRelu", [X], 10, a) for a in ({}, {"alpha": -0.3})],
    ("Softsign", [X], 1 + 6, {}),
    ("IsNaN", [np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)], 13, {}),
    *[("IsInf", [np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)], 10, a)
      for a in ({}, {"detect_negative": 0}, {"detect_positive": 0})],
    ("GatherElements", [X, K(np.arange(2 * 4 * 7 * 8).reshape(2, 4, 7, 8) % 11 - 6)], 13, {"axis": 1}),
    *[("OneHot", [np.arange(6).reshape(2, 3) - 2, K(4), K(np.array([0.5, 2], np.float32))], 11, {"axis": a})
      for a in (-1, 0, 1)],
    ("Cast", [np.arange(5, dtype=np.int32), ], 13, {"to": 7}),
    ("Reshape", [X, K([2, -1])], 13, {}),
    ("Reshape", [X, K([0, 3, 2, -1])], 14, {}),
    ("Reshape", [array(2, 0, 3), K([0, 0, 5])], 14, {"allowzero": 1}),
    ("Flatten", [X], 13, {}),
    *[("Flatten", [X], 13, {"axis": a}) for a in (0, 2, 4, -1)],
    ("Squeeze", [array(1, 3, 1, 2)], 11, {}),
    ("Squeeze", [array(1, 3, 1, 2)], 11, {"axes": [2]}),
    ("Squeeze", [array(1, 3, 1, 2), K([-2])], 13, {}),
    ("Unsqueeze", [V], 11, {"axes": [0, -1]}),
    ("Unsqueeze", [V, K([1, 3])], 13, {}),
    ("Transpose", [X], 13, {}),
    ("Transpose", [X], 13, {"perm": [0, 2, 3, 1]}),
    ("Expand", [array(3, 1), K([2, 1, 4])], 13, {}),
    ("Slice", [X], 9, {"starts": [1, -3], "ends": [3, 100], "axes": [1, -1]}),
    ("Slice", [X, K([1, 5]), K([6, 0]), K([1, 2]), K([2, -2])], 13, {}),
    ("Slice", [X, K([-1]), K([-1000]), K([3]), K([-1])], 13, {}),
    ("Slice", [X, K([5]), K([2]), K([3])], 13, {}),
    ("Slice", [X, K([0, 0]), K([2**63 - 1, 3])], 13, {}),
    ("Slice", [X, K([3]), K([2**63 - 1]), K([1]), K([2**63 - 1])], 13, {}),
    ("Gather", [X, K(2)], 13, {"axis": 1}),
    ("Gather", [X, K([1, 3, 5])], 13, {"axis": -2}),
    ("Gather", [X, K([[-1, -2]])], 13, {"axis": 1}),
    ("Concat", [X, array(2, 1, 7, 8), K(array(2, 3, 7, 8))], 13, {"axis": 1}),
    ("Concat", [X], 13, {"axis": -1}),
    ("Pad", [X], 10, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}),
    ("Pad", [X, K([0, 0, 1, 2, 0, 0, 3, 0])], 13, {"mode": "reflect"}),
    ("Pad", [X, K([0, 0, 1, 2, 0, 1, 3, 0])], 13, {"mode": "edge"}),
    ("Pad", [X, K([0, 0, -1, 2, 0, 0, 3, -2]), K(np.float32(-1))], 13, {}),
    ("Pad", [X, K([1, 2, 3, 4]), None, K([-1, 1])], 18, {}),
    ("Where", [K(np.array([True])), X, array(8)], 16, {}),
    ("Where", [X > 0, X, array(8)], 16, {}),
    ("Where", [array(7, 1) > 0, K(np.float32(2)), X], 16, {}),
    ("Where", [X > 0, K([[1]]), K([3] * 8)], 16, {}),
    *[(op, [X, y], 16, {}) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
      for y in (array(7, 8), K(np.float32(0.25)), np.round(X))],
    ("Equal", [np.arange(6), K([3])], 16, {}),
    *[(op, [X > 0, array(7, 8) > 0], 7, {}) for op in ("And", "Or", "Xor")],
    ("Not", [X > 0], 7, {}),
    ("Round", [np.array([0.5, 1.5, -0.5, -2.5, 2.4, 1e7, -3.6], np.float32)], 11, {}),
    ("Sign", [np.array([0.5, 0.0, -2.5], np.float32)], 13, {}),
    *[("Cast", [x], 13, {"to": t}) for x, t in [
        (3 * X, 6), (3 * X, 7), (np.round(X), 9), (X > 0, 1), (X > 0, 7), (np.arange(5), 1), (np.arange(5), 9),
        (np.abs(3 * X), 2), (np.arange(5, dtype=np.uint8), 1)]],
    ("CastLike", [3 * X, K([1])], 15, {}),
    ("Max", [np.arange(6), K([3, 3, 3, 3, 3, 3])], 13, {}),
    ("Slice", [X, K([5]), K([-100]), K([1]), K([-1])], 13, {}),
    ("Gather", [X, K([2, 1, 0])], 13, {"axis": 1}),
    ("Gather", [X, K([3, 0, 5, 5, 1])], 13, {"axis": 1}),
    ("Gather", [X, K([[3, 0], [5, 2]])], 13, {"axis": 3}),
    ("Gather", [X, K([1, 1, 0])], 13, {"axis": 0}),
    ("Gather", [np.arange(12).reshape(3, 4), K([2, 0, 1])], 13, {"axis": 0}),
    ("GatherND", [X, K([[1], [0], [-1]])], 13, {}),
    ("GatherND", [X, K([[[1, 3], [0, -1]], [[0, 0], [1, 2]]])], 13, {}),
    ("Tile", [V, K([2, 3])], 13, {}),
    ("Tile", [X, K([1, 2, 1, 2])], 13, {}),
    ("Pad", [X, K([0, 1, 1, 2, 0, 2, 3, 0])], 19, {"mode": "wrap"}),
    ("Pad", [X, K([0, -1, -1, -2, 0, -2, -3, 0])], 13, {}),
    ("MatMul", [array(3, 1, 4, 6), array(2, 6, 5)], 13, {}),
    ("MatMul", [K(array(3, 1, 4, 6)), array(2, 6, 5)], 13, {}),
    ("MatMul", [array(3, 1, 2, 4, 6), array(1, 5, 2, 6, 5)], 13, {}),
    *[(f"Reduce{r}", [X], 18, a) for r in ("Min", "L1", "L2", "SumSquare", "LogSumExp") for a in ({}, {"keepdims": 0})],
    ("ReduceLogSum", [np.abs(X) + 0.1, K([1, 2])], 18, {}),
    ("ReduceL2", [X, K([1])], 18, {}),
    ("ReduceL2", [X], 13, {"axes": [1], "keepdims": 0}),
    ("ReduceMin", [X, K([1])], 18, {}),
    ("ReduceMax", [np.arange(12).reshape(3, 4), K([1])], 18, {}),
    *[(op, [np.round(3 * X)], 13, {"axis": a, "keepdims": k, "select_last_index": last})
      for op in ("ArgMax", "ArgMin") for a, k, last in [(1, 1, 0), (-1, 0, 1), (0, 0, 0), (2, 1, 1)]],
    ("DepthToSpace", [array(2, 8, 3, 4)], 13, {"blocksize": 2}),
    ("DepthToSpace", [array(2, 18, 3, 4)], 13, {"blocksize": 3, "mode": "CRD"}),
    ("SpaceToDepth", [array(2, 3, 6, 8)], 13, {"blocksize": 2}),
    ("InstanceNormalization", [X, K(array(6)), K(array(6, seed=1))], 13, {}),
    ("InstanceNormalization", [array(2, 70, 5, 9), K(array(70)), K(array(70, seed=1))], 13, {"epsilon": 0.1}),
    ("GroupNormalization", [X, K(array(6)), K(array(6, seed=1))], 21, {"num_groups": 3}),
    ("GroupNormalization", [array(2, 96, 5, 3), K(array(96)), K(array(96, seed=1))], 21, {"num_groups": 4}),
    ("GroupNormalization", [X, K(array(2)), K(array(2, seed=1))], 18, {"num_groups": 2}),
    ("LayerNormalization", [X, K(array(8)), K(array(8, seed=1))], 17, {}),
    ("LayerNormalization", [X, K(array(6, 7, 8))], 17, {"axis": 1}),
    ("LayerNormalization", [array(3, 5, 200), K(array(200)), K(array(200, seed=1))], 17, {"epsilon": 0.1}),
    ("Upsample", [X, K(np.array([1, 1, 2, 3], np.float32))], 9, {}),
    ("Upsample", [X], 7, {"scales": [1.0, 1.0, 1.5, 2.0], "mode": "linear"}),
    ("Resize", [X, K(np.array([1, 1, 2, 0.6], np.float32))], 10, {}),
    ("Resize", [X, K(np.array([1, 1, 2, 0.6], np.float32))], 10, {"mode": "linear"}),
    *[("Resize", [X, None, K(np.array([1, 1, *s], np.float32))], 13,
       {"mode": m, "coordinate_transformation_mode": c, **({"nearest_mode": n} if m == "nearest" else {})})
      for s in ((2, 3), (0.6, 1.7)) for c in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
      for m, n in [("nearest", "floor"), ("nearest", "round_prefer_floor"), ("nearest", "ceil"), ("linear", ""),
                   ("cubic", "")]
      if not (c == "align_corners" and s[0] < 1)],
    ("Resize", [X, None, None, K([2, 6, 13, 5])], 13, {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}),
    ("Resize", [X, None, None, K([13, 5])], 18, {"mode": "linear", "axes": [2, 3], "antialias": 1}),
    ("Resize", [X, K(np.array([0.1, 0.2, 0.9, 1.3], np.float32)), None, K([6, 5])], 18,
     {"mode": "linear", "axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize",
      "extrapolation_value": 7.0}),
    *[("ConvTranspose", [x, K(w), *([K(array(k))] if k else [])], 11, a) for x, w, k, a in [
        (X, array(6, 4, 3, 3), 4, {}),
        (X, array(6, 4, 2, 2), 4, {"strides": [2, 2]}),
        (X, array(6, 4, 4, 4), 0, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (X, array(6, 4, 3, 3), 4, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        (X, array(6, 4, 3, 2), 0, {"strides": [3, 1], "dilations": [2, 3], "pads": [0, 2, 3, 1]}),
        (X, array(6, 2, 3, 3), 6, {"strides": [2, 2], "group": 3, "auto_pad": "SAME_UPPER"}),
        (X, array(6, 1, 4, 4), 0, {"strides": [2, 2], "group": 6, "pads": [1, 1, 1, 1]}),
        (X, array(6, 4, 3, 3), 4, {"strides": [2, 3], "output_shape": [15, 22]}),
        (X, array(6, 4, 1, 1), 4, {"pads": [2, 1, 1, 2]}),
        (array(2, 6, 9), array(6, 4, 5), 4, {"strides": [2], "pads": [1, 2]}),
    ]],
]  # fmt: skip


# A constant where the data comes: the network computes with it at each run.
CX = K(X)
CASES += [
    ("Conv", [CX, K(array(4, 6, 3, 3)), K(array(4))], 17, {"pads": [1, 1, 1, 1]}),
    ("Conv", [CX, K(array(6, 1, 3, 3))], 17, {"group": 6, "strides": [2, 1]}),
    ("ConvTranspose", [CX, K(array(6, 4, 2, 2))], 11, {"strides": [2, 2], "pads": [1, 0, 0, 0]}),
    ("MaxPool", [CX], 12, {"kernel_shape": [3, 2]}),
    ("AveragePool", [CX], 12, {"kernel_shape": [3, 2]}),
    ("GlobalAveragePool", [CX], 12, {}),
    ("LRN", [CX], 13, {"size": 3}),
    ("Softmax", [CX], 13, {"axis": 1}),
    ("Elu", [CX], 13, {}),
    ("ArgMax", [CX], 13, {"axis": 1}),
    ("ReduceL2", [CX], 13, {"axes": [0, 2]}),
    ("LayerNormalization", [CX, K(array(8))], 17, {}),
    ("InstanceNormalization", [CX, K(array(6)), K(array(6, seed=1))], 13, {}),
    ("Resize", [CX, None, K(np.array([1, 1, 2, 0.6], np.float32))], 13, {"mode": "linear"}),
    ("Greater", [CX, array(8)], 13, {}),
    ("Gemm", [K(V), array(6, 5), K(array(5))], 13, {}),
]
CASES = [c for c in CASES if c[2] <= OPSET]

# The whole model folds to constants.
I6 = K([7, -7, 3, 0, -1, 2])
J6 = K([2, 2, -2, 5, 3, 1])
CONSTANT: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("Shape", [X], 13, {}),
    ("Shape", [X], 15, {"start": 1, "end": -1}),
    ("Size", [X], 13, {}),
    *[(op, [I6, J6], 14, {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    ("Pow", [I6, K([2])], 15, {}),
    ("Mod", [I6, J6], 13, {}),
    *[(op, [I6, J6], 16, {}) for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")],
    ("And", [K(np.array([True, False])), K(np.array([True]))], 7, {}),
    ("Or", [K(np.array([True, False])), K(np.array([False]))], 7, {}),
    ("Not", [K(np.array([True, False]))], 7, {}),
    ("Where", [K(np.array([True, False])), K([1, 2]), K([3, 4])], 16, {}),
    ("Cast", [I6], 13, {"to": 1}),
    ("Cast", [K(np.array([1.5, -1.5], np.float32))], 13, {"to": 7}),
    ("CastLike", [I6, K(np.float32(0))], 15, {}),
    ("Range", [K(2), K(11), K(3)], 11, {}),
    ("Range", [K(np.float32(2)), K(np.float32(0)), K(np.float32(-0.5))], 11, {}),
    ("ConstantOfShape", [K([2, 3])], 9, {}),
    ("ConstantOfShape", [K([2, 3])], 9, {"value": helper.make_tensor("", 7, [1], [5])}),
    *[(f"Reduce{r}", [K([[1, 2], [3, 4]])], 13 if r == "Sum" else 11, {"keepdims": 0})
      for r in ("Prod", "Sum", "Max", "Min", "Mean")],
    ("Gather", [I6, K([[0, -1], [2, 2]])], 13, {}),
    ("Slice", [I6, K([4]), K([0]), K([0]), K([-2])], 13, {}),
    ("Concat", [I6, J6], 13, {"axis": 0}),
    ("Unsqueeze", [I6, K([0])], 13, {}),
    ("Squeeze", [K([[3]]), K([0])], 13, {}),
    ("Transpose", [K([[1, 2, 3], [4, 5, 6]])], 13, {}),
    ("Tile", [K([[1, 2]]), K([2, 3])], 13, {}),
    ("Expand", [K([[1], [2]]), K([2, 3])], 13, {}),
    ("NonZero", [I6], 13, {}),
    *[("CumSum", [K([[1, 2, 3], [4, 5, 6]]), K(1)], 14, {"exclusive": e, "reverse": r})
      for e in (0, 1) for r in (0, 1)],
    ("Sin", [K(array(5))], 13, {}),
    ("Cos", [K(array(5))], 13, {}),
    ("Pad", [I6, K([1, 2]), K(9)], 13, {}),
    ("Clip", [I6, K(-1), K(2)], 13, {}),
    ("Neg", [I6], 13, {}),
    ("MatMul", [K(array(2, 3)), K(array(3, 4))], 13, {}),
    *[(op, [K(array(5, positive=True))], 13, {}) for op in
      ("Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Sigmoid", "Tanh", "Erf", "Relu", "Abs")],
]  # fmt: skip
