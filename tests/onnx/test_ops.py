"""Every operator against onnxruntime: the model and the Graph that the reader makes of it give equal results."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import fastconv
from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.onnx import read, supported
from tests.onnx.cases import CASES, CONSTANT, K, X, array
from tests.onnx.helpers import graph_to_onnx, make_model, run_ort, run_reference


def single(op: str, operands: list[Any], opset: int, outputs: int = 1, **attrs: Any) -> tuple[onnx.ModelProto, dict]:
    names = [f"i{i}" if o is not None else "" for i, o in enumerate(operands)]
    feeds = {n: o for n, o in zip(names, operands, strict=True) if isinstance(o, np.ndarray)}
    inits = {n: o.array for n, o in zip(names, operands, strict=True) if isinstance(o, K)}
    outs = [f"o{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, name="the_node", **attrs)
    model = make_model([node], {n: a.shape for n, a in feeds.items()}, outs, inits, opset=opset)
    for info in model.graph.input:
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(feeds[info.name].dtype)
    del model.graph.output[:]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, outs))
    typed = onnx.shape_inference.infer_shapes(model)
    types = [o.type.tensor_type.elem_type for o in typed.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(o, t or 1, None) for o, t in zip(outs, types, strict=True))
    return model, feeds


def check(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, tolerance: float = 1e-5) -> None:
    """Both the Graph, written back as ONNX, and fastconv's own run of it give what onnxruntime gives."""
    want = run_reference(model, feeds)
    if all(w.size for w in want):
        loaded = fastconv.load(model)
        got = loaded.run(None, feeds)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == w.dtype and g.shape == w.shape
            np.testing.assert_allclose(g, w, rtol=10 * tolerance, atol=10 * tolerance)
    graph = read(model).build({n: a.shape for n, a in feeds.items()})
    assert [v.shape for v in graph.outputs] == [w.shape for w in want]
    got = run_ort(
        graph_to_onnx(graph), dict(zip([f"v{i}" for i in range(len(graph.inputs))], feeds.values(), strict=True))
    )
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("op", "operands", "opset", "attrs"), CASES, ids=[f"{i}-{c[0]}-{c[2]}" for i, c in enumerate(CASES)]
)
def test_operator(op: str, operands: list[Any], opset: int, attrs: dict[str, Any]) -> None:
    check(*single(op, operands, opset, **attrs))


@pytest.mark.parametrize(
    ("opset", "operands", "attrs", "outputs"),
    [
        (11, [X], {"axis": 1}, 3),
        (11, [X], {"axis": 1, "split": [1, 5]}, 2),
        (13, [X, K([1, 2, 3])], {"axis": -3}, 3),
        (18, [X], {"axis": 2, "num_outputs": 3}, 3),
        (18, [X, K([4, 0, 3])], {"axis": 2}, 3),
        (18, [X], {"axis": 2, "num_outputs": 1}, 1),
    ],
)
def test_split(opset: int, operands: list[Any], attrs: dict[str, Any], outputs: int) -> None:
    check(*single("Split", operands, opset, outputs, **attrs))


@pytest.mark.parametrize(
    ("x", "k", "attrs"),
    [
        (X, 3, {}),
        (X, 1, {"axis": 1}),
        (np.round(3 * X), 7, {"axis": 2, "largest": 0}),
        (np.round(X), 2, {"axis": 0}),
        (array(5000), 700, {}),
    ],
)
def test_top_k(x: np.ndarray, k: int, attrs: dict[str, Any]) -> None:
    check(*single("TopK", [x, K([k])], 11, outputs=2, **attrs))


