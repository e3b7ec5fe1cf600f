"""onnx's own backend cases: nodes, PyTorch's exports of operator set 6, nine networks; and the backend's interface."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

import fastconv.backend as backend
from fastconv.errors import DeviceError, ShapeError, UnsupportedOpError
from tests.onnx import coverage
from tests.onnx.helpers import make_model, run_ort

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
COUNTED = sorted(n for n, c in coverage.node_cases().items() if coverage.excluded(c) is None)


@pytest.mark.parametrize("name", COUNTED)
def test_node_case(name: str) -> None:
    coverage.run(coverage.node_cases()[name])


def test_the_document_lists_these_cases(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/operators.md is what `python -m tests.onnx.coverage` writes, if every case above passes."""
    counts: dict[str, Counter[str]] = {}
    for case in coverage.node_cases().values():
        reason = coverage.excluded(case) or "passed"
        counts.setdefault(coverage.operator_of(case), Counter())[reason] += 1
    total = sum(counts.values(), Counter())
    with capsys.disabled():
        print("\nonnx's node cases:", ", ".join(f"{v} {k}" for k, v in sorted(total.items())))
    assert total["passed"] == len(COUNTED) > 400
    if f"({onnx.__version__})" in coverage.DOCUMENT.read_text():
        assert coverage.document(counts) == coverage.DOCUMENT.read_text()


def test_excluded_cases_get_a_typed_answer() -> None:
    """A result, or an error of our own; ShapeError where a type is not taken."""
    for name, case in coverage.node_cases().items():
        if coverage.excluded(case) is not None:
            try:
                coverage.run(case)
            except (UnsupportedOpError, ShapeError, AssertionError):
                continue
            except ValueError as error:  # fastconv's ModelError, and no other
                assert type(error).__module__ == "fastconv.errors", (name, error)


# -- PyTorch ----------------------------------------------------------------------------------------------------------
REFUSED = {
    "test_operator_add_broadcast": "float64", "test_operator_add_size1_singleton_broadcast": "float64",
    "test_operator_add_size1_broadcast": "float64", "test_operator_add_size1_right_broadcast": "float64",
    "test_operator_addconstant": "float64", "test_operator_non_float_params": "2\\^24",
}  # fmt: skip
PYTORCH = [c for kind in ("pytorch-operator", "pytorch-converted") for c in load_model_tests(kind=kind)]


@pytest.mark.parametrize("case", PYTORCH, ids=lambda c: c.name)
def test_pytorch_case(case: Any) -> None:
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    windows = any(n.op_type in coverage.WINDOWS for n in model.graph.node)
    volume = windows and any(len(i.type.tensor_type.shape.dim) > 4 for i in model.graph.input)
    if case.name in REFUSED or volume:
        with pytest.raises(UnsupportedOpError, match=REFUSED.get(case.name, "spatial dims")):
            run_folder(model, folder)
        return
    run_folder(model, folder)


def run_folder(model: onnx.ModelProto, folder: Path) -> None:
    prepared = backend.prepare(model, threads=1)
    names = {i.name for i in model.graph.initializer}
    sets = coverage.data_sets(folder, sum(i.name not in names for i in model.graph.input))
    assert sets
    for inputs, outputs in sets:
        coverage.compare(prepared.run(inputs), outputs, 1e-3, 1e-6)


# -- networks ---------------------------------------------------------------------------------------------------------
LIGHT = sorted(p.stem for p in (DATA / "light").glob("*.onnx"))


def randomised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with random weights in place of its ConstantOfShape nodes, which make 0.02 everywhere."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rng = np.random.default_rng(5)
    del out.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            out.graph.node.append(node)
            continue
        shape = tuple(int(d) for d in shapes[node.input[0]])
        if len(shape) > 1:
            array = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:  # biases, and the scale, mean and variance of batch normalisation
            array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        out.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    return out


