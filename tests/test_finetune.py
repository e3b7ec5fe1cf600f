"""fine_tune: what it learns, what it leaves alone, and that an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv import checkpoint
from fastconv import layers as L
from fastconv.callbacks import Callback, EarlyStopping
from fastconv.errors import FastconvError, ModelError
from fastconv.finetune_network import as_base, block_of, last_blocks, leaves
from fastconv.models import Model, load_model
from fastconv.preprocessing.presets import preset as named_preset

from .cli_tools import small_model

onnx = pytest.importorskip("onnx")
SIZE = 32


def paint(folder: Path, each: int = 12, seed: int = 0) -> Path:
    """Two classes that a colour alone tells apart but for noise: stripes across, stripes down, and a third: grey."""
    rng = np.random.default_rng(seed)
    for name in ("across", "down", "grey"):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            wave = 90 * np.sin(np.arange(40) * rng.uniform(0.8, 1.2) + rng.uniform(0, 6))
            plane = {"across": wave[:, None], "down": wave[None, :], "grey": np.zeros((1, 1))}[name]
            pixels = 128 + np.broadcast_to(plane, (40, 40))[..., None] + rng.normal(0, 12, (40, 40, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_model(), str(path))
    return path


def tune(network: Any, photos: Any, epochs: tuple[int, int] = (6, 4), **kwargs: Any) -> Any:
    options = dict(preset="unit", batch_size=8, verbose=0, augment=("zoom", "translate"), learning_rate=0.03)
    return fastconv.fine_tune(network, **{"data": photos, "epochs": epochs, **options, **kwargs})


def test_learns(network: Path, photos: Path, tmp_path: Path) -> None:
    result = tune(network, photos, (40, 2), learning_rate=0.1)
    assert result.class_names == ["across", "down", "grey"] and result.phases == (40, 2)
    assert result.confusion.sum() == 6 and result.accuracy >= 5 / 6
    history = result.history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"} and len(history["loss"]) == 42
    assert history["loss"][39] < 0.7 * history["loss"][0]
    result.save(tmp_path / "taught.onnx")
    taught = fastconv.load(tmp_path / "taught.onnx")
    assert taught.class_names == ("across", "down", "grey")
    for folder in ("across", "down", "grey"):
        x = result.preset.apply(str(photos / folder / "00.png"))
        ours = result.model.predict(x.transpose(0, 2, 3, 1))
        np.testing.assert_allclose(taught(x.transpose(0, 2, 3, 1)), ours, atol=1e-5)
        assert abs(ours.sum() - 1) < 1e-5


def weights(result: Any) -> list[np.ndarray]:
    return [v.array.copy() for v in result.model.weights]


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_seeds(network: Path, photos: Path) -> None:
    first = tune(network, photos, (2, 2))
    assert same(first, tune(network, photos, (2, 2), threads=1))
    assert same(first, tune(network, photos, (2, 2), threads=3))
    assert not same(first, tune(network, photos, (2, 2), seed=1))


def test_what_is_frozen_stays(network: Path, photos: Path) -> None:
    """The head alone; then the convolution too, but never the batch normalisation."""
    base = {v.path: v.array for v in as_base(fastconv.load(network)).weights}
    for epochs, unfreeze, moved in (((1, 0), 1, False), ((1, 1), 0, False), ((0, 1), 1, True)):
        result = tune(network, photos, epochs, unfreeze=unfreeze)
        found = {v.path: v.array for v in result.model.weights if v.path in base}
        assert set(found) == set(base) and len(base) == 5
        changed = {path for path, a in found.items() if not np.array_equal(a, base[path])}
        assert changed == ({"w"} if moved else set())


def test_checkpoints_of_before_say_less(network: Path, photos: Path, tmp_path: Path) -> None:
    """They were the CPU's, in fp32; of the images they say nothing."""
    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        tune(network, photos, (2, 0), checkpoint=path, stop=Interrupt(3))
    arrays, state = checkpoint.read(path)
    run = {k: v for k, v in state["run"].items() if k not in ("device", "preset", "size")}
    checkpoint.write(path, arrays, {**state, "run": run})
    with pytest.raises(ModelError, match="a run on"):
        tune(network, photos, (2, 0), checkpoint=path, resume=True, precision="strict")
    assert same(tune(network, photos, (2, 0)), tune(network, photos, (2, 0), checkpoint=path, resume=True))


