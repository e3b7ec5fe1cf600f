"""Losses, with Keras' names and formulas. Training builds them into its graph; evaluation computes them in numpy.

Where a network ends in softmax (or sigmoid) and the loss is a cross-entropy, training computes it from what stands in
front of the activation, which is exact where probabilities are 0 or 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .graph import Array, Graph, Value

EPSILON = 1e-7  # Keras': probabilities keep this distance from 0 and 1
TINY = float(np.finfo(np.float32).tiny)


class Loss(ABC):
    """A loss for each sample; `loss(y_true, y_pred, sample_weight=None)` is their (weighted) mean over the batch."""

    name = "loss"

    @abstractmethod
    def values(self, y_true: Array, y_pred: Array) -> Array:
        """The loss of each sample in float64; both arrays as users see them."""

    @abstractmethod
    def targets(self, y_true: npt.ArrayLike, y_pred_shape: Sequence[int]) -> Array:
        """y_true as the float32 array that `emit` reads. Raises ShapeError."""

    @abstractmethod
    def emit(self, graph: Graph, target: Value, y: Value) -> Value:
        """Append the loss of each sample, [N], for outputs y whose last axis are the channels."""

    def __call__(
        self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        pred = np.asarray(y_pred)
        values = self.values(self.targets(y_true, pred.shape), pred)
        if sample_weight is not None:
            weight = np.asarray(sample_weight, np.float64).reshape(-1)
            if weight.shape != values.shape:
                raise ShapeError(f"{self.name}: expected {len(values)} sample weights, got {weight.size}")
            values = values * weight
        return float(values.mean())


class _Dense(Loss):
    """Losses whose targets have the shape of the outputs."""

    def targets(self, y_true: npt.ArrayLike, y_pred_shape: Sequence[int]) -> Array:
        t = _numbers(y_true, self.name).astype(np.float32, copy=False)
        shape = tuple(y_pred_shape)
        if t.shape != shape and shape[-1] == 1 and t.shape == shape[:-1]:
            t = t.reshape(shape)
        if t.shape != shape:
            raise ShapeError(f"{self.name}: expected targets of shape {shape}, got {t.shape}{self.hint(t)}")
        return t

    def hint(self, t: Array) -> str:
        return ""


class CategoricalCrossentropy(_Dense):
    """-sum(t log p) for targets t that are shares of classes (one-hot, as `to_categorical` makes them)."""

    name = "categorical_crossentropy"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1, **kwargs: Any) -> None:
        _options(self, kwargs)
        if axis != -1:
            raise ValueError(f"axis={axis!r}: expected -1")
        self.from_logits, self.label_smoothing = bool(from_logits), _smoothing(label_smoothing)

    def hint(self, t: Array) -> str:
        classes = t.ndim == 1 or t.shape[-1] == 1
        return "; classes as whole numbers go with sparse_categorical_crossentropy" if classes else ""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        t = y_true * (1 - self.label_smoothing) + self.label_smoothing / y_pred.shape[-1]
        return _per_sample(-(t * _log_probabilities(y_pred, self.from_logits)).sum(axis=-1))

    def emit(self, graph: Graph, target: Value, y: Value) -> Value:
        return _cross_entropy(graph, target, y, self.from_logits, self.label_smoothing)


class SparseCategoricalCrossentropy(Loss):
    """-log p[t] for targets t that are the numbers of classes."""

    name = "sparse_categorical_crossentropy"

    def __init__(
        self, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1, **kwargs: Any
    ) -> None:
        _options(self, kwargs)
        if ignore_class is not None or axis != -1:
            raise ValueError(f"ignore_class={ignore_class!r}, axis={axis!r}: expected None and -1")
        self.from_logits = bool(from_logits)

    def targets(self, y_true: npt.ArrayLike, y_pred_shape: Sequence[int]) -> Array:
        t, lead = _numbers(y_true, self.name), tuple(y_pred_shape[:-1])
        if t.shape == (*lead, 1):
            t = t.reshape(lead)
        if t.shape != lead:
            hot = "; one-hot targets go with categorical_crossentropy" if t.shape == tuple(y_pred_shape) else ""
            raise ShapeError(f"{self.name}: expected classes of shape {lead}, got targets of shape {t.shape}{hot}")
        classes = y_pred_shape[-1]
        if t.size and (t.min() < 0 or t.max() >= classes or np.any(t != np.floor(t))):
            raise ShapeError(f"{self.name}: expected classes from 0 to {classes - 1}, got {t.min()} to {t.max()}")
        return t.astype(np.float32)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        log = _log_probabilities(y_pred, self.from_logits)
        picked = np.take_along_axis(log, y_true.astype(np.int64)[..., None], axis=-1)[..., 0]
        return _per_sample(-picked)

    def emit(self, graph: Graph, target: Value, y: Value) -> Value:
        return _cross_entropy(graph, target, y, self.from_logits, 0.0)


class BinaryCrossentropy(_Dense):
    """-(t log p + (1 - t) log(1 - p)), the mean over the last axis."""

    name = "binary_crossentropy"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1, **kwargs: Any) -> None:
        _options(self, kwargs)
        if axis != -1:
            raise ValueError(f"axis={axis!r}: expected -1")
        self.from_logits, self.label_smoothing = bool(from_logits), _smoothing(label_smoothing)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        t = y_true * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        y = y_pred.astype(np.float64)
        if self.from_logits:
            return _per_sample((np.logaddexp(y, 0.0) - t * y).mean(axis=-1))
        p, q = np.maximum(y, TINY), np.maximum(1 - y, EPSILON)
        return _per_sample(-(t * np.log(p) + (1 - t) * np.log(q)).mean(axis=-1))

    def emit(self, graph: Graph, target: Value, y: Value) -> Value:
        t = target
        if self.label_smoothing:
            t = _mul(graph, t, 1 - self.label_smoothing)
            t = graph.add("Add", [t, _number(graph, 0.5 * self.label_smoothing, t.rank)], t.shape)
        logits = y if self.from_logits else before(graph, y, "Sigmoid")
        if logits is not None:
            soft = graph.add("Softplus", [logits], y.shape)
            each = graph.add("Sub", [soft, graph.add("Mul", [t, logits], y.shape)], y.shape)
            return _mean_per_sample(graph, each)
        p = graph.add("Clip", [y], y.shape, min=EPSILON, max=1 - EPSILON)
        one = _number(graph, 1.0, y.rank)
        q, s = (graph.add("Sub", [one, v], y.shape) for v in (p, t))
        yes = graph.add("Mul", [t, graph.add("Log", [p], y.shape)], y.shape)
        no = graph.add("Mul", [s, graph.add("Log", [q], y.shape)], y.shape)
        return _mean_per_sample(graph, graph.add("Neg", [graph.add("Add", [yes, no], y.shape)], y.shape))


class MeanSquaredError(_Dense):
    """(t - y)^2, the mean over the last axis."""

    name = "mean_squared_error"

    def __init__(self, **kwargs: Any) -> None:
        _options(self, kwargs)

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return _per_sample(((y_pred.astype(np.float64) - y_true) ** 2).mean(axis=-1))

    def emit(self, graph: Graph, target: Value, y: Value) -> Value:
        off = graph.add("Sub", [y, target], y.shape)
        return _mean_per_sample(graph, graph.add("Mul", [off, off], y.shape))


_NAMES: dict[str, Callable[[], Loss]] = {
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
}


def get(identifier: str | Loss) -> Loss:
    """The loss itself, or a new one with its defaults by name. Raises ValueError."""
    if isinstance(identifier, Loss):
        return identifier
    if not isinstance(identifier, str) or identifier not in _NAMES:
        raise ValueError(f"loss={identifier!r}: expected a loss or one of {', '.join(_NAMES)}")
    return _NAMES[identifier]()


# -- numpy ----------------------------------------------------------------------------------------------------------
def _numbers(y_true: npt.ArrayLike, name: str) -> Array:
    t = np.asarray(y_true)
    if t.dtype.kind not in "fiub":
        raise ShapeError(f"{name}: expected targets that are numbers, got {t.dtype}")
    return t


def _per_sample(values: Array) -> Array:
    means: Array = values.reshape(len(values), -1).mean(axis=1)
    return means


def _log_probabilities(y: Array, from_logits: bool) -> Array:
    x = y.astype(np.float64)
    if from_logits:
        z = x - x.max(axis=-1, keepdims=True)
        log: Array = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        return log
    return np.asarray(np.log(np.maximum(x / np.maximum(x.sum(axis=-1, keepdims=True), TINY), TINY)))


# -- graphs ---------------------------------------------------------------------------------------------------------
def before(graph: Graph, y: Value, activation: str) -> Value | None:
    """What the activation at the end of the network reads, in the layout of y; None where y has another end."""
    maker = graph.producers().get(y)
    if maker is not None and maker.op == "Transpose":  # images, channels last
        inner = before(graph, maker.input(0), activation)
        return None if inner is None else graph.add("Transpose", [inner], y.shape, perm=maker.attrs["perm"])
    if maker is None or maker.op != activation:
        return None
    if activation == "Softmax" and maker.attrs["axis"] != (1 if y.rank == 4 else y.rank - 1):
        return None
    return maker.input(0)


def _cross_entropy(graph: Graph, target: Value, y: Value, from_logits: bool, smoothing: float) -> Value:
    classes = y.shape[-1]
    rows = math.prod(y.shape[:-1])
    logits = y if from_logits else before(graph, y, "Softmax")
    if logits is None:  # the logarithm of probabilities is as good as logits: their softmax is themselves
        total = graph.add("ReduceSum", [y], (*y.shape[:-1], 1), axes=(y.rank - 1,), keepdims=1)
        share = graph.add("Div", [y, total], y.shape)
        clipped = graph.add("Clip", [share], y.shape, min=EPSILON, max=1 - EPSILON)
        logits = graph.add("Log", [clipped], y.shape)
    x = _reshape(graph, logits, (rows, classes))
    t = _reshape(graph, target, (rows, classes) if target.rank == y.rank else (rows,))
    each = graph.add("SoftmaxCrossEntropy", [x, t], (rows,), label_smoothing=smoothing)
    return _mean_per_sample(graph, _reshape(graph, each, (*y.shape[:-1], 1)))


def _mean_per_sample(graph: Graph, v: Value) -> Value:
    n = v.shape[0]
    if v.size == n:
        return _reshape(graph, v, (n,))
    return graph.add("ReduceMean", [_reshape(graph, v, (n, v.size // n))], (n,), axes=(1,), keepdims=0)


def _reshape(graph: Graph, v: Value, shape: tuple[int, ...]) -> Value:
    return v if v.shape == shape else graph.add("Reshape", [v], shape)


def _number(graph: Graph, x: float, rank: int) -> Value:
    return graph.constant(np.full((1,) * rank, x, np.float32))


def _mul(graph: Graph, v: Value, factor: float) -> Value:
    return graph.add("Mul", [v, _number(graph, factor, v.rank)], v.shape)


def _smoothing(x: float) -> float:
    if not 0 <= x <= 1:
        raise ValueError(f"label_smoothing={x!r}: expected a number from 0 to 1")
    return float(x)


def _options(loss: Loss, kwargs: dict[str, Any]) -> None:
    """Keras' further arguments: name, and the only reduction there is."""
    name, reduction = kwargs.pop("name", None), kwargs.pop("reduction", "sum_over_batch_size")
    if kwargs:
        raise TypeError(f"{type(loss).__name__}: unknown arguments {', '.join(kwargs)}")
    if reduction != "sum_over_batch_size":
        raise ValueError(f"reduction={reduction!r}: expected 'sum_over_batch_size'")
    loss.name = name or loss.name


__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]
