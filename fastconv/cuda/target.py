"""What the compiler asks of the GPU; the CPU's answers are in fastconv/target.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import _core
from ..errors import DeviceError
from ..selection import Choice, Chosen, Selection, Shape
from ..target import Target as Base
from .arrays import Borrowed, DeviceArray, Spare, borrow
from .executor import DeviceExecutor
from .library import Device, device
from .plan import SIZES, DevicePlan, extent
from .weights import HALVES, PRECISIONS, DeviceMemory, DevicePacker, DeviceStore, width


@dataclass(frozen=True)
class DeviceSelection(Selection):
    """Depthwise, or the one product, or Winograd where the plugin's rule says so; images with few channels get them
    rounded up to 16 bytes on the way in.

    winograd_on: the GPU, where it may take Winograd: in fp32, unless sums must be direct, and not to train.
    """

    winograd_on: Device | None = None

    def candidates(self, shape: Shape, *, constant: bool = True) -> list[Choice]:
        """The only one: Winograd, or of those that sum directly the first, which is made for the shape."""
        if constant and self._winograd(shape):
            return [Choice("winograd", 4)]
        return super().candidates(shape, constant=constant)[:1]

    def _winograd(self, shape: Shape) -> bool:
        on, form = self.winograd_on, (shape.R, shape.S, shape.groups, shape.strides, shape.dilations)
        if on is None or form != (3, 3, 1, (1, 1), (1, 1)):
            return False
        return on.library.choose_winograd(shape.N, shape.P, shape.Q, shape.C, shape.K, on.info.multiprocessors)

    def choose(self, shape: Shape, *, constant: bool = True) -> Chosen:
        """The only candidate; its seconds are not known."""
        return Chosen(self.candidates(shape, constant=constant)[0], 0.0, "")


class Target(Base):
    """One GPU at one precision. Raises DeviceError for what does not exist."""

    splits_winograd = False
    takes_gates = False
    gathers_means = False
    groups_pixels = False
    packs_early = False  # each layer's weights leave the host before the next one's are packed
    pixels_of_rows = False
    repeats = False
    direct_gradients = False
    predicts = False

    def __init__(self, name: str, precision: str) -> None:
        match = re.fullmatch(r"cuda(?::(\d+))?", name)
        if match is None:
            raise DeviceError(f'device={name!r}: expected "cpu", "cuda" or "cuda:N"')
        if precision == "strict":
            precision = "fp32"
        if precision not in PRECISIONS:
            raise DeviceError(f"precision={precision!r}: the GPU computes in {', '.join(PRECISIONS)}")
        self.owner = device(int(match.group(1) or 0))
        self.precision = precision
        self.channel_unit = width(precision)
        self._executor: DeviceExecutor | None = None
        self._spare = Spare()

    def linear_panel(self, M: int, C: int, K: int, isa: _core.Isa) -> int:
        return 0  # weights have one layout, whatever the rows

    def executor(self, threads: int) -> DeviceExecutor:
        if self._executor is None:
            self._executor = DeviceExecutor(self.owner, self.precision)
        return self._executor

    def store(self) -> DeviceStore:
        return DeviceStore(self.owner, self.precision)

    def shares(self, other: Base) -> bool:
        return isinstance(other, Target) and (other.owner, other.precision) == (self.owner, self.precision)

    def packer(self, store: Any, isa: _core.Isa) -> DevicePacker:
        return DevicePacker(store)

    def plan(self, isa: _core.Isa, store: Any) -> DevicePlan:
        self.owner.use()
        return DevicePlan(self.owner, self.precision, self.executor(1).stream)

    def memory(self) -> DeviceMemory:
        if self.precision in HALVES:
            raise DeviceError(f'training on the GPU computes in "fp32" or "tf32", not in {self.precision!r}')
        return DeviceMemory(self.owner)

    def extent(self, desc: Any, isa: _core.Isa, op: _core.Op) -> tuple[Sequence[int], int]:
        return extent(self.owner, self.precision, desc, op)

    def extent_more(self, desc: Any, isa: _core.Isa, op: _core.Op) -> Sequence[int]:
        return _core.extent_more(desc, SIZES, op)

    def selection(self, asked: Selection, *, states: bool = False) -> Selection:
        exact = asked.strict or states or self.precision != "fp32"
        return DeviceSelection(asked.isa, strict=True, winograd_on=None if exact else self.owner)

    def level(self, isa: _core.Isa) -> str:
        return f"cuda {self.precision}"

    def peak(self, isa: _core.Isa, seconds: float) -> float:
        return float("nan")

    def borrow(self, value: Any, where: str) -> Any:
        return borrow(value, self.owner, self.executor(1).stream.value or 0, where)

    def empty(self, shape: tuple[int, ...], inputs: Any) -> Any:
        """An output: on the device where any input is."""
        if any(isinstance(x, (Borrowed, DeviceArray)) for x in inputs):
            return DeviceArray(self.owner, shape, self._spare)
        return super().empty(shape, inputs)
