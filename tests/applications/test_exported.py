"""Applications whose weights come as ONNX: channels first as torch exports them, channels last as Keras does."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import applications
from fastconv.applications import VGG16, GoogLeNet, LeNet5, ResNet18, ResNet34
from fastconv.applications.imagenet import preprocess
from fastconv.errors import ModelError, ShapeError
from fastconv.layers import Dense, Input, Permute
from fastconv.models import Model
from tests.applications.states import image, torch_shapes, write_pth

SIZE = (64, 48)
X = image(SIZE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ResNet18 as both kinds of exports: scores without softmax and images N C H W; softmax and images N H W C."""
    folder = tmp_path_factory.mktemp("onnx")
    pth = write_pth(folder / "r.pth", torch_shapes(ResNet18(weights=None)))
    keras = ResNet18(weights=pth, input_shape=(*SIZE, 3))
    keras.save(folder / "keras.onnx")
    planes = Input(shape=(3, *SIZE))
    ResNet18(weights=pth, input_tensor=Permute((2, 3, 1))(planes), classifier_activation=None).save(
        folder / "torch.onnx"
    )
    return {"pth": pth, "keras": folder / "keras.onnx", "torch": folder / "torch.onnx"}


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["keras", "torch"])
@pytest.mark.parametrize("kwargs", [
    dict(include_top=False), dict(include_top=False, pooling="avg"), dict(include_top=False, pooling="max"),
    dict(), dict(classifier_activation=None),
])  # fmt: skip
def test_the_same_as_its_state_dict(files: dict[str, Path], kind: str, kwargs: dict[str, Any]) -> None:
    got = ResNet18(weights=files[kind], input_shape=(*SIZE, 3), **kwargs)
    want = ResNet18(weights=files["pth"], input_shape=(*SIZE, 3), **kwargs)
    close(got.predict(X), want.predict(X))
    assert got.output_shape == want.output_shape
    assert got.count_params() == want.count_params()


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_another_head(files: dict[str, Path], kind: str) -> None:
    model = ResNet18(weights=files[kind], classes=7, input_shape=(*SIZE, 3), seed=1)
    y = model.predict(X)
    assert y.shape == (1, 7)
    np.testing.assert_allclose(y.sum(), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="belongs to the file"):
        model.layers[3](model.input)
    features = ResNet18(weights=files["pth"], include_top=False, pooling="avg").predict(X)
    w, b = model.get_layer("predictions").get_weights()
    logits = features @ w + b
    e = np.exp(logits - logits.max())
    np.testing.assert_allclose(y, e / e.sum(), rtol=1e-2, atol=1e-4)


def test_layers_can_be_frozen_and_a_head_added(files: dict[str, Path]) -> None:
    base = ResNet18(weights=files["torch"], include_top=False, pooling="avg", input_shape=(*SIZE, 3))
    model = Model(base.input, Dense(3)(base.output))
    for layer in base.layers:
        layer.trainable = False
    assert [v.name for v in model.trainable_weights] == ["kernel", "bias"]
    assert sum(len(la.weights) for la in base.layers) == len(base.weights) == 20 * 5
    convolutions = [la for la in base.layers if la.weights and la.weights[0].name == "kernel"]
    before = model.predict(X)
    convolutions[-1].set_weights([np.zeros(w.shape) for w in convolutions[-1].get_weights()])
    assert not np.allclose(model.predict(X), before)


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_inner_outputs(files: dict[str, Path], kind: str) -> None:
    """The idiom of feature maps and heat maps works with a file's layers too; files keep the names of layers."""
    name = "conv3_block2_out"
    plain, base = (ResNet18(weights=files[k], input_shape=(*SIZE, 3)) for k in ("pth", kind))
    inner = Model(base.input, [base.get_layer(name).output, base.output])
    maps, scores = inner.predict(X)
    close(maps, Model(plain.input, plain.get_layer(name).output).predict(X))
    close(scores, base.predict(X) if kind == "torch" else plain.predict(X))
    assert len(inner.weights) == len(base.weights)
    first = next(la for la in base.layers if la.weights)
    first.set_weights([np.zeros(w.shape) for w in first.get_weights()])
    assert not np.allclose(inner.predict(X)[0], maps)


def test_they_pickle(files: dict[str, Path]) -> None:
    model = ResNet18(weights=files["torch"], classes=3, input_shape=(*SIZE, 3), seed=1)
    part = model.layers[3]
    part.trainable = False
    next(la for la in model.layers if la.weights).set_weights([np.ones((64, 3, 7, 7))])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert not again.layers[3].trainable and again.layers[4].trainable
    assert again.preprocess_input == model.preprocess_input


def test_input_tensors_and_sizes(files: dict[str, Path]) -> None:
    model = ResNet18(weights=files["keras"], include_top=False, input_tensor=Input(shape=(*SIZE, 3)))
    assert model.output_shape == (None, 2, 2, 512)
    assert ResNet18(weights=files["keras"], include_top=False).input_shape == (None, *SIZE, 3)
    with pytest.raises(ShapeError, match=r"made for images of \(64, 48, 3\), asked for were \(224, 224, 3\)"):
        ResNet18(weights=files["keras"], input_shape=(224, 224, 3))


