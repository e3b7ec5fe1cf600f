"""Callbacks against Keras' rules, driven by a list of logs instead of a training."""

from __future__ import annotations

import io
import math
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastconv import callbacks as C
from fastconv.callbacks import progress


class Fake:
    """A model whose weight is the number of the epoch."""

    def __init__(self) -> None:
        self.stop_training = False
        self.optimizer = SimpleNamespace(learning_rate=1.0)
        self.weights = [np.zeros(1)]
        self.saved: list[str] = []

    def get_weights(self) -> list[np.ndarray]:
        return [w.copy() for w in self.weights]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = weights

    def save(self, path: str) -> None:
        self.saved.append(path)


def drive(
    callbacks: Any, values: Any, steps: int | None = 2, name: str = "val_loss", first: int = 0
) -> tuple[Fake, C.CallbackList]:
    """Epochs with these values of a metric, until one asks to stop."""
    model, calls = Fake(), C.CallbackList(callbacks)
    calls.set_model(model)  # type: ignore[arg-type]
    calls.set_params({"epochs": len(values), "steps": steps, "verbose": 0})
    calls.on_train_begin()
    for epoch, value in enumerate(values, first):
        calls.on_epoch_begin(epoch)
        for step in range(steps or 2):
            calls.on_train_batch_begin(step)
            calls.on_train_batch_end(step, {"loss": value})
        model.weights = [np.full(1, epoch)]
        calls.on_epoch_end(epoch, {"loss": value / 2, name: value})
        if model.stop_training:
            break
    calls.on_train_end()
    return model, calls


def test_order_of_calls() -> None:
    seen: list[str] = []

    class Spy(C.Callback):
        pass

    for hook in C.base.HOOKS:
        setattr(Spy, hook, lambda self, *args, hook=hook: seen.append(f"{hook}{args[:1]}"))
    drive([Spy()], [3.0])
    assert [s.split("(")[0] for s in seen] == [
        "on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_train_batch_begin",
        "on_train_batch_end", "on_epoch_end", "on_train_end",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected Callback objects, got 3"):
        C.CallbackList([3])  # type: ignore[list-item]


def test_history() -> None:
    _, calls = drive(None, [3.0, 2.0, 1.0])
    assert calls.history.history == {"loss": [1.5, 1.0, 0.5], "val_loss": [3.0, 2.0, 1.0]}
    assert calls.history.epoch == [0, 1, 2]
    own = C.History()
    _, calls = drive([own], [3.0])
    assert calls.history is own and len(calls.callbacks) == 1
    own.restore(calls.history.state())
    drive([own], [9.0], first=1)
    assert own.history["val_loss"] == [3.0, 9.0] and own.epoch == [0, 1]
    drive([own], [7.0])
    assert own.history["val_loss"] == [7.0]


def stopped(values: Any, **kwargs: Any) -> tuple[int, float]:
    """After how many epochs EarlyStopping stops, and the weight that the model ends with."""
    model, calls = drive([C.EarlyStopping(**kwargs)], values, name=kwargs.get("monitor", "val_loss"))
    return len(calls.history.epoch), float(model.weights[0][0])


def test_early_stopping() -> None:
    assert stopped([5, 4, 4, 3, 3, 3]) == (3, 2)
    assert stopped([5, 4, 4, 3, 3, 3, 3], patience=2) == (6, 5)
    assert stopped([5, 4, 4, 3, 3, 3, 3], patience=3) == (7, 6)
    assert stopped([5, 4, 6, 6, 6], patience=2, restore_best_weights=True) == (4, 1)
    assert stopped([5, 4, 3], patience=2, restore_best_weights=True) == (3, 2)
    assert stopped([5, 4.95, 4.9, 4.7], min_delta=0.1) == (2, 1)
    assert stopped([0.5, 0.6, 0.55], monitor="val_accuracy") == (3, 2)
    assert stopped([0.5, 0.6, 0.7], monitor="val_accuracy", mode="min") == (2, 1)
    assert stopped([5, 5, 5, 5, 4], start_from_epoch=2, patience=1) == (4, 3)
    assert stopped([5, 4.5, 4.4, 4.4, 4.4, 4.4], baseline=3.0, patience=2)[0] == 4
    assert stopped([math.nan, math.nan, math.nan], patience=1)[0] == 2


def test_early_stopping_goes_on_where_it_was() -> None:
    values = [5, 4, 6, 6, 6, 6]
    first = C.EarlyStopping(patience=3)
    drive([first], values[:3])
    second = C.EarlyStopping(patience=3)
    second.restore(first.state())
    model, calls = drive([second], values[3:], first=3)
    assert calls.history.epoch == [3, 4] and model.stop_training
    assert stopped(values, patience=3)[0] == 5
    drive([second], [1.0])
    assert second.best == 1.0  # a state counts for one training


def rates(values: Any, **kwargs: Any) -> list[float]:
    _, calls = drive([C.ReduceLROnPlateau(**kwargs)], values)
    return calls.history.history["learning_rate"]


def test_reduce_on_plateau() -> None:
    """The rate of the logs is the one with which the epoch was trained."""
    assert rates([5, 5, 5, 5, 5], factor=0.5, patience=1) == [1, 1, 0.5, 0.25, 0.125]
    assert rates([5, 5, 5, 5, 5, 5], factor=0.5, patience=2) == [1, 1, 1, 0.5, 0.5, 0.25]
    assert rates([5, 5, 5, 5, 5, 5, 5], factor=0.5, patience=1, cooldown=2) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert rates([5, 5, 5, 5], factor=0.5, patience=1, min_lr=0.4) == [1, 1, 0.5, 0.4]
    assert rates([5, 4.99995, 4.9, 4.9], factor=0.5, patience=1) == [1, 1, 0.5, 0.5]
    with pytest.raises(ValueError, match="factor"):
        C.ReduceLROnPlateau(factor=1.0)


def test_a_missing_metric_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="EarlyStopping: no metric 'val_acc': there is loss, val_loss"):
        drive([C.EarlyStopping("val_acc")], [1.0])
    with pytest.raises(ValueError, match="mode"):
        C.EarlyStopping(mode="best")


