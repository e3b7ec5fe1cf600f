"""Saved plans: written and loaded again, broken ones refused, pages shared."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fastconv
from fastconv import _core
from fastconv.saved import SavedModel, is_plan

from .cli_tools import call  # noqa: F401  a fixture
from .models.builder import Builder
from .small import CLASSES, images, network, python, same_bits

GOLDEN = Path(__file__).with_name("data") / "golden.fcplan"
LEVELS = _core.isa_levels()
HEAD = struct.Struct("<8sIIQQQQQQQQQQ")  # FileHeader of csrc/plan_file.h


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "net.fcplan"
    labels = [f"class {i}" for i in range(CLASSES)]
    fastconv.load(network()).save(path, shape=(2, 3, 20, 18), isa=[*LEVELS, "neon"], labels=labels)
    return path


@pytest.mark.parametrize("isa", LEVELS)
def test_same_bits_on_every_level(plan: Path, isa: str) -> None:
    model, x = fastconv.load(network(), _isa=isa), images(2)
    saved = fastconv.load(plan, _isa=isa, threads=2)
    assert isinstance(saved, SavedModel) and saved.isa == isa
    assert [(i.name, i.shape) for i in saved.inputs] == [("input", (2, 3, 20, 18))]
    assert [o.name for o in saved.outputs] == [o.name for o in model.outputs] == ["output", "output1"]
    for a, b in zip(model(x), saved(x), strict=True):
        assert same_bits(a, b)
    (only,) = saved.run(["output1"], {"input": x})
    assert same_bits(only, model(x)[1])
    assert [o.algorithm for o in saved.inspect()] == [o.algorithm for o in model.inspect((2, 3, 20, 18))]
    assert len(saved.profile(x, runs=1).rows) == len(saved.inspect())


def test_best_level_and_labels(plan: Path) -> None:
    saved = fastconv.load(plan)
    assert isinstance(saved, SavedModel)
    assert saved.isa == LEVELS[-1] and len(saved.labels) == CLASSES and saved.labels[3] == "class 3"
    assert saved.weight_bytes > 0 and saved.arena_bytes > 0
    x = images(2)
    for again in (fastconv.load(plan.read_bytes()), pickle.loads(pickle.dumps(saved))):
        assert all(same_bits(a, b) for a, b in zip(saved(x), again(x), strict=True))


def test_what_a_plan_cannot(plan: Path) -> None:
    saved = fastconv.load(plan)
    with pytest.raises(fastconv.ShapeError, match="expected 2"):
        saved(images(3))
    with pytest.raises(fastconv.ShapeError, match="takes 1 inputs"):
        saved.compile((2, 3, 20, 18), (1,))
    for ask in (lambda: saved.graph, lambda: saved.layers, lambda: saved.save("x.onnx"), saved.without_top, saved.tune):
        with pytest.raises(fastconv.ModelError, match="saved plan"):
            ask()
    for wrong in ({"device": "cuda"}, {"precision": "bf16"}, {"_isa": "neon"}):
        with pytest.raises(fastconv.DeviceError):
            fastconv.load(plan, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        fastconv.load(plan, threads=0)


def test_a_plan_has_all_that_a_model_has(plan: Path) -> None:
    """Each property of a model says what it is, or that a plan has no such thing."""
    model, saved = fastconv.load(network()), fastconv.load(plan)
    names = {n for n in (*dir(fastconv.Model), *vars(model)) if not n.startswith("_")}
    assert len(names) > 20
    refused = set()
    for name in names:
        try:
            getattr(saved, name)
        except fastconv.ModelError:
            refused.add(name)
    assert refused == {"graph", "layers"}
    copy = pickle.loads(pickle.dumps(fastconv.load(plan, _isa="scalar", threads=1)))
    assert (copy.isa, copy.precision, copy.threads) == ("scalar", "fp32", 1)
    for wrong in ({"tuning": "t.json"}, {"winograd": 6}):
        with pytest.raises(fastconv.ModelError, match="a saved plan keeps the algorithms"):
            fastconv.load(plan, **wrong)  # type: ignore[arg-type]


def test_metadata(tmp_path: Path) -> None:
    """Class names become labels; what fits into a line is kept, above all the preset."""
    from fastconv.data import names_to_metadata
    from fastconv.preprocessing import preset

    names = [f"kind {i} \u00e9" for i in range(CLASSES)]
    given = onnx.load_from_string(network())
    kept = {"author": "somebody", "empty": "", **preset("caffe").to_metadata()}
    lost = {"text": "two\nlines", "long": "x" * 5000}
    onnx.helper.set_model_props(given, {**kept, **lost, **names_to_metadata(names)})
    fastconv.load(given).save(tmp_path / "x.fcplan", shape=(1, 3, 20, 18))
    saved = fastconv.load(tmp_path / "x.fcplan")
    assert saved.metadata == kept and saved.class_names == tuple(names)
    others = tuple(f"other {i}" for i in range(CLASSES))
    fastconv.load(given).save(tmp_path / "y.fcplan", shape=(1, 3, 20, 18), labels=others)
    assert fastconv.load(tmp_path / "y.fcplan").class_names == others


def test_a_plan_does_not_learn(plan: Path) -> None:
    """The advice is one that can be followed: a plan has no layers."""
    from fastconv.models import Sequential

    model: Any = fastconv.load(plan)
    errors, advice = (AttributeError, TypeError, ValueError), "load the model that the plan was made of"
    for attempt in (lambda: model.fit, lambda: model.compile(optimizer="adam"), lambda: Sequential([model])):
        with pytest.raises(errors, match=advice) as e:
            attempt()
        assert "as_layers" not in str(e.value)


def test_wrong_level(tmp_path: Path) -> None:
    path = tmp_path / "arm.fcplan"
    fastconv.load(network()).save(path, shape=(1, 3, 20, 18), isa=["neon"])
    with pytest.raises(fastconv.DeviceError, match=r"for neon, which this CPU or build lacks"):
        fastconv.load(path)
    with pytest.raises(fastconv.DeviceError, match="for neon, not for scalar"):
        fastconv.load(path, _isa="scalar")
    for wrong in ([], ["sse"]):
        with pytest.raises(fastconv.DeviceError, match="expected some of scalar"):
            fastconv.load(network()).save(path, shape=(1, 3, 20, 18), isa=wrong)


def test_dtypes_and_lists_of_unknown_length(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "x"], ["y"]),
        helper.make_node("Cast", ["y"], ["i"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes, "types",
        [helper.make_tensor_value_info("n", TensorProto.INT32, [3]),
         helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3]),
         helper.make_tensor_value_info("i", TensorProto.INT64, [3])],
    )  # fmt: skip
    model = fastconv.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    model.save(tmp_path / "types.fcplan")
    saved = fastconv.load(tmp_path / "types.fcplan")
    assert [i.dtype for i in saved.inputs] == ["int32", "float32"]
    n, x = np.array([1, -2, 3], np.int32), np.array([1.5, 2.5, 1], np.float32)
    for a, b in zip(model(n, x), saved(n, x), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_layers_save_too(tmp_path: Path) -> None:
    from fastconv.applications.lenet import LeNet5

    net = LeNet5(weights=None)
    net.save(tmp_path / "lenet.fcplan")
    saved = fastconv.load(tmp_path / "lenet.fcplan", threads=1)
    x = np.random.default_rng(1).random(saved.inputs[0].shape, np.float32)  # type: ignore[arg-type]
    np.testing.assert_allclose(saved(x), net.predict(x), rtol=1e-5, atol=1e-6)
    assert saved.class_names is None


def test_class_names_go_along(tmp_path: Path, call: Any) -> None:  # noqa: F811
    from fastconv.applications.lenet import LeNet5
    from fastconv.data import names_to_metadata

    net, names = LeNet5(weights=None), tuple(f"kind {i}" for i in range(10))
    net.metadata = names_to_metadata(names)
    net.save(tmp_path / "net.onnx")
    net.save(tmp_path / "a.fcplan")
    fastconv.load(tmp_path / "net.onnx").save(tmp_path / "b.fcplan")
    assert call("compile", tmp_path / "net.onnx", "-o", tmp_path / "c.fcplan").code == 0
    for name in ("net.onnx", "a.fcplan", "b.fcplan", "c.fcplan"):
        assert fastconv.load(tmp_path / name).class_names == names


# -- the format ---------------------------------------------------------------------------------------------------
def test_golden_file() -> None:
    """A file of this version from another day: whoever changes a descriptor raises FILE_VERSION and writes it anew.

    python -m tests.test_saved
    """
    saved = fastconv.load(GOLDEN, _isa="scalar")
    with np.load(GOLDEN.with_suffix(".npz")) as want:
        got = saved(want["x"])
        for i, y in enumerate(got):
            np.testing.assert_allclose(y, want[f"y{i}"], rtol=1e-5, atol=1e-5)


def checksummed(data: bytes) -> bytes:
    """The file with the checksum of its head made right."""
    head_bytes = HEAD.unpack_from(data)[4]
    zeroed = bytearray(data[: HEAD.size])
    zeroed[32:40] = bytes(8)
    rest = _core.plan_checksum(data[HEAD.size : head_bytes])
    rest = (rest << 1 | rest >> 63) & (1 << 64) - 1
    zeroed[32:40] = struct.pack("<Q", _core.plan_checksum(bytes(zeroed)) ^ rest)
    return bytes(zeroed) + data[HEAD.size :]


def test_a_right_checksum_is_recognised(plan: Path) -> None:
    data = plan.read_bytes()
    assert is_plan(data) and checksummed(data) == data


def broken_headers(data: bytes) -> Iterator[tuple[str, bytes]]:
    """One field of the header after the other, with a right checksum."""
    fields = list(HEAD.unpack_from(data))
    for i in range(1, len(fields)):
        if i == 5:
            continue
        top = 1 << (32 if i < 3 else 64)
        near = (fields[i] + 1, fields[i] - 1, fields[i] ^ 8, len(data), len(data) - 1)
        for value in (0, 1, 7, top - 1, top // 2, *near):
            if value % top != fields[i]:
                changed = HEAD.pack(*fields[:i], value % top, *fields[i + 1 :]) + data[HEAD.size :]
                head = HEAD.unpack_from(changed)[4]
                yield f"field {i} = {value}", checksummed(changed) if HEAD.size <= head <= len(data) else changed


def test_broken_headers(plan: Path) -> None:
    data = plan.read_bytes()
    refused = 0
    for what, changed in broken_headers(data):
        try:
            model = fastconv.load(changed)
            assert model(images(2)) is not None, what
        except fastconv.FastconvError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("seed", range(4))
def test_changed_words_of_the_head(plan: Path, seed: int) -> None:
    """Every 8 bytes of the head replaced by hostile values, checksum right: an error or a plan that runs, no crash."""
    data = plan.read_bytes()
    head_bytes = HEAD.unpack_from(data)[4]
    rng = np.random.default_rng(seed)
    hostile = (0, 1, 2, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1, 0x7FF8000000000000)
    for at in rng.choice(np.arange(HEAD.size, head_bytes - 8, 4), 150, replace=False):
        changed = bytearray(data)
        changed[at : at + 8] = struct.pack("<Q", hostile[rng.integers(len(hostile))])
        try:
            model = fastconv.load(checksummed(bytes(changed)))
        except fastconv.FastconvError:
            continue
        if all(np.prod(np.array(i.shape, float)) < 1e6 for i in (*model.inputs, *model.outputs)):
            feed = [np.zeros(i.shape, i.dtype) for i in model.inputs]  # type: ignore[arg-type]
            with contextlib.suppress(fastconv.FastconvError):
                model(*feed)


def test_truncated_and_flipped(plan: Path, tmp_path: Path) -> None:
    data = plan.read_bytes()
    head = HEAD.unpack_from(data)[4]
    for size in (0, 1, 8, HEAD.size - 1, HEAD.size, 200, head, head + 4096, len(data) - 1):
        path = tmp_path / "cut.fcplan"
        path.write_bytes(data[:size])
        with pytest.raises(fastconv.ModelError, match="broken plan"):
            fastconv.load(path)
    rng = np.random.default_rng(5)
    for at in rng.integers(0, head, 200):  # any bit of the head
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(fastconv.FastconvError):
            SavedModel(bytes(flipped))
    first = _core.PlanFile(data).levels[0]
    flipped = bytearray(data)
    flipped[-(-head // 4096) * 4096 + 100] ^= 4  # a bit of the weights is found where it is looked for
    SavedModel(bytes(flipped), _isa=first)
    with pytest.raises(fastconv.ModelError, match="wrong checksum of the weights"):
        SavedModel(bytes(flipped), _isa=first, verify=True)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fastconv.load(tmp_path / "none.fcplan")
    with pytest.raises(fastconv.ModelError, match="no regular file"):
        SavedModel(tmp_path)
    (tmp_path / "text.fcplan").write_text("no plan at all" * 100)
    with pytest.raises(fastconv.ModelError, match="not a saved plan"):
        fastconv.load(tmp_path / "text.fcplan")
    with pytest.raises(OSError):
        fastconv.load(network()).save(tmp_path / "no" / "x.fcplan", shape=(1, 3, 20, 18))
    assert not list(tmp_path.glob("*.part"))


def test_a_name_that_is_no_utf8(tmp_path: Path, plan: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.fcplan")
    fastconv.load(network()).save(path, shape=(1, 3, 20, 18))
    assert fastconv.load(path).labels == ()  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(fastconv.load(path)))(images(1))


def test_pages_are_shared(tmp_path: Path) -> None:
    """Two processes that map one file: its weights count once."""
    b = Builder(3, (64, 8, 8))
    path = tmp_path / "dense.fcplan"
    fastconv.load(b.model((b.head(b.x, 20000), (20000,))).SerializeToString()).save(path, shape=(1, 64, 8, 8))
    size = os.path.getsize(path)
    assert size > 4e6
    code = """