def test_a_file_as_layers(network: Path, photos: Path, tmp_path: Path) -> None:
    """load_model's network learns as the file does: from the features, on images as the file's preset says."""
    named = fastconv.load(network).as_layers()
    named.metadata = named_preset("tf").to_metadata()
    named.save(tmp_path / "named.onnx")
    loaded = load_model(tmp_path / "named.onnx")
    assert as_base(loaded).output_shape == (None, 8) and loaded.output_shape == (None, 12)
    assert set(as_base(loaded).weights) < set(loaded.weights)
    x = np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    features = fastconv.load(network).without_top("avg")(x)
    np.testing.assert_array_equal(as_base(loaded).predict(x.transpose(0, 2, 3, 1)), features)
    file = tune(tmp_path / "named.onnx", photos, (1, 0), preset=None)
    layers = tune(loaded, photos, (1, 0), preset=None)
    assert layers.preset == file.preset and file.preset.name == "tf"
    assert layers.model.count_params() == file.model.count_params()


def test_a_file_with_a_fixed_batch(photos: Path) -> None:
    """As torch exports by default: its nodes can do any batch, unless they say otherwise."""
    from onnx import helper, numpy_helper

    fixed = small_model(shape=(1, 3, 32, 32))
    want = tune(fastconv.load(small_model()), photos, (2, 1))
    assert same(want, tune(fastconv.load(fixed), photos, (2, 1)))
    taught = pickle.loads(pickle.dumps(fastconv.load(fixed).without_top(pooling="avg").add_head(3)))
    assert taught.predict(np.zeros((5, 32, 32, 3))).shape == (5, 3)
    (flatten,) = (n for n in fixed.graph.node if n.op_type == "Flatten")
    flatten.CopyFrom(helper.make_node("Reshape", ["g", "one"], ["f"], "flatten"))
    fixed.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "one"))
    stuck = fastconv.load(fixed).as_layers()
    assert stuck.predict(np.zeros((1, 32, 32, 3))).shape == (1, 12)
    with pytest.raises(ValueError, match=r"dimension 0: expected 1 of"):
        stuck.predict(np.zeros((5, 32, 32, 3)))


class Interrupt:
    """Asks to stop at the n-th step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("views", (1, 2))
def test_resume_at_every_step(network: Path, photos: Path, tmp_path: Path, views: int) -> None:
    """30 images in batches of 8: 4 steps an epoch, two epochs of the head and two of fine-tuning."""
    path = tmp_path / "run.ckpt"
    whole = tune(network, photos, (2, 2), views=views)
    for at in range(16):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            tune(network, photos, (2, 2), views=views, checkpoint=path, stop=Interrupt(at))
        resumed = tune(network, photos, (2, 2), views=views, checkpoint=path, resume=True)
        assert same(whole, resumed), at
        assert resumed.history["val_loss"] == whole.history["val_loss"] and resumed.phases == (2, 2)
        np.testing.assert_array_equal(whole.confusion, resumed.confusion)


def test_resume_twice_and_after_a_kill(network: Path, photos: Path, tmp_path: Path) -> None:
    """What an epoch's end has saved is enough, wherever the process ends then."""
    path = tmp_path / "run.ckpt"
    whole = tune(network, photos, (2, 2))

    class Die(Callback):
        def __init__(self, epoch: int, batch: int) -> None:
            super().__init__()
            self.at, self.epoch = (epoch, batch), 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (self.epoch, batch) == self.at:
                raise RuntimeError("killed")

    for at in ((0, 1), (1, 0), (2, 0), (3, 2)):
        with pytest.raises(RuntimeError, match="killed"):
            tune(network, photos, (2, 2), checkpoint=path, resume=True, callbacks=[Die(*at)])
    assert same(whole, tune(network, photos, (2, 2), checkpoint=path, resume=True, callbacks=[Die(9, 9)]))