def test_model_checkpoint(tmp_path: Path) -> None:
    name = str(tmp_path / "sub" / "e{epoch:02d}-{val_loss:.1f}.onnx")
    model, _ = drive([C.ModelCheckpoint(name)], [5, 4, 6])
    assert [Path(p).name for p in model.saved] == ["e01-5.0.onnx", "e02-4.0.onnx", "e03-6.0.onnx"]
    assert (tmp_path / "sub").is_dir()
    model, _ = drive([C.ModelCheckpoint(name, save_best_only=True)], [5, 4, 6, 3])
    assert [Path(p).name for p in model.saved] == ["e01-5.0.onnx", "e02-4.0.onnx", "e04-3.0.onnx"]
    model, _ = drive([C.ModelCheckpoint(name, save_best_only=True, initial_value_threshold=4.5)], [5, 4, 6])
    assert [Path(p).name for p in model.saved] == ["e02-4.0.onnx"]
    model, _ = drive([C.ModelCheckpoint("m{epoch}-{batch}.safetensors", save_weights_only=True, save_freq=3)], [1] * 3)
    assert model.saved == ["m2-1.safetensors", "m3-2.safetensors"]
    with pytest.raises(ValueError, match="the fields are epoch, loss, val_loss"):
        drive([C.ModelCheckpoint("{acc}.onnx")], [1])
    for path, kwargs in (("m.h5", {}), ("m.onnx", dict(save_weights_only=True))):
        with pytest.raises(ValueError, match="ends with"):
            C.ModelCheckpoint(path, **kwargs)
    with pytest.raises(ValueError, match="save_freq"):
        C.ModelCheckpoint("m.onnx", save_freq=0)


