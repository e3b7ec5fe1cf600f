"""Broken models, second part: nodes whose attributes, types or shapes cannot be, and functions without end."""

from __future__ import annotations

import itertools

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.onnx.corpus import add, array, case, changed, field, one, wire
from tests.onnx.helpers import make_model

# -- types and shapes -------------------------------------------------------------------------------------------------
for _type in (TensorProto.INT64, TensorProto.STRING, TensorProto.BFLOAT16, 99):
    add(f"input_type_{_type}", changed(lambda m, t=_type: setattr(m.graph.input[0].type.tensor_type, "elem_type", t)))
add("input_without_type", changed(lambda m: m.graph.input[0].ClearField("type")))
add("input_without_shape", changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")))
add("input_dim_negative", changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -3)))
add("output_type_int64", changed(lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 7)))
add("conv_group_0", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, group=0))
add("conv_group_negative", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, group=-1))
add("conv_group_does_not_divide", lambda: one("Conv", {"w": array(4, 2, 3, 3)}, group=3))
add("conv_channels", lambda: one("Conv", {"w": array(4, 3, 3, 3)}))
add("conv_channels_of_group", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, group=2))
add("conv_outputs_of_group", lambda: one("Conv", {"w": array(3, 2, 3, 3)}, group=2))
add("conv_kernel_too_large", lambda: one("Conv", {"w": array(4, 4, 9, 3)}))
add("conv_kernel_dilated_too_large", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, dilations=[1, 4]))
add("conv_kernel_empty", lambda: one("Conv", {"w": array(4, 4, 0, 3)}))
add("conv_no_outputs", lambda: one("Conv", {"w": array(0, 4, 3, 3)}))
add("conv_kernel_shape_lies", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, kernel_shape=[5, 5]))
add("conv_pads_negative", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, pads=[0, -1, 0, 0]))
add("conv_pads_three", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, pads=[1, 1, 1]))
add("conv_pads_huge", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, pads=[2**62, 0, 2**62, 0]))
add("conv_output_too_large", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, pads=[2**31 - 1, 2**31 - 1, 0, 0]))
add("conv_stride_0", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, strides=[0, 1]))
add("conv_stride_one_number", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, strides=[1]))
add("conv_dilation_0", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, dilations=[1, 0]))
add("conv_dilation_huge", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, dilations=[2**62, 1]))
add("conv_auto_pad_unknown", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, auto_pad="MAYBE"))
add("conv_weight_rank_3", lambda: one("Conv", {"w": array(4, 4, 3)}))
add("conv_input_rank_2", lambda: one("Conv", {"w": array(4, 4)}, x=[1, 4]))
add("conv_weight_is_input", lambda: one("Conv", names=["x", "x"]))
add("conv_weight_int64", lambda: one("Conv", {"w": np.ones((4, 4, 3, 3), np.int64)}))
add("conv_bias_length", lambda: one("Conv", {"w": array(4, 4, 3, 3), "b": array(5)}))
add("conv_bias_rank", lambda: one("Conv", {"w": array(4, 4, 3, 3), "b": array(1, 4)}))
add("attribute_of_wrong_type", lambda: one("Conv", {"w": array(4, 4, 3, 3)}, strides=[1.0, 1.0]))
add("attribute_unknown", lambda: one("Relu", sharpness=3))
add(
    "attribute_tensor_missing",
    wire(field(1, field(2, b"y") + field(4, b"Constant") + field(5, field(1, b"value") + field(20, 4)))),
)
add("attribute_type_lies", wire(field(1, field(2, b"y") + field(5, field(1, b"a") + field(3, 1) + field(20, 7)))))
add(
    "attribute_twice",
    lambda: wire(
        field(1, field(2, b"y") + field(4, b"Elu") + field(1, b"x") + 2 * field(5, field(1, b"alpha") + field(3, 1)))
    ),
)
add(
    "attribute_reference",
    wire(
        field(
            1,
            field(1, b"x")
            + field(2, b"y")
            + field(4, b"Elu")
            + field(5, field(1, b"alpha") + field(20, 1) + field(21, b"a")),
        )
        + field(11, field(1, b"x") + field(2, field(1, field(1, 1) + field(2, b""))))
        + field(12, field(1, b"y"))
    ),
)
add("max_pool_kernel_missing", lambda: one("MaxPool"))
add("max_pool_kernel_0", lambda: one("MaxPool", kernel_shape=[0, 2]))
add("max_pool_padding_only", lambda: one("MaxPool", kernel_shape=[2, 2], pads=[2, 0, 0, 0]))
add("average_pool_too_large", lambda: one("AveragePool", kernel_shape=[9, 9]))
add("average_pool_ceil_too_large", lambda: one("AveragePool", kernel_shape=[9, 9], ceil_mode=1))
add("pool_without_spatial", lambda: one("MaxPool", x=[2, 3], kernel_shape=[1]))
add("global_pool_empty", lambda: one("GlobalAveragePool", x=[1, 4, 0, 8]))
add("batch_norm_channels", lambda: one("BatchNormalization", {n: array(3) for n in "smvb"}))
add("batch_norm_training", lambda: one("BatchNormalization", {n: array(4) for n in "smvb"}, training_mode=1))
add("lrn_size_0", lambda: one("LRN", size=0))
add("gemm_depth", lambda: one("Gemm", {"w": array(5, 3)}, x=[2, 4]))
add("gemm_rank", lambda: one("Gemm", {"w": array(4, 3)}))
add("gemm_c_shape", lambda: one("Gemm", {"w": array(4, 3), "c": array(4)}, x=[2, 4]))
add("matmul_depth", lambda: one("MatMul", {"w": array(5, 3)}, x=[2, 4]))
add("matmul_scalar", lambda: one("MatMul", {"w": array()}, x=[2, 4]))
add("matmul_batch", lambda: one("MatMul", {"w": array(3, 4, 5)}, x=[2, 4, 4]))
add("add_broadcast", lambda: one("Add", {"w": array(3, 1, 1)}))
add("add_int", lambda: one("Add", {"w": np.ones(1, np.int64)}))
add("prelu_slope", lambda: one("PRelu", {"w": array(2, 4, 8, 8)}))
add("broadcast_beyond_memory", lambda: one("Mul", {"w": array(2**16, 1)}, x=[2**30, 1, 1]))
add("reshape_size", lambda: one("Reshape", {"s": np.array([1, 5, -1])}))
add("reshape_two_unknown", lambda: one("Reshape", {"s": np.array([-1, -1])}))
add("reshape_minus_two", lambda: one("Reshape", {"s": np.array([-2, 4])}))
add("reshape_zero_beyond", lambda: one("Reshape", {"s": np.array([1, 4, 8, 8, 0])}))
add("reshape_overflow", lambda: one("Reshape", {"s": np.array([2**32, 2**32, 256])}))
add("reshape_float_shape", lambda: one("Reshape", {"s": array(2)}))
add("reshape_shape_matrix", lambda: one("Reshape", {"s": np.array([[4, 64]])}))
add("reshape_by_input", lambda: one("Reshape", names=["x", "x"]))
add("flatten_axis", lambda: one("Flatten", axis=5))
add("transpose_perm", lambda: one("Transpose", perm=[0, 1, 1, 2]))
add("transpose_short", lambda: one("Transpose", perm=[1, 0]))
add("concat_shapes", lambda: one("Concat", {"w": array(1, 4, 7, 8)}, axis=1))
add("concat_axis", lambda: one("Concat", names=["x", "x"], axis=4))
add("concat_no_axis", lambda: one("Concat", names=["x", "x"]))
add("squeeze_not_one", lambda: one("Squeeze", {"a": np.array([1])}))
add("unsqueeze_twice", lambda: one("Unsqueeze", {"a": np.array([0, 0])}))
add("unsqueeze_many", lambda: one("Unsqueeze", {"a": np.arange(60000)}))
add("slice_step_0", lambda: one("Slice", {n: np.array([v]) for n, v in zip("seat", (0, 5, 1, 0), strict=True)}))
add("slice_axis", lambda: one("Slice", {n: np.array([v]) for n, v in zip("seat", (0, 5, 9, 1), strict=True)}))
add("slice_lengths", lambda: one("Slice", {"s": np.array([0, 0]), "e": np.array([1])}))
add("split_sum", lambda: one("Split", {"s": np.array([1, 2])}, outputs=["y", "z"], axis=1))
add("split_count", lambda: one("Split", {"s": np.array([1, 3])}, axis=1))
add("split_uneven", lambda: one("Split", outputs=["y", "a", "b"], axis=1))
add("pad_length", lambda: one("Pad", {"p": np.array([1, 1])}))
add("pad_cuts_all", lambda: one("Pad", {"p": np.array([0, 0, -5, 0, 0, 0, -5, 0])}))
add("pad_reflect_too_far", lambda: one("Pad", {"p": np.array([0, 0, 8, 0, 0, 0, 0, 0])}, mode="reflect"))
add("pad_overflow", lambda: one("Pad", {"p": np.array([2**63 - 1, 0, 0, 0, 2**63 - 1, 0, 0, 0])}))
add("pad_mode", lambda: one("Pad", {"p": np.zeros(8, np.int64)}, mode="mirror"))
add("expand_beyond_memory", lambda: one("Expand", {"s": np.array([2**40, 4, 8, 8])}))
add("reduce_axis", lambda: one("ReduceMean", axes=[4]))
add("reduce_axis_twice", lambda: one("ReduceMean", axes=[1, -3]))
add("softmax_axis", lambda: one("Softmax", axis=4))
add("softmax_axis_old", lambda: one("Softmax", axis=-5, opset=11))
add("clip_shape", lambda: one("Clip", {"m": array(4)}))
add("gather_index", lambda: one("Gather", {"i": np.array(4)}, axis=1))
add("dropout_training", lambda: one("Dropout", {"r": np.array(0.5, np.float32), "t": np.array(True)}))