import subprocess, sys
import numpy as np
import fastconv
path, depth = sys.argv[1], int(sys.argv[2])
model = fastconv.load(path)
model(np.zeros((1, 64, 8, 8), np.float32))
if depth:
    subprocess.run([sys.executable, "-c", sys.argv[3], path, "0", ""], check=True)
else:
    lines = open("/proc/self/smaps").read().split(path)[1].splitlines()
    shared = sum(int(line.split()[1]) for line in lines[:25] if line.startswith("Shared"))
    private = sum(int(line.split()[1]) for line in lines[:25] if line.startswith("Private"))
    print(shared, private)
"""
    done = python(code, str(path), "1", code)
    assert done.returncode == 0, done.stderr
    shared, private = map(int, done.stdout.split())
    assert shared * 1024 > 0.9 * size and private == 0, done.stdout


# -- memory -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ("LeNet5", pytest.param("ResNet18", marks=pytest.mark.slow),
                                  pytest.param("EfficientNetB0", marks=pytest.mark.slow)))  # fmt: skip
def test_arena(name: str, tmp_path: Path) -> None:
    """At most a tenth above what lives at once; LeNet-5's fits 48 kB, scratch memory included."""
    from bench.embedded import arena, network

    got, scratch, live = arena(network(name), tmp_path / "net.fcplan")
    assert 0.9 * live <= got <= 1.1 * live
    if name == "LeNet5":
        assert got + scratch + 192 < 48000


def golden() -> None:
    """Write tests/data/golden.fcplan and .npz."""
    b = Builder(7, (3, 12, 10))
    x = b.conv_bn_relu(b.x, 8, 3, 2)
    x = b.op("Add", x, b.op("Sigmoid", b.conv(x, 8, 3, 1, group=8)))
    x = b.concat(b.conv(x, 5, 1, 1), b.pool("MaxPool", x, 3, 1, (1, 1, 1, 1)), b.conv(x, 4, 5, 1, bias=True))
    model = fastconv.load(b.model((b.head(x, 7), (7,)), (x, (17, 6, 5))).SerializeToString(), _isa="scalar")
    model.save(GOLDEN, shape=(1, 3, 12, 10), isa=["scalar"], labels=list("abcdefg"))
    image = np.random.default_rng(2).standard_normal((1, 3, 12, 10), np.float32)
    outputs = {f"y{i}": y for i, y in enumerate(model(image))}
    np.savez_compressed(GOLDEN.with_suffix(".npz"), x=image, **outputs)


if __name__ == "__main__":
    golden()