def test_how_images_are_prepared(files: dict[str, Path], tmp_path: Path) -> None:
    """A file of Keras' wants what Keras' weights want, one of torch's what torch's do."""
    pixels = np.full((1, *SIZE, 3), 100, np.float32)
    for kind, mode in (("torch", "torch"), ("keras", "caffe")):
        prepare = ResNet18(weights=files[kind], include_top=False).preprocess_input
        assert prepare is not None
        np.testing.assert_array_equal(prepare(pixels), preprocess(pixels, mode))
    planes = Input(shape=(3, 64, 64))
    GoogLeNet(weights=None, input_tensor=Permute((2, 3, 1))(planes)).save(tmp_path / "g.onnx")
    prepare = GoogLeNet(weights=tmp_path / "g.onnx").preprocess_input
    assert prepare is not None
    np.testing.assert_array_equal(prepare(pixels), preprocess(pixels, "tf"))


def test_flattened_heads(tmp_path: Path) -> None:
    model = LeNet5(seed=3)
    model.save(tmp_path / "l.onnx")
    x = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    close(LeNet5(weights=tmp_path / "l.onnx").predict(x), model.predict(x))
    cut = Model(model.input, model.get_layer("s4").output)
    close(LeNet5(weights=tmp_path / "l.onnx", include_top=False).predict(x), cut.predict(x))
    assert LeNet5(weights=tmp_path / "l.onnx", classes=3).predict(x).shape == (2, 3)


def test_features_are_no_scores(files: dict[str, Path], tmp_path: Path) -> None:
    """A file without its classifier, with as many features as classes are asked for."""
    ResNet18(weights=files["pth"], include_top=False, pooling="avg", input_shape=(*SIZE, 3)).save(tmp_path / "f.onnx")
    for classes in (512, 10):
        with pytest.raises(ModelError, match="does not end with a dense layer"):
            ResNet18(weights=tmp_path / "f.onnx", classes=classes, input_shape=(*SIZE, 3))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (VGG16, r"not VGG16: layer 'block1_conv1' has a convolution of weights \(64, 3, 3, 3\), which the file lacks"),
        (ResNet34, r"not ResNet34: layer .* \(it has 20 convolutions, expected 36\)"),
        (LeNet5, "expected 1 channels"),
    ],
)
def test_another_architecture(files: dict[str, Path], make: Any, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        make(weights=files["keras"], include_top=False, input_shape=None)


def test_convolutions_that_are_too_many(tmp_path: Path) -> None:
    ResNet34(weights=None, include_top=False, input_shape=(*SIZE, 3)).save(tmp_path / "r34.onnx")
    with pytest.raises(ModelError, match=r"not ResNet18: node .* too many"):
        ResNet18(weights=tmp_path / "r34.onnx", include_top=False)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError):
        ResNet18(weights=path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["InceptionV3", "Xception", "EfficientNetB0", "EfficientNetLite0", "AlexNet", "GoogLeNet"]
)
def test_every_architecture_knows_its_own_file(name: str, tmp_path: Path) -> None:
    make = getattr(applications, name)
    model = make(weights=None, input_shape=(107, 91, 3), seed=2)
    model.save(tmp_path / "x.onnx")
    x = image((107, 91))
    again = make(weights=tmp_path / "x.onnx", classifier_activation=None)
    logits = make(weights=None, input_shape=(107, 91, 3), seed=2, classifier_activation=None)
    close(again.predict(x), logits.predict(x))
    cut = make(weights=tmp_path / "x.onnx", include_top=False, pooling="avg")
    close(cut.predict(x), make(weights=None, include_top=False, pooling="avg", seed=2).predict(x))


# -- what torch's exporters write (make test-full) --------------------------------------------------------------------
FOLDER = os.environ.get("FASTCONV_TEST_MODELS")
EXPORTED = {"alexnet": "AlexNet", "vgg16": "VGG16", "googlenet": "GoogLeNet", "inception_v3": "InceptionV3",
            "resnet18": "ResNet18", "resnet50": "ResNet50", "efficientnet_b0": "EfficientNetB0"}  # fmt: skip


@pytest.mark.full
@pytest.mark.skipif(FOLDER is None, reason="FASTCONV_TEST_MODELS names no folder of exported models")
@pytest.mark.parametrize("exporter", ["classic", "dynamo"])
@pytest.mark.parametrize("name", EXPORTED)
def test_real_exports(name: str, exporter: str) -> None:
    assert FOLDER is not None
    path, make = Path(FOLDER, exporter, f"{name}.onnx"), getattr(applications, EXPORTED[name])
    file = fastconv.load(path)
    side = file.inputs[0].shape[2]
    x = image((side, side))
    model = make(weights=path, classifier_activation=None)
    close(model.predict(x), file(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    cut = make(weights=path, include_top=False, pooling="avg")
    close(cut.predict(x), file.without_top(pooling="avg")(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    assert make(weights=path, classes=5).predict(x).shape == (1, 5)


def test_a_function_of_the_users_says_nothing_of_images(tmp_path: Path) -> None:
    def prepare(x: Any) -> Any:
        return x

    prepare.mode = "RGB"  # type: ignore[attr-defined]
    model = LeNet5(weights=None)
    model.preprocess_input = prepare  # type: ignore[assignment]
    for ending in (".onnx", ".ckpt", ".safetensors"):
        model.save(tmp_path / f"net{ending}")
    assert "fastconv.preset" not in fastconv.load(tmp_path / "net.onnx").metadata
