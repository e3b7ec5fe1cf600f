"""Model: what it accepts, what it rejects and how it says so, its plan cache, pickling."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import DeviceError, ModelError, ShapeError, _core
from fastconv.model import MAX_PLANS

from .small import CLASSES, F32, SHAPE, images, network, same_bits


@pytest.fixture(scope="module")
def model() -> fastconv.Model:
    return fastconv.load(network(), threads=1)


def two_inputs() -> bytes:
    """c = relu(a + b), a [N, 2, 3], b [1, 2, H] with H free."""
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Relu", ["s"], ["c"])]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", ["N", 2, 3]), ("b", [1, 2, "H"]))
    ]
    graph = helper.make_graph(nodes, "two", inputs, [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return data


@pytest.mark.parametrize("level", _core.isa_levels())
def test_a_residual_that_dies_in_a_deep_product(level: str) -> None:
    """r = exp(x), z = (a @ w + r) @ v: the sum takes the place of r, and the depth is more than one part."""
    rng = np.random.default_rng(7)
    w, v = (rng.standard_normal(s, np.float32) / 32 for s in ((2500, 64), (64, 8)))
    nodes = [helper.make_node("Exp", ["x"], ["r"]), helper.make_node("MatMul", ["a", "w"], ["p"]),
             helper.make_node("Add", ["p", "r"], ["s"]), helper.make_node("MatMul", ["s", "v"], ["z"])]  # fmt: skip
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [30, 64]), ("a", [30, 2500]))]
    graph = helper.make_graph(
        nodes, "deep", inputs, [helper.make_tensor_value_info("z", TensorProto.FLOAT, [30, 8])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x, a = rng.standard_normal((30, 64), np.float32), rng.standard_normal((30, 2500), np.float32)
    want = (a.astype(np.float64) @ w + np.exp(x)) @ v
    got = fastconv.load(data, _isa=level)(x, a)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("level", _core.isa_levels())
@pytest.mark.parametrize("perm", ([1, 0, 2, 3], [1, 0, 3, 2], [2, 1, 0, 3], [0, 1, 3, 2]))
def test_a_stem_behind_a_transpose(level: str, perm: list[int]) -> None:
    """Whatever axis becomes the batch: the convolution reads in front of the transpose."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 3, 1, 2), np.float32)
    turned = x.transpose(perm)
    k = rng.standard_normal((1, turned.shape[1], 3, 3), np.float32)
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=perm),
             helper.make_node("Conv", ["t", "k"], ["y"], pads=[1, 1, 1, 1])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "stem", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(k, "k")],
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    (want,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    model = fastconv.load(data, threads=1, _isa=level)
    unlike = model(x + 100)  # whose memory may hold what is not written now
    (got,) = model.run(None, {"x": x})
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.allclose(unlike, want, atol=1)


# -- sources ------------------------------------------------------------------------------------------------------
def test_sources(tmp_path: Path, model: fastconv.Model) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    want, x = model(images(2)), images(2)
    proto = onnx.load_from_string(network())
    for source in (network(), str(path), path, proto):
        got = fastconv.load(source, threads=1)(x)
        assert all(same_bits(g, w) for g, w in zip(got, want, strict=True)), type(source)


def test_agrees_with_onnxruntime(model: fastconv.Model) -> None:
    x = images(3)
    session = onnxruntime.InferenceSession(network(), providers=["CPUExecutionProvider"])
    for got, want in zip(model(x), session.run(None, {"input": x}), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no\.onnx"):
        fastconv.load(tmp_path / "no.onnx")
    with pytest.raises(ModelError):
        fastconv.load(b"not a model")


def test_description(model: fastconv.Model, capsys: pytest.CaptureFixture[str]) -> None:
    (info,) = model.inputs
    assert (info.name, info.shape[1:], info.dtype) == ("input", SHAPE, "float32")
    assert info.shape[0] == "N"
    assert [(o.name, o.shape[1:]) for o in model.outputs] == [("output", (CLASSES,)), ("output1", (40, 10, 9))]
    assert model.summary() is None  # type: ignore[func-returns-value]  # printed, as Keras does
    text = capsys.readouterr().out
    assert "Parameters: " in text and "(Conv)" in text and f"input (1, {', '.join(map(str, SHAPE))})" in text
    assert max(map(len, text.splitlines())) < 130
    lines: list[str] = []
    model.summary(130, print_fn=lines.append)
    assert len(lines) == 1 and max(map(len, lines[0].splitlines())) == 130 and not capsys.readouterr().out
    assert "input" in repr(model)
    ops = model.inspect((2, *SHAPE))
    assert {o.isa for o in ops} == {model.isa} and sum(o.flops for o in ops) > 0
    assert {"row_run", "depthwise", "gemm"} <= {o.algorithm for o in ops}


# -- options ------------------------------------------------------------------------------------------------------
def test_strict() -> None:
    strict, x = fastconv.load(network(), threads=1, precision="strict"), images(1)
    for got, want in zip(strict(x), fastconv.load(network(), threads=1)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert strict.precision == "strict"
    assert not any(o.algorithm.startswith("F(") for o in strict.inspect((4, *SHAPE)))
    assert any(o.algorithm.startswith("F(") for o in fastconv.load(network()).inspect((4, *SHAPE)))


@pytest.mark.parametrize(
    "options",
    ({"precision": "fp16"}, {"precision": ""}, {"device": "cuda"}, {"device": "gpu"}, {"_isa": "sse9"}),
    ids=str,
)
def test_what_this_machine_lacks(options: dict[str, str]) -> None:
    with pytest.raises(DeviceError, match=next(iter(options.values())) or "precision"):
        fastconv.load(network(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", (0, -1, True, 1.0, "2"))
def test_bad_threads(threads: Any) -> None:
    with pytest.raises(ValueError, match="threads"):
        fastconv.load(network(), threads=threads)


# -- arrays that are accepted -------------------------------------------------------------------------------------
def layouts(x: F32) -> dict[str, F32]:
    """The same values in other memory orders."""
    step = np.zeros((x.shape[0], x.shape[1], 2 * x.shape[2], 3 * x.shape[3]), np.float32)
    step[:, :, ::2, ::3] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, x.size, 1).reshape(x.shape)
    return {
        "fortran": np.asfortranarray(x),
        "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "negative strides": x[::-1, :, ::-1].copy()[::-1, :, ::-1],
        "steps": step[:, :, ::2, ::3],
        "read-only": readonly,
        "unaligned": unaligned,
    }


@pytest.mark.parametrize("name", layouts(images(1)))
def test_memory_orders(model: fastconv.Model, name: str) -> None:
    x = images(3)
    want, other = model(x), layouts(x)[name]
    kept = other.copy()
    for got, w in zip(model(other), want, strict=True):
        assert same_bits(got, w)
    assert same_bits(np.ascontiguousarray(other), np.ascontiguousarray(kept))


def test_broadcast_input(model: fastconv.Model) -> None:
    x = np.broadcast_to(images(1), (3, *SHAPE))
    y = model(x)[0]
    assert same_bits(y, model(np.ascontiguousarray(x))[0])


def test_big_endian_is_another_dtype(model: fastconv.Model) -> None:
    """Either result would do, wrong numbers would not."""
    x = images(1)
    try:
        got = model(x.astype(">f4"))[0]
    except ShapeError:
        return
    assert same_bits(got, model(x)[0])


def test_inputs_stay_and_outputs_are_fresh(model: fastconv.Model) -> None:
    x = images(2)
    kept = x.copy()
    first = model(x)
    copies = [y.copy() for y in first]
    assert same_bits(x, kept)
    second = model(images(2, seed=9))
    assert all(same_bits(y, c) for y, c in zip(first, copies, strict=True)), "a later run wrote into earlier outputs"
    assert all(not np.shares_memory(a, b) for a, b in zip(first, second, strict=True))
    assert all(y.flags.writeable and y.flags.c_contiguous and y.flags.owndata for y in first)


def test_an_output_that_is_the_input_is_a_copy() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "yz"]
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(helper.make_graph(nodes, "g", [x_info], infos), opset_imports=opsets, ir_version=8)
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    y, z = fastconv.load(proto)(x)
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(z, np.maximum(x, 0))


@pytest.mark.parametrize("batch", (0, 1, 2, 5))
def test_batches(model: fastconv.Model, batch: int) -> None:
    x = images(5)[:batch]
    got = model(x)
    assert [g.shape for g in got] == [(batch, CLASSES), (batch, 40, 10, 9)]
    strict = fastconv.load(network(), threads=1, precision="strict")  # whose algorithms do not look at the batch
    whole = strict(images(5))
    for g, w in zip(strict(x), whole, strict=True):
        assert same_bits(g, w[:batch])


# -- arrays that are rejected -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "words"),
    (
        (np.zeros(SHAPE, np.float32), ("rank 4", "rank 3", "input 0 ('input')")),
        (np.zeros((1, 3, 20, 18, 1), np.float32), ("rank 4", "rank 5", "input 0 ('input')")),
        (np.float32(1), ("rank 4", "rank 0")),
        (np.zeros((1, 4, 20, 18), np.float32), ("expected 3 at axis 1", "got 4", "input 0 ('input')")),
        (np.zeros((1, 3, 20, 17), np.float32), ("expected 18 at axis 3", "got 17")),
        (np.zeros((1, 3, 0, 18), np.float32), ("expected 20 at axis 2", "got 0")),
        (np.zeros((1, *SHAPE), np.float64), ("float32", "float64", "input 0 ('input')")),
        (np.zeros((1, *SHAPE), np.uint8), ("float32", "uint8")),
        (np.zeros((1, *SHAPE), np.complex64), ("float32", "complex64")),
        (np.zeros((1, *SHAPE), object), ("float32", "object")),
        (None, ("float32", "object")),
        ("image.png", ("float32",)),
    ),
    ids=lambda v: str(getattr(v, "shape", v))[:30],
)
def test_wrong_arrays(model: fastconv.Model, x: Any, words: tuple[str, ...]) -> None:
    for call in (lambda: model(x), lambda: model.run(None, {"input": x}), lambda: model.profile(x, runs=1)):
        with pytest.raises(ShapeError) as caught:
            call()
        assert all(w in str(caught.value) for w in words), caught.value
    assert isinstance(caught.value, ValueError)


def test_ragged_lists(model: fastconv.Model) -> None:
    with pytest.raises(ValueError):
        model([[1.0], [1.0, 2.0]])


def test_second_input_is_named() -> None:
    m = fastconv.load(two_inputs())
    a, b = np.ones((4, 2, 3), np.float32), np.ones((1, 2, 3), np.float32)
    np.testing.assert_array_equal(m(a, b), np.full((4, 2, 3), 2, np.float32))
    with pytest.raises(ShapeError, match=r"input 1 \('b'\).*expected 2 at axis 1.*got 5"):
        m(a, np.ones((1, 5, 3), np.float32))
    with pytest.raises(ShapeError, match="takes 2 inputs, got 1"):
        m(a)
    with pytest.raises(ShapeError, match="takes 2 inputs, got 3"):
        m(a, b, b)
    with pytest.raises(ShapeError, match="'b' is missing"):
        m.run(None, {"a": a})
    with pytest.raises(ShapeError, match=r"no input named 'q'.*'a', 'b'"):
        m.run(None, {"a": a, "b": b, "q": b})
    with pytest.raises(ValueError, match="Add"):  # the shapes fit the inputs and contradict one another
        m(a, np.ones((1, 2, 7), np.float32))
    np.testing.assert_array_equal(m(a, b), np.full((4, 2, 3), 2, np.float32))  # and the model goes on


def test_profile_and_compile_name_the_number_of_inputs() -> None:
    m = fastconv.load(two_inputs())
    a = np.ones((4, 2, 3), np.float32)
    with pytest.raises(ShapeError, match="2 inputs"):
        m.profile(a)
    with pytest.raises(ShapeError, match="2 inputs"):
        m.compile((4, 2, 3))
    with pytest.raises(ShapeError, match="free dimensions"):
        m.compile()
    with pytest.raises(ShapeError, match="axis 1"):
        m.compile((4, 9, 3), (1, 2, 3))


def test_output_names(model: fastconv.Model) -> None:
    x = images(1)
    y, z = model(x)
    for names, want in (
        (None, [y, z]),
        (["output"], [y]),
        (["output1", "output"], [z, y]),
        (["output", "output"], [y, y]),
    ):
        got = model.run(names, {"input": x})
        assert len(got) == len(want) and all(same_bits(g, w) for g, w in zip(got, want, strict=True))
    with pytest.raises(ShapeError, match="no output named 'softmax'"):
        model.run(["softmax"], {"input": x})


# -- plans --------------------------------------------------------------------------------------------------------
def test_plan_cache_evicts_and_weights_do_not_grow() -> None:
    model, x = fastconv.load(network(), threads=1), images(MAX_PLANS + 4)
    wants = {}
    for batch in range(1, MAX_PLANS + 5):
        wants[batch] = model(x[:batch])[0]
        assert len(model._plans) == min(batch, MAX_PLANS)
    after_first = model._cache.store.bytes
    for batch in (1, MAX_PLANS + 4, 2, 7):  # 1 and 2 were evicted and are compiled anew
        assert same_bits(model(x[:batch])[0], wants[batch])
        assert len(model._plans) == MAX_PLANS
    assert model._cache.store.bytes == after_first


def test_weights_are_shared_by_shapes() -> None:
    """A second shape packs nothing that the first has packed, but where the algorithm changes with the batch."""
    model = fastconv.load(network(), threads=1, precision="strict")
    model(images(1))
    size = model._cache.store.bytes
    model(images(2))
    model(images(3))
    assert model._cache.store.bytes == size


def test_profile(model: fastconv.Model) -> None:
    profile = model.profile(images(2), runs=3)
    assert [r.name for r in profile.rows] == [o.name for o in model.inspect((2, *SHAPE))]
    assert profile.total_ms > 0 and profile.peak_gflops > 0 and profile.threads == 1
    assert all(r.ms >= 0 and r.gflops >= 0 for r in profile.rows)


def test_profile_of_nothing(model: fastconv.Model) -> None:
    rows = model.profile(images(1)[:0], runs=1).rows
    assert rows and all(r.gflops == 0 and 0 in r.shape for r in rows)
    for runs in (0, -1):
        with pytest.raises(ValueError, match="runs"):
            model.profile(images(1), runs=runs)


def test_sum_of_an_empty_batch() -> None:
    """No images, and yet a result: zeros."""
    w = np.ones((40, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceSum", ["a", "axes"], ["y"], keepdims=0),
    ]
    inits = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.zeros(1, np.int64), "axes")]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 5, 5]), ("y", None))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    model = fastconv.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    np.testing.assert_array_equal(model(np.zeros((0, 3, 5, 5), np.float32)), np.zeros((40, 5, 5), np.float32))