def agree(model: onnx.ModelProto, x: np.ndarray, tolerance: float) -> None:
    (name,) = [i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    (want,) = run_ort(model, {name: x})
    (got,) = backend.run_model(model, [x])
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_there_are_nine_networks() -> None:
    assert len(LIGHT) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_light_model(name: str) -> None:
    """With its own weights against the output that lies beside it, and with random ones against onnxruntime."""
    path = DATA / "light" / f"{name}.onnx"
    model = onnx.load(path)
    names = {t.name for t in model.graph.initializer}
    (info,) = [i for i in model.graph.input if i.name not in names]
    shape = tuple(d.dim_value or 1 for d in info.type.tensor_type.shape.dim)
    x = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    tensor = onnx.TensorProto()
    tensor.ParseFromString((path.parent / f"{name}_output_0.pb").read_bytes())
    (got,) = backend.run_model(model, [x])
    np.testing.assert_allclose(got, numpy_helper.to_array(tensor), rtol=2e-3, atol=1e-7)
    agree(randomised(model), np.random.default_rng(3).standard_normal(shape, np.float32), 1e-4)


# -- the interface ----------------------------------------------------------------------------------------------------
def test_devices() -> None:
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA:0")
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    with pytest.raises(DeviceError, match="TPU"):
        backend.prepare(model, "TPU")
    with pytest.raises(DeviceError, match="CUDA"):
        backend.prepare(model, "CUDA")


def test_is_compatible() -> None:
    assert backend.is_compatible(make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"]))
    assert not backend.is_compatible(make_model([helper.make_node("Det", ["x"], ["y"])], {"x": [2]}, ["y"]))


def test_run_node() -> None:
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    (y,) = backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x])
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    with pytest.raises(ShapeError, match=r"expected 2 inputs \['x', 'z'\], got 1"):
        backend.run_node(helper.make_node("Add", ["x", "z"], ["y"]), [x])
    with pytest.raises(UnsupportedOpError, match=r"node '' \(Foo\)"):
        backend.run_node(helper.make_node("Foo", ["x"], ["y"], domain="mine"), [x])
    (y,) = backend.run_node(helper.make_node("ArgMax", ["x"], ["y"], axis=1), [x], outputs_info=[(np.int64, (2, 1))])
    assert y.dtype == np.int64 and y.tolist() == [[2], [2]]
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    outputs = backend.run_node(node, {"x": x, "shape": np.array([3, 2])})
    np.testing.assert_array_equal(outputs.y, x.reshape(3, 2))


def test_bound_inputs_may_change_from_run_to_run() -> None:
    model = make_model([helper.make_node("Tile", ["x", "n"], ["y"])], {"x": [3], "n": [1]}, ["y"])
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    prepared = backend.prepare(model)
    x = np.arange(3, dtype=np.float32)
    for n in (1, 2, 3, 2):
        np.testing.assert_array_equal(prepared.run([x, np.array([n])]).y, np.tile(x, n))


def test_wrong_inputs() -> None:
    prepared = backend.prepare(make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"]))
    with pytest.raises(ShapeError, match="expected 1 inputs"):
        prepared.run([np.zeros(2, np.float32)] * 2)
    with pytest.raises(ShapeError, match="'x'"):
        prepared.run([np.zeros(3, np.float32)])
    with pytest.raises(ShapeError, match="missing"):
        prepared.run({"z": np.zeros(2, np.float32)})


def test_numbers_beyond_what_float32_holds_are_refused() -> None:
    node = helper.make_node("Greater", ["x", "c"], ["y"])
    model = make_model([node], {"x": [1]}, ["y"], {"c": np.array([3])}, output_type=onnx.TensorProto.BOOL)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert backend.run_model(model, [np.array([5])]).y.tolist() == [True]
    with pytest.raises(ShapeError, match=r"2\^24"):
        backend.run_model(model, [np.array([2**24 + 1])])
    node = helper.make_node("Add", ["x", "x"], ["y"])
    model = make_model([node], {"x": [1]}, ["y"], output_type=onnx.TensorProto.INT32)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    with pytest.raises(UnsupportedOpError, match=r"2\^24"):
        backend.run_model(model, [np.array([5], np.int32)])
