"""A corpus of broken models: names and functions that make bytes, or a path in a folder of their own.

Each must raise ModelError (or a subclass) when it is loaded or built. `MUTANTS` may also load: a flipped bit can leave
a valid model. What nodes can get wrong is in broken_nodes.py.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from tests.onnx import broken_nodes, broken_shapes
from tests.onnx.corpus import (
    CASES,
    MUTANTS,
    Maker,
    add,
    array,
    case,
    changed,
    field,
    good,
    one,
    varint,
    wire,
    with_tensor,
)
from tests.onnx.helpers import make_model

assert broken_nodes and broken_shapes  # importing them registers their cases

# -- the wire format ------------------------------------------------------------------------------------------------
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
add("int64_data_too_few", with_tensor(field(1, 4) + field(2, 7) + field(7, b"\1\2\3"), 7))
add("int64_data_cut", with_tensor(field(1, 2) + field(2, 7) + field(7, b"\1\x80"), 7))
add("int32_data_out_of_range", with_tensor(field(1, 1) + field(2, 3) + field(5, varint(300)), 3))
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
add("output_shadows_initializer", changed(lambda m: m.graph.node.append(helper.make_node("Relu", ["b"], ["v"]))))


@case
def output_shadows_input() -> ModelProto:
    model = good()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 3, 8, 8)))
    model.graph.node.append(helper.make_node("Relu", ["z"], ["x"]))
    return model


add("duplicate_initializer", changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])))
add("initializer_without_name", changed(lambda m: setattr(m.graph.initializer[0], "name", "")))
add("duplicate_graph_input", changed(lambda m: m.graph.input.append(m.graph.input[0])))
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


# -- external data --------------------------------------------------------------------------------------------------
def external(
    location: str,
    offset: Any = 0,
    length: Any = 40,
    *,
    dims: Sequence[int] = (10,),
    prepare: Callable[[Path], Any] | None = None,
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
