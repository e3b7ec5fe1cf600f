"""Counts, arguments, errors and preprocessing of the applications, as Keras has them."""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import applications
from fastconv.applications import VGG16, LeNet5, ResNet18, ResNet50, ZFNet, alexnet, inception_v3, lenet, vgg16
from fastconv.applications.imagenet import decode_predictions, preprocess
from fastconv.layers import Dense, GlobalAveragePooling2D, Input, Rescaling
from fastconv.models import Model
from fastconv.weights.download import index

# learnable numbers. LeNet-5: LeCun 1998 with plain pooling; ZFNet: by the sizes of its paper's figure 3 (two towers
# joined); the others: torchvision and timm
COUNTS = {
    "LeNet5": 61_706,
    "AlexNet": 61_100_840,
    "ZFNet": 62_357_608,
    "VGG16": 138_357_544,
    "VGG19": 143_667_240,
    "GoogLeNet": 6_624_904,
    "InceptionV3": 23_834_568,
    "ResNet18": 11_689_512,
    "ResNet34": 21_797_672,
    "ResNet50": 25_557_032,
    "ResNet101": 44_549_160,
    "ResNet152": 60_192_808,
    "Xception": 22_855_952,
    "EfficientNetB0": 5_288_548,
    "EfficientNetB1": 7_794_184,
    "EfficientNetB2": 9_109_994,
    "EfficientNetB3": 12_233_232,
    "EfficientNetB4": 19_341_616,
    "EfficientNetB5": 30_389_784,
    "EfficientNetB6": 43_040_704,
    "EfficientNetB7": 66_347_960,
    "EfficientNetLite0": 4_652_008,
}
VGG16_LAYERS = [
    *("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1", "block2_conv2", "block2_pool"),
    *("block3_conv1", "block3_conv2", "block3_conv3", "block3_pool"),
    *("block4_conv1", "block4_conv2", "block4_conv3", "block4_pool"),
    *("block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"),
]


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    model = getattr(applications, name)(weights=None)
    assert model.count_params() == COUNTS[name]
    assert sum(v.size for v in model.weights if not v.statistic) == COUNTS[name]


def test_the_documents_table() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "applications.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert [r[0] for r in rows[1:]] == list(COUNTS)
    for name, module, size, count, mode, key in rows[1:]:
        make = getattr(importlib.import_module(f"fastconv.applications.{module}"), name)
        model = make(weights=None)
        assert (model.input_shape[1], model.count_params()) == (int(size), int(count.replace(",", "")))
        assert model.preprocess_input.mode == mode
        assert getattr(applications, module).preprocess_input.mode == mode
        assert key == "-" or key in index() or key == "efficientnet_lite0"


def test_auxiliary_classifier_of_inception() -> None:
    model = inception_v3.with_auxiliary(applications.InceptionV3(weights=None))
    assert model.count_params() == 27_161_264
    y, auxiliary = model.predict(np.zeros((1, 299, 299, 3), np.float32))
    assert y.shape == auxiliary.shape == (1, 1000)


@pytest.mark.parametrize("name", COUNTS)
def test_signature_is_keras(name: str) -> None:
    parameters = inspect.signature(getattr(applications, name)).parameters
    names = ["include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation"]
    assert list(parameters)[:7] == names
    published = name not in ("LeNet5", "ZFNet")
    assert parameters["weights"].default == ("imagenet" if published else None)
    assert [parameters[n].default for n in names[:1] + names[2:]] == [
        True, None, None, None, 10 if name == "LeNet5" else 1000, "softmax",
    ]  # fmt: skip
    assert "include_top" in (getattr(applications, name).__doc__ or "")
    assert pickle.loads(pickle.dumps(getattr(applications, name))) is getattr(applications, name)


def test_vgg16_layers_are_keras() -> None:
    names = [la.name for la in VGG16(weights=None).layers]
    assert names[1:] == [*VGG16_LAYERS, "flatten", "fc1", "fc2", "predictions"]
    base = VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert [la.name for la in base.layers[-4:]] == VGG16_LAYERS[-4:]
    shapes = [la.output_shape for la in base.layers]
    assert shapes[0] == (None, 224, 224, 3)
    assert shapes[1:7] == [(None, 224, 224, 64)] * 2 + [(None, 112, 112, 64)] + [(None, 112, 112, 128)] * 2 + [
        (None, 56, 56, 128)
    ]
    assert shapes[-1] == (None, 7, 7, 512)
    for layer in base.layers:
        layer.trainable = False
    assert base.trainable_weights == []
    for layer in base.layers[-4:]:
        layer.trainable = True
    assert [v.path for v in base.trainable_weights][:2] == ["block5_conv1/kernel", "block5_conv1/bias"]
    assert len(base.trainable_weights) == 6


