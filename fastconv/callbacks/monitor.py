"""Callbacks that watch one metric: EarlyStopping, ModelCheckpoint, ReduceLROnPlateau. Keras' rules and defaults."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from fastconv.callbacks.base import Callback, Logs, refuse_schedule
from fastconv.graph import Array
from fastconv.told import warn

_LARGER_IS_BETTER = ("acc", "accuracy", "auc")


class Monitor(Callback):
    """Base: the metric, and which of two values is better. mode: "min", "max", or "auto" by the metric's name."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode={mode!r}: expected auto, min or max")
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.maximise = mode == "max" or (mode == "auto" and monitor.endswith(_LARGER_IS_BETTER))
        self._state: Mapping[str, Any] = {}

    def value(self, logs: Logs | None) -> float | None:
        """The metric; a warning where the logs lack it."""
        found = (logs or {}).get(self.monitor)
        if found is None:
            there = ", ".join(sorted(logs or {})) or "nothing"
            warn(f"{type(self).__name__}: no metric {self.monitor!r}: there is {there}")
        return found

    def better(self, value: float, than: float | None) -> bool:
        if than is None:
            return True
        return value > than + self.min_delta if self.maximise else value < than - self.min_delta

    def restore(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)

    def begin(self, **first: Any) -> None:
        """Attributes at the start of a training: these, or those of the run that is resumed."""
        for name, value in {**first, **{k: v for k, v in self._state.items() if k in first}}.items():
            setattr(self, name, value)
        self._state = {}


class EarlyStopping(Monitor):
    """Stop when the metric has not become better by `min_delta` for `patience` epochs.

    baseline: what it must be better than to count. restore_best_weights: at the end those of the best epoch.
    start_from_epoch: epochs before it do not count.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0, patience: int = 0, verbose: int = 0, mode: str = "auto",
        baseline: float | None = None, restore_best_weights: bool = False, start_from_epoch: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[Array] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.begin(wait=0, stopped_epoch=0, best_epoch=0, best=None)
        self.best_weights = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self.better(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                print(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)

    def state(self) -> dict[str, Any]:
        return dict(wait=self.wait, stopped_epoch=self.stopped_epoch, best_epoch=self.best_epoch, best=self.best)


class ReduceLROnPlateau(Monitor):
    """Multiply the learning rate by `factor` when the metric has not become better for `patience` epochs.

    cooldown: epochs after that which do not count. min_lr: no lower rate. The rate stands in the logs as
    "learning_rate". Raises ValueError for a factor of 1 or more, and in `fit` for an optimiser with a schedule.
    """

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, verbose: int = 0, mode: str = "auto",
        min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor!r}: expected a number between 0 and 1")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.wait = self.cooldown_counter = 0
        self.best: float | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        refuse_schedule(self)
        self.begin(wait=0, cooldown_counter=0, best=None)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = float(self.model.optimizer.learning_rate)
        value = self.value(logs)
        if logs is not None:
            logs["learning_rate"] = rate
        if value is None:
            return
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self._reduce(epoch, max(rate * self.factor, self.min_lr))

    def _reduce(self, epoch: int, rate: float) -> None:
        self.model.optimizer.learning_rate = rate
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            print(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {rate}.")

    def state(self) -> dict[str, Any]:
        return dict(wait=self.wait, cooldown_counter=self.cooldown_counter, best=self.best)


class ModelCheckpoint(Monitor):
    """Save the model after each epoch, or every `save_freq` steps; with save_best_only only where the metric improved.

    filepath: a name that may hold fields, "best-{epoch:02d}-{val_loss:.2f}.onnx"; epochs count from 1 there. Its ending
    says what is written: .onnx the network, .safetensors the weights (save_weights_only needs it), .ckpt all that a
    resumed training needs. Files appear when they are whole; what was there before stays until then.
    """

    def __init__(
        self, filepath: str | os.PathLike[str], monitor: str = "val_loss", verbose: int = 0,
        save_best_only: bool = False, save_weights_only: bool = False, mode: str = "auto",
        save_freq: str | int = "epoch", initial_value_threshold: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        self.initial_value_threshold = initial_value_threshold
        if save_freq != "epoch" and (isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f"save_freq={save_freq!r}: expected 'epoch' or a number of steps")
        ending = os.path.splitext(self.filepath)[1]
        wanted = (".safetensors",) if save_weights_only else (".onnx", ".safetensors", ".ckpt")
        if ending not in wanted:
            raise ValueError(f"filepath={self.filepath!r}: expected a name that ends with {' or '.join(wanted)}")
        self.best = initial_value_threshold
        self.seen = self.epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.begin(best=self.best, seen=0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.seen += 1
        if self.save_freq != "epoch" and self.seen % int(self.save_freq) == 0:
            self._save(self.epoch, logs, batch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, logs, None)

    def _save(self, epoch: int, logs: Logs | None, batch: int | None) -> None:
        if self.save_best_only:
            value = self.value(logs)
            if value is None or not self.better(value, self.best):
                return
            self.best = value
        path = self._path(epoch, logs or {}, batch)
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        if self.verbose:
            print(f"\nEpoch {epoch + 1}: saving model to {path}")
        self.model.save(path)

    def _path(self, epoch: int, logs: Logs, batch: int | None) -> str:
        fields = {**logs, "epoch": epoch + 1, **({} if batch is None else {"batch": batch + 1})}
        try:
            return self.filepath.format(**fields)
        except (KeyError, IndexError, ValueError) as e:
            there = ", ".join(sorted(fields))
            raise ValueError(f"filepath={self.filepath!r}: {e}: the fields are {there}") from None

    def state(self) -> dict[str, Any]:
        finite = self.best is None or math.isfinite(self.best)
        return dict(best=self.best if finite else None, seen=self.seen)
