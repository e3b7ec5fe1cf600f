"""Plans for the GPU: what _core.Plan is for the CPU, with the same methods, on the plugin's side of ctypes."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import _core
from ..errors import UnsupportedOpError
from .library import ARENA, EXTERNAL, NONE, STATE, WEIGHT, Device, Reference
from .weights import HALVES, PRECISIONS, DeviceState, DeviceWeight, width

# Operands that kernels read as float32 whatever the precision.
FLOAT32 = {"conv2d": (2,), "linear": (2,), "depthwise_conv2d": (1, 2), "affine": (1, 2), "resample": (1, 2),
           "affine_sample": (1,)}  # fmt: skip
# Operations of training that neither end in _backward nor in its parts: float32 alone, as those.
TRAINING = {"softmax_cross_entropy", "pack_weights", "dropout", "sgd", "adam", "rmsprop", "moving_average",
            "squared_norm", "batch_norm_stats", "batch_norm_finish", "batch_norm_apply"}  # fmt: skip
IN_PARTS = (_core.BatchNorm, _core.NormalizeBackward, _core.SquaredNorm)  # by the CPU's rule, from the shape alone
EXACT = {"fp16": 2048, "bf16": 256}  # whole numbers up to here are exact
MOST_SEEN = 6  # below the graphs that a plan keeps (csrc/cuda/plugin.cu)
SIZES = _core.Isa.scalar  # the level whose checks are asked; packed sizes are ours


def extent(owner: Device, precision: str, desc: Any, op: _core.Op) -> tuple[list[int], int]:
    """As _core.extent, for the GPU's layouts of packed weights and of the sums of weight gradients."""
    joins = op == _core.Op.conv2d_backward_weight_sum  # there may be nothing to join on the CPU: ask about the sums
    reads, writes = _core.extent(desc, SIZES, _sums_of(desc) if joins else op)
    own = c_int64()
    data = bytes(desc)
    number = PRECISIONS.index(precision)
    owner.call("own_size", int(op), data, len(data), number, owner.info.multiprocessors, byref(own))
    if joins:
        lengths = ((desc.K, desc.dw_k), (desc.C // desc.groups, desc.dw_c), (desc.R * desc.S, desc.dw_tap))
        return [own.value, 0, 0, 0], 1 + sum((n - 1) * stride for n, stride in lengths)
    return list(reads), writes if own.value < 0 else own.value


def _sums_of(desc: Any) -> _core.Op:
    """The operation whose sums conv2d_backward_weight_sum joins."""
    depthwise = desc.groups > 1 and desc.groups == desc.C
    return _core.Op.depthwise_backward_weight if depthwise else _core.Op.conv2d_backward_weight


@dataclass(frozen=True)
class Tensor:
    space: int
    at: int  # element of the arena or of the external
    index: int  # of the external
    weight: DeviceWeight | DeviceState | None
    size: int


class DevicePlan:
    """Operations on the arena, weights and externals of one model at one precision, for one stream."""

    def __init__(self, owner: Device, precision: str, stream: c_void_p) -> None:
        self.owner, self.precision = owner, precision
        self._tensors: list[Tensor] = []
        self.arena_elements = 0
        self.external_sizes: list[int] = []
        self.written: set[int] = set()  # externals
        self.operations = 0
        self.handle = c_void_p()
        info, number = owner.info, PRECISIONS.index(precision)
        owner.call("plan", number, info.multiprocessors, 10 * info.major + info.minor, stream, byref(self.handle))
        self.buffers: Any = None  # the executor's, for this plan's externals
        self._seen: list[object] = []

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.owner.destroy("plan", self.handle)

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

    def state(self, state: DeviceState, first: int, size: int) -> int:
        """What training changes, from element `first` on; in fp32 and tf32."""
        return self._add(Tensor(STATE, first, 0, state, size))

    def weight(self, weight: DeviceWeight) -> int:
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

    def recur(self, addresses: object) -> bool:
        """Whether these addresses of externals are among the last few sets that were asked about."""
        known = addresses in self._seen
        if known:
            self._seen.remove(addresses)
        self._seen = [*self._seen[1 - MOST_SEEN :], addresses]
        return known

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
        if not self.owner.library.present(int(op)):
            raise UnsupportedOpError(f"{name}: the GPU has no kernel for it")
        if self.precision in HALVES and ("_backward" in name or name in TRAINING):
            raise UnsupportedOpError(f"{name}: training on the GPU computes in fp32 or tf32, not in {self.precision}")
        if isinstance(desc, IN_PARTS):
            _core.prepare(desc, SIZES, op)
        reads, writes = extent(self.owner, self.precision, desc, op)
        needs = self._packed_sizes(name, desc, list(reads))
        self._check_numbers(name, desc)
        operands = (Reference * 7)()
        for i in range(4):
            if i < len(inputs) and inputs[i] >= 0:
                t = self._tensors[inputs[i]]
                if t.size < needs[i]:
                    raise ValueError(f"{name}: input {i} has {t.size} elements, the operation reads {needs[i]}")
                operands[i] = self._reference(name, i, t)
            else:
                operands[i] = Reference(NONE, 0, 0)
        more_needs = (0, 0) if isinstance(desc, _core.Conv2dBackwardWeight) else _core.extent_more(desc, SIZES, op)
        written = [writes, *more_needs]
        for i, need in enumerate(written):
            number = out if i == 0 else more[i - 1] if i <= len(more) else -1
            operands[4 + i] = self._output(name, i, number, need)
        data = bytes(desc)
        self.owner.call("add", self.handle, int(op), data, len(data), operands)
        self.operations += 1

    def _output(self, name: str, slot: int, number: int, needs: int) -> Reference:
        if number < 0:
            if needs > 0:
                raise ValueError(f"{name}: output {slot} is missing")
            return Reference(NONE, 0, 0)
        t = self._tensors[number]
        if t.space == WEIGHT or t.size < needs:
            raise ValueError(f"{name}: output {slot} has {t.size} elements, the operation writes {needs}")
        if t.space == EXTERNAL:
            self.written.add(t.index)
        return self._place(t, self.precision)

    def _place(self, t: Tensor, precision: str) -> Reference:
        if t.weight is None:
            return Reference(t.space, t.index, t.at)
        return Reference(WEIGHT, 0, t.weight.address(precision) + 4 * t.at)  # states; constants start at 0

    def _reference(self, name: str, slot: int, t: Tensor) -> Reference:
        float32 = slot in FLOAT32.get(name, ())
        if t.weight is None and float32 and self.precision in HALVES:
            raise UnsupportedOpError(
                f"{name}: input {slot}, computed at run time, must be float32; use precision fp32 or tf32"
            )
        return self._place(t, "fp32" if float32 else self.precision)

    def _packed_sizes(self, name: str, d: Any, needs: list[int]) -> list[int]:
        w = width(self.precision)
        if name == "conv2d":
            needs[1] = d.K * -(-(d.C // d.groups * d.R * d.S) // w) * w
        elif name == "linear":
            needs[1] = d.K * -(-d.C // w) * w
        elif name in ("depthwise_conv2d", "depthwise_backward_input"):
            needs[1] = d.K * d.R * d.S
        elif name == "conv2d_backward_input":
            needs[1] = d.C * -(-(d.K // d.groups * d.R * d.S) // w) * w
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