def test_layer_names_are_keras() -> None:
    names = {la.name for la in applications.EfficientNetB0(weights=None).layers}
    assert names >= {"stem_conv", "block1a_dwconv", "block1a_bn", "block2b_add", "block6d_se_excite", "top_activation"}
    names = {la.name for la in applications.Xception(weights=None).layers}
    assert names >= {"block1_conv1_bn", "block4_sepconv2_act", "block14_sepconv2_act", "avg_pool", "predictions"}
    names = {la.name for la in ResNet50(weights=None).layers}
    assert names >= {"conv1_conv", "conv2_block1_0_conv", "conv3_block4_2_bn", "conv5_block3_out", "avg_pool"}


def test_any_size_without_the_top() -> None:
    model = VGG16(weights=None, include_top=False)
    assert model.input_shape == (None, None, None, 3) and model.output_shape == (None, None, None, 512)
    assert model.predict(np.zeros((1, 70, 33, 3), np.float32)).shape == (1, 2, 1, 512)
    fixed = VGG16(weights=None, include_top=False, input_tensor=Input(shape=(640, 480, 3)), pooling="avg")
    assert fixed.input_shape == (None, 640, 480, 3) and fixed.output_shape == (None, 512)


def test_seed() -> None:
    x = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    a, b, c = (LeNet5(seed=s).predict(x) for s in (1, 1, 2))
    assert (a == b).all() and not (a == c).any()


def test_input_tensor_of_another_model() -> None:
    start = Input(shape=(64, 64, 3))
    model = ResNet18(weights=None, include_top=False, pooling="avg", input_tensor=Rescaling(1 / 255)(start), seed=1)
    plain = ResNet18(weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3), seed=1)
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    np.testing.assert_allclose(model.predict(x), plain.predict(x / 255), rtol=1e-3, atol=1e-5)


