"""The lecture: its worked numbers, its listings with only the import lines changed, and the page that shows both."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastconv import ops
from fastconv.applications import VGG16
from fastconv.layers import AveragePooling2D, Conv2D, Dense, Flatten, Input, MaxPooling2D
from fastconv.models import Model, Sequential
from tests import pages
from tests.applications.states import numbers, pth, torch_shapes
from tests.weights.server import Behaviour, serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

BINARY = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
CROSS = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
RED = [[0, 0, 0], [0, 156, 155], [0, 153, 154]]
GREEN = [[0, 0, 0], [0, 167, 166], [0, 164, 165]]
BLUE = [[0, 0, 0], [0, 163, 162], [0, 160, 161]]
KERNELS = [
    [[-1, -1, 1], [0, 1, -1], [0, 1, 1]],
    [[1, 0, 0], [1, -1, -1], [1, 0, -1]],
    [[0, 1, 1], [0, 1, 0], [1, -1, 1]],
]
POOLED = [[1, 4, 2, 1], [5, 8, 3, 4], [7, 6, 4, 5], [1, 3, 1, 2]]


def plane(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.float32)[None, None]


def layer_output(layer: object, x: np.ndarray, weights: list[np.ndarray] | None = None) -> np.ndarray:
    """A layer on a grey image given as [1, 1, H, W]."""
    image = Input(shape=(*x.shape[2:], x.shape[1]))
    y = layer(image)  # type: ignore[operator]
    if weights is not None:
        layer.set_weights(weights)  # type: ignore[attr-defined]
    return Model(image, y).predict(x.transpose(0, 2, 3, 1))[0, :, :, 0]


# -- numbers ------------------------------------------------------------------------------------------------------
def test_binary_image() -> None:
    want = [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    np.testing.assert_array_equal(ops.conv2d(plane(BINARY), plane(CROSS))[0, 0], want)
    kernel = np.array(CROSS, np.float32)[:, :, None, None]
    np.testing.assert_array_equal(layer_output(Conv2D(1, 3, use_bias=False), plane(BINARY), [kernel]), want)


def test_rgb() -> None:
    sums = [ops.conv2d(plane(p), plane(k)).item() for p, k in zip((RED, GREEN, BLUE), KERNELS, strict=True)]
    assert sums == [308, -498, 164]
    x = np.array([[RED, GREEN, BLUE]], np.float32)
    w = np.array([KERNELS], np.float32)
    assert ops.conv2d(x, w, np.array([1], np.float32)).item() == -25
    got = layer_output(Conv2D(1, 3), x, [w.transpose(2, 3, 1, 0), np.array([1])])
    assert got.item() == -25


@pytest.mark.parametrize(
    ("n", "f", "padding", "s", "want"),
    [
        ((5, 5), 3, "valid", 1, (3, 3)),
        ((8, 8), 3, "same", 1, (8, 8)),
        ((8, 8), 3, 1, 1, (8, 8)),
        ((125, 49), 5, 2, 2, (63, 25)),
        ((6, 6), 3, "valid", 2, (2, 2)),
    ],
)
def test_sizes(n: tuple[int, int], f: int, padding: str | int, s: int, want: tuple[int, int]) -> None:
    layer = Conv2D(1, f, strides=s, padding=padding)
    assert layer(Input(shape=(*n, 1))).shape[1:3] == want
    assert layer_output(Conv2D(1, f, strides=s, padding=padding), np.zeros((1, 1, *n), np.float32)).shape == want
    if not isinstance(padding, str):
        assert want == tuple((d + 2 * padding - f) // s + 1 for d in n)


def test_pooling() -> None:
    x = plane([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
    want = [[3, 3, 3], [3, 3, 3], [3, 2, 3]]
    np.testing.assert_array_equal(ops.max_pool2d(x, 3, stride=1)[0, 0], want)
    np.testing.assert_array_equal(layer_output(MaxPooling2D(3, strides=1), x), want)
    np.testing.assert_array_equal(ops.max_pool2d(plane(POOLED), 2)[0, 0], [[8, 4], [7, 5]])
    np.testing.assert_array_equal(layer_output(MaxPooling2D(2, strides=2), plane(POOLED)), [[8, 4], [7, 5]])
    want_mean = [[4.5, 4.25, 2.5], [6.5, 5.25, 4], [4.25, 3.5, 3]]
    np.testing.assert_array_equal(ops.avg_pool2d(plane(POOLED), 2, stride=1)[0, 0], want_mean)
    np.testing.assert_array_equal(layer_output(AveragePooling2D(2, strides=1), plane(POOLED)), want_mean)


def test_counts() -> None:
    assert Sequential([Input(shape=(68, 68, 3)), Flatten()]).output_shape == (None, 13_872)
    assert Sequential([Input(shape=(64, 64, 3)), Flatten()]).output_shape == (None, 12_288)
    model = VGG16(weights=None)
    assert model.count_params() == 138_357_544
    dense = [la for la in model.layers if isinstance(la, Dense)]
    assert [la.units for la in dense] == [4096, 4096, 1000]
    assert sum(isinstance(la, Conv2D) for la in model.layers) == 13
    assert sum(isinstance(la, MaxPooling2D) for la in model.layers) == 5


# -- listings -----------------------------------------------------------------------------------------------------
NEW_INPUT = "new_input = Input(shape=(640, 480, 3))\n"
KERAS = "from keras.applications.vgg16 import VGG16\nfrom keras.layers import Input\n"
SHOW = "print(model.output_shape)\n"
ADAM = "from tensorflow.keras.optimizers import Adam\n"
TRANSFER = """
from tensorflow.keras.applications import VGG16
from tensorflow.keras.models import Model
from tensorflow.keras.layers import Dense, GlobalAveragePooling2D
# Load the pre-trained VGG16 model without the top layers
base_model = VGG16(weights='imagenet', include_top=False, input_shape=(224, 224, 3))
# Add custom classification layers
x = base_model.output
x = GlobalAveragePooling2D()(x)
x = Dense(1024, activation='relu')(x)
predictions = Dense(10, activation='softmax')(x) # Assume 10 classes for the new task
# Create the full model
model = Model(inputs=base_model.input, outputs=predictions)
"""
TRANSFER_ADAM = ADAM + TRANSFER
FREEZE = """# Freeze the pre-trained layers
for layer in base_model.layers:
    layer.trainable = False
