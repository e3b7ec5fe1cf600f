"""Weights packed while they are read, some rows at a time, on several threads: the same bits as when held whole."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import ModelError, _core, packing
from fastconv.layers import Dense, Flatten, Input
from fastconv.layers.initializers import INITIALIZERS, part_of, seeded
from fastconv.models import Sequential

from .kernels.guard import LEVELS

K, C, SIDE = 300, 7, 6


def model(scaled: bool, K: int = K) -> onnx.ModelProto:
    """x [N, 7, 6, 6] -> Flatten -> Gemm to K (with a factor per column, or not) -> Gemm to 5."""
    rng = np.random.default_rng(0)
    w = [rng.standard_normal(s).astype(np.float32) for s in ((K, C * SIDE * SIDE), (K,), (5, K), (K,))]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w0", "b0"], ["h"], transB=1),
        helper.make_node("Mul", ["h", "s"], ["g"]) if scaled else helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("Gemm", ["g", "w1"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "dense", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", C, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(a, n) for a, n in zip(w, ("w0", "b0", "w1", "s"), strict=True)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("scaled", (False, True))
@pytest.mark.parametrize("where", ("bytes", "file", "external"))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_parts_are_the_whole(
    isa: Any, where: str, scaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = model(scaled)
    x = np.random.default_rng(1).standard_normal((2, C, SIDE, SIDE)).astype(np.float32)
    want = fastconv.load(proto.SerializeToString(), threads=1, _isa=isa.name)(x)
    path = tmp_path / "dense.onnx"
    if where == "external":
        onnx.save(proto, path, save_as_external_data=True, location="dense.bin", size_threshold=16)
    else:
        path.write_bytes(proto.SerializeToString())
    calls: list[int] = []
    pack = _core.pack_linear_rows

    def counted(packed: Any, K: int, panel: int, first: int, *rest: Any) -> None:
        calls.append(first)
        pack(packed, K, panel, first, *rest)

    monkeypatch.setattr(packing, "PART_BYTES", 1000)
    monkeypatch.setattr(_core, "pack_linear_rows", counted)
    source = path.read_bytes() if where == "bytes" else path
    got = fastconv.load(source, threads=1, _isa=isa.name)(x)
    assert calls[:3] == [0, 128, 256]
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("rows", ((1, 5), (4, 3)))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_few_rows_and_many_of_one_model(isa: Any, rows: tuple[int, int], tmp_path: Path) -> None:
    """Up to three rows read 8.5 MB of weights from panels of their own, packed part by part by two threads; more, and
    the small second layer, from others."""
    proto, path = model(True, 8448), tmp_path / "dense.onnx"
    onnx.save(proto, path)
    w0, b0, w1, scale = (numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer)
    net = fastconv.load(path, threads=2, _isa=isa.name)
    for n in rows:
        x = np.random.default_rng(n).standard_normal((n, C, SIDE, SIDE)).astype(np.float32)
        x[:, 2] = 0
        want = (x.reshape(n, -1) @ w0.T + b0) * scale @ w1.T
        np.testing.assert_allclose(net(x), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    packed = {key[1][2] for key in net._cache.packed if isinstance(key[1], tuple)}
    assert packed == {0, _core.linear_panel(1, C * SIDE**2, 8448, isa), _core.linear_panel(1, 8448, 5, isa)}


@pytest.mark.parametrize("part_bytes", (1000, 100_000, 1 << 20))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_convolutions_in_parts(isa: Any, part_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct, Winograd, 1x1, grouped and depthwise weights from a file: the bits of those from memory."""
    rng = np.random.default_rng(3)
    shapes = [(40, 3, 3, 3), (104, 40, 3, 3), (33, 104, 1, 1), (33, 1, 3, 3), (66, 11, 3, 3), (7, 66, 2, 2)]
    groups = [1, 1, 1, 33, 3, 1]
    nodes = [
        helper.make_node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], group=g, auto_pad="SAME_UPPER")
        for i, g in enumerate(groups)
    ]
    graph = helper.make_graph(
        nodes, "convolutions", [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["N", 3, 24, 24])],
        [helper.make_tensor_value_info("t6", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), f"w{i}") for i, s in enumerate(shapes)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "convolutions.onnx"
    onnx.save(proto, path)
    x = rng.standard_normal((1, 3, 24, 24)).astype(np.float32)
    monkeypatch.setattr(packing, "_in_parts", lambda w: False)
    want = fastconv.load(path, threads=1, _isa=isa.name)(x)
    monkeypatch.undo()
    monkeypatch.setattr(packing, "PART_BYTES", part_bytes)
    got = fastconv.load(path, threads=1, _isa=isa.name)(x)
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_random_weights_are_drawn_in_parts(isa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has looked at yet: the numbers are those that one gets for looking."""
    x = np.random.default_rng(1).standard_normal((3, SIDE, SIDE, C)).astype(np.float32)
    calls: list[int] = []
    pack = _core.pack_linear_inputs

    def counted(packed: Any, inputs: int, panel: int, first: int, *rest: Any) -> None:
        calls.append(first)
        pack(packed, inputs, panel, first, *rest)

    monkeypatch.setattr(_core, "pack_linear_inputs", counted)
    monkeypatch.setenv("FASTCONV_ISA", isa.name)
    for size, first in ((packing.PART_BYTES, [0, 0]), (4 * K * 100 + 1, [0, 100, 200, 0])):
        monkeypatch.setattr(packing, "PART_BYTES", size)
        with seeded(5):
            net = Sequential([Input(shape=(SIDE, SIDE, C)), Flatten(), Dense(K, activation="relu"), Dense(4)])
        y = net.predict(x)
        assert calls == first
        kernels = [v.numpy() for v in net.weights if v.name == "kernel"]
        want = np.maximum(x.reshape(3, -1) @ kernels[0], 0) @ kernels[1]
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
        calls.clear()


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "random_uniform"])
def test_parts_of_initial_values(name: str) -> None:
    fn, shape = INITIALIZERS[name], (37, 11)
    whole, part = fn(shape, 9, "plain").reshape(-1), part_of(fn, shape, 9, "plain")
    assert part is not None and part_of(INITIALIZERS["he_normal"], shape, 9, "plain") is None
    for first, count in ((0, 407), (0, 1), (1, 1), (1, 2), (2, 3), (99, 100), (100, 99), (406, 1)):
        out = np.empty(count, np.float32)
        part(first, out)
        np.testing.assert_array_equal(out, whole[first : first + count], f"{first} {count}")


def test_file_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PART_BYTES", 1000)
    path = tmp_path / "dense.onnx"
    path.write_bytes(model(False).SerializeToString())
    net = fastconv.load(path, threads=1)
    with path.open("r+b") as f:
        f.truncate(2000)
    with pytest.raises(ModelError, match="changed"):
        net(np.zeros((1, C, SIDE, SIDE), np.float32))


def wide(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A file of one dense layer, which is read input by input, and a row for it."""
    rng = np.random.default_rng(2)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", K])],
        [numpy_helper.from_array(rng.standard_normal((40, K), np.float32), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return rng.standard_normal((1, 40), np.float32)


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PART_BYTES", 4 * K)
    monkeypatch.setattr(packing, "PARTS_PER_THREAD", 4)


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("threads", (2, 3, 5))
def test_parts_on_threads(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = wide(tmp_path / "wide.onnx")
    want = fastconv.load(tmp_path / "wide.onnx", threads=1)(x)
    pack, seen, rows = _core.pack_linear_inputs, set[str](), list[int]()

    def slow(packed: Any, inputs: int, panel: int, first: int, *rest: Any) -> None:
        seen.add(threading.current_thread().name)
        rows.append(first)
        time.sleep(0.002)
        pack(packed, inputs, panel, first, *rest)

    monkeypatch.setattr(_core, "pack_linear_inputs", slow)
    got = fastconv.load(tmp_path / "wide.onnx", threads=threads)(x)
    assert sorted(rows) == list(range(40))
    assert len(seen) > 1, "one thread did it all"
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))
    assert not [t for t in threading.enumerate() if t.name.startswith("fastconv-pack")]


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("error", (MemoryError("no"), KeyboardInterrupt(), IndexError("no")), ids=repr)
def test_a_part_that_fails(error: BaseException, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not filled is not used: the next run packs all again, in memory of its own."""
    x = wide(tmp_path / "wide.onnx")
    want = fastconv.load(tmp_path / "wide.onnx", threads=1)(x)
    pack, calls = _core.pack_linear_inputs, itertools.count(1)

    def failing(*args: Any) -> None:
        if next(calls) == 7:
            raise error
        pack(*args)

    monkeypatch.setattr(_core, "pack_linear_inputs", failing)
    net = fastconv.load(tmp_path / "wide.onnx", threads=threads)
    short = isinstance(error, MemoryError)
    with pytest.raises(ModelError if short else type(error), match="node 'y'.*no memory" if short else None):
        net(x)
    assert not net._cache.packed and net._cache.store.bytes == 0
    np.testing.assert_array_equal(net(x).view(np.int32), want.view(np.int32))


@pytest.mark.usefixtures("many_parts")
def test_nothing_is_shared_before_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = wide(tmp_path / "wide.onnx")
    net = fastconv.load(tmp_path / "wide.onnx", threads=2)
    pack, seen = _core.pack_linear_inputs, list[int]()

    def looking(*args: Any) -> None:
        seen.append(len(net._cache.packed))
        pack(*args)

    monkeypatch.setattr(_core, "pack_linear_inputs", looking)
    net(x)
    assert seen == [0] * 40 and net._cache.packed


@pytest.mark.usefixtures("many_parts")
def test_where_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = wide(tmp_path / "wide.onnx")
    want = fastconv.load(tmp_path / "wide.onnx", threads=1)(x)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    got = fastconv.load(tmp_path / "wide.onnx", threads=4)(x)
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


def test_a_shape_that_fails_takes_no_weights_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a shape before it stay and serve the next one; it does not go on in the store of the one that failed."""
    net = fastconv.load(model(False).SerializeToString(), threads=1)
    x = np.zeros((3, C, SIDE, SIDE), np.float32)
    want, kept, store = net(x[:1]), dict(net._cache.packed), net._cache.store

    def failing(self: packing.Packer, threads: int) -> None:
        raise ModelError("no")

    with monkeypatch.context() as m, pytest.raises(ModelError, match="no"):
        m.setattr(packing.Packer, "finish", failing)
        net(x[:2])
    assert net._cache.packed == kept and net._cache.store is not store
    np.testing.assert_array_equal(net(x)[:1], want)
    assert kept.items() <= net._cache.packed.items()
    np.testing.assert_array_equal(net(x[:1]), want)


def test_a_failed_load_frees_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = wide(tmp_path / "wide.onnx")

    def failing(*args: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(_core, "pack_linear_inputs", failing)
    net = fastconv.load(tmp_path / "wide.onnx", threads=1)
    store = weakref.ref(net._cache.store)
    gc.disable()
    try:
        with contextlib.suppress(OSError):
            net(x)
        assert store() is None
    finally:
        gc.enable()


def test_rows_that_do_not_fit() -> None:
    level = LEVELS[0]
    store = _core.WeightStore()
    packed = store.reserve_linear(K, 10, level)
    rows = np.zeros((128, 10), np.float32)
    for first, w in ((K - 127, rows), (-128, rows), (0, np.zeros((128, 40), np.float32)), (0, rows[:, :0])):
        with pytest.raises(ValueError, match="rows"):
            _core.pack_linear_rows(packed, K, 64, first, w, None, level)
    for panel in (-64, 0, 63):
        with pytest.raises(ValueError, match="panel"):
            _core.pack_linear_rows(packed, K, panel, 0, rows, None, level)
    with pytest.raises(ValueError):
        store.reserve_linear(-1, 10, level)
