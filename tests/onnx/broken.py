"""A corpus of broken models: names and functions that make bytes, or a path in a folder of their own.

Each must raise ModelError (or a subclass) when it is loaded or built. `MUTANTS` may also load: a flipped bit can leave a
valid model.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fastconv.onnx import read
from tests.onnx.helpers import make_model

Maker = Callable[[Path], "bytes | Path"]
CASES: dict[str, Maker] = {}
MUTANTS: dict[str, Maker] = {}
LIMIT_SECONDS = 2.0


def load_and_build(source: bytes | Path) -> None:
    """What a user's first call does. Unknown dimensions become 2."""
    model = read(source)
    graph = model.build({i.name: tuple(d if isinstance(d, int) else 2 for d in i.shape) for i in model.inputs})
    for value in graph.values():
        if value.weight is not None and value.size < 1 << 24:
            value.numpy()


def case(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function that returns bytes or a ModelProto, under its name."""
    CASES[fn.__name__] = lambda _: _bytes(fn())
    return fn


def add(name: str, model: Any) -> None:
    CASES[name] = lambda _: _bytes(model() if callable(model) else model)


def _bytes(model: Any) -> bytes:
    return model.SerializeToString() if isinstance(model, ModelProto) else model


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def one(op: str, inits: dict[str, np.ndarray] | None = None, x: Sequence[Any] = (1, 4, 8, 8), **kw: Any) -> ModelProto:
    """A model of one node that reads x and then the initializers."""
    attrs = {k: v for k, v in kw.items() if k not in ("opset", "outputs", "names")}
    names = kw.get("names") or ["x", *(inits or {})]
    outputs = kw.get("outputs", ["y"])
    node = helper.make_node(op, names, outputs, name="the_node", **attrs)
    return make_model([node], {"x": x}, ["y"], inits, opset=kw.get("opset", 17))


def good() -> ModelProto:
    """A small valid network with every kind of thing in it; mutations start here."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "b", "b", "b", "v"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Shape", ["r"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["batch"], name="gather"),
        helper.make_node("Concat", ["batch", "minus"], ["target"], name="concat", axis=0),
        helper.make_node("Reshape", ["r", "target"], ["flat"], name="reshape"),
        helper.make_node("Gemm", ["flat", "fc", "fcb"], ["g"], name="fc", transB=1),
        helper.make_node("Constant", [], ["k"], name="k", value=numpy_helper.from_array(array(10))),
        helper.make_node("Add", ["g", "k"], ["a"], name="add"),
        helper.make_node("Softmax", ["a"], ["y"], name="softmax", axis=-1),
    ]
    inits = {
        "w": array(4, 3, 3, 3), "b": array(4), "v": np.abs(array(4)), "zero": np.array([0]), "minus": np.array([-1]),
        "fc": array(10, 64), "fcb": array(10),
    }  # fmt: skip
    return make_model(nodes, {"x": ("N", 3, 8, 8)}, ["y"], inits)


def changed(edit: Callable[[ModelProto], Any]) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        model = good()
        edit(model)
        return model

    return make


# -- the wire format ------------------------------------------------------------------------------------------------
def varint(v: int) -> bytes:
    out = bytearray()
    while v > 127:
        out.append(v & 127 | 128)
        v >>= 7
    return bytes([*out, v])


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def wire(graph: bytes) -> bytes:
    """A model around the bytes of a graph."""
    return field(1, 8) + field(8, field(1, b"") + field(2, 17)) + field(7, graph)


def with_tensor(tensor: bytes) -> bytes:
    """A model that hands an initializer (its bytes) to its output."""
    node = field(1, b"t") + field(2, b"y") + field(4, b"Identity")
    return wire(field(1, node) + field(5, tensor + field(8, b"t")) + field(12, field(1, b"y")))


