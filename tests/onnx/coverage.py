"""The node cases of the onnx package: which there are, which fastconv passes, and the table in docs/operators.md.

`python -m tests.onnx.coverage` writes the table. A case counts where its model is one node of an operator in OPERATORS.
Excluded are tensors with five axes and more in convolutions and pools, types other than TYPES, and training.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import fastconv.backend as backend
from fastconv.onnx import registry

DOCUMENT = Path(__file__).parents[2] / "docs" / "operators.md"
OPERATORS = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "LRN",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Mish",
    "Gelu",
    "Erf",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Sum",
    "Max",
    "Min",
    "Sqrt",
    "Pow",
    "Exp",
    "Concat",
    "Flatten",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Pad",
    "Slice",
    "Split",
    "ReduceMean",
    "Identity",
    "Dropout",
    "Constant",
    "Cast",
    "Gather",
    "Shape",
    "Expand",
    "Where",
    "ArgMax",
    "Resize",
    "Upsample",
    "DepthToSpace",
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Neg",
    "Abs",
    "Floor",
    "Ceil",
    "Tile",
    "ReduceSum",
    "ReduceMax",
    "Softplus",
    "Selu",
    "ConstantOfShape",
    "Range",
    "Equal",
    "Less",
    "Greater",
    "Not",
    "TopK",
    "NonMaxSuppression",
]
TYPES = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8)
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@functools.cache
def node_cases() -> dict[str, TestCase]:
    """All single-operator node cases of OPERATORS, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own casts overflow
        cases = load_model_tests(kind="node")
    found = {}
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS and nodes[0].domain == "":
            found[case.name] = case
    return found


def operator_of(case: TestCase) -> str:
    return str(case.model.graph.node[0].op_type)


def excluded(case: TestCase) -> str | None:
    """Why the case does not count, None where it does."""
    graph = case.model.graph
    infos = [*graph.input, *graph.output]
    if any(not i.type.HasField("tensor_type") for i in infos):
        return "other types"
    if any(i.type.tensor_type.elem_type not in TYPES for i in infos):
        return "other types"
    op = operator_of(case)
    if op in WINDOWS and any(len(i.type.tensor_type.shape.dim) > 4 for i in infos):
        return "5-D tensors"
    if any(a.name == "training_mode" and a.i for a in graph.node[0].attribute):
        return "training mode"
    if op == "Dropout" and len(graph.input) == 3 and bool(case.data_sets[0][0][2]):
        return "training mode"
    return ARITHMETIC if _integer_arithmetic(case) else None


# Plans hold whole numbers as float32: their powers cannot be bounded, so that they might silently be inexact.
ARITHMETIC = "integer powers"


def _integer_arithmetic(case: TestCase) -> bool:
    if operator_of(case) != "Pow":
        return False
    return case.model.graph.input[0].type.tensor_type.elem_type in (TensorProto.INT32, TensorProto.INT64)


def run(case: TestCase) -> None:
    """Run a case with its data and compare as onnx's own runner does. AssertionError where it differs."""
    prepared = backend.prepare(case.model, threads=1)
    for inputs, outputs in case.data_sets:
        compare(prepared.run(list(inputs)), outputs, case.rtol, case.atol)


def compare(got: Any, want: Any, rtol: float, atol: float) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        w = np.asarray(w)
        assert g.dtype == w.dtype, f"{g.dtype} for {w.dtype}"
        assert g.shape == w.shape, f"{g.shape} for {w.shape}"
        np.testing.assert_allclose(g, w, rtol=rtol, atol=atol)


def data_sets(folder: Path, count: int) -> list[tuple[list[Any], list[Any]]]:
    """The inputs and outputs that lie beside a model file."""
    found = []
    for part in sorted(folder.glob("test_data_set_*")):
        arrays: dict[str, list[Any]] = {"input": [], "output": []}
        for kind, into in arrays.items():
            for i in range(len(list(part.glob(f"{kind}_*.pb")))):
                tensor = onnx.TensorProto()
                tensor.ParseFromString((part / f"{kind}_{i}.pb").read_bytes())
                into.append(numpy_helper.to_array(tensor))
        found.append((arrays["input"][:count], arrays["output"]))
    return found


