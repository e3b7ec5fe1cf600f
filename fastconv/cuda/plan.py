"""Plans for the GPU: what _core.Plan is for the CPU, with the same methods, on the plugin's side of ctypes."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_void_p
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import _core
from ..errors import DeviceError, UnsupportedOpError
from .library import ARENA, EXTERNAL, NONE, WEIGHT, Device, Reference
from .weights import HALVES, PRECISIONS, DeviceWeight, width

# Operands that kernels read as float32 whatever the precision.
FLOAT32 = {"conv2d": (2,), "linear": (2,), "depthwise_conv2d": (1, 2), "affine": (1, 2), "resample": (1, 2)}
EXACT = {"fp16": 2048, "bf16": 256}  # whole numbers up to here are exact
SIZES = _core.Isa.scalar  # the level whose checks are asked; packed sizes are ours


@dataclass(frozen=True)
class Tensor:
    space: int
    at: int  # element of the arena or of the external
    index: int  # of the external
    weight: DeviceWeight | None
    size: int


class DevicePlan:
    """Operations on the arena, weights and externals of one model at one precision, for one stream."""

    def __init__(self, owner: Device, precision: str, stream: c_void_p) -> None:
        self.owner, self.precision = owner, precision
        self._tensors: list[Tensor] = []
        self._weights: list[DeviceWeight] = []  # kept alive
        self.arena_elements = 0
        self.external_sizes: list[int] = []
        self.written: set[int] = set()  # externals
        self.operations = 0
        self.handle = c_void_p()
        owner.call("plan", PRECISIONS.index(precision), owner.info.multiprocessors, stream, byref(self.handle))
        self.buffers: Any = None  # the executor's, for this plan's externals

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.owner.library._handle.fastconv_cuda_plan_destroy(self.handle)

    # -- tensors ------------------------------------------------------------------------------------------------
    def _add(self, t: Tensor) -> int:
        self._tensors.append(t)
        return len(self._tensors) - 1

    def arena(self, offset: int, size: int) -> int:
        """A tensor at a byte offset of an arena of float32; the GPU's holds as many elements of the storage type."""
        if offset < 0 or size < 0 or offset % 4:
            raise ValueError("arena tensor: bad offset or size")
        self.arena_elements = max(self.arena_elements, offset // 4 + size)
        return self._add(Tensor(ARENA, offset // 4, 0, None, size))

    def state(self, state: Any, first: int, size: int) -> int:
        """What training changes: not on a GPU. Raises DeviceError."""
        raise DeviceError('training runs on device="cpu"')

    def weight(self, weight: DeviceWeight) -> int:
        self._weights.append(weight)
        return self._add(Tensor(WEIGHT, 0, 0, weight, weight.size))

    def external(self, index: int, first: int, size: int) -> int:
        if index < 0 or first < 0 or size < 0:
            raise ValueError("external tensor: bad index or size")
        self.external_sizes.extend([0] * (index + 1 - len(self.external_sizes)))
        self.external_sizes[index] = max(self.external_sizes[index], first + size)
        return self._add(Tensor(EXTERNAL, first, index, None, size))

    @property
    def arena_bytes(self) -> int:
        return 4 * self.arena_elements

    # -- operations ---------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _core.Op.__members__:
            raise AttributeError(name)
        return partial(self._operation, name)

    def __len__(self) -> int:
        return self.operations

    def _operation(self, name: str, desc: Any, inputs: Sequence[int], out: int, more: Sequence[int] = ()) -> None:
        """Append one kernel call.

        Raises UnsupportedOpError where the GPU has none, ValueError for operands that are too small.
        """
        op = _core.Op.__members__[name]
        if more or not self.owner.library.present(int(op)):  # only training has further outputs
            raise UnsupportedOpError(f"{name}: the GPU has no kernel for it")
        reads, writes = _core.extent(desc, SIZES, op)
        needs = self._packed_sizes(name, desc, list(reads))
        self._check_numbers(name, desc)
        operands = (Reference * 5)()
        for i in range(4):
            if i < len(inputs) and inputs[i] >= 0:
                t = self._tensors[inputs[i]]
                if t.size < needs[i]:
                    raise ValueError(f"{name}: input {i} has {t.size} elements, the operation reads {needs[i]}")
                operands[i] = self._reference(name, i, t)
            else:
                operands[i] = Reference(NONE, 0, 0)
        t = self._tensors[out]
        if t.space == WEIGHT or t.size < writes:
            raise ValueError(f"{name}: the output has {t.size} elements, the operation writes {writes}")
        operands[4] = Reference(t.space, t.index, t.at)
        if t.space == EXTERNAL:
            self.written.add(t.index)
        data = bytes(desc)
        self.owner.call("add", self.handle, int(op), data, len(data), operands)
        self.operations += 1

    def _reference(self, name: str, slot: int, t: Tensor) -> Reference:
        float32 = slot in FLOAT32.get(name, ())
        if t.weight is not None:
            return Reference(WEIGHT, 0, t.weight.address("fp32" if float32 else self.precision))
        if float32 and self.precision in HALVES:
            raise UnsupportedOpError(
                f"{name}: input {slot}, computed at run time, must be float32; use precision fp32 or tf32"
            )
        return Reference(t.space, t.index, t.at)

    def _packed_sizes(self, name: str, d: Any, needs: list[int]) -> list[int]:
        w = width(self.precision)
        if name == "conv2d":
            needs[1] = d.K * -(-(d.C // d.groups * d.R * d.S) // w) * w
        elif name == "linear":
            needs[1] = d.K * -(-d.C // w) * w
        elif name == "depthwise_conv2d":
            needs[1] = d.K * d.R * d.S
        return needs

    def _check_numbers(self, name: str, d: Any) -> None:
        """Operations whose elements are places in a tensor need whole numbers that the storage type holds exactly."""
        if self.precision not in EXACT:
            return
        largest = 0
        if name == "max_pool2d_index":
            largest = d.N * d.C * d.H * d.W
        elif name in ("topk", "take") or (name == "reduce" and int(d.func) >= int(_core.ReduceFunc.arg_max)):
            largest = d.n
        elif name == "suppress":
            largest = max(d.boxes, d.classes, d.images)
        if largest - 1 > EXACT[self.precision]:
            raise UnsupportedOpError(
                f"{name}: indices up to {largest - 1} are not exact in {self.precision}; use precision fp32 or tf32"
            )