# -- pickling -----------------------------------------------------------------------------------------------------
def _predict(model: fastconv.Model, x: F32) -> list[F32]:
    return model.run(None, {"input": x})


@pytest.mark.parametrize("kind", ("bytes", "path", "proto"))
def test_pickle(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    source: Any = {"bytes": network(), "path": path, "proto": onnx.load_from_string(network())}[kind]
    model, x = fastconv.load(source, threads=2, precision="strict"), images(2)
    want = model(x)
    again = pickle.loads(pickle.dumps(model))
    assert (again.threads, again.precision, again.isa) == (2, "strict", model.isa)
    assert all(same_bits(g, w) for g, w in zip(again(x), want, strict=True))
    if kind == "path":
        assert len(pickle.dumps(model)) < 1000  # the path, not the weights


def test_spawned_processes() -> None:
    model, x = fastconv.load(network(), threads=2), images(2)
    want = model.run(None, {"input": x})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for got in pool.starmap(_predict, [(model, x)] * 3):
            assert all(same_bits(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("isa", fastconv.isa.isa_levels())
def test_isa_is_kept(isa: str) -> None:
    model = fastconv.load(network(), _isa=isa)
    assert model.isa == isa == pickle.loads(pickle.dumps(model)).isa
    assert {o.isa for o in model.inspect()} == {isa}