def test_resume_with_broken_files(network: Path, tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos", 9)
    for name in ("across/01.png", "grey/05.png", "down/03.png"):
        (photos / name).write_bytes((photos / name).read_bytes()[:150])
    path, told = tmp_path / "run.ckpt", []
    kwargs: Any = dict(on_skip=lambda p, _: told.append(Path(p).name))
    whole = tune(network, photos, (0, 3), **kwargs)
    assert len(whole.skipped) == 3 and sorted(told) == ["01.png", "03.png", "05.png"]
    for at in range(9):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            tune(network, photos, (0, 3), checkpoint=path, stop=Interrupt(at), **kwargs)
        again = tune(network, photos, (0, 3), checkpoint=path, resume=True, **kwargs)
        assert same(whole, again) and sorted(again.skipped) == sorted(whole.skipped), at


def test_a_class_that_cannot_be_read(network: Path, tmp_path: Path) -> None:
    """An error as an empty folder is; one that is only missing among the validation images is a warning."""
    photos = paint(tmp_path / "photos", 5)
    held = [Path(p).name for p in splitted(photos)[1].file_paths if "grey" in p]
    for path in (photos / "grey").iterdir():
        if path.name in held:
            path.write_bytes(b"no image")
    skips: Any = dict(on_skip=lambda *_: None)
    with pytest.warns(UserWarning, match="class 'grey': no validation image") as caught:
        tune(network, photos, (1, 0), **skips)
    assert [w.filename for w in caught] == [__file__]
    for path in (photos / "grey").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(fastconv.FastconvError, match=r"class 'grey': no image can be read in .*grey: not an image"):
        tune(network, photos, (1, 0), **skips)
    for path in list((photos / "grey").iterdir())[1:]:
        path.unlink()
    Image.new("RGB", (32, 32)).save(photos / "grey" / "one.png")
    next(p for p in (photos / "grey").iterdir() if p.name != "one.png").unlink()
    with pytest.warns(UserWarning, match="class 'grey': no validation image") as caught:
        tune(network, photos, (1, 0))
    assert len(caught) == 1


def splitted(photos: Path) -> Any:
    from fastconv.preprocessing import image_dataset_from_directory

    return image_dataset_from_directory(photos, validation_split=0.2, subset="both", seed=0, verbose=False)


def test_forms_of_arguments(network: Path, photos: Path) -> None:
    """One number of epochs is for both parts, one augmentation needs no brackets, None is none."""
    a = tune(network, photos, 2, augment="zoom")
    assert a.phases == (2, 2) and same(a, tune(network, photos, (2, 2), augment=("zoom",)))
    assert same(tune(network, photos, 1, augment=None), tune(network, photos, (1, 1), augment=()))


def test_a_checkpoint_of_another_run_is_refused(network: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        tune(network, photos, (2, 2), checkpoint=path, stop=Interrupt(3))
    before = path.read_bytes()
    for kwargs, message in (
        (dict(seed=1), "seed was 0, is 1"),
        (dict(learning_rate=0.1), "learning_rate was 0.03, is 0.1"),
        (dict(hidden=(4,)), "hidden"),
        (dict(preset="tf"), "other preparation of images: .*scale was"),
    ):
        with pytest.raises(ModelError, match=message):
            tune(network, photos, (2, 2), checkpoint=path, resume=True, **kwargs)
    other = paint(tmp_path / "other", 13)
    with pytest.raises(ModelError, match="other data"):
        tune(network, other, (2, 2), checkpoint=path, resume=True)
    free = tmp_path / "free.onnx"
    onnx.save(small_model(shape=("N", 3, "H", "W")), str(free))
    with pytest.raises(KeyboardInterrupt):
        tune(
            free,
            photos,
            (2, 2),
            preset=replace(named_preset("unit"), crop=(32, 32)),
            checkpoint=path,
            stop=Interrupt(3),
        )
    before = path.read_bytes()
    with pytest.raises(ModelError, match=r"(was|size) \[32, 32\]"):
        tune(free, photos, (2, 2), preset=replace(named_preset("unit"), crop=(40, 40)), checkpoint=path, resume=True)
    assert path.read_bytes() == before
    arrays, state = checkpoint.read(path)
    assert state["epoch"] == 1 and state["batch"] == 0 and any(name.startswith("slot/") for name in arrays)
    with pytest.raises(ValueError, match="expected a checkpoint"):
        tune(network, photos, resume=True)


def test_early_stopping(network: Path, photos: Path) -> None:
    """It ends the head's part; the other one is still done."""
    stop = EarlyStopping("val_loss", min_delta=10.0)
    result = tune(network, photos, (5, 3), callbacks=[stop])
    assert result.phases == (2, 2) and len(result.history["loss"]) == 4


def test_layers_and_datasets(photos: Path) -> None:
    from fastconv.preprocessing import image_dataset_from_directory

    inputs = L.Input((None, None, 3))
    x = L.Conv2D(6, 3, strides=2, activation="relu", name="early")(inputs)
    base = Model(inputs, L.Conv2D(8, 3, strides=2, activation="relu", name="late")(x))
    before = [v.array.copy() for v in base.weights]
    data = image_dataset_from_directory(
        photos, image_size=(24, 20), batch_size=8, validation_split=0.25, subset="both", seed=1, verbose=False
    )
    result = tune(base, tuple(data), (2, 2), hidden=(5,), dropout=0.1)
    assert result.model.input_shape == (None, 24, 20, 3) and result.confusion.sum() == 9
    early, late = (
        [np.array_equal(v.array, b) for v, b in zip(base.weights, before, strict=True)][i : i + 2] for i in (0, 2)
    )
    assert early == [True, True] and late == [False, False]


def test_blocks() -> None:
    inputs = L.Input((32, 32, 3))
    x = L.Conv2D(4, 3, strides=2, padding="same", name="a")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Conv2D(4, 3, strides=2, padding="same", name="b")(x)
    squeezed = L.Conv2D(4, 1, name="squeeze")(L.Reshape((1, 1, 4))(L.GlobalAveragePooling2D()(x)))
    x = L.Multiply()([x, squeezed])
    x = L.Conv2D(4, 3, padding="same", name="c")(x)
    x = L.Conv2D(4, 3, strides=2, padding="same", name="d")(x)
    base = Model(inputs, x)
    owners = {v: layer.name for layer in leaves(base) for v in layer.variables}
    names = {owners[v]: place for v, place in block_of(base, (32, 32)).items()}
    assert names == {"a": (16, 16), "norm": (16, 16), "b": (8, 8), "squeeze": (8, 8), "c": (8, 8), "d": (4, 4)}
    last = [sorted({owners[v] for v in last_blocks(base, (32, 32), n)}) for n in range(5)]
    assert last == [[], ["d"], ["b", "c", "d", "squeeze"], ["a", "b", "c", "d", "norm", "squeeze"], last[3]]


def test_errors(network: Path, photos: Path, tmp_path: Path) -> None:
    for kwargs, message in (
        (dict(epochs=(0, 0)), "epochs"),
        (dict(epochs=(1, -1)), "epochs"),
        (dict(augment=("mirror",)), "flip, rotate"),
        (dict(learning_rate=0), "learning_rate"),
        (dict(preset="photo"), "photo"),
        (dict(views=0), "views"),
        (dict(epochs=(3, 3, 3)), "two counts of epochs"),
        (dict(data=(np.zeros((90, 8, 8, 3)), np.zeros(90))), r"got an array \[90, 8, 8, 3\], an array \[90\]$"),
        (dict(seed="x"), "seed='x'"),
        (dict(hidden="a"), "hidden='a'"),
        (dict(learning_rate="fast"), "learning_rate='fast'"),
        (dict(batch_size=2.5), "batch_size=2.5"),
        (dict(preset=3), "expected a name or a Preset"),
        (dict(data=(np.zeros((3, 8, 8, 3)), np.zeros(3))), "two datasets"),
        (dict(data=None), "two datasets"),
    ):
        with pytest.raises((ValueError, FastconvError), match=message):
            tune(network, **{"photos": photos, **kwargs})
    one = tmp_path / "one"
    paint(one, 3)
    for name in ("down", "grey"):
        for path in (one / name).iterdir():
            path.unlink()
        (one / name).rmdir()
    with pytest.raises(FastconvError, match="two classes"):
        tune(network, one)
    classifier = Model(*(lambda i: (i, L.Dense(3, activation="softmax")(L.Flatten()(i))))(L.Input((8, 8, 3))))
    with pytest.raises(ModelError, match="include_top=False"):
        tune(classifier, photos)
    with pytest.raises(FileNotFoundError):
        tune(network, tmp_path / "nowhere")