add("empty_file", b"")
add("text", b"this is no model, just some text that is long enough to look like something")
add("png", b"\x89PNG\r\n\x1a\n" + bytes(64))
add("zeros", bytes(4096))
add("ones", b"\xff" * 4096)
add("no_graph", field(1, 8) + field(8, field(2, 17)))
add("two_graphs", wire(b"") + field(7, b""))
add("varint_too_long", b"\x08" + b"\x80" * 11 + b"\x01")
add("varint_of_65_bits", b"\x08" + b"\xff" * 9 + b"\x02")
add("varint_runs_out", b"\x08\x80\x80")
add("field_number_zero", b"\x00\x01")
add("field_number_huge", varint(1 << 40) + b"\x01")
add("group_wire_type", b"\x0b\x0c")
add("reserved_wire_type", b"\x0e\x00")
add("length_of_2_to_63", b"\x3a" + varint(1 << 63))
add("length_past_the_end", b"\x3a\x7f\x0a\x00")
add("nested_length_past_parent", wire(b"\x0a\x05\x0a\x7f"))
add("name_not_utf8", wire(field(1, field(4, b"Re\xfflu") + field(2, b"y"))))
add("name_too_long", wire(field(2, b"g" * 70000)))
add("graph_as_varint", field(1, 8) + field(7, 5))
add("fixed_field_runs_out", wire(field(1, field(5, field(1, b"a") + b"\x15\x00"))))
add("million_empty_nodes", lambda: wire(field(1, b"") * 1_100_000))
add("million_dims", lambda: with_tensor(field(1, b"\x01" * 1_000_000) + field(2, 1) + field(9, bytes(4))))
add("million_initializers", lambda: wire(field(5, field(2, 1) + field(9, bytes(4))) * 500_000))
add("million_packed_ints", lambda: wire(field(1, field(5, field(1, b"a") + field(8, b"\x01" * 1_100_000)))))
add("deep_nesting", lambda: wire(nested(4000)))


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    out = b""
    for _ in range(depth):
        out = field(1, field(2, b"y") + field(4, b"If") + field(5, field(1, b"then_branch") + field(6, out)))
    return out + field(12, field(1, b"y"))


# -- tensors --------------------------------------------------------------------------------------------------------
RAW = field(9, bytes(16))
add("tensor_without_data", with_tensor(field(1, 4) + field(2, 1)))
add("raw_too_short", with_tensor(field(1, 5) + field(2, 1) + RAW))
add("raw_too_long", with_tensor(field(1, 3) + field(2, 1) + RAW))
add("raw_of_other_type", with_tensor(field(1, 4) + field(2, 11) + RAW))
add("raw_twice", with_tensor(field(1, 4) + field(2, 1) + RAW + RAW))
add("raw_and_float_data", with_tensor(field(1, 4) + field(2, 1) + RAW + field(4, bytes(16))))
add("negative_dim", with_tensor(field(1, (1 << 64) - 4) + field(2, 1) + RAW))
add("dims_overflow_64_bits", with_tensor(field(1, 1 << 32) * 2 + field(1, 4) + field(2, 1) + RAW))
add("dims_overflow_to_zero", with_tensor(field(1, 1 << 32) * 2 + field(2, 1)))
add("dims_huge_times_zero", with_tensor(field(1, 1 << 62) * 2 + field(1, 0) + field(2, 1)))
add("dims_beyond_memory", with_tensor(field(1, 1 << 45) + field(2, 1) + RAW))
add("rank_40", with_tensor(field(1, 1) * 40 + field(2, 1) + field(9, bytes(4))))
add("float_data_odd_length", with_tensor(field(1, 4) + field(2, 1) + field(4, bytes(15))))
add("float_data_in_int64_tensor", with_tensor(field(1, 4) + field(2, 7) + field(4, bytes(16))))
add("int64_data_in_float_tensor", with_tensor(field(1, 4) + field(2, 1) + field(7, b"\1\2\3\4")))
add("int64_data_too_few", with_tensor(field(1, 4) + field(2, 7) + field(7, b"\1\2\3")))
add("int64_data_cut", with_tensor(field(1, 2) + field(2, 7) + field(7, b"\1\x80")))
add("int32_data_out_of_range", with_tensor(field(1, 1) + field(2, 3) + field(5, varint(300))))
add("tensor_type_unknown", with_tensor(field(1, 4) + field(2, 77) + RAW))
add("tensor_type_string", with_tensor(field(1, 1) + field(2, 8) + field(6, b"hello")))
add("tensor_type_complex", with_tensor(field(1, 2) + field(2, 14) + field(4, bytes(16))))
add("tensor_without_type", with_tensor(field(1, 4) + RAW))
add("tensor_segment", with_tensor(field(1, 4) + field(2, 1) + field(3, b"") + RAW))
add("sparse_initializer", wire(field(15, b"")))
add("big_raw_too_short", changed(lambda m: m.graph.initializer[5].dims.__setitem__(0, 11)))
add("initializer_bytes_cut", changed(lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(100))))


# -- names and order ------------------------------------------------------------------------------------------------
def rewire(node: int, i: int, name: str) -> Callable[[], ModelProto]:
    return changed(lambda m: m.graph.node[node].input.__setitem__(i, name))


