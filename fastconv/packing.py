"""Weights on their way into a plan: as float32, in the order of the kernels, large ones part by part.

A part is read into memory that the thread's next one overwrites: it stays in the cache between reading and packing
(but for a panel that is larger), no weight is ever held whole, and no fresh pages are touched, which cost more than
reading does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from . import _core
from .errors import ModelError, UnsupportedOpError
from .graph import MAX_EXACT, Array, Weight

PART_BYTES = 1 << 20  # of a weight that is read at a time, where a panel is not more
ROWS_PER_PART = 128  # of a dense weight: whole vectors of every level

PARTS_PER_THREAD = 8  # for each thread beside the caller's: starting one takes as long as a part

Fill = Callable[[int, Array], None]  # the first row, rows


class Packer:
    """Packs the weights of one compilation for a level; `scale` holds a factor per output, or is None.

    Weights that come in parts are only reserved, for the node that `label` names then: `finish` fills them.
    """

    def __init__(self, store: _core.WeightStore, isa: _core.Isa) -> None:
        self.store = store
        self.isa = isa
        self.label = ""
        self._parts: deque[tuple[str, Weight, int, int, Fill]] = deque()  # label, weight, first row, rows

    def finish(self, threads: int) -> None:
        """Read and pack what is left, on `threads` threads. Raises ModelError where memory is short."""
        errors: list[BaseException] = []
        helpers: list[threading.Thread] = []
        try:
            for _ in range(min(threads - 1, len(self._parts) // PARTS_PER_THREAD)):
                helper = threading.Thread(target=self._fill_parts, args=(errors,), name="fastconv-pack", daemon=True)
                try:
                    helper.start()
                except RuntimeError:  # no more threads here: those that are there do it
                    break
                helpers.append(helper)
            self._fill_parts(errors)
        finally:
            self._parts.clear()  # where Ctrl-C came in between, the others end too
            for helper in helpers:
                helper.join()
        if errors:
            raise errors.pop(0)  # no reference cycle keeps the weights of a load that failed

    def _fill_parts(self, errors: list[BaseException]) -> None:
        """Parts, one after the other, until none is left or a thread has failed."""
        memory = np.empty(0, np.float32)
        while not errors:
            try:
                label, w, first, count, fill = self._parts.popleft()
            except IndexError:
                return
            try:
                row = w.size // w.shape[0]
                if memory.size < count * row:
                    memory = np.empty(count * row, np.float32)
                rows = memory[: count * row].reshape(count, *w.shape[1:])
                assert w.read_part is not None
                w.read_part(first * row, rows)
                fill(first, rows)
            except MemoryError:
                errors.append(ModelError(f"{label}: no memory for its weights"))
            except BaseException as error:  # finish() raises it
                errors.append(error)

    def conv2d(self, w: Weight, scale: Array | None, groups: int) -> _core.PackedWeight:
        """w: [K, C / groups, R, S]."""
        if groups > 1 or not _in_parts(w):
            return self.store.pack_conv2d(as_float32(w), scale, groups, self.isa)
        K, C, R, S = w.shape
        packed = self.store.reserve_conv2d(K, C, R, S, self.isa)

        def fill(first: int, rows: Array) -> None:
            _core.pack_conv2d_rows(packed, K, first, rows, _factors(scale, first, rows), self.isa)

        self._by_outputs(w, _core.panels(K, self.isa), fill)
        return packed

    def winograd(self, w: Weight, scale: Array | None, m: int) -> _core.PackedWeight:
        """w: [K, C, R, S], for F(m x m, R x S), or for F(m) of one axis."""
        if not _in_parts(w):
            return self.store.pack_winograd(as_float32(w), scale, m, self.isa)
        K, C, R, S = w.shape
        packed = self.store.reserve_winograd(K, C, m, max(R, S), self.isa, _core.winograd_axes(R, S))

        def fill(first: int, rows: Array) -> None:
            _core.pack_winograd_rows(packed, K, first, rows, _factors(scale, first, rows), m, self.isa)

        self._by_outputs(w, _core.panels(K, self.isa), fill)
        return packed

    def depthwise(self, w: Weight, scale: Array | None) -> _core.PackedWeight:
        """w: [K, 1, R, S]."""
        return self.store.pack_depthwise_conv2d(as_float32(w), scale, self.isa)

    def linear(self, w: Weight, scale: Array | None, trans_b: bool, panel: int, taps: int) -> _core.PackedWeight:
        """w: [K, C] where trans_b, else [C, K]; panel and taps: see linear_panel and pack_linear_rows in
        csrc/cpu/select.h."""
        if not _in_parts(w) or (not trans_b and taps > 1):
            return self.store.pack_linear(as_float32(w), scale, trans_b, panel, self.isa, taps)
        K, C = w.shape if trans_b else w.shape[::-1]
        packed = self.store.reserve_linear(K, C, self.isa)
        if trans_b:

            def fill(first: int, rows: Array) -> None:
                factors = _factors(scale, first, rows)
                if panel:
                    _core.pack_linear_rows(packed, K, panel, first, rows, factors, self.isa, taps)
                else:
                    filters = rows.reshape(len(rows), C // taps, taps, 1)
                    _core.pack_conv2d_rows(packed, K, first, filters, factors, self.isa)

            self._by_outputs(w, range(0, K, ROWS_PER_PART) if panel else _core.panels(K, self.isa), fill)
            return packed

        def fill_inputs(first: int, rows: Array) -> None:
            _core.pack_linear_inputs(packed, C, panel, first, rows, scale, self.isa)

        step = max(1, PART_BYTES // (4 * K))
        self._parts.extend((self.label, w, first, min(step, C - first), fill_inputs) for first in range(0, C, step))
        return packed

    def _by_outputs(self, w: Weight, starts: Sequence[int], fill: Fill) -> None:
        """Parts that begin at some of `starts`, each the first output of a panel or of a part of one."""
        K = w.shape[0]
        most = PART_BYTES * K // (4 * w.size)
        ends = [*starts[1:], K]
        first = 0
        for i, end in enumerate(ends):
            if end == K or ends[i + 1] - first > most:
                self._parts.append((self.label, w, first, end - first, fill))
                first = end


def _factors(scale: Array | None, first: int, rows: Array) -> Array | None:
    return None if scale is None else scale[first : first + len(rows)]


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
