"""fine_tune: teach a network new classes from a folder of images, in one call.

First a new head learns from the frozen network's features, which are computed once and kept. Then the last blocks are
set free and everything behind them learns with a hundredth of the rate. Batch normalisations keep their statistics.
What a run needs to go on after an interruption is in one checkpoint; see `Run` for what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import checkpoint
from fastconv.callbacks import Callback, Progress
from fastconv.data import names_to_metadata
from fastconv.errors import FastconvError, ModelError
from fastconv.finetune_network import Network, build_network, own_preset
from fastconv.finetune_recipe import Recipe, counts_of, difference, names_of, several
from fastconv.layers.base import Layer
from fastconv.layers.initializers import seeded
from fastconv.loading import load
from fastconv.metrics import confusion_matrix
from fastconv.model import Model as Runtime
from fastconv.models import Model
from fastconv.optimizers import Adam
from fastconv.preprocessing.augment import Augmentation
from fastconv.preprocessing.dataset import Dataset, image_dataset_from_directory
from fastconv.preprocessing.features import Features, cache_features
from fastconv.preprocessing.image import load_img
from fastconv.preprocessing.presets import Preset
from fastconv.preprocessing.presets import preset as named_preset
from fastconv.target import training_precision, training_target
from fastconv.told import warn
from fastconv.training_state import are_of, packed, restore, states_of, unpacked

LOSS = "sparse_categorical_crossentropy"
SLOWER = 0.01  # the rate of fine-tuning, as a share of the head's


@dataclass
class FineTuned:
    """What `fine_tune` gives.

    model: the taught network, channels-last images prepared by `preset` in, probabilities out. history: loss and
    metrics of every epoch. phases: how many epochs the head and the fine-tuning took. confusion: int64[classes,
    classes], label by prediction, on the validation images. skipped: (path, problem) of images that were not read.
    """

    model: Model
    class_names: list[str]
    preset: Preset
    history: dict[str, list[float]]
    phases: tuple[int, int]
    confusion: npt.NDArray[np.int64]
    skipped: list[tuple[str, str]]

    @property
    def accuracy(self) -> float:
        """Share of the validation images that the model gets right."""
        return float(np.trace(self.confusion) / max(int(self.confusion.sum()), 1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; an .onnx file knows its class names and its preset, and `fastconv predict` uses both."""
        self.model.save(path)