def test_max_pool_indices() -> None:
    for order in (0, 1):
        check(*single("MaxPool", [X], 12, outputs=2, kernel_shape=[3, 2], pads=[1, 0, 1, 1], storage_order=order))


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("most", [0, 3, 100])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_non_max_suppression(center: int, most: int, threshold: float | None) -> None:
    rng = np.random.default_rng(most)
    boxes = rng.uniform(0, 1, (2, 60, 4)).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, (2, 3, 60)), 2).astype(np.float32)
    operands = [boxes, scores, K([most]), K(np.array([0.4], np.float32))]
    if threshold is not None:
        operands.append(K(np.array([threshold], np.float32)))
    model, feeds = single("NonMaxSuppression", operands, 11, center_point_box=center)
    (got,) = fastconv.load(model).run(None, feeds)
    (want,) = run_ort(model, feeds)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


# -- shape arithmetic: the whole model folds to constants -------------------------------------------------------------
@pytest.mark.parametrize(
    ("op", "operands", "opset", "attrs"), CONSTANT, ids=[f"{i}-{c[0]}" for i, c in enumerate(CONSTANT)]
)
def test_folding(op: str, operands: list[Any], opset: int, attrs: dict[str, Any]) -> None:
    model, feeds = single(op, operands, opset, **attrs)
    model = onnx.shape_inference.infer_shapes(model, check_type=True)
    (want,) = run_ort(_typed(model, feeds), feeds)
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(want.dtype)
    graph = read(model).build({n: a.shape for n, a in feeds.items()})
    assert not graph.nodes
    got = graph.outputs[0].numpy()
    assert got.dtype == want.dtype == graph.outputs[0].dtype
    assert got.shape == want.shape == graph.outputs[0].shape
    np.testing.assert_allclose(got, want, rtol=1e-6)


