"""Keras' helpers that training scripts use, where Keras has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .layers.initializers import set_random_seed
from .preprocessing import image_dataset_from_directory, img_to_array, load_img


def to_categorical(x: npt.ArrayLike, num_classes: int | None = None) -> npt.NDArray[np.float32]:
    """Class numbers of any shape as one-hot vectors: float32 [..., num_classes] (None: the largest number and one).

    A last axis of size 1 is dropped first, as Keras does. Raises ValueError for what is no class number.
    """
    numbers = np.asarray(x)
    if numbers.ndim > 1 and numbers.shape[-1] == 1:
        numbers = numbers[..., 0]
    classes = numbers.astype(np.int64)
    if classes.size and (np.any(classes != numbers) or classes.min() < 0):
        raise ValueError(f"to_categorical: expected class numbers from 0 on, got {numbers.min()} to {numbers.max()}")
    count = int(classes.max(initial=-1)) + 1 if num_classes is None else int(num_classes)
    if classes.size and classes.max() >= count:
        raise ValueError(f"to_categorical: class {classes.max()} with num_classes={count}")
    return np.eye(count, dtype=np.float32)[classes]


__all__ = ["image_dataset_from_directory", "img_to_array", "load_img", "set_random_seed", "to_categorical"]
