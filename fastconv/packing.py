"""Weights on their way into a plan: as float32, in the order of the kernels, large ones part by part.

A part is read into memory that the next one overwrites: it stays in the cache between reading and packing, no weight is
ever held whole, and no fresh pages are touched, which cost more than reading does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from . import _core
from .errors import UnsupportedOpError
from .graph import MAX_EXACT, Array, Weight

PART_BYTES = 1 << 20  # of a weight that is read at a time, where a panel is not more
ROWS_PER_PART = 128  # of a dense weight: a multiple of every level's panel

Fill = Callable[[int, Array, "Array | None"], None]  # the first row, rows, their factors


class Packer:
    """Packs the weights of one compilation for a level; `scale` holds a factor per output, or is None."""

    def __init__(self, store: _core.WeightStore, isa: _core.Isa) -> None:
        self.store = store
        self.isa = isa
        self._memory = np.empty(0, np.float32)

    def conv2d(self, w: Weight, scale: Array | None, groups: int) -> _core.PackedWeight:
        """w: [K, C / groups, R, S]."""
        if groups > 1 or not _in_parts(w):
            return self.store.pack_conv2d(as_float32(w), scale, groups, self.isa)
        K, C, R, S = w.shape
        packed = self.store.reserve_conv2d(K, C, R, S, self.isa)

        def fill(first: int, rows: Array, factors: Array | None) -> None:
            _core.pack_conv2d_rows(packed, K, first, rows, factors, self.isa)

        self._by_outputs(w, scale, _core.panels(K, self.isa), fill)
        return packed

    def winograd(self, w: Weight, scale: Array | None, m: int) -> _core.PackedWeight:
        """w: [K, C, R, S], for F(m x m, R x S), or for F(m) of one axis."""
        if not _in_parts(w):
            return self.store.pack_winograd(as_float32(w), scale, m, self.isa)
        K, C, R, S = w.shape
        packed = self.store.reserve_winograd(K, C, m, max(R, S), self.isa, _core.winograd_axes(R, S))

        def fill(first: int, rows: Array, factors: Array | None) -> None:
            _core.pack_winograd_rows(packed, K, first, rows, factors, m, self.isa)

        self._by_outputs(w, scale, _core.panels(K, self.isa), fill)
        return packed

    def depthwise(self, w: Weight, scale: Array | None) -> _core.PackedWeight:
        """w: [K, 1, R, S]."""
        return self.store.pack_depthwise_conv2d(as_float32(w), scale, self.isa)

    def linear(self, w: Weight, scale: Array | None, trans_b: bool, taps: int) -> _core.PackedWeight:
        """w: [K, C] where trans_b, else [C, K]; taps: see pack_linear in csrc/cpu/select.h."""
        if not _in_parts(w) or (not trans_b and taps > 1):
            return self.store.pack_linear(as_float32(w), scale, trans_b, self.isa, taps)
        K, C = w.shape if trans_b else w.shape[::-1]
        packed = self.store.reserve_linear(K, C, self.isa)
        if trans_b:

            def fill(first: int, rows: Array, factors: Array | None) -> None:
                _core.pack_linear_rows(packed, first, rows, factors, self.isa, taps)

            self._by_outputs(w, scale, range(0, K, ROWS_PER_PART), fill)
            return packed
        step = max(1, PART_BYTES // (4 * K))
        for first in range(0, C, step):
            rows = self._read(w, first, min(step, C - first))
            _core.pack_linear_inputs(packed, C, first, rows, scale, self.isa)
        return packed

    def _by_outputs(self, w: Weight, scale: Array | None, starts: Sequence[int], fill: Fill) -> None:
        """`fill` for runs of whole panels, which begin at `starts`."""
        K = w.shape[0]
        most = PART_BYTES * K // (4 * w.size)
        ends = [*starts[1:], K]
        first = 0
        for i, end in enumerate(ends):
            if end == K or ends[i + 1] - first > most:
                fill(first, self._read(w, first, end - first), None if scale is None else scale[first:end])
                first = end

    def _read(self, w: Weight, first: int, count: int) -> npt.NDArray[np.float32]:
        """`count` rows of w; the next call overwrites them."""
        row = w.size // w.shape[0]
        if self._memory.size < count * row:
            self._memory = np.empty(count * row, np.float32)
        rows = self._memory[: count * row].reshape(count, *w.shape[1:])
        assert w.read_part is not None
        w.read_part(first * row, rows)
        return rows


def _in_parts(weight: Weight) -> bool:
    """Whether a weight lies elsewhere and is to be packed part by part."""
    return weight.read_part is not None and not weight.in_memory and weight.size > 0


def as_float32(weight: Weight) -> npt.NDArray[np.float32]:
    """The array in the only type that plans hold; UnsupportedOpError for whole numbers that do not fit exactly."""
    array = weight.numpy()
    held = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind in "iu" and array.size and float(np.abs(held).max()) > MAX_EXACT:
        raise UnsupportedOpError(f"a constant of {array.dtype} reaches {array.min()} to {array.max()}, beyond 2^24")
    return held