"""
UNFREEZE = """# Unfreeze some of the top layers
for layer in base_model.layers[-4:]:
    layer.trainable = True
"""
COMPILE = """# Compile the model
model.compile(optimizer=Adam(), loss='categorical_crossentropy', metrics=['accuracy'])
"""
COMPILE_SLOWER = """# Recompile the model with a lower learning rate
model.compile(optimizer=Adam(1e-5), loss='categorical_crossentropy', metrics=['accuracy'])
"""
FIT = """# Train the model
model.fit(train_data, train_labels, epochs=10, validation_data=(val_data, val_labels))
"""
LISTINGS = {
    "without_output_layer": KERAS + "model = VGG16(include_top=False)\n" + SHOW,
    "new_shape": KERAS + NEW_INPUT + "model = VGG16(include_top=False, input_tensor=new_input)\n" + SHOW,
    "pooling": KERAS + NEW_INPUT + "model = VGG16(include_top=False, input_tensor=new_input, pooling='avg')\n" + SHOW,
    "prepare": "import numpy\nfrom keras.applications.vgg16 import preprocess_input\n"
    "images = numpy.zeros((2, 9, 9, 3))\nprepared_images = preprocess_input(images)\nprint(prepared_images.shape)\n",
    "random": KERAS + NEW_INPUT + "model = VGG16(weights=None, input_tensor=new_input, classes=10)\n" + SHOW,
    "classifier": """
