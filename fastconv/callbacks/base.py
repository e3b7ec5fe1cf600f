"""Callback, the list that `fit` calls, and the callbacks that watch no metric.

`logs` is a dict of float: "loss" and the metrics, those of the validation with "val_" before them at an epoch's end.
"""

from __future__ import annotations

import csv
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

from fastconv.paths import open_log

if TYPE_CHECKING:
    from fastconv.models import Model

Logs = dict[str, float]
HOOKS = (
    "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end",
    "on_test_begin", "on_test_end", "on_test_batch_begin", "on_test_batch_end", "on_predict_begin", "on_predict_end",
    "on_predict_batch_begin", "on_predict_batch_end",
)  # fmt: skip


class Callback:
    """Base of all callbacks: `fit` sets `model` and `params` ("epochs", "steps", "verbose"), then calls the methods.

    A callback ends the training with `self.model.stop_training = True`. `state` and `restore` let one that remembers
    something go on in a run that is resumed; what `state` gives must be JSON. last: it is called behind all others.
    """

    last = False

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Model) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, also where it was stopped."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Epochs count from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After the validation of the epoch."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a step; the first of an epoch is 0."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step; logs hold the means of the epoch up to here."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before `evaluate`, or the validation of an epoch."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After it."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of it."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of it."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before `predict`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After it."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of it."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of it."""

    def begin_at(self, callbacks: Sequence[Callback], seed: int) -> tuple[int, int] | None:
        """`fit` asks before it begins: the epoch and the batch to go on with, or None. It was given these callbacks."""
        return None

    def close(self) -> None:
        """Give back what is held open. `fit` and `evaluate` call it at the end, also where an exception ended them."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of this callback."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; called before `on_train_begin`, which then does not start anew."""


class CallbackList(Callback):
    """Several callbacks as one, each called in turn; those without a method of that name are not called for it.

    shown: one more. history: the History among them, made where there is none. Raises ValueError for what is no
    Callback.
    """

    def __init__(self, callbacks: Iterable[Callback] | Callback | None = None, shown: Callback | None = None) -> None:
        super().__init__()
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        given += [] if shown is None else [shown]
        for c in given:
            if not isinstance(c, Callback):
                raise ValueError(f"callbacks: expected Callback objects, got {c!r}")
        self.history = next((c for c in given if isinstance(c, History)), None) or History()
        all_ = [*given, *([] if self.history in given else [self.history])]
        self.callbacks = sorted(all_, key=lambda c: c.last)
        for hook in HOOKS:
            setattr(self, hook, self._caller(hook))

    def _caller(self, hook: str) -> Callable[..., None]:
        empty = getattr(Callback, hook)
        calls = [getattr(c, hook) for c in self.callbacks if getattr(type(c), hook) is not empty or hook in vars(c)]

        def call(*args: Any) -> None:
            for c in calls:
                c(*args)

        return call

    def begin_at(self, callbacks: Sequence[Callback], seed: int) -> tuple[int, int] | None:
        places = [c.begin_at(callbacks, seed) for c in self.callbacks]
        return next((place for place in reversed(places) if place is not None), None)

    def close(self) -> None:
        with ExitStack() as stack:  # whatever one of them raises, all are asked
            for c in self.callbacks:
                stack.callback(c.close)

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        for c in self.callbacks:
            c.set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        for c in self.callbacks:
            c.set_params(params)

    def state(self) -> dict[str, Any]:
        return {str(i): c.state() for i, c in enumerate(self.callbacks)}

    def restore(self, state: Mapping[str, Any]) -> None:
        for i, c in enumerate(self.callbacks):
            c.restore(state.get(str(i), {}))


class History(Callback):
    """What `fit` returns: `history` maps each metric to its values, one for each epoch of `epoch`."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self._resumed = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not self._resumed:
            self.history, self.epoch = {}, []
        self._resumed = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "epoch": self.epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history = {k: [float(v) for v in values] for k, values in state.get("history", {}).items()}
        self.epoch, self._resumed = [int(e) for e in state.get("epoch", ())], True

    def __repr__(self) -> str:
        return f"<History of {len(self.epoch)} epochs: {', '.join(self.history)}>"


class TerminateOnNaN(Callback):
    """Stop after the step whose loss is NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            print(f"Batch {batch}: invalid loss, terminating training")
            self.model.stop_training = True


class LambdaCallback(Callback):
    """Functions given by the names of the methods: `LambdaCallback(on_epoch_end=lambda epoch, logs: ...)`."""

    def __init__(self, **functions: Callable[..., Any] | None) -> None:
        super().__init__()
        for name, function in functions.items():
            if name not in HOOKS:
                raise ValueError(f"LambdaCallback: {name!r} is not one of {', '.join(HOOKS)}")
            if function is not None:
                setattr(self, name, function)


class CSVLogger(Callback):
    """One row for each epoch, with the names in the first one. append: go on with a file that is there.

    filename: a device or a pipe will do, too, such as /dev/stdout. `fit` raises OSError before its first step for a
    place that cannot be written to, or a pipe that nobody reads.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        super().__init__()
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._file: IO[str] | None = None
        self._keys: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.append and os.path.isfile(self.filename):
            with open(self.filename, encoding="utf-8", newline="") as file:
                self._keys = next(csv.reader(file, delimiter=self.separator), [])[1:]
        self._file = open_log(self.filename, self.append)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert self._file is not None
        logs = logs or {}
        rows: list[list[Any]] = []
        if not self._keys:
            self._keys = sorted(logs)
            rows.append(["epoch", *self._keys])
        rows.append([epoch, *(logs.get(k, "NA") for k in self._keys)])
        csv.writer(self._file, delimiter=self.separator, lineterminator="\n").writerows(rows)
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if not self.append:
            self._keys = []


class LearningRateScheduler(Callback):
    """The rate of each epoch is `schedule(epoch, rate)`, or `schedule(epoch)` of a function that needs one argument.

    It stands in the logs as "learning_rate". `fit` raises ValueError for an optimiser with a schedule of its own.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        self.schedule, self.verbose = schedule, verbose
        self._arguments = 2 if _takes_rate(schedule) else 1

    def on_train_begin(self, logs: Logs | None = None) -> None:
        refuse_schedule(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        now = (epoch, float(self.model.optimizer.learning_rate))
        rate = float(self.schedule(*now[: self._arguments]))
        self.model.optimizer.learning_rate = rate
        if self.verbose:
            print(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes_rate(schedule: Callable[..., float]) -> bool:
    """Whether a function wants a second argument; one that has a default is its own, unless it is called a rate."""
    try:
        parameters = inspect.signature(schedule).parameters.values()
    except ValueError:  # a function in C that does not say
        return True
    found = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    if found and found[0].kind == inspect.Parameter.VAR_POSITIONAL:
        return True
    wanted = len(found) > 1 and found[1].default is inspect.Parameter.empty
    return wanted or (len(found) > 1 and found[1].name in ("lr", "rate", "learning_rate", "current_lr"))


def refuse_schedule(callback: Callback) -> None:
    """Raises ValueError where the optimiser has a schedule, which a callback's rate would replace."""
    schedule = getattr(callback.model.optimizer, "schedule", None)
    if schedule is not None:
        what = f"{type(callback).__name__}: the optimizer's learning_rate is a {type(schedule).__name__}"
        raise ValueError(f"{what}: expected a number where a callback sets the rate")
