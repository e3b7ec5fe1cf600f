"""compile(precision=...): what it says holds for all that the model computes from then on, not for training alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import layers as L
from fastconv.layers.initializers import seeded
from fastconv.models import Model, Sequential
from tests.models.nets import serialized

X = np.random.default_rng(0).standard_normal((4, 24, 24, 32)).astype(np.float32)
Y = np.arange(4)


def network() -> Model:
    """A convolution that takes Winograd's algorithm where it may."""
    with seeded(1):
        return Sequential(
            [L.Input((24, 24, 32)), L.Conv2D(32, 3, padding="same", name="c"), L.Flatten(), L.Dense(4, name="d")]
        )


def taken(model: Any, shape: tuple[int, ...] = X.shape) -> str:
    """The convolutions' algorithms."""
    return " ".join(op.algorithm for op in model.inspect(shape) if op.algorithm)


def test_strict_reaches_predict_evaluate_and_saved_plans(tmp_path: Path) -> None:
    """Winograd's rounding errors are in neither; and strict ends where fp32 is asked for."""
    model = network()
    before = model.predict(X)
    assert "F(" in taken(model.runtime())
    model.compile("sgd", "mse", precision="strict")
    assert model.precision == model.runtime().precision == "strict" and "F(" not in taken(model.runtime())
    strict = model.predict(X)
    assert not np.array_equal(strict, before)
    exact = fastconv.load(_file(model, tmp_path), precision="strict")(X)
    np.testing.assert_array_equal(strict, exact)
    target = np.zeros((4, 4), np.float32)
    assert model.evaluate(X, target, verbose=0) == pytest.approx(
        float(np.mean(exact.astype(np.float64) ** 2)), rel=1e-6
    )
    model.save(tmp_path / "net.fcplan", shape=X.shape)
    assert "F(" not in taken(fastconv.load(tmp_path / "net.fcplan"))
    model.compile("sgd", "mse", precision="fp32")
    np.testing.assert_array_equal(model.predict(X), before)


def _file(model: Model, folder: Path) -> Path:
    model.save(folder / "net.onnx")
    return folder / "net.onnx"


def test_a_compile_that_names_no_precision_keeps_it() -> None:
    """Of a file that was loaded so, and of the compile before."""
    model = fastconv.load(serialized("vgg"), precision="strict").as_layers()
    model.compile("sgd", "mse")
    assert model.precision == "strict" and model.trainer().strict
    model.compile("sgd", "mse", precision="fp32")
    model.compile("adam", "mse")
    assert model.precision == "fp32" and not model.trainer().strict