from keras.preprocessing.image import load_img
from keras.preprocessing.image import img_to_array
from keras.applications.vgg16 import preprocess_input
from keras.applications.vgg16 import decode_predictions
from keras.applications.vgg16 import VGG16
# load an image from file
image = load_img('dog.jpg', target_size=(224, 224))
# convert the image pixels to a numpy array
image = img_to_array(image)
# reshape data for the model
image = image.reshape((1, image.shape[0], image.shape[1], image.shape[2]))
# prepare the image for the VGG model
image = preprocess_input(image)
# load the model
model = VGG16()
# predict the probability across all output classes
yhat = model.predict(image)
# convert the probabilities to class labels
label = decode_predictions(yhat)
# retrieve the most likely result, e.g. highest probability
label = label[0][0]
# print the classification
print('%s (%.2f%%)' % (label[1], label[2]*100))
""",
    "feature_extraction": TRANSFER + FREEZE + UNFREEZE + "print(model.output_shape, len(model.trainable_weights))\n",
    "training_feature_extraction": TRANSFER_ADAM + FREEZE + COMPILE + FIT,
    "training_fine_tuning": TRANSFER_ADAM + FREEZE + COMPILE + FIT + UNFREEZE + COMPILE_SLOWER + FIT,
}
# What the training listings take as given, and what is looked at behind them.
ARRAYS = """
import numpy as np
from keras.layers import set_random_seed
set_random_seed(0)
random = np.random.default_rng(0)
train_data, val_data = (random.uniform(0, 255, (n, 224, 224, 3)).astype('float32') for n in (4, 2))
train_labels, val_labels = np.eye(10)[[0, 1, 2, 3]], np.eye(10)[[1, 3]]
"""
LOOK = """
history = model.history.history
print()
print(sorted(history), len(history['loss']), all(np.isfinite(history['loss'])))
print(len(model.trainable_weights), min(history['loss']) < history['loss'][0])
"""
PRINTED = {
    "without_output_layer": "(None, None, None, 512)",
    "new_shape": "(None, 20, 15, 512)",
    "pooling": "(None, 512)",
    "prepare": "(2, 9, 9, 3)",
    "random": "(None, 10)",
    "classifier": r"\w+ \(\d+\.\d\d%\)",
    "feature_extraction": "(None, 10) 10",
    "training_feature_extraction": "['accuracy', 'loss', 'val_accuracy', 'val_loss'] 10 True\n4 True",
    "training_fine_tuning": "['accuracy', 'loss', 'val_accuracy', 'val_loss'] 10 True\n10 True",
}
OFFLINE = ("prepare", "random")


def run(listing: str, folder: Path, env: dict[str, str]) -> str:
    code = re.sub(r"from (tensorflow\.)?keras\.", "from fastconv.", listing)
    assert "keras" not in code
    path = {"PYTHONPATH": str(ROOT), "FASTCONV_CACHE": str(folder / "cache"), "TORCH_HOME": str(folder / "torch")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False, env={**env, **path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def check(name: str, text: str) -> None:
    want = PRINTED[name]
    if name.startswith("training"):
        text = "\n".join(text.splitlines()[-2:])
    assert re.fullmatch(want, text) if name == "classifier" else text == want


@pytest.mark.parametrize("name", OFFLINE)
def test_listings_without_weights(name: str, tmp_path: Path) -> None:
    import os

    check(name, run(LISTINGS[name], tmp_path, dict(os.environ)))


@pytest.mark.slow
def test_listings_with_weights(tmp_path: Path) -> None:
    """weights="imagenet" comes from a server on loopback; one download serves them all."""
    import os

    from demo import photo
    from PIL import Image

    content = pth({n: numbers(n, s) for n, s in torch_shapes(VGG16(weights=None)).items()})
    with Image.open(photo("skimage", "data/chelsea.png")) as cat:
        cat.save(tmp_path / "dog.jpg")
    behaviour = Behaviour(content)
    with serving(behaviour) as url:
        entry = {"url": f"{url}/vgg16.pth", "sha256": hashlib.sha256(content).hexdigest()}
        (tmp_path / "index.json").write_text(json.dumps({"vgg16": entry}))
        env = {**os.environ, "FASTCONV_WEIGHTS_INDEX": str(tmp_path / "index.json"), "no_proxy": "127.0.0.1"}
        for name, listing in LISTINGS.items():
            if name not in OFFLINE:
                whole = f"{ARRAYS}{listing}{LOOK}" if name.startswith("training") else listing
                check(name, run(whole, tmp_path, env))
    assert behaviour.requests == [None]


# -- the page -----------------------------------------------------------------------------------------------------
PAGE = ROOT / "docs" / "lecture.md"


def test_the_page_prints_what_it_says(tmp_path: Path) -> None:
    from demo import photo

    (tmp_path / "cat.png").write_bytes(photo("skimage", "data/chelsea.png").read_bytes())
    pages.check(PAGE, tmp_path, 16)


def test_the_pages_pictures(tmp_path: Path) -> None:
    """They are the ones that the script draws, and small."""
    from lecture import draw
    from PIL import Image

    named = set(re.findall(r"\(images/(\w+\.png)\)", PAGE.read_text(encoding="utf-8")))
    drawn = draw(tmp_path)
    assert {p.name for p in drawn} == named
    for path in drawn:
        kept = ROOT / "docs" / "images" / path.name
        assert kept.stat().st_size < 100_000
        with Image.open(path) as a, Image.open(kept) as b:
            x, y = (np.asarray(i.convert("RGB"), np.float64) for i in (a, b))
        assert x.shape == y.shape
        assert np.abs(x - y).mean() < 3  # the last bits of a feature map may fall on the other side of a rounding


def test_no_wrong_figure_of_the_lecture_stands_uncorrected() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("**Correction.**") == 4
    for figure in ("13,872", "63 and", "138 million", "1000 units"):
        assert figure in text