# -- the table --------------------------------------------------------------------------------------------------------
def results() -> tuple[dict[str, Counter[str]], list[str]]:
    """For each operator how many cases passed, failed or are excluded for which reason; and the failures."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    for name, case in sorted(node_cases().items()):
        reason = excluded(case)
        if reason is None:
            try:
                run(case)
                reason = "passed"
            except Exception as error:  # any failure counts
                reason = "failed"
                failures.append(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
        counts[operator_of(case)][reason] += 1
    return counts, failures


def opsets(op: str) -> str:
    """The operator sets in which fastconv knows the operator."""
    first = min(f.since for f in registry._OPERATORS[op])
    return f"{max(first, registry.MIN_OPSET if op in registry.OLD else registry.OLD_OPSET)}-{registry.MAX_OPSET}"


RESTRICTIONS = {
    "Add": "integers at run time where bounds show that the result is exact", "Sub": "as Add", "Mul": "as Add",
    "Div": "", "Sum": "as Add", "Pow": "a float base at run time", "MatMul": "float32 at run time",
    "Gemm": "float32 at run time", "ReduceSum": "float32 at run time", "ReduceMean": "float32 at run time",
    "Mean": "float32 at run time",
    "Conv": "1-D and 2-D; weight and bias constant", "ConvTranspose": "1-D and 2-D; weight and bias constant",
    "MaxPool": "1-D and 2-D", "AveragePool": "1-D and 2-D", "LRN": "", "PRelu": "",
    "BatchNormalization": "inference; parameters constant; training mode of constants is folded",
    "InstanceNormalization": "parameters constant", "GroupNormalization": "parameters constant",
    "Cast": "at run time between float32, float16 (rounded), int32, int64, bool, and to uint8",
    "CastLike": "as Cast", "Reshape": "shape constant", "Expand": "shape constant", "Tile": "repeats constant",
    "Slice": "starts, ends, axes and steps constant", "Pad": "pads constant", "Gather": "indices constant",
    "Split": "split constant", "Squeeze": "axes constant", "Unsqueeze": "axes constant", "TopK": "k constant",
    "Resize": "roi, scales and sizes constant", "Upsample": "scales constant", "Range": "constant",
    "ConstantOfShape": "shape constant", "Dropout": "inference", "ReduceProd": "constants",
    "Mod": "integers; the divisor constant",
    "NonZero": "constants", "CumSum": "constants", "Sin": "constants", "Cos": "constants",
    "If": "the condition constant; the branch taken is inlined",
    "NonMaxSuppression": "only as an output of the model; thresholds constant",
    "Swish": "", "Identity": "",
}  # fmt: skip

HEAD = """# ONNX operators

Made by `python -m tests.onnx.coverage` from the operators that fastconv registers and from the node cases of the onnx
package ({version}). Cases: passed of all that count; excluded ones have other types than float32, int32, int64, bool
and uint8, five and more axes in convolutions and pools, or training mode; and powers of integers. Plans hold integers
and bools as float32, which is exact to 2^24: an input beyond that is a ShapeError, and arithmetic whose result might
lie beyond it is an UnsupportedOpError when the model is loaded. Constants of every numeric type are folded. "Constant"
operands may be computed from constants and from shapes; `fastconv.backend` binds inputs where it must.

{passed} of {counted} cases pass; {excluded} are excluded{reasons}.

| operator | operator sets | restrictions | cases | excluded |
|---|---|---|---|---|
"""


def document(counts: dict[str, Counter[str]]) -> str:
    total = sum(counts.values(), Counter())
    reasons = {k: v for k, v in sorted(total.items()) if k not in ("passed", "failed")}
    text = HEAD.format(
        version=onnx.__version__, passed=total["passed"], counted=total["passed"] + total["failed"],
        excluded=sum(reasons.values()), reasons=" (" + ", ".join(f"{v} {k}" for k, v in reasons.items()) + ")",
    )  # fmt: skip
    for op in registry.supported():
        c = counts.get(op, Counter())
        counted, left_out = c["passed"] + c["failed"], sum(v for k, v in c.items() if k not in ("passed", "failed"))
        cases = f"{c['passed']}/{counted}" if counted else ""
        text += f"| {op} | {opsets(op)} | {RESTRICTIONS.get(op, '')} | {cases} | {left_out or ''} |\n"
    return text


def main() -> None:
    counts, failures = results()
    DOCUMENT.write_text(document(counts))
    print("\n".join(failures))
    total = sum(counts.values(), Counter())
    print(", ".join(f"{v} {k}" for k, v in sorted(total.items())), f"-> {DOCUMENT}")


if __name__ == "__main__":
    main()
