"""Variable: a weight of a layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core
from fastconv.errors import ShapeError
from fastconv.graph import Array, Weight
from fastconv.layers.initializers import Initializer, next_seed, part_of, zeros

_serials = itertools.count(1)
_changes = itertools.count(1)
_last_change = 0


def last_change() -> int:
    """A number that grows whenever any Variable gets new values."""
    return _last_change


def mark() -> int:
    """A serial number: Variables made later have larger ones."""
    return next(_serials)


def touch(variables: Iterable[Variable]) -> None:
    """Say that these have new values."""
    global _last_change
    for v in variables:
        v.version += 1
    _last_change = next(_changes)


class Variable:
    """A named float32 array of a layer. Random initial values are drawn when somebody first needs them.

    `graph_shape` and `array` have the Graph's layout: [K, C/group, R, S] for convolutions, [C, K] for dense layers.
    `shape`, `numpy` and `assign` speak Keras': [R, S, C, K], depthwise [R, S, C, multiplier], dense [C, K].
    """

    __slots__ = (
        "_array", "_live", "_read", "_seed", "graph_shape", "initializer", "layout", "name", "path", "serial",
        "statistic", "version",
    )  # fmt: skip

    def __init__(
        self, name: str, shape: Sequence[int], initializer: Initializer, layout: str = "plain", statistic: bool = False
    ) -> None:
        self.name = self.path = name
        self.graph_shape: tuple[int, ...] = tuple(int(d) for d in shape)
        self.initializer = initializer
        self.layout = layout  # "plain", "conv", or "depthwise N" with N output channels per input channel
        self.statistic = statistic  # moved by training, learnt by no gradient
        self.serial = next(_serials)
        self.version = 0
        self._seed = next_seed()
        self._array: Array | None = None
        self._live: Any = None  # the memory that plans write (Target.memory)
        self._read = 0  # the version of which `_array` holds the values

    @property
    def size(self) -> int:
        return int(np.prod(self.graph_shape, dtype=np.int64))

    @property
    def array(self) -> Array:
        """The values in the Graph's layout, read-only; kept from now on."""
        if self._array is None or (self._live is not None and self._read != self.version):
            self._array = self._initial() if self._live is None else self._now()
        return self._array

    def _now(self) -> Array:
        """What the live memory holds: a view on the CPU, a copy from a GPU."""
        array: Array = self._live.numpy().reshape(self.graph_shape)
        array.flags.writeable = False
        self._read = self.version
        return array

    def _initial(self) -> Array:
        array = self.initializer(self.graph_shape, self._seed, self.layout)
        array.flags.writeable = False
        return array

    def set(self, array: npt.ArrayLike) -> None:
        """Replace the values, given in the Graph's layout. The array is not copied where it is float32."""
        a = np.asarray(array, np.float32).view()
        if a.shape != self.graph_shape:
            raise ShapeError(f"weight {self.path!r}: expected shape {self.graph_shape}, got {a.shape}")
        if isinstance(self._live, _core.PackedWeight):
            self._live.numpy()[:] = a.reshape(-1)
        elif self._live is not None:
            self._live.write(a)
        else:
            a.flags.writeable = False
            self._array = a
        touch((self,))

    def live(self, memory: Any) -> Any:
        """Memory that training plans change in place, holding the values; from now on they are kept there.

        Made by `memory`, a target's, at the first call, the same at all later ones for the same device. Who changes it
        calls `touch`.
        """
        if self._live is None or not memory.holds(self._live):
            self._live = memory.put(np.ascontiguousarray(self.array))
            self._array = self._now()
        return self._live

    def lives_in(self, memory: Any) -> bool:
        """Whether `memory`, which `live` returned once, is where the values are now."""
        return self._live is memory

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout == "conv":
            k, c, r, s = self.graph_shape
            return r, s, c, k
        if self.layout.startswith("depthwise"):
            multiplier = int(self.layout.split()[1])
            k, _, r, s = self.graph_shape
            return r, s, k // multiplier, multiplier
        return self.graph_shape

    def numpy(self) -> Array:
        """The values in Keras' layout, read-only."""
        if self.layout == "conv":
            turned: Array = self.array.transpose(2, 3, 1, 0)
            return turned
        if self.layout.startswith("depthwise"):
            r, s, c, m = self.shape
            turned = self.array.reshape(c, m, r, s).transpose(2, 3, 0, 1)
            return turned
        return self.array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.numpy(), dtype) if copy else np.asarray(self.numpy(), dtype)

    def assign(self, values: npt.ArrayLike) -> None:
        """Replace the values, given in Keras' layout; they are copied. Raises ShapeError (a ValueError)."""
        a = np.array(values, np.float32)
        if a.shape != self.shape:
            raise ShapeError(f"weight {self.path!r}: expected shape {self.shape}, got {a.shape}")
        if self.layout == "conv":
            a = np.ascontiguousarray(a.transpose(3, 2, 0, 1))
        elif self.layout.startswith("depthwise"):
            a = np.ascontiguousarray(a.transpose(2, 3, 0, 1)).reshape(self.graph_shape)
        self.set(a)

    def weight(self) -> Weight:
        """The Graph's view of it: random values that nobody asked for are drawn for packing and forgotten again."""
        key = ("variable", self.serial, self.version)
        if self._array is not None:
            array = self.array
            return Weight(self.graph_shape, np.float32, lambda: array, key)
        part = part_of(self.initializer, self.graph_shape, self._seed, self.layout)
        return Weight(self.graph_shape, np.float32, self._initial, key, read_part=part)

    def __getstate__(self) -> dict[str, Any]:
        if self._live is not None:
            self._array = self.array  # what a GPU has made of it since
        state = {name: getattr(self, name) for name in self.__slots__}
        state["_live"] = None
        if not getattr(self.initializer, "pickles", True):  # it reads from an open file
            state |= {"_array": self.array, "initializer": zeros}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "serial": next(_serials), "version": 0, "_read": 0}.items():
            setattr(self, name, value)
        if self._array is not None:
            self._array.flags.writeable = False

    def __repr__(self) -> str:
        return f"<Variable {self.path} {list(self.shape)}>"
