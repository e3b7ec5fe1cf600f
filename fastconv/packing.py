"""Weights on their way into a plan: as float32, and large dense ones part by part."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from .errors import UnsupportedOpError
from .graph import MAX_EXACT, Array, Weight

PART_BYTES = 8 << 20  # of a dense weight that is read at a time
ROWS_PER_PART = 128  # a multiple of every level's dense panel


def large(weight: Weight) -> bool:
    """Whether a weight is to be packed part by part, because it lies elsewhere and is large."""
    return weight.read_part is not None and weight.nbytes > PART_BYTES and not weight.in_memory


def by_outputs(
    store: _core.WeightStore, isa: _core.Isa, taps: int, weight: Weight, scale: Array | None
) -> _core.PackedWeight:
    """The dense weight [K, C], read from its source and packed some outputs at a time: it is never held whole."""
    K, C = weight.shape
    assert weight.read_part is not None
    packed = store.reserve_linear(K, C, isa)
    step = max(1, PART_BYTES // (4 * C * ROWS_PER_PART)) * ROWS_PER_PART
    buffer = np.empty((min(step, K), C), np.float32)
    for first in range(0, K, step):
        rows = buffer[: min(step, K - first)]
        weight.read_part(first * C, rows)
        _core.pack_linear_rows(packed, first, rows, None if scale is None else scale[first : first + step], isa, taps)
    return packed


def by_inputs(store: _core.WeightStore, isa: _core.Isa, weight: Weight, scale: Array | None) -> _core.PackedWeight:
    """The same for a dense weight [C, K]: some inputs at a time."""
    C, K = weight.shape
    assert weight.read_part is not None
    packed = store.reserve_linear(K, C, isa)
    step = max(1, PART_BYTES // (4 * K))
    buffer = np.empty((min(step, C), K), np.float32)
    for first in range(0, C, step):
        rows = buffer[: min(step, C - first)]
        weight.read_part(first * K, rows)
        _core.pack_linear_inputs(packed, C, first, rows, scale, isa)
    return packed


def as_float32(weight: Weight) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The array in the only type that plans hold; UnsupportedOpError for whole numbers that do not fit exactly."""
    array = weight.numpy()
    held = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind in "iu" and array.size and float(np.abs(held).max()) > MAX_EXACT:
        raise UnsupportedOpError(f"a constant of {array.dtype} reaches {array.min()} to {array.max()}, beyond 2^24")
    return held
