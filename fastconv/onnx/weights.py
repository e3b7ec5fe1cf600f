"""Constants of one model: initializers, constant nodes and what is computed from them, all lazy.

A constant keeps its identity for the model's life: every `build` gets the same Weight with the same key, so that packed
copies are shared between input shapes. Results of at most SMALL elements are computed at once and are known by content;
larger ones are computed from their parents when somebody asks for the array.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.graph import Array, Weight
from fastconv.onnx.external import ExternalFiles

if TYPE_CHECKING:
    from fastconv._core import ModelFile, OnnxTensor

SMALL: Final = 1024  # elements
# The file does not bound what is computed from it. Bytes of one computed constant, and bytes that computing all
# constants of one `build` may move; or the multiple of the stored bytes (model and external files) if that is more.
MAX_FOLDED: Final = 512 << 20  # vgg19 whose weights are ConstantOfShape has 411 MB in one
MAX_FOLDED_PER_STORED: Final = 2  # float16 to float32
MAX_WORK: Final = 2 << 30
MAX_WORK_PER_STORED: Final = 16
STEP_WORK: Final = 16 << 10  # what a computation costs however small it is
FLOAT16: Final = 10
FLOAT: Final = 1
BFLOAT16: Final = 16  # read as float32
DTYPES: Final[dict[int, str]] = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", BFLOAT16: "float32",
}  # fmt: skip
_RAW_BYTES: Final[dict[int, int]] = {BFLOAT16: 2}
_serials = itertools.count(1)


class Constants:
    """Makes and remembers the Weights of one model (packed copies of them lie in a _core.WeightStore)."""

    def __init__(self, file: ModelFile, folder: str | None) -> None:
        self._file = file
        self._external = ExternalFiles(folder)
        self._model = next(_serials)
        self._known: dict[Hashable, Weight] = {}
        self._work: dict[object, int] = {}  # of the computed ones

    @property
    def stored(self) -> int:
        """Bytes of the model file and of the external files opened so far."""
        return int(self._file.size) + self._external.size

    def tensor(self, tensor: OnnxTensor, key: tuple[str, str]) -> Weight:
        """The Weight of a TensorProto; `key` (kind, name) is unique in the model."""
        if key in self._known:
            return self._known[key]
        name = DTYPES.get(tensor.data_type)
        if name is None:
            raise UnsupportedOpError(
                f"tensor {tensor.name or key[1]!r} has data type {tensor.data_type}, which is not read"
            )
        dtype = np.dtype(name)
        dims: tuple[int, ...] = tensor.dims
        file = self._file
        if tensor.external:
            count = 1
            for d in dims:
                count *= max(d, 0)
            data, offset = self._external.locate(tensor, count * _RAW_BYTES.get(tensor.data_type, dtype.itemsize))
            weight = Weight(
                dims, dtype, lambda: data.read_raw(offset, tensor.data_type, dims), key=("onnx", self._model, *key)
            )
            if tensor.data_type == FLOAT:
                weight.read_part = lambda first, out: data.read_raw_part(offset + 4 * first, out)
        else:
            weight = Weight(dims, dtype, lambda: file.read(tensor), key=("onnx", self._model, *key))
            if tensor.data_type == FLOAT:
                weight.read_part = lambda first, out: file.read_part(tensor, first, out)
        return self._known.setdefault(key, weight)

    @staticmethod
    def small(array: Array) -> Weight:
        """A Weight known by its content."""
        weight = Weight(
            array.shape, array.dtype, lambda: array, key=("small", array.dtype.str, array.shape, array.tobytes())
        )
        weight._array = array
        return weight

    def fold(
        self,
        tag: Hashable,
        parents: Sequence[Weight],
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        fn: Callable[..., Any],
        where: str,
        work: int = 0,
    ) -> Weight:
        """fn(*arrays of the parents) as a Weight of the given shape and dtype. `tag` must determine `fn`.

        `work` is what the computation costs where that is more than its arrays have bytes.
        """
        shape = tuple(shape)
        dtype = np.dtype(dtype)
        size = 1
        for d in shape:
            size *= d

        def compute(*arrays: Array) -> Array:
            try:
                with np.errstate(all="ignore"):
                    out = np.asarray(fn(*arrays))
            except (ArithmeticError, ValueError, TypeError, IndexError, MemoryError) as e:
                raise ModelError(f"{where}: its constant cannot be computed: {e}") from None
            if out.shape != shape:
                raise ModelError(f"{where}: its constant has shape {out.shape}, expected {shape}")
            return np.ascontiguousarray(out, dtype).reshape(shape)

        if size <= SMALL and all(p.size <= SMALL for p in parents):
            return self.small(compute(*(p.numpy() for p in parents)))
        limit = max(MAX_FOLDED, MAX_FOLDED_PER_STORED * self.stored)
        if size * dtype.itemsize > limit:
            raise ModelError(f"{where}: a computed constant of {dtype} {shape} is larger than {limit:,} bytes")
        known = (tag, shape, dtype.str, *(p.key for p in parents))
        if known in self._known:
            return self._known[known]
        # A flat key: nested ones would make hashing recurse.
        weight = Weight(shape, dtype, compute, ("onnx", self._model, "folded", next(_serials)), parents)
        self._work[weight.key] = max(work, weight.nbytes + sum(p.nbytes for p in parents)) + STEP_WORK
        return self._known.setdefault(known, weight)

    @property
    def most_work(self) -> int:
        """What computing the constants of one `build` may cost."""
        return max(MAX_WORK, MAX_WORK_PER_STORED * self.stored)

    def work(self, weight: Weight, limit: int) -> int:
        """What `weight.numpy()` costs, each ancestor counted once; the count stops above `limit`."""
        total = 0
        seen = {weight.key}
        stack = [weight]
        while stack and total <= limit:
            w = stack.pop()
            if w.in_memory:
                continue
            total += self._work.get(w.key, w.nbytes)
            for p in w.parents:
                if p.key not in seen:
                    seen.add(p.key)
                    stack.append(p)
        return total