def test_csv_logger(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    drive([C.CSVLogger(path)], [5.0, 4.0])
    assert path.read_text() == "epoch,loss,val_loss\n0,2.5,5.0\n1,2.0,4.0\n"
    drive([C.CSVLogger(path, append=True)], [3.0], first=2)
    assert path.read_text().endswith("1,2.0,4.0\n2,1.5,3.0\n") and path.read_text().count("epoch") == 1
    drive([C.CSVLogger(path, separator=";")], [1.0])
    assert path.read_text() == "epoch;loss;val_loss\n0;0.5;1.0\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("append", (False, True))
def test_csv_logger_into_a_pipe(tmp_path: Path, append: bool) -> None:
    """Rows arrive as they are written; a pipe that nobody reads is an error at once, not a wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"is a pipe that nobody reads: '.*pipe'"):
        drive([C.CSVLogger(path, append=append)], [5.0])
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        drive([C.CSVLogger(path, append=append)], [5.0, 4.0])
        assert os.read(reader, 1000) == b"epoch,loss,val_loss\n0,2.5,5.0\n1,2.0,4.0\n"
    finally:
        os.close(reader)


def test_csv_logger_into_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be opened either, but is no pipe."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(OSError, match="No such device or address") as e:
            drive([C.CSVLogger("s")], [5.0])
    assert "pipe" not in str(e.value)


def test_csv_logger_waits_where_a_pipe_is_full(tmp_path: Path) -> None:
    """Its rows are neither lost nor an error: the reader gets all of them, however slow it is."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = subprocess.Popen(["sh", "-c", f"sleep 0.5; wc -l < '{path}'"], stdout=subprocess.PIPE, text=True)
    hold = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # until wc is there
    drive([C.CSVLogger(path)], [1.0 / 3.0] * 4000, steps=1)
    os.close(hold)
    assert reader.communicate(timeout=20)[0].split() == ["4001"]


def test_terminate_on_nan(capsys: pytest.CaptureFixture[str]) -> None:
    for bad in (math.nan, math.inf):
        model, calls = drive([C.TerminateOnNaN()], [1.0, bad, 1.0])
        assert model.stop_training and calls.history.epoch == [0, 1]
    assert "invalid loss" in capsys.readouterr().out


def test_lambda_and_schedule() -> None:
    seen: list[Any] = []
    scheduler = C.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    _, calls = drive(
        [C.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"]))), scheduler], [4.0, 2.0]
    )
    assert seen == [(0, 2.0), (1, 1.0)]
    assert calls.history.history["learning_rate"] == [1.0, 0.5]
    _, calls = drive([C.LearningRateScheduler(lambda epoch, lr=0.1: lr / 2)], [4.0, 2.0])
    assert calls.history.history["learning_rate"] == [0.5, 0.25]
    with pytest.raises(ValueError, match="on_epoch_start"):
        C.LambdaCallback(on_epoch_start=print)


# -- display ------------------------------------------------------------------------------------------------------
def test_numbers_and_times() -> None:
    assert [progress.number(v) for v in (0, 0.12345, 12.3456, 1.234e-5, math.nan)] == [
        "0", "0.1235", "12.35", "1.234e-05", "nan",
    ]  # fmt: skip
    assert [progress.clock(s) for s in (0.04, 9.96, 59.4, 59.6, 185, 7380)] == [
        "0.0 s", "10 s", "59 s", "1:00", "3:05", "2:03:00",
    ]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", (False, True))
def test_progress(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for a file, a bar as well on a terminal, which leaves the lines when it is done."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal() if terminal else io.StringIO()
    shown = C.Progress(title="head", stream=stream)
    drive([shown], [4.0, 2.0], steps=3)
    text = stream.getvalue()
    assert "head epoch 1/2  loss 2.0000  |  validation loss 4.0000  |  0." in text
    assert ("\x1b[" in text) == terminal
    if terminal:
        assert "3/3" in text and "ETA" in text
    endless = Terminal() if terminal else io.StringIO()
    drive([C.Progress(stream=endless)], [4.0], steps=None)
    assert not terminal or ("loss 4.0000" in endless.getvalue() and "1/?" in endless.getvalue())
    quiet = io.StringIO()
    drive([C.Progress(verbose=0, stream=quiet)], [1.0])
    assert quiet.getvalue() == ""
