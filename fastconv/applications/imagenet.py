"""What all applications share about images: preprocess_input and decode_predictions, with Keras' behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.data import imagenet_labels, imagenet_wnids
from fastconv.preprocessing.presets import CAFFE_MEAN, TORCH_MEAN, TORCH_STD, Preset

Prediction = tuple[str, str, float]
MODES = ("caffe", "tf", "torch")


def preprocess(x: npt.ArrayLike, mode: str, data_format: str | None = None) -> npt.NDArray[np.float32]:
    """Pixels 0 to 255 (RGB, [H, W, 3] or [N, H, W, 3]) as a network wants them, in a new float32 array.

    mode "caffe": blue, green, red, less the means of ImageNet; "tf": -1 to 1; "torch": 0 to 1, less the means, divided
    by the deviations; "none": as they are. data_format "channels_first" takes the channels from axis -3.
    Raises ValueError for another mode or format, and where there are not three channels.
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"data_format={data_format!r}: expected channels_last or channels_first")
    if mode not in (*MODES, "none"):
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    a = np.array(x, np.float32)
    if mode == "none":
        return a
    if mode == "tf":
        a /= np.float32(127.5)
        a -= np.float32(1)
        return a
    axis = -3 if data_format == "channels_first" else -1
    if a.ndim not in (3, 4) or a.shape[axis] != 3:
        raise ValueError(f"preprocess_input: expected RGB images with 3 channels along axis {axis}, got {a.shape}")
    shape = (3, 1, 1) if axis == -3 else (3,)
    if mode == "caffe":
        a = np.ascontiguousarray(np.flip(a, axis))
        a -= np.array(CAFFE_MEAN, np.float32).reshape(shape)
        return a
    a /= np.float32(255)
    a -= np.array(TORCH_MEAN, np.float32).reshape(shape)
    a /= np.array(TORCH_STD, np.float32).reshape(shape)
    return a


def decode_predictions(preds: npt.ArrayLike, top: int = 5) -> list[list[Prediction]]:
    """The `top` classes of each row of preds [N, 1000]: (WordNet id, name, score), the best first.

    Raises ValueError for another shape.
    """
    return decode(preds, top, imagenet_wnids(), [name.replace(" ", "_") for name in imagenet_labels()])


def decode(preds: npt.ArrayLike, top: int, ids: Sequence[str], names: Sequence[str]) -> list[list[Prediction]]:
    """The `top` classes of each row of preds [N, classes], as (id, name, score)."""
    scores, classes = np.asarray(preds), len(ids)
    if scores.ndim != 2 or scores.shape[1] != classes:
        raise ValueError(
            f"`decode_predictions` expects a batch of predictions (i.e. a 2D array of shape (samples, {classes})). "
            f"Received array with shape: {scores.shape}"
        )
    if scores.dtype.kind not in "fiub":
        raise ValueError(f"decode_predictions: expected numbers, got {scores.dtype}")
    if not isinstance(top, (int, np.integer)) or not 1 <= top <= classes:
        raise ValueError(f"top={top!r}: expected 1 to {classes}")
    results = []
    for row in scores:
        best = np.argsort(-row.astype(np.float64), kind="stable")[:top]
        results.append([(ids[i], names[i], float(row[i])) for i in best])
    return results


class Preprocess:
    """preprocess_input of one network: `f(x, mode=None)`, None: the mode that its weights were trained with.

    preset: how images are resized and cropped for them, where that is known; `save` writes it into the file.
    """

    def __init__(self, mode: str, preset: Preset | None = None) -> None:
        self.mode, self.preset = mode, preset
        self.__doc__ = f'{preprocess.__doc__}\n    mode=None is "{mode}".'

    def __call__(
        self, x: npt.ArrayLike, mode: str | None = None, data_format: str | None = None
    ) -> npt.NDArray[np.float32]:
        return preprocess(x, self.mode if mode is None else mode, data_format)

    def __repr__(self) -> str:
        return f"<preprocess_input, mode {self.mode!r}>"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Preprocess) and (other.mode, other.preset) == (self.mode, self.preset)

    def __hash__(self) -> int:
        return hash(self.mode)