add("missing_input", rewire(2, 0, "nowhere"))
add("cycle", rewire(0, 0, "r"))
add("self_loop", rewire(2, 0, "r"))
add("missing_in_dead_node", changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["nowhere"], ["dead"]))))
add("duplicate_output", changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["x"], ["r"]))))
add("output_shadows_input", changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["r"], ["x"]))))
add("output_shadows_initializer", changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["r"], ["w"]))))
add("duplicate_initializer", changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])))
add("initializer_without_name", changed(lambda m: setattr(m.graph.initializer[0], "name", "")))
add("duplicate_graph_input", changed(lambda m: m.graph.input.append(m.graph.input[0])))
add("duplicate_graph_output", changed(lambda m: m.graph.output.append(m.graph.output[0])))
add("graph_output_missing", changed(lambda m: setattr(m.graph.output[0], "name", "nowhere")))
add("graph_output_without_name", changed(lambda m: setattr(m.graph.output[0], "name", "")))
add("no_graph_output", changed(lambda m: m.graph.ClearField("output")))
add("no_graph_input", changed(lambda m: m.graph.ClearField("input")))
add("node_without_output", changed(lambda m: m.graph.node[2].ClearField("output")))
add("required_input_empty", rewire(0, 1, ""))
add("too_few_inputs", changed(lambda m: m.graph.node[7].input.__delitem__(slice(1, 3))))
add("too_many_inputs", changed(lambda m: m.graph.node[2].input.append("x")))
add("unknown_op", changed(lambda m: setattr(m.graph.node[2], "op_type", "Rleu")))
add("unknown_domain", changed(lambda m: setattr(m.graph.node[2], "domain", "com.example")))
add("op_type_empty", changed(lambda m: setattr(m.graph.node[2], "op_type", "")))
add("op_too_new_for_opset", lambda: one("Gelu", opset=17))
add("opset_missing", changed(lambda m: m.ClearField("opset_import")))
add("opset_other_domain_only", changed(lambda m: setattr(m.opset_import[0], "domain", "com.example")))
add("opset_6", changed(lambda m: setattr(m.opset_import[0], "version", 6)))
add("opset_1000", changed(lambda m: setattr(m.opset_import[0], "version", 1000)))
add("opset_negative", changed(lambda m: setattr(m.opset_import[0], "version", -17)))
add("opset_twice", changed(lambda m: m.opset_import.append(helper.make_opsetid("", 13))))
add("ir_version_missing", changed(lambda m: m.ClearField("ir_version")))
add("if_node", lambda: one("If", names=["x"]))
add("quantized", lambda: one("DequantizeLinear", {"s": np.array(0.1, np.float32)}))

# -- types and shapes -------------------------------------------------------------------------------------------------
for _type in (TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING, TensorProto.BFLOAT16, 99):
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
add("attribute_tensor_missing", wire(field(1, field(2, b"y") + field(4, b"Constant") + field(5, field(1, b"value") + field(20, 4)))))
add("attribute_type_lies", wire(field(1, field(2, b"y") + field(5, field(1, b"a") + field(3, 1) + field(20, 7)))))
add("attribute_twice", lambda: wire(field(1, field(2, b"y") + field(4, b"Elu") + field(1, b"x") + 2 * field(5, field(1, b"alpha") + field(3, 1)))))
add("attribute_reference", wire(field(1, field(1, b"x") + field(2, b"y") + field(4, b"Elu") + field(5, field(1, b"alpha") + field(20, 1) + field(21, b"a"))) + field(11, field(1, b"x") + field(2, field(1, field(1, 1) + field(2, b"")))) + field(12, field(1, b"y"))))
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
add("slice_step_0", lambda: one("Slice", {n: np.array([v]) for n, v in zip("seat", (0, 5, 1, 0))}))
add("slice_axis", lambda: one("Slice", {n: np.array([v]) for n, v in zip("seat", (0, 5, 9, 1))}))
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
def thousand_expands() -> ModelProto:
    """Each computation is small, but they hang on one another."""
    nodes = [helper.make_node("Add", ["big" if i == 0 else f"v{i - 1}", "big"], [f"v{i}"]) for i in range(5000)]
    nodes.append(helper.make_node("Add", ["x", "v4999"], ["y"]))
    return make_model(nodes, {"x": [2000]}, ["y"], {"big": array(2000)})


@case
def chain_of_60000() -> ModelProto:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(60000)]
    return make_model(nodes, {"v0": [1]}, ["v60000"])


# -- functions ------------------------------------------------------------------------------------------------------
def call_chain(levels: int, calls: int, *, loop: bool = False) -> ModelProto:
    """Functions f0 .. where each calls the next one `calls` times."""
    functions = []
    for i in range(levels):
        target = f"f{(i + 1) % levels}" if loop or i + 1 < levels else None
        names = ["a", *(f"t{c}" for c in range(calls - 1)), "o"]
        nodes = [
            helper.make_node(target or "Relu", [s], [d], domain="f" if target else "") for s, d in zip(names, names[1:])
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["o"], nodes, opsets))
    model = make_model([helper.make_node("f0", ["x"], ["y"], domain="f")], {"x": [1]}, ["y"], functions=functions)
    model.opset_import.append(helper.make_opsetid("f", 1))
    return model


