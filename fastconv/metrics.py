"""Metrics, with Keras' names: numbers that `fit` and `evaluate` report beside the loss. They compute in numpy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .graph import Array
from .layers.base import snake_case


class Metric(ABC):
    """A mean over samples: `update_state` adds a batch, `result` is the mean since the last `reset_state`."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.reset_state()

    @abstractmethod
    def values(self, y_true: Array, y_pred: Array) -> Array:
        """One number for each sample, or for each sample and position."""

    def reset_state(self) -> None:
        self.total = self.count = 0.0

    def update_state(
        self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> None:
        values = np.asarray(self.values(np.asarray(y_true), np.asarray(y_pred)), np.float64)
        if sample_weight is None:
            self.total += float(values.sum())
            self.count += values.size
            return
        w = np.asarray(sample_weight, np.float64).reshape(-1, *[1] * (values.ndim - 1))
        self.total += float((values * w).sum())
        self.count += float(np.broadcast_to(w, values.shape).sum())

    def result(self) -> float:
        return self.total / self.count if self.count else 0.0

    def __call__(
        self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()


class MeanMetricWrapper(Metric):
    """The mean of a function (y_true, y_pred) -> one number for each sample."""

    def __init__(self, fn: Callable[[Array, Array], npt.ArrayLike], name: str | None = None) -> None:
        super().__init__(name or fn.__name__)
        self.fn = fn

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return np.asarray(self.fn(y_true, y_pred))


class BinaryAccuracy(Metric):
    """Whether outputs above `threshold` are those whose target is 1."""

    def __init__(self, name: str = "binary_accuracy", threshold: float = 0.5) -> None:
        super().__init__(name)
        self.threshold = threshold

    def values(self, y_true: Array, y_pred: Array) -> Array:
        t = y_true.reshape(y_pred.shape) if y_true.size == y_pred.size else y_true
        return np.asarray(((y_pred > self.threshold) == (t > 0.5)).mean(axis=-1))


class CategoricalAccuracy(Metric):
    """Whether the largest output is that of the largest target."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        if y_true.shape != y_pred.shape:
            raise ShapeError(f"{self.name}: expected targets of shape {y_pred.shape}, got {y_true.shape}")
        return np.asarray(y_true.argmax(axis=-1) == y_pred.argmax(axis=-1))


class SparseCategoricalAccuracy(Metric):
    """Whether the largest output is that of the class in the target."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return np.asarray(_classes(y_true, y_pred) == y_pred.argmax(axis=-1))


class SparseTopKCategoricalAccuracy(Metric):
    """Whether the class in the target is among those of the k largest outputs."""

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = k

    def values(self, y_true: Array, y_pred: Array) -> Array:
        picked = np.take_along_axis(y_pred, _classes(y_true, y_pred).astype(np.int64)[..., None], axis=-1)
        return np.asarray((y_pred > picked).sum(axis=-1) < self.k)


class TopKCategoricalAccuracy(SparseTopKCategoricalAccuracy):
    """The same for targets that are shares of classes."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return super().values(y_true.argmax(axis=-1), y_pred)


class Accuracy(Metric):
    """The accuracy that fits the shapes: binary, categorical or sparse categorical, as Keras chooses it."""

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(name)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return automatic(y_true, y_pred, self.name).values(y_true, y_pred)


class MeanSquaredError(Metric):
    """(t - y)^2, the mean over the last axis."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        off = y_pred.astype(np.float64) - y_true.reshape(y_pred.shape)
        return np.asarray((off**2).mean(axis=-1))


def automatic(y_true: Array, y_pred: Array, name: str = "accuracy") -> Metric:
    """What "accuracy" means for targets and outputs of these shapes."""
    if y_pred.shape[-1] == 1:
        return BinaryAccuracy(name)
    return CategoricalAccuracy(name) if y_true.shape == y_pred.shape else SparseCategoricalAccuracy(name)


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int | None = None) -> Array:
    """int64[classes, classes]: how often label i was predicted as j. Both are classes, or shares of them [N, K]."""
    t, p = (np.asarray(a) for a in (labels, predictions))
    t, p = (a.argmax(axis=-1) if a.ndim > 1 and a.shape[-1] > 1 else a.reshape(-1) for a in (t, p))
    t, p = t.astype(np.int64), p.astype(np.int64)
    if t.shape != p.shape:
        raise ShapeError(f"confusion_matrix: {t.size} labels, {p.size} predictions")
    n = num_classes or int(max(t.max(initial=-1), p.max(initial=-1))) + 1
    if t.size and (min(t.min(), p.min()) < 0 or max(t.max(), p.max()) >= n):
        raise ShapeError(f"confusion_matrix: expected classes from 0 to {n - 1}")
    return np.bincount(t * n + p, minlength=n * n).reshape(n, n)


_NAMES: dict[str, Callable[[str], Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": lambda name: TopKCategoricalAccuracy(name=name),
    "sparse_top_k_categorical_accuracy": lambda name: SparseTopKCategoricalAccuracy(name=name),
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
}


def get(identifier: str | Metric | Callable[[Array, Array], npt.ArrayLike]) -> Metric:
    """The metric itself, by name, or the mean of a function. Raises ValueError."""
    if isinstance(identifier, Metric):
        return identifier
    if callable(identifier):
        return MeanMetricWrapper(identifier)
    if not isinstance(identifier, str) or identifier not in _NAMES:
        raise ValueError(f"metric {identifier!r}: expected a metric, a function or one of {', '.join(_NAMES)}")
    return _NAMES[identifier](identifier)


def _classes(y_true: Array, y_pred: Array) -> Array:
    lead = y_pred.shape[:-1]
    if y_true.size != int(np.prod(lead)):
        raise ShapeError(f"expected classes of shape {lead}, got targets of shape {y_true.shape}")
    return y_true.reshape(lead)


__all__ = [
    "Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "MeanMetricWrapper", "MeanSquaredError", "Metric",
    "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy", "confusion_matrix", "get",
]  # fmt: skip
