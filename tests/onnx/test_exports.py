"""What exports have beside operators: orders of axes, float16 weights, quantisation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.errors import UnsupportedOpError
from tests.models import nets, nets_exports, nets_formats  # noqa: F401  (they fill NETS)
from tests.models.nets import NETS, serialized
from tests.onnx.helpers import make_model, run_ort

IMAGE_OPERATORS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization")


def to_nhwc(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network as a channels-last framework exports it: an N H W C input, and a Transpose on both sides of
    each operator that wants N C H W."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    del graph.node[:]
    del graph.value_info[:]
    (x,) = graph.input
    dims = [d.dim_value or d.dim_param for d in x.type.tensor_type.shape.dim]
    x.CopyFrom(helper.make_tensor_value_info(x.name, TensorProto.FLOAT, [dims[0], *dims[2:], dims[1]]))
    images = {x.name}
    for node in model.graph.node:
        if node.op_type in IMAGE_OPERATORS:
            inner = helper.make_node("Transpose", [node.input[0]], [f"{node.output[0]}/in"], perm=[0, 3, 1, 2])
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0], changed.output[0] = inner.output[0], f"{node.output[0]}/out"
            outer = helper.make_node("Transpose", [changed.output[0]], [node.output[0]], perm=[0, 2, 3, 1])
            graph.node.extend([inner, changed, outer])
            images.add(node.output[0])
        elif node.op_type == "Flatten" and node.input[0] in images:  # of one pixel
            graph.node.append(node)
        else:
            assert node.op_type in ("Relu", "Add", "Gemm", "Identity", "Clip", "Constant"), node.op_type
            graph.node.append(node)
            if any(i in images for i in node.input) and node.op_type != "Gemm":
                images.add(node.output[0])
    return out


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_an_nhwc_export_makes_the_same_plan(name: str) -> None:
    """Operation by operation, but for the border: Transposes cancel out, so that it is as fast as the NCHW export."""
    model = onnx.load_from_string(serialized(name))
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    first, last = fastconv.load(model), fastconv.load(to_nhwc(model))
    np.testing.assert_allclose(last(x.transpose(0, 2, 3, 1)), first(x), rtol=1e-5, atol=1e-6)

    def plan(m: fastconv.Model, *shape: int) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(o.op, o.algorithm, o.shape) for o in m.inspect(shape) if o.op not in ("Transpose", "Copy", "Pad")]

    n, c, h, w = shape
    nchw, nhwc = plan(first, n, c, h, w), plan(last, n, h, w, c)
    border = [o for o in last.inspect((n, h, w, c)) if o.op in ("Transpose", "Copy")]
    assert not border
    assert [o for o in nhwc if o[1] != "border"] == [o for o in nchw if o[1] != "border"]


@pytest.mark.parametrize("name", ["keras_resnet", "keras_mobilenet", "nhwc"])
def test_keras_exports_move_nothing(name: str) -> None:
    """No operation of the plan copies or transposes."""
    model = onnx.load_from_string(serialized(name))
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    moved = [o for o in fastconv.load(model).inspect(shape) if o.op in ("Transpose", "Copy", "Reshape", "Slice")]
    assert not moved


def test_paddle_exports_have_hard_swish_again() -> None:
    ops = fastconv.load(serialized("paddle_mobilenet")).inspect((1, 3, 32, 32))
    assert {o.op for o in ops} <= {"Conv", "Gemm", "Mul", "ReduceMean", "Softmax", "Transpose", "Copy"}


# -- float16 ----------------------------------------------------------------------------------------------------------
def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """float16 throughout, with Casts at the border."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    del graph.value_info[:]
    for t in graph.initializer:
        if t.data_type == TensorProto.FLOAT:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), t.name))
    x, y = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        assert not any(a.type == onnx.AttributeProto.TENSOR for a in node.attribute), "constants are initializers here"
        for i, name in enumerate(node.input):
            node.input[i] = f"{x}/half" if name == x else name
        for i, name in enumerate(node.output):
            node.output[i] = f"{y}/half" if name == y else name
    graph.node.insert(0, helper.make_node("Cast", [x], [f"{x}/half"], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [f"{y}/half"], [y], to=TensorProto.FLOAT))
    return out


@pytest.mark.parametrize("name", ["resnet", "densenet", "keras_resnet"])
@pytest.mark.parametrize("border", ["casts", "float16 inputs and outputs"])
def test_float16_models_compute_in_float32(name: str, border: str) -> None:
    """Within float16's precision of the float32 network; its own weights are exact."""
    model = onnx.load_from_string(serialized(name))
    half = halved(model)
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(2).standard_normal(shape, np.float32).astype(np.float16)
    for t in model.graph.initializer:  # the float32 network with the rounded weights
        if t.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(t).astype(np.float16).astype(np.float32)
            t.CopyFrom(numpy_helper.from_array(rounded, t.name))
    (want,) = run_ort(model, {model.graph.input[0].name: x.astype(np.float32)})
    if border == "casts":
        got = fastconv.load(half)(x.astype(np.float32))
    else:
        half.graph.node.pop(0)
        half.graph.node.pop()
        half.graph.input[0].name += "/half"
        half.graph.output[0].name += "/half"
        for info in (half.graph.input[0], half.graph.output[0]):
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
        got = fastconv.load(half)(x)
        assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.abs(want).max())


def test_float16_weights_behind_casts_are_folded() -> None:
    """As compressed models have them: stored as float16, cast to float32 in front of their operator."""
    w = np.random.default_rng(3).standard_normal((4, 3, 3, 3)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w32"], ["y"]),
    ]
    model = make_model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": w})
    x = np.random.default_rng(4).standard_normal((1, 3, 8, 8), np.float32)
    loaded = fastconv.load(model)
    assert [n.op for n in loaded.graph.nodes] == ["Conv"]
    (want,) = run_ort(model, {"x": x})
    np.testing.assert_allclose(loaded(x), want, rtol=1e-4, atol=1e-5)


# -- quantisation -----------------------------------------------------------------------------------------------------
def qdq() -> onnx.ModelProto:
    """As static quantisation writes it: QuantizeLinear and DequantizeLinear around each convolution."""
    scale, zero = np.float32(0.02), np.uint8(128)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], name="dequantize_weight"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="quantize_x"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize_x"),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv"),
    ]
    w = np.random.default_rng(5).integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
    return make_model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": w, "s": scale, "z": zero})


def test_a_quantised_model_names_its_first_such_node() -> None:
    with pytest.raises(UnsupportedOpError, match=r"'dequantize_weight' \(DequantizeLinear\).*quantised"):
        fastconv.load(qdq())
    model = qdq()
    model.graph.node.insert(1, model.graph.node.pop(2))
    with pytest.raises(UnsupportedOpError, match=r"'quantize_x' \(QuantizeLinear\).*quantised"):
        fastconv.load(model)


@pytest.mark.parametrize("op", ["QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"])
def test_other_quantised_operators(op: str) -> None:
    with pytest.raises(UnsupportedOpError, match=rf"'it' \({op}\).*quantised"):
        fastconv.load(make_model([helper.make_node(op, ["x"], ["y"], name="it")], {"x": [1]}, ["y"]))
    node = helper.make_node("QLinearAdd", ["x"], ["y"], name="it", domain="com.microsoft")
    model = make_model([node], {"x": [1]}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOpError, match=r"'it' \(com.microsoft.QLinearAdd\).*quantised"):
        fastconv.load(model)


def test_all_networks_are_here() -> None:
    assert {"keras_resnet", "keras_mobilenet", "keras_unet", "paddle_mobilenet", "paddle_detector_neck"} <= set(NETS)