def _typed(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The output's element type from onnx's own inference (make_model wrote float32)."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.output[:]
    bare.graph.output.append(helper.make_empty_tensor_value_info("o0"))
    typed = onnx.shape_inference.infer_shapes(bare)
    assert typed.graph.output[0].type.tensor_type.elem_type, "onnx knows the type"
    return typed


def test_every_operator_is_tested() -> None:
    tested = {c[0] for c in CASES} | {c[0] for c in CONSTANT} | {"Split", "Constant", "TopK", "NonMaxSuppression", "If"}
    assert tested >= set(supported())


@pytest.mark.parametrize("op", ["QuantizeLinear", "ConvInteger", "Loop", "NotAnOperator", "RoiAlign"])
def test_unsupported_operator_names_the_node(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="that_one")
    with pytest.raises(UnsupportedOpError, match=rf"that_one.*{op}"):
        read(make_model([node], {"x": [1]}, ["y"]))


# -- random geometry ------------------------------------------------------------------------------------------------
def small(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


def pairs(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(small(low, high), min_size=2, max_size=2)


def agree(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Either both accept and agree, or both refuse."""
    try:
        want = run_ort(model, feeds)[0]
    except Exception:  # onnxruntime's errors have no common base
        with pytest.raises(ModelError):
            read(model).build({n: a.shape for n, a in feeds.items()})
        return
    if 0 in want.shape[2:]:
        return
    graph = read(model).build({n: a.shape for n, a in feeds.items()})
    assert graph.outputs[0].shape == want.shape
    got = run_ort(graph_to_onnx(graph), {"v0": feeds["i0"]})[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


COMMON = settings(deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@COMMON
@given(
    size=pairs(1, 9), kernel=pairs(1, 4), strides=pairs(1, 3), dilations=pairs(1, 3), group=small(1, 3),
    pads=st.lists(small(0, 3), min_size=4, max_size=4),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)  # fmt: skip
def test_conv_geometry(
    size: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    group: int,
    pads: list[int],
    auto_pad: str,
) -> None:
    assume(not (auto_pad.startswith("SAME") and max(dilations) > 1))  # onnxruntime refuses this, fastconv does not
    attrs: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group, "auto_pad": auto_pad}
    if auto_pad == "NOTSET":
        attrs["pads"] = pads
    agree(*single("Conv", [array(2, 2 * group, *size), K(array(group, 2, *kernel))], 17, **attrs))


@COMMON
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]), size=pairs(1, 9), kernel=pairs(1, 4), strides=pairs(1, 4),
    dilations=pairs(1, 3), pads=st.lists(small(0, 3), min_size=4, max_size=4), ceil_mode=small(0, 1),
    include=st.booleans(), auto_pad=st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)  # fmt: skip
def test_pool_geometry(
    op: str, size: list[int], kernel: list[int], strides: list[int], dilations: list[int], pads: list[int],
    ceil_mode: int, include: bool, auto_pad: str,
) -> None:  # fmt: skip
    # Where onnxruntime forgets the dilation: it compares pads with the bare kernel, resolves SAME with it, and lets a
    # window that is larger than its padded input pass for some strides. Nor does it do SAME with gaps between windows.
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(not k <= p < r for p, k, r in zip(pads, kernel * 2, reach * 2, strict=True)))
    if auto_pad.startswith("SAME"):
        assume(max(dilations) == 1 and all(k >= s for k, s in zip(kernel, strides, strict=True)))
    if auto_pad == "NOTSET":
        assume(all(n + lo + hi >= r for n, lo, hi, r in zip(size, pads[:2], pads[2:], reach, strict=True)))
    if auto_pad == "VALID":
        assume(all(n >= r for n, r in zip(size, reach, strict=True)))
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "auto_pad": auto_pad, "ceil_mode": ceil_mode}
    attrs["dilations"] = dilations
    if op == "AveragePool":
        attrs["count_include_pad"] = int(include)
    if auto_pad == "NOTSET":
        attrs["pads"] = pads
    agree(*single(op, [array(2, 3, *size)], 19, **attrs))


def test_same_padding_with_dilation() -> None:
    model, _feeds = single(
        "Conv", [X, K(array(4, 6, 3, 2))], 17, auto_pad="SAME_LOWER", dilations=[2, 3], strides=[1, 2]
    )
    (conv,) = read(model).build({}).nodes
    assert conv.output.shape == (2, 4, 7, 4)
    assert conv.attrs["pads"] == (2, 1, 2, 1)


@COMMON
@given(st.data())
def test_slice_geometry(data: st.DataObject) -> None:
    shape = data.draw(st.lists(small(1, 6), min_size=1, max_size=4))
    axes = data.draw(st.lists(small(0, len(shape) - 1), min_size=1, unique=True))
    n = len(axes)
    bound = st.one_of(small(-8, 8), st.sampled_from([2**63 - 1, -(2**63)]))
    starts, ends = (data.draw(st.lists(bound, min_size=n, max_size=n)) for _ in range(2))
    # 2^63 - 1 as the end of a backward slice is beyond its start (ONNX: nothing); onnxruntime takes it as "to the end".
    steps = data.draw(st.lists(small(-3, 3).filter(bool), min_size=n, max_size=n))
    assume(all(s > 0 or e < 2**63 - 1 for s, e in zip(steps, ends, strict=True)))
    model, feeds = single("Slice", [array(*shape), K(starts), K(ends), K(axes), K(steps)], 13)
    check(model, feeds)


def test_initializer_types_widen_lazily() -> None:
    x = array(1, 4, 5, 5)
    w = array(3, 4, 1, 1)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    for tensor in (
        numpy_helper.from_array(w.astype(np.float16), "w"),
        numpy_helper.from_array(w.astype(np.float64), "w"),
        helper.make_tensor("w", onnx.TensorProto.BFLOAT16, w.shape, w.reshape(-1)),
    ):
        model = make_model([node], {"x": x.shape}, ["y"])
        model.graph.initializer.append(tensor)
        got = read(model).build({}).nodes[0].input(1)
        assert got.dtype == np.float32 and got.numpy().dtype == np.float32
        np.testing.assert_allclose(got.numpy(), w, rtol=1e-2)