def test_a_head_of_ones_own() -> None:
    """The lecture's feature extraction, up to the training."""
    base = VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    x = GlobalAveragePooling2D()(base.output)
    x = Dense(1024, activation="relu")(x)
    model = Model(inputs=base.input, outputs=Dense(10, activation="softmax")(x))
    assert model.count_params() == 14_714_688 + 513 * 1024 + 1025 * 10
    y = model.predict(np.zeros((3, 64, 64, 3), np.float32))
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(weights="nowhere.pth"), "The `weights` argument should be either"),
        (dict(weights="imagenet", classes=10), "`classes` should be 1000"),
        (dict(weights="imagenet", input_shape=(200, 200, 3)), r"`input_shape` should be \(224, 224, 3\)"),
        (dict(weights="imagenet", include_top=False, input_shape=(64, 64, 1)), "The input must have 3 channels"),
        (dict(weights=None, input_shape=(31, 224, 3)), "Input size must be at least 32x32"),
        (dict(weights=None, include_top=False, input_shape=(20, 20, 3)), "Input size must be at least 32x32"),
        (dict(weights=None, input_shape=(224, 224)), "`input_shape` must be a tuple of three integers"),
        (dict(weights=None, input_shape=(None, None, 3)), "you should specify a static `input_shape`"),
        (dict(weights=None, input_tensor=Input(shape=(None, None, 3))), "static `input_shape`"),
        (dict(weights=None, input_tensor=np.zeros(3)), "input_tensor"),
        (dict(weights="imagenet", classifier_activation="relu"), "Only `None` and `softmax` activations"),
        (dict(weights=None, classifier_activation="nothing"), "activation 'nothing'"),
        (dict(weights=None, pooling="min"), "pooling='min'"),
        (dict(weights=None, classes=0), "classes=0"),
    ],
)
def test_keras_value_errors(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        VGG16(**kwargs)


@pytest.mark.parametrize("make", [LeNet5, ZFNet])
def test_nobody_publishes_these(make: Any) -> None:
    with pytest.raises(ValueError, match="nobody publishes"):
        make(weights="imagenet")


def test_odd_channels_warn() -> None:
    with pytest.warns(UserWarning, match="1 or 3 input channels"):
        model = VGG16(weights=None, include_top=False, input_shape=(64, 64, 4))
    assert model.input_shape == (None, 64, 64, 4)


# -- images -----------------------------------------------------------------------------------------------------------
def test_preprocess_input_modes() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.float32)
    kept = x.copy()
    caffe = x[..., ::-1] - np.array([103.939, 116.779, 123.68])
    torch = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for mode, want in (("caffe", caffe), ("tf", x / 127.5 - 1), ("torch", torch)):
        np.testing.assert_allclose(preprocess(x, mode), want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(preprocess(x[0].astype(np.uint8), mode), want[0], rtol=1e-5, atol=1e-5)
        first = preprocess(x.transpose(0, 3, 1, 2), mode, "channels_first")
        np.testing.assert_allclose(first, want.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(vgg16.preprocess_input(x, mode=mode), preprocess(x, mode))
    np.testing.assert_array_equal(x, kept)


def test_preprocess_input_defaults() -> None:
    x = np.full((1, 2, 2, 3), 100, np.float32)
    modes = {"tf": ("googlenet", "inception_v3", "xception", "lenet"), "torch": ("vgg16", "vgg19", "resnet50", "resnet",
             "alexnet", "zfnet", "efficientnet", "efficientnet_lite")}  # fmt: skip
    for mode, modules in modes.items():
        for module in modules:
            got = getattr(applications, module).preprocess_input(x)
            np.testing.assert_array_equal(got, preprocess(x, mode), err_msg=module)
    model = VGG16(weights=None, include_top=False)
    assert model.preprocess_input is not None
    np.testing.assert_array_equal(model.preprocess_input(x), alexnet.preprocess_input(x))


@pytest.mark.parametrize("bad", [dict(mode="keras"), dict(mode="torch", data_format="NCHW")])
def test_preprocess_input_errors(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        vgg16.preprocess_input(np.zeros((2, 2, 3)), **bad)
    with pytest.raises(ValueError, match="3 channels"):
        vgg16.preprocess_input(np.zeros((2, 2, 1)))


def test_decode_predictions() -> None:
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [285, 0, 999]] = 0.5, 0.3, 0.1
    scores[1, 134] = 1
    first, second = decode_predictions(scores, top=3)
    assert first[0] == ("n02124075", "Egyptian_cat", 0.5)
    assert [p[0] for p in first] == ["n02124075", "n01440764", "n15075141"]
    assert first[1][1:] == ("tench", pytest.approx(0.3)) and len(second) == 3
    assert second[0][1] == "crane_(bird)"
    digits = np.eye(10)[[7, 3]] * 0.9
    assert lenet.decode_predictions(digits, top=1) == [[("7", "7", 0.9)], [("3", "3", 0.9)]]
    with pytest.raises(ValueError, match=r"\(samples, 10\)"):
        lenet.decode_predictions(scores)


@pytest.mark.parametrize("shape", [(1000,), (1, 10), (1, 1, 1000)])
def test_decode_predictions_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2D array of shape"):
        decode_predictions(np.zeros(shape))
    with pytest.raises(ValueError, match="top"):
        decode_predictions(np.zeros((1, 1000)), top=0)
    with pytest.raises(ValueError, match="top"):
        decode_predictions(np.zeros((1, 1000)), top=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected numbers"):
        decode_predictions([["a"] * 1000])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(weights=True), "weights=True"),
        (dict(weights=7), "weights=7"),
        (dict(weights=b"imagenet"), "weights=b'imagenet'"),
        (dict(weights="imagenet21k"), "should be either `None`"),
        (dict(input_shape=224), "tuple of three integers"),
        (dict(input_shape="224"), "tuple of three integers"),
        (dict(input_shape=(224.5, 224, 3)), "positive sizes"),
        (dict(classes="10"), "classes='10'"),
        (dict(classes=True), "classes=True"),
        (dict(classifier_activation=len), "activation"),
        (dict(pooling=["avg"], include_top=False), "pooling="),
        (dict(input_tensor=Input(shape=(5,))), "three integers"),
    ],
)
def test_odd_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        VGG16(**{"weights": None, **arguments})


def test_numbers_of_numpy() -> None:
    model = VGG16(weights=None, classes=np.int64(5), input_shape=np.array([32, 32, 3]))  # type: ignore[arg-type]
    assert model.output_shape == (None, 5)


LARGE = """
import re, time
from fastconv.applications import VGG16
from fastconv.layers import Input
model = VGG16(weights=None, input_tensor=Input(shape=(640, 480, 3)), classes=10, seed=1)
{}
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())  # ru_maxrss starts from the parent's
print(model.count_params(), time.process_time(), int(peak[1]) * 1024)
"""


@pytest.mark.slow
def test_vgg16_for_large_images() -> None:
    """The lecture's 640 x 480 with its top: 661 million parameters, drawn or packed in one copy.

    It is to take 20 s: processor time, all threads together, is what a busy machine changes least.
    """
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    drawn, packed = "[v.array for v in model.weights]", "model.predict(__import__('numpy').ones((1, 640, 480, 3)))"
    for what in (f"values = {drawn}", packed):
        done = subprocess.run(
            [sys.executable, "-c", LARGE.format(what)], capture_output=True, text=True, cwd=root, check=True
        )
        count, seconds, peak = (float(v) for v in done.stdout.split())
        assert count == 660_686_666
        assert seconds < 20
        assert peak < 1.2 * 4 * count