@case
def integer_division_by_zero() -> ModelProto:
    nodes = [
        helper.make_node("Div", ["a", "z"], ["s"], name="div"),
        helper.make_node("Reshape", ["x", "s"], ["y"], name="reshape"),
    ]
    return make_model(nodes, {"x": [2, 3]}, ["y"], {"a": np.array([6]), "z": np.array([0])})


@case
def constant_of_shape_beyond_memory() -> ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    return make_model(nodes, {"x": [1]}, ["y"], {"s": np.array([2**20, 2**18])})


@case
def range_without_end() -> ModelProto:
    nodes = [helper.make_node("Range", ["a", "b", "c"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    inits = {"a": np.array(0, np.float32), "b": np.array(1e30, np.float32), "c": np.array(1e-30, np.float32)}
    return make_model(nodes, {"x": [1]}, ["y"], inits)


@case
def constants_that_take_long() -> ModelProto:
    """Each constant is below the limit, and each is needed; together they are far beyond it."""
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c0"])]
    for i in range(100):
        nodes.append(helper.make_node("Erf", [f"c{i}"], [f"c{i + 1}"]))
    nodes.append(helper.make_node("Add", ["x", "c100"], ["y"], name="reader"))
    return make_model(nodes, {"x": [1]}, ["y"], {"s": np.array([2**23])})


@case
def constants_that_double() -> ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c0"])]
    nodes += [helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0, name=f"join{i}") for i in range(20)]
    nodes.append(helper.make_node("Add", ["x", "c20"], ["y"]))
    return make_model(nodes, {"x": [1]}, ["y"], {"s": np.array([2**17])})


@case
def chain_of_20001() -> ModelProto:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(20001)]
    return make_model(nodes, {"v0": [1]}, ["v20001"])


@case
def many_outputs() -> ModelProto:
    names = [f"y{i}" for i in range(5000)]
    return make_model([helper.make_node("Relu", ["x"], [n]) for n in names], {"x": [1]}, names)


add("conv_filter_beyond_limit", lambda: one("Conv", {"w": array(1, 1, 1025, 1024)}, x=[1, 1, 1025, 1024]))
for _op in ("MaxPool", "AveragePool"):
    add(f"kernel_beyond_limit_{_op}", lambda o=_op: one(o, kernel_shape=[2**21, 1], pads=[2**20, 0, 2**20, 0]))
    add(f"stride_beyond_limit_{_op}", lambda o=_op: one(o, x=[1, 1, 1, 2**21 + 9], kernel_shape=[1, 2],
                                                         strides=[1, 2**21]))  # fmt: skip


# -- functions ------------------------------------------------------------------------------------------------------
def call_chain(levels: int, calls: int, *, loop: bool = False) -> ModelProto:
    """Functions f0 .. where each calls the next one `calls` times."""
    functions = []
    for i in range(levels):
        target = f"f{(i + 1) % levels}" if loop or i + 1 < levels else None
        names = ["a", *(f"t{c}" for c in range(calls - 1)), "o"]
        nodes = [
            helper.make_node(target or "Relu", [s], [d], domain="f" if target else "")
            for s, d in itertools.pairwise(names)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["o"], nodes, opsets))
    model = make_model([helper.make_node("f0", ["x"], ["y"], domain="f")], {"x": [1]}, ["y"], functions=functions)
    model.opset_import.append(helper.make_opsetid("f", 1))
    return model


add("function_recursion", lambda: call_chain(2, 1, loop=True))
add("function_explosion", lambda: call_chain(14, 8))
