"""Batches for training and evaluation: from arrays, data sets, sequences and generators."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, cycle, repeat
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastconv.errors import ShapeError
from fastconv.graph import Array
from fastconv.layers.windows import whole
from fastconv.preprocessing.dataset import Dataset
from fastconv.told import warn

Batch = tuple[Any, Any, Any]  # inputs (an array, or a list of them), targets or None, sample weights or None


class Batches(Protocol):
    """steps: batches in an epoch, None where that is not known before its end."""

    steps: int | None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the start-th on."""


class ArrayBatches:
    """Rows of arrays; shuffled, the order follows from (seed, number of the epoch)."""

    def __init__(
        self,
        x: Sequence[Array],
        y: Array | None,
        weights: Array | None,
        size: int,
        shuffle: bool = False,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        lengths = {len(a) for a in (*x, y, weights) if a is not None}
        if len(lengths) != 1 or 0 in lengths:
            raise ShapeError(f"expected inputs, targets and weights of one length above 0, got {sorted(lengths)}")
        self.x, self.y, self.weights, self.shuffle, self.seed = x, y, weights, shuffle, seed
        self.size, self.samples = whole(size, "batch_size"), lengths.pop()
        there = math.ceil(self.samples / self.size)
        self.steps: int | None = there if steps is None else min(steps, there)

    def order(self, number: int) -> npt.NDArray[np.int64]:
        """Which row comes when in an epoch."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng((self.seed, number)).permutation(self.samples)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        order = self.order(number) if self.shuffle else None
        for i in range(start, self.steps or 0):
            part = slice(i * self.size, min((i + 1) * self.size, self.samples))
            rows = part if order is None else order[part]
            x = [a[rows] for a in self.x]
            yield (
                x[0] if len(x) == 1 else x,
                None if self.y is None else self.y[rows],
                None if self.weights is None else self.weights[rows],
            )


class IterableBatches:
    """What a data set, a list of batches or a generator yields: x, (x, y) or (x, y, sample weights).

    Something with `__len__` and `__iter__` (or `__getitem__`, as Keras' PyDataset) is one epoch and begins anew at
    each; `epoch` and `start` are set where it has them, as `image_dataset_from_directory` does. A generator goes on
    where the epoch before stopped, so it needs steps.
    """

    def __init__(self, source: Iterable[Any], steps: int | None = None) -> None:
        self.source: Any = source
        sized = getattr(source, "__len__", None)
        self.length: int | None = None if sized is None else int(sized())
        self.steps = steps if steps is not None else self.length
        self.endless = hasattr(source, "__next__")
        self._going: Iterator[Any] | None = None
        self._given = 0  # batches so far

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        done = start
        while self.steps is None or done < self.steps:
            found = False
            for item in self._items(number, start if done == start else 0):
                found = True
                self._given += 1
                yield _parts(item)
                done += 1
                if self.steps is not None and done >= self.steps:
                    return
            self._going = None
            if self.steps in (None, self.length) or not found or self.endless:
                self._ran_out(done, start)
                return

    def _ran_out(self, done: int, start: int) -> None:
        """A generator that gave fewer batches than asked for: a warning, or ShapeError where it gave none any more."""
        if not self.endless or self.steps is None:
            return
        if done > start:
            warn(f"the generator ran out: this epoch has {done - start} batches instead of {self.steps - start}")
        elif self._given:
            raise ShapeError(f"the generator ran out: it gave {self._given} batches, and none for this epoch")

    def _items(self, number: int, start: int) -> Iterator[Any]:
        if self._going is not None:
            return self._going
        source = self.source
        if hasattr(source, "epoch") and hasattr(source, "start"):
            source.epoch, source.start = number, start
            found: Iterator[Any] = iter(source)
        elif hasattr(source, "__iter__"):
            found = _behind(iter(source), 0 if self.endless else start)
        else:
            found = (source[i] for i in range(start, len(source)))
        if self.steps != self.length:
            self._going = found  # an epoch may end inside of it, and the next one goes on there
        return found


def _behind(items: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        next(items, None)
    return items


def _parts(item: Any) -> Batch:
    if not isinstance(item, tuple):
        return item, None, None
    if not 1 <= len(item) <= 3:
        raise ShapeError(f"expected batches (x, y) or (x, y, sample_weight), got a tuple of {len(item)}")
    x, y, weights = (*item, None, None)[:3]
    return x, y, weights


def as_batches(
    x: Any, y: Any, weights: Any, inputs: int, size: int | None, shuffle: bool, seed: int, steps: int | None
) -> Batches:
    """Batches of what `fit` and `evaluate` take. Raises ShapeError and ValueError for what does not fit together."""
    steps = None if steps is None else whole(steps, "steps")
    if is_arrays(x):
        arrays = list(x) if inputs > 1 and isinstance(x, (list, tuple)) else [x]
        found = [np.asarray(a) for a in arrays]
        if any(a.ndim == 0 for a in found):
            raise ShapeError("expected arrays of samples, got a number")
        targets = None if y is None else np.asarray(y)
        if targets is not None and targets.ndim == 0:
            raise ShapeError(f"y: expected an array of targets, got {type(y).__name__}")
        sample = None if weights is None else np.asarray(weights, np.float32).reshape(-1)
        return ArrayBatches(found, targets, sample, 32 if size is None else size, shuffle, seed, steps)
    for name, value in (("y", y), ("sample_weight", weights), ("batch_size", size)):
        if value is not None:
            raise ValueError(f"{name} is given, but x yields batches of its own")
    if not hasattr(x, "__iter__") and not (hasattr(x, "__getitem__") and hasattr(x, "__len__")):
        raise ValueError(f"x: expected arrays or something that yields batches, got {type(x).__name__}")
    refuse_endless(x, steps)
    return IterableBatches(x, steps)


def not_learnt(x: Any) -> Any:
    """What is only evaluated or predicted; see Dataset.for_evaluation."""
    return x.for_evaluation() if isinstance(x, Dataset) else x


def refuse_endless(x: Any, steps: int | None) -> None:
    """Raises ValueError for what is known to yield batches for ever where nobody says how many to take.

    A generator does not tell: without steps it is taken to its end, as Keras does.
    """
    endless = isinstance(x, (cycle, count)) or (isinstance(x, repeat) and operator.length_hint(x, -1) < 0)
    if steps is None and endless:
        raise ValueError(f"x: itertools.{type(x).__name__} never ends: say how many batches (steps, steps_per_epoch)")


def is_arrays(x: Any) -> bool:
    """Whether x is data itself, not something that yields batches."""
    return isinstance(x, (np.ndarray, list, tuple)) or hasattr(x, "__array__")


def split_off(arrays: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """The first rows of each array, and the last share of them."""
    n = len(arrays[0])
    cut = n - math.floor(n * share)
    if not 0 < share < 1 or cut in (0, n):
        raise ValueError(f"validation_split={share!r} of {n} samples leaves nothing on one side")
    return [None if a is None else a[:cut] for a in arrays], [None if a is None else a[cut:] for a in arrays]


def class_weights(targets: Array, weights: Mapping[int, float], classes: int) -> npt.NDArray[np.float32]:
    """What each sample counts for its class; classes that are not named count 1. Raises ValueError."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"class_weight: expected a dict from class to weight, got {type(weights).__name__}")
    labels = targets.reshape(len(targets), -1)
    rows = labels.argmax(axis=1) if classes > 1 and labels.shape[1] == classes else labels[:, 0].astype(np.int64)
    table = np.ones(max(classes, 2), np.float32)
    for label, weight in weights.items():
        if not isinstance(label, (int, np.integer)) or not 0 <= label < len(table):
            raise ValueError(f"class_weight: class {label!r}: expected one from 0 to {len(table) - 1}")
        table[label] = weight
    return np.asarray(table[rows.astype(np.int64)])
