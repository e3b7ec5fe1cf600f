"""What callbacks see of fit, evaluate and predict, and that what they hold open is closed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from fastconv.callbacks import Callback, CSVLogger, LambdaCallback, Progress

from .test_training import X, Y, compiled, network


class Spy(Callback):
    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.fail = fail

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(f"test {batch} {sorted(logs)}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(f"epoch {self.params['epochs']}")
        if self.fail:
            raise KeyboardInterrupt

    def close(self) -> None:
        self.seen.append("closed")


def test_callbacks_see_the_validation_and_are_closed() -> None:
    model, spy = compiled(network()), Spy()
    model.fit(X, Y, epochs=1, verbose=0, validation_data=(X, Y), validation_batch_size=30, callbacks=spy)
    tests = [f"test {i} ['accuracy', 'loss']" for i in (0, 1)]
    assert spy.seen == [*tests, "epoch 1", "closed"]
    spy.seen.clear()
    model.evaluate(X, Y, 30, callbacks=[spy])
    assert spy.seen == [*tests, "closed"]
    count = LambdaCallback(on_predict_batch_end=lambda batch, logs: spy.seen.append(f"predict {batch}"))
    spy.seen.clear()
    model.predict(X, 30, callbacks=[spy, count])
    model.predict(iter([X, X, X]), steps=2, callbacks=count)
    assert spy.seen == ["predict 0", "predict 1", "closed", "predict 0", "predict 1"]
    spies = [Spy(fail=True), Spy()]
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=spies)
    assert [s.seen for s in spies] == [["epoch 2", "closed"], ["closed"]]


def test_what_is_open_is_closed_when_a_fit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar on a terminal, and a log file."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Fail(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            shown.append(bar._bar is not None)
            raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "xterm")
    bar, log = Progress(stream=Terminal()), CSVLogger(tmp_path / "log.csv")
    shown: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        compiled(network()).fit(X, Y, verbose=0, callbacks=[bar, log, Fail()])
    assert shown == [True] and bar._bar is None and log._file is None