add("function_recursion", lambda: call_chain(2, 1, loop=True))
add("function_explosion", lambda: call_chain(14, 8))


# -- external data --------------------------------------------------------------------------------------------------
def external(
    location: str, offset: Any = 0, length: Any = 40, *, dims: Sequence[int] = (10,), prepare: Callable[[Path], Any] | None = None
) -> Maker:
    """A model file whose initializer refers to `location`; a data file of 40 bytes lies beside it and one outside."""

    def make(folder: Path) -> Path:
        inner = folder / "inner"
        inner.mkdir()
        for path in (inner / "data.bin", folder / "outside.bin"):
            path.write_bytes(array(10).tobytes())
        if prepare:
            prepare(inner)
        model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [10]}, ["y"])
        tensor = model.graph.initializer.add(name="w", data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
        path = inner / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make


CASES.update(
    external_parent=external("../outside.bin"),
    external_parent_inside=external("sub/../data.bin", prepare=lambda d: (d / "sub").mkdir()),
    external_absolute=external("/etc/passwd"),
    external_backslash=external("..\\outside.bin"),
    external_empty_location=external(""),
    external_no_location=external("data.bin", prepare=lambda d: (d / "data.bin").unlink()),
    external_nul=external("data.bin\0x"),
    external_link_out=external("link", prepare=lambda d: (d / "link").symlink_to("../outside.bin")),
    external_link_folder=external("up/outside.bin", prepare=lambda d: (d / "up").symlink_to("..")),
    external_link_absolute=external("link", prepare=lambda d: (d / "link").symlink_to("/etc/passwd")),
    external_link_loop=external("link", prepare=lambda d: (d / "link").symlink_to("link")),
    external_folder=external("sub", prepare=lambda d: (d / "sub").mkdir()),
    external_own_folder=external("."),
    external_fifo=external("pipe", prepare=lambda d: os.mkfifo(d / "pipe")),
    external_device=external("null", prepare=lambda d: (d / "null").symlink_to("/dev/null")),
    external_offset_past_end=external("data.bin", 4),
    external_offset_huge=external("data.bin", 2**63 - 8),
    external_offset_negative=external("data.bin", -4),
    external_offset_words=external("data.bin", "zero"),
    external_length_wrong=external("data.bin", 0, 36),
    external_length_huge=external("data.bin", 0, 10**30),
    external_dims_too_large=external("data.bin", 0, None, dims=(11,)),
    external_dims_overflow=external("data.bin", 0, None, dims=(2**62, 2**62)),
    external_dims_negative=external("data.bin", 0, None, dims=(-10,)),
)


def _external_bytes(folder: Path) -> bytes:
    path = external("data.bin")(folder)
    assert isinstance(path, Path)
    return path.read_bytes()


CASES["external_in_bytes"] = _external_bytes
CASES["path_is_folder"] = lambda folder: folder


def _both(folder: Path) -> bytes:
    model = onnx.load_from_string(_external_bytes(folder))
    model.graph.initializer[0].raw_data = array(10).tobytes()
    return model.SerializeToString()


CASES["external_and_raw"] = _both

# -- truncation and flipped bits --------------------------------------------------------------------------------------
GOOD = good().SerializeToString()
for _n in [*range(1, 200, 7), *range(200, len(GOOD), 61), len(GOOD) - 1]:
    add(f"truncated_{_n}", GOOD[:_n])


def flipped(seed: int) -> bytes:
    """1 to 8 flipped bits, most of them in the structure rather than in weights."""
    rng = random.Random(seed)
    data = bytearray(GOOD)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) if rng.random() < 0.2 else 700)
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def spliced(seed: int) -> bytes:
    """A piece cut out, doubled or overwritten with extreme bytes."""
    rng = random.Random(seed)
    at, n = rng.randrange(len(GOOD)), rng.randint(1, 40)
    middle = rng.choice([b"", GOOD[at : at + n] * 2, b"\xff" * n, b"\x80" * n, bytes(n)])
    return GOOD[:at] + middle + GOOD[at + n :]


for _seed in range(300):
    MUTANTS[f"flipped_{_seed}"] = lambda _, s=_seed: flipped(s)
    MUTANTS[f"spliced_{_seed}"] = lambda _, s=_seed: spliced(s)
