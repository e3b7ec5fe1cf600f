"""The C++ scanner: what it reads, what it leaves in the file, and how it fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fastconv import _core
from fastconv.errors import ModelError
from tests.onnx.corpus import field, good, varint, with_tensor


def scan(data: bytes) -> dict[str, Any]:
    return _core.ModelFile.from_bytes(data).scan()


def test_structure_agrees_with_onnx() -> None:
    model = good()
    model.metadata_props.add(key="k", value="v")
    raw = scan(model.SerializeToString())
    assert raw["ir_version"] == model.ir_version
    assert raw["opsets"] == (("", 17),)
    assert raw["metadata"] == {"k": "v"}
    assert raw["inputs"] == (("x", 1, ("N", 3, 8, 8)),)
    assert raw["outputs"] == (("y", 1, None),)
    assert [(n[0], n[3], n[4], n[5]) for n in raw["nodes"]] == [
        (n.op_type, n.name, tuple(n.input), tuple(n.output)) for n in model.graph.node
    ]
    conv = raw["nodes"][0][6]
    assert conv == {"pads": (7, (1, 1, 1, 1), ""), "strides": (7, (2, 2), "")}
    assert raw["nodes"][-1][6] == {"axis": (2, -1, "")}
    assert [(t.name, t.dims, t.dtype) for t in raw["initializers"]] == [
        (t.name, tuple(t.dims), numpy_helper.to_array(t).dtype.name) for t in model.graph.initializer
    ]


def test_every_attribute_type() -> None:
    values: dict[str, Any] = {"f": 1.5, "i": -3, "s": "text", "fs": [1.0, 2.5], "is": [-1, 2**62], "ss": ["a", "b"]}
    node = helper.make_node("Op", [], ["y"], **values)
    node.attribute.append(helper.make_attribute("t", numpy_helper.from_array(np.arange(3))))
    node.attribute.append(helper.make_attribute("g", helper.make_graph([], "g", [], [])))
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    got = scan(model.SerializeToString())["nodes"][0][6]
    assert got["f"][:2] == (1, 1.5) and got["i"][:2] == (2, -3) and got["s"][:2] == (3, b"text")
    assert got["fs"][:2] == (6, (1.0, 2.5)) and got["is"][:2] == (7, (-1, 2**62)) and got["ss"][:2] == (8, (b"a", b"b"))
    assert got["t"][0] == 4 and got["t"][1].dims == (3,)
    assert got["g"][0] == 5


def test_dimensions() -> None:
    info = helper.make_tensor_value_info("x", 1, ["N", None, 3, 0, -1])
    model = helper.make_model(helper.make_graph([], "g", [info], []))
    assert scan(model.SerializeToString())["inputs"] == (("x", 1, ("N", None, 3, 0, -1)),)


TYPES = [
    "float32",
    "float64",
    "float16",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "bool",
]


@pytest.mark.parametrize("size", [0, 1, 5, 300, 3000, 40000])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("dtype", TYPES)
def test_payload(dtype: str, raw: bool, size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(size)
    array = (rng.standard_normal(size) * 100).astype(dtype)
    if np.dtype(dtype).kind in "iu" and size:
        array[0], array[-1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = (
        helper.make_tensor("t", kind, [size], array.tobytes(), raw=True)
        if raw
        else helper.make_tensor("t", kind, [size], array)
    )
    data = with_tensor(tensor.SerializeToString())
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for file in (_core.ModelFile.from_bytes(data), _core.ModelFile(os.open(path, os.O_RDONLY))):
        (t,) = file.scan()["initializers"]
        got = file.read(t)
        assert got.dtype == array.dtype and got.flags.writeable and got.flags.c_contiguous
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("size", [3, 5000])
def test_bfloat16_widens(raw: bool, size: int) -> None:
    array = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(name="t", data_type=TensorProto.BFLOAT16, dims=[size])
    if raw:
        tensor.raw_data = bits.tobytes()
    else:
        tensor.int32_data.extend(bits.tolist())
    file = _core.ModelFile.from_bytes(with_tensor(tensor.SerializeToString()))
    got = file.read(file.scan()["initializers"][0])
    np.testing.assert_array_equal(got.view(np.uint32), bits.astype(np.uint32) << 16)


def test_unpacked_and_split_payloads() -> None:
    """Repeated fields may come in any mixture of packed runs and single elements."""
    floats = np.arange(600, dtype=np.float32)
    parts = field(4, floats[:2].tobytes())
    for f in floats[2:5]:
        parts += varint(4 << 3 | 5) + f.tobytes()
    parts += field(4, floats[5:500].tobytes()) + field(4, floats[500:].tobytes())
    file = _core.ModelFile.from_bytes(with_tensor(field(1, 600) + field(2, 1) + parts))
    np.testing.assert_array_equal(file.read(file.scan()["initializers"][0]), floats)
    file = _core.ModelFile.from_bytes(
        with_tensor(field(1, 4) + field(2, 7) + field(7, b"\1\2") + field(7, 300) + field(7, 7))
    )
    np.testing.assert_array_equal(file.read(file.scan()["initializers"][0]), [1, 2, 300, 7])


def test_large_payloads_stay_in_the_file(tmp_path: Path) -> None:
    """A 3 GB weight (a hole in the file) is scanned at once."""
    n = 3 << 30
    tensor = field(1, n // 4) + field(2, 1) + field(8, b"t")
    raw = varint(9 << 3 | 2) + varint(n)
    body = len(tensor) + len(raw) + n
    graph = varint(5 << 3 | 2) + varint(body) + tensor + raw
    path = tmp_path / "hole.onnx"
    with path.open("wb") as f:
        f.write(field(1, 8) + field(8, field(2, 17)) + varint(7 << 3 | 2) + varint(len(graph) + n) + graph)
        f.truncate(f.tell() + n)
    file = _core.ModelFile(os.open(path, os.O_RDONLY))
    (t,) = file.scan()["initializers"]
    assert t.dims == (n // 4,) and t.payload_bytes == n


def big_file(tmp_path: Path) -> tuple[Path, Any, Any]:
    tensor = numpy_helper.from_array(np.arange(100000, dtype=np.float32), "t")
    path = tmp_path / "m.onnx"
    path.write_bytes(with_tensor(tensor.SerializeToString()))
    file = _core.ModelFile(os.open(path, os.O_RDONLY))
    return path, file, file.scan()["initializers"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: os.truncate(p, 5000),
        lambda p: os.truncate(p, 0),
        lambda p: p.write_bytes(bytes(p.stat().st_size)),
        lambda p: os.utime(p, (1, 1)),
    ],
    ids=["truncated", "emptied", "rewritten", "touched"],
)
def test_file_that_changes_after_the_scan(change: Callable[[Path], Any], tmp_path: Path) -> None:
    path, file, tensor = big_file(tmp_path)
    file.read(tensor)
    os.utime(path, (2, 2))
    file = _core.ModelFile(os.open(path, os.O_RDONLY))
    tensor = file.scan()["initializers"][0]
    change(path)
    with pytest.raises(ModelError, match="changed"):
        file.read(tensor)


def test_deleted_file_stays_readable(tmp_path: Path) -> None:
    path, file, tensor = big_file(tmp_path)
    path.unlink()
    np.testing.assert_array_equal(file.read(tensor), np.arange(100000, dtype=np.float32))


def test_file_is_closed_with_its_last_reader(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _path, file, tensor = big_file(tmp_path)
    del file, tensor
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ModelError, match="regular"):
        _core.ModelFile(os.open(tmp_path, os.O_RDONLY))
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_read_the_same_file(tmp_path: Path) -> None:
    _, file, tensor = big_file(tmp_path)
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(file.read(tensor), np.arange(100000, dtype=np.float32)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_read_raw_checks_the_file(tmp_path: Path) -> None:
    _, file, _ = big_file(tmp_path)
    for offset, dims in ((file.size - 3, [1]), (2**64 - 4, [1]), (0, [2**40]), (0, [2**32, 2**32]), (0, [-1])):
        with pytest.raises(ModelError):
            file.read_raw(offset, 1, dims)
    with pytest.raises(ModelError, match="data type"):
        file.read_raw(0, 8, [1])
    assert file.read_raw(file.size, 1, [0]).size == 0


def test_messages_carry_the_offset() -> None:
    with pytest.raises(ModelError, match=r"byte 2: .*claims 127 bytes"):
        scan(b"\x3a\x7f")


def test_window_boundaries() -> None:
    """Names and numbers that straddle the scanner's window."""
    names = [f"node_{'x' * (i % 50)}_{i}" for i in range(3000)]
    nodes = [helper.make_node("Relu", ["x"], [n], name=n) for n in names]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert [n[3] for n in scan(model.SerializeToString())["nodes"]] == names


@settings(deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=100), st.binary(max_size=60).map(lambda b: field(7, b))))
def test_random_bytes(data: bytes) -> None:
    try:
        scan(data)
    except ModelError:
        return
    onnx.load_from_string(data)  # what the scanner accepts, protobuf does too