def fine_tune(
    model: Model | Runtime | str | os.PathLike[str],
    data: str | os.PathLike[str] | tuple[Dataset, Dataset],
    epochs: tuple[int, int] | int = (5, 5),
    *,
    unfreeze: int = 1,
    hidden: Sequence[int] = (),
    dropout: float = 0.2,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    validation_split: float = 0.2,
    augment: Sequence[str] | str | Layer | None = ("flip", "rotate", "zoom"),
    views: int = 1,
    preset: str | Preset | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | Callback = (),
    verbose: int = 1,
    on_skip: Callable[[str, str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FineTuned:
    """Teach a network the classes of a folder that has one folder of images for each class.

    model: an ONNX file or what `fastconv.load` gives, with its classifier or without, or a model of layers that gives
    features. data: the folder, or two datasets with values 0 to 255 and labels "int", for training and validation.
    epochs: of the head alone, then with the last `unfreeze` blocks free (a block: the layers whose outputs are of one
    size) at a hundredth of `learning_rate`. hidden: units of dense layers in the head. augment: names among flip,
    rotate, zoom, translate, contrast, brightness, or a layer or model of such layers; it works in the second part, anew
    in every epoch, and with views > 1 in the first, where the head then learns from the features of so many augmented
    copies of each image. `views` means nothing for the second part. preset: what the network expects
    of images, by name or itself; None: what it says of itself, else "torchvision".
    device: "cpu", or "cuda" (docs/cuda.md), for the features, both trainings and the model in the result; None: where
    the model is, which is the CPU for a file. precision: "fp32" or "strict", on a GPU also "tf32"; None: as `compile`
    has it. Augmentation for `views` is the CPU's.
    checkpoint: a file that is written after each epoch, and when `stop()` is true after a step: then KeyboardInterrupt.
    resume: go on from it, if it is there, to the same weights, bit for bit, as without the interruption.
    verbose: 0 prints nothing. Equal seeds give equal weights. Raises FastconvError (DeviceError before anything is
    read, for a device that is not there or does not train in the precision), OSError, and ValueError for arguments.
    """
    names = names_of(augment)
    recipe = Recipe(
        counts_of(epochs), unfreeze, several(hidden), dropout, learning_rate, batch_size, validation_split, names,
        views, seed,
    )  # fmt: skip
    device = getattr(model, "device", "cpu") if device is None else device
    precision = training_precision(device, precision, model)
    training_target(device, precision)
    run = Run(recipe, checkpoint, several(callbacks), verbose, stop, device, precision)
    if isinstance(model, (str, os.PathLike)):
        model = load(model, threads=threads)
    wanted = named_preset(preset) if isinstance(preset, str) else preset or own_preset(model)
    if not isinstance(wanted, Preset | None):
        raise ValueError(f"preset={preset!r}: expected a name or a Preset")
    layers = augment if isinstance(augment, Layer) else names
    run.prepare(model, data, wanted or named_preset("torchvision"), layers, threads, on_skip)
    unseen = set(run.unseen(run.valid.labels))
    if verbose:
        print(run.describe(), file=sys.stderr)
    if resume:
        run.resume()
    run.teach_head()
    run.teach_blocks()
    result = run.result()
    run.unseen(np.repeat(np.arange(len(result.class_names)), result.confusion.sum(axis=1)), unseen)
    return result


@dataclass
class Run:
    """One run of `fine_tune`. A checkpoint holds all weights that learn, the optimiser, how far it came (phase, epoch,
    batch), the history, the files found broken, and recipe, preset and image size, the same when it is resumed."""

    recipe: Recipe
    path: str | os.PathLike[str] | None
    callbacks: Sequence[Callback]
    verbose: int
    stop: Callable[[], bool] | None
    device: str = "cpu"
    precision: str = "fp32"
    history: dict[str, list[float]] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    resumed: dict[str, Any] | None = None  # optimiser and callbacks, until `fit` begins

    phase: int = 0
    head_epochs: int = 0

    # -- before -----------------------------------------------------------------------------------------------
    def prepare(
        self, model: Any, data: Any, preset: Preset, augment: Any, threads: int | None,
        on_skip: Callable[[str, str], Any] | None,
    ) -> None:  # fmt: skip
        recipe = self.recipe
        given = None if isinstance(data, (str, os.PathLike)) else _datasets(data)
        with seeded(recipe.seed):
            network = build_network(model, preset, augment, given[0].image_size if given else None, threads)
            self.preset = preset.for_size(*network.size)
            self.train: Dataset
            self.valid: Dataset
            self.train, valid = given or self._datasets(data, network.size, on_skip)
            self.valid = valid.for_evaluation()
            names = self.train.class_names
            if names != self.valid.class_names or len(names) < 2:
                raise FastconvError(f"expected two classes or more, the same in both sets: {names}")
            for name in names:
                if any("\ud800" <= c <= "\udfff" for c in name):  # what no ONNX file can hold
                    raise FastconvError(f"class {name!r}: the folder's name is no UTF-8: rename it")
            self.network: Network = network.with_head(len(names), recipe)
            self.network.place(self.device, self.precision)
        self.network.free(recipe.unfreeze if recipe.epochs[1] else 0)

    def _datasets(
        self, folder: Any, size: tuple[int, int], on_skip: Callable[[str, str], Any] | None
    ) -> tuple[Dataset, Dataset]:
        recipe = self.recipe
        made: list[Dataset] = image_dataset_from_directory(
            folder, image_size=size, batch_size=recipe.batch_size, seed=recipe.seed,
            validation_split=recipe.validation_split, subset="both", verbose=False, on_skip=on_skip,
        )  # fmt: skip
        for data in made:
            data.reader = self._read
        return made[0], made[1]

    def _read(self, path: str) -> npt.NDArray[np.uint8]:
        """Pixels as `fastconv predict` would show them to the network."""
        pixels = np.asarray(self.preset.geometry(load_img(path)))
        return pixels[:, :, ::-1] if self.preset.channels == "bgr" else pixels

    def unseen(self, labels: npt.NDArray[Any], known: Collection[str] = ()) -> list[str]:
        """The classes that are not among the labels of validation images; a warning for each that is not known yet."""
        counts = np.bincount(labels, minlength=len(self.train.class_names))
        found = [name for name, n in zip(self.train.class_names, counts, strict=True) if not n]
        for name in found:
            if name not in known:
                warn(f"class {name!r}: no validation image: how well it is told apart is not measured")
        return found

    def describe(self) -> str:
        """One line about what will be done."""
        network, blocks = self.network, min(self.recipe.unfreeze, self.network.blocks)
        part = f"the last {blocks} of {network.blocks} blocks" if blocks > 1 else f"the last of {network.blocks} blocks"
        kinds = f"{len(self.train.class_names)} classes"
        return (
            f"{self.train.samples:,} training and {self.valid.samples:,} validation images of {kinds}, "
            f"{network.size[0]}x{network.size[1]} pixels; a new head"
            + (f", then {part}" if blocks and self.recipe.epochs[1] else " alone")
        )

    # -- the two parts ----------------------------------------------------------------------------------------
    def teach_head(self) -> None:
        network, recipe = self.network, self.recipe
        if self.phase > 0:
            return
        if recipe.epochs[0]:
            train = self._features(self.train, "training", recipe.views)
            valid = self._features(self.valid, "validation", 1)
            self._compile(network.head, recipe.learning_rate)
            self._fit(network.head, train, valid, recipe.epochs[0], "head")
        self.head_epochs = len(self.history.get("loss", ()))
        self.phase, self.epoch = 1, recipe.epochs[0]

    def _features(self, data: Dataset, what: str, views: int) -> Features:
        from fastconv.callbacks.progress import task

        network = self.network
        augment = Augmentation(network.augment, self.recipe.seed, network.threads) if views > 1 else None
        with task(f"features of {what} images", data.samples * views, self.verbose > 0) as tick:
            return cache_features(
                network.features, data, views=views, augment=augment, progress=lambda done, _: tick(done * views, "")
            )

    def teach_blocks(self) -> None:
        network, recipe = self.network, self.recipe
        if not recipe.epochs[1]:
            return
        self._compile(network.whole, recipe.learning_rate * SLOWER)
        self._fit(network.whole, self.train, self.valid, sum(recipe.epochs), "fine-tuning")

    def _compile(self, model: Model, rate: float) -> None:
        model.compile(Adam(rate), LOSS, ["accuracy"], precision=self.precision, device=self.device)

    def _fit(self, model: Model, train: Any, valid: Any, last: int, title: str) -> None:
        keeper = _Keeper(self, model)
        if self.resumed is not None and model.optimizer is not None:
            model.optimizer.restore(model.trainable_weights, self.resumed["optimizer"])
            restore(self.callbacks, self.resumed["callbacks"])
            self.resumed = None
        else:
            keeper.save(self.epoch, 0)
        shown = [Progress(self.verbose, title)] if self.verbose else []
        model.fit(
            train, validation_data=valid, epochs=last, initial_epoch=self.epoch, initial_batch=self.batch,
            callbacks=[*shown, *self.callbacks, keeper], verbose=0, seed=self.recipe.seed,
        )  # fmt: skip
        self.batch = 0
        if keeper.stopped:
            raise KeyboardInterrupt

    # -- checkpoints --------------------------------------------------------------------------------------------
    def _print(self) -> dict[str, Any]:
        """What must be the same in a run that goes on."""
        names = [os.path.basename(os.path.dirname(p)) + "/" + os.path.basename(p) for p in self.train.file_paths]
        digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
        preset = asdict(self.preset)
        del preset["name"]
        return {
            "preset": preset, "size": list(self.network.size),
            "recipe": {**asdict(self.recipe), "augment": list(self.recipe.augment)},
            "classes": self.train.class_names, "images": len(names), "files": digest,
            "device": [self.device.split(":")[0], self.precision],
            "weights": [[v.path, list(v.graph_shape)] for v in self.network.learning],
        }  # fmt: skip

    def save(self, model: Model, epoch: int, batch: int) -> None:
        if self.path is None:
            return
        arrays, kept = packed(self.network.learning, model)
        state = {
            **kept, "run": self._print(), "phase": self.phase, "epoch": epoch, "batch": batch, "history": self.history,
            "head_epochs": self.head_epochs, "callbacks": states_of(self.callbacks),
            "skipped": [*self.train.skipped, *self.valid.skipped],
        }  # fmt: skip
        checkpoint.write(self.path, arrays, state)

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one. Raises ModelError where it is of another run."""
        if self.path is None:
            raise ValueError("resume: expected a checkpoint")
        if not os.path.exists(self.path):
            return
        arrays, state = checkpoint.read(self.path)
        where = os.fspath(self.path)
        mine, theirs = json.loads(json.dumps(self._print())), state.get("run")
        if not isinstance(theirs, dict):
            raise ModelError(f"{where}: not a checkpoint of fine_tune")
        theirs = {"device": ["cpu", "fp32"], "preset": mine["preset"], "size": mine["size"], **theirs}  # unsaid before
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise ModelError(f"{where}: {difference(name, theirs.get(name), value)}")
        if not are_of(state.get("callbacks"), self.callbacks):
            raise ModelError(f"{where}: made by a run with other callbacks")
        learnt, optimizer = unpacked(where, self.network.learning, arrays, state)
        if optimizer is None:
            raise ModelError(f"{where}: not a checkpoint of fine_tune")
        try:
            place = state["phase"], state["epoch"], state["batch"]
            history, head_epochs, skipped = state["history"], state["head_epochs"], dict(state["skipped"])
        except (KeyError, TypeError, ValueError) as e:
            raise ModelError(f"{where}: not a checkpoint of fine_tune: {e!r}") from None
        for v, array in zip(self.network.learning, learnt, strict=True):
            v.set(array)
        self.phase, self.epoch, self.batch = place
        self.history, self.head_epochs = history, head_epochs
        self.resumed = {"optimizer": optimizer, "callbacks": state["callbacks"]}
        for data in (self.train, self.valid):
            data.skip(skipped)

    # -- after --------------------------------------------------------------------------------------------------
    def result(self) -> FineTuned:
        network = self.network
        labels, predictions = [], []
        self.valid.epoch = self.valid.start = 0
        for x, y in self.valid:
            labels.append(y)
            predictions.append(network.whole.predict_on_batch(x))
        counts = len(self.train.class_names)
        matrix = confusion_matrix(np.concatenate(labels), np.concatenate(predictions), counts)
        network.taught.metadata = {**names_to_metadata(self.train.class_names), **self.preset.to_metadata()}
        phases = (self.head_epochs, len(self.history.get("loss", ())) - self.head_epochs)
        skipped = [*self.train.skipped, *self.valid.skipped]
        return FineTuned(
            network.taught, list(self.train.class_names), self.preset, self.history, phases, matrix, skipped
        )


def _datasets(data: Any) -> tuple[Dataset, Dataset]:
    given = several(data)
    if len(given) != 2 or not all(isinstance(d, Dataset) and d.label_mode == "int" for d in given):
        raise ValueError(f'data: expected a folder, or two datasets with label_mode="int", got {_kinds(given)}')
    return given[0], given[1]


def _kinds(given: Sequence[Any]) -> str:
    return ", ".join(f"an array {list(g.shape)}" if isinstance(g, np.ndarray) else repr(g)[:80] for g in given)


class _Keeper(Callback):
    """Writes the checkpoint after each epoch, and after the step at which somebody asked to stop."""

    def __init__(self, run: Run, trained: Model) -> None:
        super().__init__()
        self.run, self.trained, self._epoch = run, trained, 0
        self.stopped = self._saved = False

    def save(self, epoch: int, batch: int) -> None:
        self.run.save(self.trained, epoch, batch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.run.stop is not None and self.run.stop():
            self.stopped = self.model.stop_training = True
            self._saved = batch + 1 != self.params.get("steps")  # else at the end of the epoch, after its validation
            if self._saved:
                self.save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._saved:
            return
        for name, value in (logs or {}).items():
            self.run.history.setdefault(name, []).append(float(value))
        self.run.epoch = epoch + 1
        self.save(epoch + 1, 0)
