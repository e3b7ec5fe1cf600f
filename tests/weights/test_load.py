"""Weights from files into models: what fits, and errors that name the first layer that does not; nothing half-done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastconv.applications import LeNet5, ResNet18, ZFNet
from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.layers import Dense, Flatten, Input
from fastconv.models import Model
from fastconv.weights import load_into, read_weights
from tests.applications.states import numbers, pth, torch_shapes
from tests.torch_writer import legacy_file, tensor

X = np.random.default_rng(0).standard_normal((2, 40, 33, 3)).astype(np.float32)
State = dict[str, np.ndarray]


def state() -> State:
    return {n: numbers(n, s) for n, s in torch_shapes(ResNet18(weights=None)).items()}


def test_zip_and_legacy_are_the_same(tmp_path: Path) -> None:
    arrays = state()
    arrays = {**arrays, "bn1.num_batches_tracked": np.array(3)}
    (tmp_path / "zip.pth").write_bytes(pth(arrays))
    root = {n: tensor(str(i), a) for i, (n, a) in enumerate(arrays.items())}
    storages = {str(i): (a.size, a.tobytes()) for i, a in enumerate(arrays.values())}
    (tmp_path / "legacy.pth").write_bytes(legacy_file(root, storages))
    made = [ResNet18(weights=tmp_path / n, include_top=False).predict(X) for n in ("zip.pth", "legacy.pth")]
    np.testing.assert_array_equal(*made)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    """The message says what they are."""
    model = ResNet18(weights=None, include_top=False)
    for name, data, text in (
        ("w.pth", b"\x89PNG\r\n\x1a\n" + bytes(99), "not a torch file, but a PNG image"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "but an HDF5 file"),
        ("w.pth", b"<html>not found</html>", "but a web page"),
        ("w.pth", b"\x08\x07" + bytes(99), "not a torch file: expected"),
        ("w.safetensors", b"\xff\xd8\xff" + bytes(99), "not a readable safetensors file, but a JPEG image"),
        ("w.safetensors", bytes(99), "not a readable safetensors file: "),
        ("w.onnx", bytes(99), "ONNX files hold whole networks"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=text):
            model.load_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors"])
def test_places_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    model = LeNet5()
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*none'"):
        model.save(tmp_path / "none" / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        model.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def changed(fn: Callable[[State], object]) -> State:
    arrays = state()
    fn(arrays)
    return arrays


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (lambda a: a.pop("layer2.0.conv1.weight"), r"layer 'conv3_block1_1_conv': expected 'layer2.0.conv1.weight'"),
        (
            lambda a: a.update({"conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}),
            r"layer 'conv1_conv': 'conv1.weight': expected shape \(64, 3, 7, 7\), got \(64, 3, 3, 3\)",
        ),
        (lambda a: a.update({"fc.weight": a["fc.weight"].T}), r"layer 'predictions'.*expected shape \(1000, 512\)"),
        (lambda a: a.update({"bn1.bias": a["bn1.bias"].astype(np.int64)}), "expected floats, got int64"),
        (lambda a: a.update({"layer5.weight": np.zeros(3, np.float32)}), "'layer5.weight'.*belongs to no layer"),
        (lambda a: a.clear() or a.update({"w": np.zeros(3, np.float32)}), "'conv1_conv'.*begins with 'w'"),
    ],
)
def test_the_first_layer_that_differs(arrays: Callable[[State], object], text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pth(changed(arrays)))
    with pytest.raises(ModelError, match=text) as error:
        ResNet18(weights=path)
    assert isinstance(error.value, ValueError) and str(path) in str(error.value)


def test_nothing_changes_where_something_is_wrong(tmp_path: Path) -> None:
    model = ResNet18(weights=None, include_top=False, seed=1)
    before = model.predict(X)
    path = tmp_path / "w.pth"
    path.write_bytes(pth(changed(lambda a: a.pop("layer4.1.bn2.running_var"))))
    with pytest.raises(ModelError, match="conv5_block2_2_bn"):
        model.load_weights(path)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x80\x02K\x01.", b"{}"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_broken_files(content: bytes, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=path.name):
        ResNet18(weights=path)


def test_other_classes_need_another_head(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pth(state()))
    with pytest.raises(ModelError, match=r"layer 'predictions'.*expected shape \(10, 512\), got \(1000, 512\)"):
        ResNet18(weights=path, classes=10)
    model = ResNet18(weights=path, include_top=False, pooling="avg")
    head = Model(model.input, Dense(10, name="mine")(model.output))
    assert head.predict(X).shape == (2, 10)
    model = ResNet18(weights=None, classes=10, input_shape=(40, 33, 3))
    arrays = {n: a for n, a in state().items() if not n.startswith("fc.")}
    load_into(model, arrays, by_name=True)
    cut = Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_allclose(cut.predict(X), ResNet18(weights=path, include_top=False, pooling="avg").predict(X))


def test_a_dense_layer_on_a_flattened_image(tmp_path: Path) -> None:
    """torch flattens C H W, Keras H W C."""
    x = Input(shape=(3, 2, 4))
    model = Model(x, Dense(5, name="fc")(Flatten()(x)))
    w, b = numbers("fc.weight", (5, 24)), numbers("fc.bias", (5,))
    load_into(model, {"fc.weight": w, "fc.bias": b})
    image = np.random.default_rng(0).standard_normal((2, 3, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(
        model.predict(image), image.transpose(0, 3, 1, 2).reshape(2, -1) @ w.T + b, rtol=1e-4, atol=1e-5
    )


# -- safetensors ------------------------------------------------------------------------------------------------------
def test_safetensors_of_our_own(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = LeNet5(seed=1)
    path = tmp_path / "lenet.safetensors"
    model.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    arrays = read_weights(path)
    assert arrays["c1/kernel"].shape == (5, 5, 1, 6) and arrays["c5/kernel"].shape == (400, 120)
    x = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    np.testing.assert_array_equal(LeNet5(weights=path).predict(x), model.predict(x))
    cut = LeNet5(weights=path, include_top=False)
    np.testing.assert_array_equal(cut.predict(x), Model(model.input, model.get_layer("s4").output).predict(x))
    with pytest.raises(ModelError, match="layer 'conv1'"):
        ZFNet(weights=path)


def test_safetensors_with_torchs_names(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = state()
    library.save_file(arrays, tmp_path / "w.safetensors")
    (tmp_path / "w.pth").write_bytes(pth(arrays))
    made = [ResNet18(weights=tmp_path / n, include_top=False).predict(X) for n in ("w.safetensors", "w.pth")]
    np.testing.assert_array_equal(*made)
    library.save_file({n: a.astype(np.float16) for n, a in arrays.items()}, tmp_path / "half.safetensors")
    half = ResNet18(weights=tmp_path / "half.safetensors", include_top=False).predict(X)
    assert half.dtype == np.float32
    assert np.abs(half - made[0]).max() < 0.02 * np.abs(made[0]).max()


def test_safetensors_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "b.safetensors"
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(UnsupportedOpError, match="bfloat16"):
        read_weights(path)


def test_without_the_package_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from fastconv.errors import FastconvError

    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"")
    with pytest.raises(FastconvError, match=r"pip install .*fastconv\[safetensors\]"):
        LeNet5(weights=path)
    with pytest.raises(FastconvError, match=r"pip install .*fastconv\[safetensors\]"):
        LeNet5().save(tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_data_parallel_state_dict() -> None:
    a, b = ResNet18(weights=None), ResNet18(weights=None, include_top=False)
    load_into(a, {f"module.{n}": x for n, x in state().items()})
    load_into(b, state(), ignored=("fc.",))
    np.testing.assert_array_equal(
        Model(a.input, a.get_layer("conv1_bn").output).predict(np.ones((1, 224, 224, 3))),
        Model(b.input, b.get_layer("conv1_bn").output).predict(np.ones((1, 224, 224, 3))),
    )


def test_missing_files(tmp_path: Path) -> None:
    model = LeNet5()
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(FileNotFoundError):
            model.load_weights(tmp_path / name)
