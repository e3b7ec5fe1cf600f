"""Metrics and their automatic choice."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import metrics
from fastconv.errors import ShapeError

P = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]])
CLASSES = np.array([1, 2, 2, 1])


def test_accuracy_fits_the_shapes() -> None:
    one_hot = np.eye(3)[CLASSES]
    for name in ("accuracy", "acc"):
        for target in (CLASSES, CLASSES[:, None], one_hot):
            assert metrics.get(name)(target, P) == 0.5
        assert metrics.get(name)([1, 0, 0], np.array([[0.9], [0.2], [0.7]])) == pytest.approx(2 / 3)
    assert metrics.get("sparse_categorical_accuracy")(CLASSES, P) == 0.5
    assert metrics.get("categorical_accuracy")(one_hot, P) == 0.5
    with pytest.raises(ShapeError, match="expected targets of shape"):
        metrics.get("categorical_accuracy")(CLASSES, P)


def test_batches_and_weights_add_up() -> None:
    metric = metrics.SparseCategoricalAccuracy()
    assert metric.name == "sparse_categorical_accuracy" and metric.result() == 0.0
    metric.update_state(CLASSES[:2], P[:2])
    metric.update_state(CLASSES[2:3], P[2:3])
    assert metric.result() == pytest.approx(2 / 3)
    metric.reset_state()
    assert metric(CLASSES, P, sample_weight=[1, 0, 1, 2]) == 0.5


def test_top_k() -> None:
    assert metrics.SparseTopKCategoricalAccuracy(k=2)(CLASSES, P) == 0.75 + 0.25  # a tie counts
    assert metrics.SparseTopKCategoricalAccuracy(k=2)([1, 1, 0, 1], P) == 0.5
    assert metrics.TopKCategoricalAccuracy(k=1)(np.eye(3)[CLASSES], P) == 0.5
    assert metrics.get("sparse_top_k_categorical_accuracy")(CLASSES, P) == 1.0


def test_confusion_matrix() -> None:
    want = [[0, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert metrics.confusion_matrix(CLASSES, P).tolist() == want
    assert metrics.confusion_matrix(CLASSES, P.argmax(axis=1), num_classes=4).shape == (4, 4)
    with pytest.raises(ShapeError, match="classes from 0 to 1"):
        metrics.confusion_matrix([2], [1], num_classes=2)
    with pytest.raises(ShapeError, match="2 labels, 1 predictions"):
        metrics.confusion_matrix([2, 1], [1])


def test_functions_and_names() -> None:
    def largest(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return y_pred.max(axis=-1)

    metric = metrics.get(largest)
    assert metric.name == "largest" and metric(CLASSES, P) == pytest.approx(P.max(axis=1).mean())
    assert metrics.get(metric) is metric
    assert metrics.get("mse")(np.zeros((4, 3)), P) == pytest.approx((P**2).mean())
    with pytest.raises(ValueError, match="metric 'f1': expected a metric, a function or one of accuracy"):
        metrics.get("f1")
