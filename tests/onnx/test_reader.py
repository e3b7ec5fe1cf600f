"""Model level: sources, inputs, opsets, order, functions, external data, folding, identity of weights."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.errors import ModelError, ShapeError, UnsupportedOpError
from fastconv.onnx import MAX_OPSET, read
from tests.onnx.broken import GOOD, external
from tests.onnx.corpus import array, good
from tests.onnx.helpers import graph_to_onnx, make_model, run_ort


def same(model: onnx.ModelProto, feeds: dict[str, np.ndarray], source: Any = None) -> None:
    """The Graph computes what onnxruntime computes from the model."""
    want = run_ort(model, feeds)
    graph = read(source or model).build({n: a.shape for n, a in feeds.items()})
    got = run_ort(graph_to_onnx(graph), dict(zip([f"v{i}" for i in range(len(feeds))], feeds.values(), strict=True)))
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_whole_network() -> None:
    for batch in (1, 3):
        same(good(), {"x": array(batch, 3, 8, 8)})


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(GOOD)
    texts = {
        str(read(s).build({"x": (2, 3, 8, 8)}))
        for s in (path, str(path), GOOD, bytearray(GOOD), memoryview(GOOD), onnx.load_from_string(GOOD))
    }
    assert len(texts) == 1
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.onnx")
    with pytest.raises(TypeError, match="int"):
        read(3)  # type: ignore[arg-type]


def test_a_buffer_that_changes_later_does_not_matter() -> None:
    data = bytearray(GOOD)
    model = read(data)
    data[:] = bytes(len(data))
    assert len(model.build({"x": (1, 3, 8, 8)}).nodes) == 7


def test_inputs_and_outputs() -> None:
    model = read(GOOD)
    (x,) = model.inputs
    assert (x.name, x.shape, x.dtype) == ("x", ("N", 3, 8, 8), np.float32)
    (y,) = model.outputs
    assert (y.name, y.shape, y.dtype) == ("y", None, np.float32)
    assert model.opset == 17 and model.name == "g"


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({}, "needs a shape"),
        ({"x": (1, 3, 8)}, r"expected shape .*\(1, 3, 8\)"),
        ({"x": (1, 4, 8, 8)}, "dimension 1"),
        ({"x": (-1, 3, 8, 8)}, "dimension 0"),
        ({"x": (2**50, 3, 8, 8)}, "2\\^40"),
        ({"z": (1, 3, 8, 8)}, "no input 'z'"),
    ],
)
def test_wrong_shapes(shapes: dict[str, tuple[int, ...]], match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        read(GOOD).build(shapes)


def test_a_symbol_means_one_number() -> None:
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    model = read(make_model([node], {"a": ["N", 2], "b": ["N", 3]}, ["y"]))
    assert model.build({"a": (4, 2), "b": (4, 3)}).outputs[0].shape == (4, 5)
    with pytest.raises(ShapeError, match="'b', dimension 0"):
        model.build({"a": (4, 2), "b": (5, 3)})


def test_batch_0() -> None:
    graph = read(GOOD).build({"x": (0, 3, 8, 8)})
    assert graph.outputs[0].shape == (0, 10)


def test_weights_are_shared_between_builds() -> None:
    model = read(GOOD)
    one, three = (model.build({"x": (n, 3, 8, 8)}) for n in (1, 3))
    for a, b in zip(one.nodes, three.nodes, strict=True):
        for u, v in zip(a.inputs, b.inputs, strict=True):
            if u is not None and u.weight is not None:
                assert v is not None and v.weight is not None
                assert u.weight.key == v.weight.key
    assert read(GOOD).build({"x": (1, 3, 8, 8)}).nodes[0].input(1).weight.key != one.nodes[0].input(1).weight.key


def test_derived_weights_are_lazy_and_shared(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "c", "b"], ["y"], alpha=2.0),
    ]
    w = array(500, 400).astype(np.float16)
    model = make_model(nodes, {"x": ["N", 400]}, ["y"], {"w": w, "b": array(500)})
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    reader = read(path)
    first, second = (reader.build({"x": (n, 400)}).nodes[-1].input(1) for n in (1, 2))
    assert first.weight is second.weight
    assert first.weight._array is None
    np.testing.assert_allclose(first.numpy(), 2 * w.T.astype(np.float32))
    os.truncate(path, 1000)
    with pytest.raises(ModelError, match="changed"):
        first.numpy()


def test_pickle(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(GOOD)
    for source in (path, GOOD, good()):
        model = pickle.loads(pickle.dumps(read(source)))
        assert str(model.build({"x": (1, 3, 8, 8)})) == str(read(GOOD).build({"x": (1, 3, 8, 8)}))


def test_initializers_that_are_listed_as_inputs() -> None:
    model = good()
    model.ir_version = 3
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    assert [i.name for i in read(model).inputs] == ["x"]
    same(model, {"x": array(2, 3, 8, 8)})


def test_order_does_not_matter() -> None:
    model = good()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert str(read(model).build({"x": (1, 3, 8, 8)})) == str(read(GOOD).build({"x": (1, 3, 8, 8)}))


def test_dead_nodes_do_not_matter() -> None:
    model = good()
    model.graph.node.append(helper.make_node("NoSuchOp", ["r"], ["dead"]))
    model.graph.node.append(helper.make_node("Relu", ["dead"], ["dead2"]))
    graph = read(model).build({"x": (1, 3, 8, 8)})
    assert [n.op for n in graph.nodes] == ["Conv", "BatchNormalization", "Relu", "Reshape", "Gemm", "Add", "Softmax"]


def test_values_keep_their_onnx_names() -> None:
    graph = read(GOOD).build({"x": (1, 3, 8, 8)})
    assert [n.output.name for n in graph.nodes] == ["c", "n", "r", "flat", "g", "a", "y"]
    assert [n.name for n in graph.nodes] == ["conv", "bn", "relu", "reshape", "fc", "add", "softmax"]
    assert graph.nodes[0].input(1).name == "w"


def test_outputs_that_are_inputs_or_constants() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["w"], ["z"])]
    graph = read(make_model(nodes, {"x": [2]}, ["y", "z"], {"w": array(3)})).build({})
    assert graph.outputs[0] is graph.inputs[0] and graph.outputs[1].is_const and not graph.nodes


@pytest.mark.parametrize(
    ("attrs", "want"),
    [
        ({"value": numpy_helper.from_array(np.arange(6.0).reshape(2, 3))}, np.arange(6.0).reshape(2, 3)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, np.array([7, 8])),
    ],
)
def test_constant_forms(attrs: dict[str, Any], want: np.ndarray) -> None:
    node = helper.make_node("Constant", [], ["y"], **attrs)
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(want).dtype)
    got = read(make_model([node], {}, ["y"], output_type=kind)).build({}).outputs[0].numpy()
    assert got.dtype == want.dtype and got.shape == np.shape(want)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("attrs", [{}, {"value_int": 1, "value_float": 1.0}, {"value_string": "a"}])
def test_constant_without_one_number(attrs: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        read(make_model([helper.make_node("Constant", [], ["y"], **attrs)], {}, ["y"])).build({})


def test_newest_opset_is_onnx_s() -> None:
    assert onnx.defs.onnx_opset_version() <= MAX_OPSET


@pytest.mark.parametrize("opset", range(7, MAX_OPSET + 1))
def test_every_opset(opset: int) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    assert len(read(make_model([node], {"x": [1]}, ["y"], opset=opset)).build({}).nodes) == 1


# -- functions ------------------------------------------------------------------------------------------------------
def with_functions(body: Sequence[onnx.NodeProto], call: onnx.NodeProto, **kw: Any) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17)]
    f = helper.make_function("local", "F", ["a", "b"], ["o", "p"], list(body), opsets, **kw)
    tail = helper.make_node("Sub", ["u", "v"], ["y"])
    model = make_model([call, tail], {"x": [2, 3]}, ["y"], {"w": array(3)}, functions=[f])
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_functions_are_inlined() -> None:
    elu = helper.make_node("Elu", ["a"], ["t"])
    elu.attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="slope"))
    body = [elu, helper.make_node("Add", ["t", "b"], ["o"]), helper.make_node("Identity", ["a"], ["p"])]
    call = helper.make_node("F", ["x", "w"], ["u", "v"], domain="local", name="call", slope=0.25)
    model = with_functions(body, call, attributes=["slope"])
    same(model, {"x": array(2, 3)})
    graph = read(model).build({})
    assert graph.nodes[0].attrs["alpha"] == 0.25
    del call.attribute[:]
    model = with_functions(body, call, attributes=["slope"])
    assert read(model).build({}).nodes[0].attrs["alpha"] == 1.0  # the operator's own default
    model = with_functions(body, call, attribute_protos=[helper.make_attribute("slope", 0.5)])
    assert read(model).build({}).nodes[0].attrs["alpha"] == 0.5


def test_function_output_that_is_an_input() -> None:
    body = [helper.make_node("Add", ["a", "b"], ["o"])]
    f = helper.make_function("local", "F", ["a", "b"], ["o", "a"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("F", ["x", "w"], ["u", "v"], domain="local"), helper.make_node("Sub", ["u", "v"], ["y"])]
    model = make_model(nodes, {"x": [2, 3]}, ["y"], {"w": array(3)}, functions=[f])
    graph = read(model).build({})
    assert [n.op for n in graph.nodes] == ["Add", "Sub"] and graph.nodes[1].input(1) is graph.inputs[0]


# -- external data --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["data.bin", "./data.bin", "sub/data.bin", "link"])
def test_external_data(place: str, tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "data.bin").write_bytes((folder / "data.bin").read_bytes())
        (folder / "link").symlink_to("sub/data.bin")  # a link that stays inside is fine

    path = external(place, prepare=prepare)(tmp_path)
    value = read(path).build({}).nodes[0].input(1)
    np.testing.assert_array_equal(value.numpy(), array(10))


def test_external_data_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(good(), tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    x = {"x": array(2, 3, 8, 8)}
    same(good(), x, tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    same(good(), x, "m.onnx")


def test_external_data_that_changes(tmp_path: Path) -> None:
    path = external("data.bin")(tmp_path)
    assert isinstance(path, Path)
    value = read(path).build({}).nodes[0].input(1)
    (path.parent / "data.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="changed"):
        value.numpy()


# -- numbers with meaning -------------------------------------------------------------------------------------------
def test_reshape_keeps_an_empty_batch() -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    model = read(make_model([node], {"x": ["N", 4, 2, 2]}, ["y"], {"s": np.array([0, -1])}))
    assert model.build({"x": (0, 4, 2, 2)}).outputs[0].shape == (0, 16)


def test_the_same_value_may_be_listed_twice_as_output() -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y", "y"])
    x = array(3)
    got = fastconv.load(model)(x)
    assert len(got) == len(run_ort(model, {"x": x})) == 2
    for g in got:
        np.testing.assert_array_equal(g, np.maximum(x, 0))


def test_cast_to_half_rounds_and_later_operations_are_float32() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["y"], to=TensorProto.FLOAT),
    ]
    model = make_model(nodes, {"x": [5]}, ["y"], {"w": np.zeros(5, np.float16)})
    cast, add = read(model).build({}).nodes
    assert cast.op == "RoundHalf" and add.input(1).dtype == np.float32
    x = np.array([1.0001, 70000.0, -1e-7, 65519.9, np.nan], np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(fastconv.load(model)(x), want)


def test_half_inputs_and_outputs_are_converted_at_the_border() -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"], output_type=TensorProto.FLOAT16)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    x = array(3).astype(np.float16)
    got = fastconv.load(model)(x)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, np.maximum(x, 0))


def test_integer_division_rounds_towards_zero() -> None:
    node = helper.make_node("Div", ["a", "b"], ["y"])
    inits = {"a": np.array([7, -7, 7, -7]), "b": np.array([2, 2, -2, -2])}
    got = read(make_model([node], {}, ["y"], inits, output_type=TensorProto.INT64)).build({}).outputs[0]
    np.testing.assert_array_equal(got.numpy(), [3, -3, -3, 3])


def test_unsupported_names_the_first_node() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], name="first"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"], name="second"),
    ]
    with pytest.raises(UnsupportedOpError, match="'first'"):
        read(make_model(nodes, {"x": [1]}, ["y"], {"s": np.array(0.5, np.float32)}))


# -- speed and imports ------------------------------------------------------------------------------------------------
def test_speed() -> None:
    """700 nodes, with shape arithmetic, in 0.1 s (measured: 0.02); the bound leaves room for busy machines."""
    nodes: list[onnx.NodeProto] = []
    name = "x"
    for i in range(117):
        for op, ins, out, attrs in (
            ("Conv", [name, "w"], f"c{i}", {"pads": [1, 1, 1, 1]}),
            ("Relu", [f"c{i}"], f"r{i}", {}),
            ("Shape", [f"r{i}"], f"s{i}", {}),
            ("Gather", [f"s{i}", "zero"], f"b{i}", {}),
            ("Concat", [f"b{i}", "rest"], f"t{i}", {"axis": 0}),
            ("Reshape", [f"r{i}", f"t{i}"], f"y{i}", {}),
        ):
            nodes.append(helper.make_node(op, ins, [out], **attrs))
        name = f"y{i}"
    inits = {"w": array(16, 16, 3, 3), "zero": np.array([0]), "rest": np.array([16, 8, -1])}
    data = make_model(nodes, {"x": ["N", 16, 8, 8]}, [name], inits).SerializeToString()
    best = 1e9
    for _ in range(5):
        gc.collect()
        start = time.perf_counter()
        read(data).build({"x": (1, 16, 8, 8)})
        best = min(best, time.perf_counter() - start)
    assert best < 0.1


def test_onnx_is_not_imported() -> None:
    code = "import sys, fastconv.onnx; assert not {'onnx', 'onnxruntime', 'google.protobuf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_bound_inputs_are_constants_and_survive_a_pickle() -> None:
    model = make_model([helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": [2, 3], "s": [2]}, ["y"])
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    bound = read(model).bind({"s": np.array([3, 2])})
    for m in (bound, pickle.loads(pickle.dumps(bound))):
        assert [i.name for i in m.inputs] == ["x"]
        assert m.build({}).outputs[0].shape == (3, 2)
    with pytest.raises(ShapeError, match="'z'"):
        read(model).bind({"z": np.array([3, 2])})
    with pytest.raises(ShapeError, match="int64"):
        read(model).bind({"s": np.array([3.0, 2.0])})
