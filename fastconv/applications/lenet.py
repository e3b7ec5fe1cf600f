"""LeNet-5 (LeCun et al. 1998, figure 2): digits of 32x32 pixels, with plain means for its trainable subsampling."""

from __future__ import annotations

import numpy.typing as npt

from fastconv.applications.base import Architecture, application
from fastconv.applications.imagenet import Prediction, Preprocess, decode
from fastconv.layers import AveragePooling2D, Conv2D, Dense, Flatten, Tensor


def network(x: Tensor) -> Tensor:
    x = Conv2D(6, 5, activation="tanh", name="c1")(x)
    x = AveragePooling2D(2, name="s2")(x)
    x = Conv2D(16, 5, activation="tanh", name="c3")(x)
    y: Tensor = AveragePooling2D(2, name="s4")(x)
    return y


def top(x: Tensor, classes: int, activation: str | None) -> Tensor:
    x = Flatten(name="flatten")(x)
    x = Dense(120, activation="tanh", name="c5")(x)
    x = Dense(84, activation="tanh", name="f6")(x)
    y: Tensor = Dense(classes, activation=activation, name="predictions")(x)
    return y


LeNet5 = application(
    Architecture("LeNet5", network, top, size=32, minimum=16, channels=1, mode="tf", keras_mode="tf", classes=10),
    "LeNet-5, for ten classes of 32x32 grey images unless told otherwise: 61,706 parameters.",
)
preprocess_input = Preprocess("tf")


def decode_predictions(preds: npt.ArrayLike, top: int = 5) -> list[list[Prediction]]:
    """The `top` digits of each row of preds [N, 10], as (digit, digit, score), the best first: ("7", "7", 0.9).

    Raises ValueError for another shape.
    """
    return decode(preds, top, "0123456789", "0123456789")


__all__ = ["LeNet5", "decode_predictions", "preprocess_input"]
