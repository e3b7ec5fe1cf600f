"""to_categorical, as Keras has it."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.utils import to_categorical


def test_to_categorical() -> None:
    np.testing.assert_array_equal(to_categorical([0, 2]), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(to_categorical([[0], [1]], 3), [[1, 0, 0], [0, 1, 0]])
    assert to_categorical(np.zeros((2, 3), int), 4).shape == (2, 3, 4)
    assert to_categorical([], 4).shape == (0, 4) and to_categorical([1.0]).dtype == np.float32
    for wrong in ([0.5], [-1]):
        with pytest.raises(ValueError, match="class numbers"):
            to_categorical(wrong)
    with pytest.raises(ValueError, match="num_classes=2"):
        to_categorical([2], 2)
