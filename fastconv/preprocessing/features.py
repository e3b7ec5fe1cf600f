"""Outputs of a frozen network, kept: each image goes through it once, and the epochs behind it take milliseconds.

With augmentation in front of the network, `views` differently augmented copies of each image are kept.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.errors import ShapeError
from fastconv.graph import Array
from fastconv.layers.windows import whole
from fastconv.preprocessing.augment import Augmentation
from fastconv.preprocessing.dataset import Dataset

FloatArray = npt.NDArray[np.float32]
MEMORY = 1 << 30  # bytes of features; more of them go to a file


class Features:
    """Batches (features, labels) of what `cache_features` kept; with the attributes of a Dataset.

    x: float32 [views, N, ...]. y: [N, ...]. Each epoch has its own order, and takes one of the views of each image,
    both by `seed` and the epoch's number alone.
    """

    def __init__(
        self, x: FloatArray, y: Array | None, *, batch_size: int = 32, shuffle: bool = True, seed: int = 0
    ) -> None:
        if x.ndim < 3 or (y is not None and len(y) != x.shape[1]):
            raise ShapeError(f"features: expected [views, N, ...] and N labels, got {x.shape}")
        self.x, self.y = x, y
        self.batch_size, self.shuffle, self.seed = whole(batch_size, "batch_size"), bool(shuffle), int(seed)
        self.epoch = self.start = 0

    @property
    def views(self) -> int:
        return len(self.x)

    @property
    def samples(self) -> int:
        return int(self.x.shape[1])

    @property
    def on_disk(self) -> bool:
        """Whether the features lie in a file."""
        return isinstance(self.x, np.memmap)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.samples) if self.shuffle else np.arange(self.samples)
        views = rng.integers(self.views, size=self.samples) if self.views > 1 else np.zeros(self.samples, np.int64)
        for i in range(start * self.batch_size, self.samples, self.batch_size):
            rows = order[i : i + self.batch_size]
            x = np.asarray(self.x[views[rows], rows])
            yield x if self.y is None else (x, self.y[rows])


def cache_features(
    network: Callable[[Any], Any],
    data: Any,
    *,
    views: int = 1,
    augment: Augmentation | None = None,
    memory: int = MEMORY,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Features:
    """Run `network` once over all images and keep what it gives.

    network: a model, or any function of a batch. data: a Dataset, or arrays (x, y), where y may be None. augment,
    views: that many augmented copies of each image. memory: bytes of features that are kept in memory; more lie in a
    nameless file in `folder` (None: the system's for temporary files), which vanishes with the process.
    progress(done, all) is told the number of images. Raises ValueError and ShapeError for data that do not fit, OSError
    where the file does not fit on the disk.
    """
    if views < 1 or (views > 1 and augment is None):
        raise ValueError(f"views={views!r}: expected 1, or more together with augment")
    if isinstance(data, Dataset):
        plain = copy.copy(data)
        plain.shuffle, plain.epoch, plain.start = False, 0, 0
        samples, batches, shuffle = data.samples, iter(plain), data.shuffle
        batch_size, seed = data.batch_size, data.seed
    else:
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ValueError(f"data: expected a Dataset or a pair of arrays (x, y), got {type(data).__name__}")
        x, y = data
        samples, shuffle, size = len(x), True, whole(batch_size, "batch_size")
        parts = [slice(i, i + size) for i in range(0, samples, size)]
        batches = iter([x[part] if y is None else (x[part], y[part]) for part in parts])
    kept: FloatArray | None = None
    labels: list[Array] = []
    done = 0
    for number, batch in enumerate(batches):
        images, y = batch if isinstance(batch, tuple) else (batch, None)
        for view in range(views):
            changed = images if augment is None else augment(images, number * views + view)
            out = np.asarray(network(changed), np.float32)
            if kept is None:
                kept = space((views, samples, *out.shape[1:]), memory, folder)
            kept[view, done : done + len(out)] = out
        done += len(images)
        if y is not None:
            labels.append(np.asarray(y))
        if progress is not None:
            progress(done, samples)
    if kept is None:
        raise ShapeError("cache_features: there are no images, or none that can be read")
    kept = kept[:, :done]  # without the files that turned out to be broken
    y = np.concatenate(labels) if labels else None
    return Features(kept, y, batch_size=batch_size, shuffle=shuffle, seed=seed)


def space(shape: tuple[int, ...], memory: int, folder: str | os.PathLike[str] | None) -> FloatArray:
    """Room for numbers: in memory up to `memory` bytes, else in a nameless file. Raises OSError where that is full."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size <= memory:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="fastconv-features-", dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a signal later
        return np.memmap(file, np.float32, "r+", shape=shape)
