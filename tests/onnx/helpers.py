"""Helpers of the ONNX tests: small models, onnxruntime as the reference, and a Graph written back as ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fastconv.graph import Graph, Node

ort.set_default_logger_severity(4)
F32 = TensorProto.FLOAT
INT64_MIN = -(2**63)


def _newest_opset() -> int:
    """The newest operator set that this onnxruntime runs (1.23, the last one for Python 3.10, knows 23)."""
    for opset in range(26, 21, -1):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", F32, [1])],
            [helper.make_tensor_value_info("y", F32, [1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's errors have no common base
            continue
        return opset
    raise AssertionError("onnxruntime refuses opset 22")


OPSET = _newest_opset()


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    initializers: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    output_type: int = F32,
    **kw: Any,
) -> onnx.ModelProto:
    """A model with float inputs; outputs have no declared shape."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, F32, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, output_type, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **kw)


def run_ort(model: onnx.ModelProto | bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of onnxruntime, without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of onnxruntime; of onnx's own evaluator where this onnxruntime refuses a valid model.

    1.23 refuses operator set 24, ReduceSum without axes that is to do nothing, and layer norms of one element.
    """
    try:
        return run_ort(model, feeds)
    except Exception:  # onnxruntime's errors have no common base
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(feeds))]


def graph_to_onnx(graph: Graph) -> onnx.ModelProto:
    """A Graph of the normalised vocabulary as an ONNX model, so that onnxruntime can say what it means."""
    names: dict[int, str] = {}
    inits: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def name(v: Any) -> str:
        if v is None:
            return ""
        if id(v) not in names:
            names[id(v)] = f"v{len(names)}"
            if v.is_const:
                array = v.numpy()
                assert array.shape == v.shape and array.dtype == v.dtype, v
                inits[names[id(v)]] = array
        return names[id(v)]

    def const(values: Any, dtype: Any = np.int64) -> str:
        key = f"k{len(inits)}"
        inits[key] = np.array(values, dtype)
        return key

    inputs = {name(v): v.shape for v in graph.inputs}
    types = {name(v): helper.np_dtype_to_tensor_dtype(v.dtype) for v in graph.inputs}
    for n in graph.nodes:
        assert len(n.outputs) == 1
        ins = [name(v) for v in n.inputs]
        if n.op in LONGER:
            nodes.extend(LONGER[n.op](n, ins, name(n.output), const))
            continue
        op, extra, attrs = _spell(n, const)
        nodes.append(helper.make_node(op, ins + extra, [name(n.output)], **attrs))
    outputs = []
    for i, v in enumerate(graph.outputs):
        nodes.append(helper.make_node("Identity", [name(v)], [f"out{i}"]))
        outputs.append(f"out{i}")
    model = make_model(nodes, inputs, outputs, inits, opset=OPSET)
    for info in model.graph.input:
        info.type.tensor_type.elem_type = types[info.name]
    for v, info in zip(graph.outputs, model.graph.output, strict=True):
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(v.dtype)
    model.ir_version = 10
    return model


def _swish(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    gate = helper.make_node("Sigmoid", ins, [f"{out}_gate"])
    return [gate, helper.make_node("Mul", [*ins, f"{out}_gate"], [out])]


def _cast(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("Cast", ins, [out], to=helper.np_dtype_to_tensor_dtype(n.output.dtype))]


def _round_half(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    half = helper.make_node("Cast", ins, [f"{out}_half"], to=TensorProto.FLOAT16)
    return [half, helper.make_node("Cast", [f"{out}_half"], [out], to=F32)]


def _resample(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    """Gather all taps, multiply, sum."""
    axis, taps = n.attrs["axis"], n.attrs["taps"]
    index, weight = n.input(1).numpy().astype(np.int64).reshape(-1, taps), n.optional(2)
    if weight is None:
        return [helper.make_node("Gather", [ins[0], const(index[:, 0])], [out], axis=axis)]
    shape = [-1, taps] + [1] * (n.output.rank - axis - 1)
    return [
        helper.make_node("Gather", [ins[0], const(index)], [f"{out}_taps"], axis=axis),
        helper.make_node("Mul", [f"{out}_taps", const(weight.numpy().reshape(shape), np.float32)], [f"{out}_weighted"]),
        helper.make_node("ReduceSum", [f"{out}_weighted", const([axis + 1])], [out], keepdims=0),
    ]


def _top_k(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    a = n.attrs
    return [
        helper.make_node(
            "TopK", [*ins, const([a["k"]])], [f"{out}_values", out], axis=a["axis"], largest=int(a["largest"])
        )
    ]


def _max_pool_index(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    a = {k: v for k, v in n.attrs.items() if k != "columns_first"}
    order = int(n.attrs["columns_first"])
    return [helper.make_node("MaxPool", ins, [f"{out}_max", out], storage_order=order, **a)]


def _arg(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    (axis,) = n.attrs["axes"]
    last = {"select_last_index": int(n.attrs["last"])}
    return [helper.make_node(n.op, ins, [out], axis=axis, keepdims=int(n.attrs["keepdims"]), **last)]


def _take(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("GatherElements", ins, [out], axis=n.attrs["axis"])]


def _group_norm(n: Node, ins: list[str], out: str, const: Any) -> list[onnx.NodeProto]:
    a = n.attrs
    return [helper.make_node("GroupNormalization", ins, [out], num_groups=a["groups"], epsilon=a["epsilon"])]


# Vocabulary that ONNX spells with other operators.
LONGER = {
    "Swish": _swish, "Trunc": _cast, "Copy": _cast, "RoundHalf": _round_half, "Resample": _resample, "TopK": _top_k,
    "MaxPoolIndex": _max_pool_index, "ArgMax": _arg, "ArgMin": _arg, "Take": _take, "GroupNormalization": _group_norm,
}  # fmt: skip


def _spell(n: Node, const: Any) -> tuple[str, list[str], dict[str, Any]]:
    """ONNX operator, further inputs and attributes of a normalised node."""
    a = dict(n.attrs)
    x = n.inputs[0]
    assert x is not None
    if n.op == "Gemm":
        return "Gemm", [], {"transB": int(a["trans_b"])}
    if n.op in ("MaxPool", "AveragePool"):
        p, k, s, d = a["pads"], a["kernel_shape"], a["strides"], a["dilations"]
        floor = tuple((x.shape[2 + i] + p[i] + p[2 + i] - (k[i] - 1) * d[i] - 1) // s[i] + 1 for i in range(2))
        a["ceil_mode"] = int(floor != n.output.shape[2:])
        if "count_include_pad" in a:
            a["count_include_pad"] = int(a["count_include_pad"])
        return n.op, [], a
    if n.op in ("Max", "Min") and n.output.dtype == np.bool_:
        return {"Max": "Or", "Min": "And"}[n.op], [], {}
    if n.op.startswith("Reduce"):
        return n.op, [const(a["axes"])], {"keepdims": int(a["keepdims"])}
    if n.op == "Clip":
        return n.op, [const(a["min"], np.float32), const(a["max"], np.float32)], {}
    if n.op == "Pad":
        pairs = a["pads"]
        pads = [lo for lo, _ in pairs] + [hi for _, hi in pairs]
        return n.op, [const(pads), const(a["value"], np.float32)], {"mode": a["mode"]}
    if n.op == "Slice":
        ends = []
        for start, step, size in zip(a["starts"], a["steps"], n.output.shape, strict=True):
            end = start + step * size
            ends.append(end if end >= 0 else INT64_MIN)
        return n.op, [const(a["starts"]), const(ends), const(range(x.rank)), const(a["steps"])], {}
    if n.op in ("Reshape", "Expand"):
        return n.op, [const(n.output.shape)], {"allowzero": 1} if n.op == "Reshape" else {}
    return n.op, [], a
