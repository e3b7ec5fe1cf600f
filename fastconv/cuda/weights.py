"""Weights for the GPU: packed by numpy into the order in which the kernels read them, stored once in the precision.

convolutions and dense layers    [K][R][S][C / group], the depth rounded up to 16 bytes, in the storage type
Winograd's filters               [36][K][C], float32
depthwise filters                [R S][K], float32
biases, scales, resize tables    float32
other constants                  the storage type
"""

from __future__ import annotations

import threading
from ctypes import c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..errors import UnsupportedOpError
from ..graph import Array, Weight
from ..packing import as_float32
from .library import Device, Memory

F32 = npt.NDArray[np.float32]
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")  # in the order of csrc/cuda/kernels.h
ANY = _core.Isa.scalar  # where a level of the CPU is asked for that has no meaning
HALVES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(np.uint16)}


def _winograd_filters(points: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """G of F(m, 3) [m + 2, 3]: a point's powers over the product of its distances to the others; then infinity."""
    rows = [np.array([1.0, p, p * p]) / np.prod([p - q for q in points if q != p]) for p in points]
    return np.stack([*rows, np.array([0.0, 0.0, 1.0])])


WINOGRAD = _winograd_filters((0.0, 0.625, -0.625, 1.5, -1.5))  # csrc/cpu/winograd.h


def item_size(precision: str) -> int:
    """Bytes of a stored element."""
    return 2 if precision in HALVES else 4


def width(precision: str) -> int:
    """Elements in the 16 bytes that kernels move at a time."""
    return 16 // item_size(precision)


def to_bfloat16(x: F32) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.asarray(np.where(np.isnan(x), np.uint32(0x7FFF), rounded), np.uint16)


def to_tf32(x: F32) -> F32:
    """Float32 numbers with ten bits behind the point, rounded to nearest, ties away from zero as cvt.rna does."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits).view(np.float32)


def stored(x: F32, precision: str, *, multiplied: bool = False) -> npt.NDArray[Any]:
    """x in the storage type; multiplied: it goes to the tensor cores, which read tf32."""
    if precision == "bf16":
        return to_bfloat16(x)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            y = x.astype(np.float16)
        if np.isinf(y).any() and not np.isinf(x).any():
            raise UnsupportedOpError(f'precision="fp16": a weight of {np.abs(x).max():g} is beyond 65504; use bf16')
        return y
    return to_tf32(x) if precision == "tf32" and multiplied else x


class DeviceWeight:
    """A constant: the caller's float32 array until the types in which it is needed are known, then device memory."""

    def __init__(self, owner: Device, array: npt.NDArray[Any], size: int, *, packed: bool) -> None:
        self.owner, self.size, self.packed = owner, size, packed
        self._array: npt.NDArray[Any] | None = array
        self._uploads: dict[str, Memory] = {}
        self._lock = threading.Lock()  # models that share weights compile when they like

    def address(self, precision: str) -> int:
        """Where it lies on the device, stored for `precision`; packed weights are stored for one already."""
        kind = "packed" if self.packed else "fp32" if precision == "tf32" else precision
        with self._lock:
            if kind not in self._uploads:
                self._uploads[kind] = self._upload(kind)
            return self._uploads[kind].address

    def _upload(self, kind: str) -> Memory:
        assert self._array is not None
        data = np.ascontiguousarray(self._array if self.packed else stored(self._array, kind))
        memory = Memory(self.owner, data.nbytes)  # makes it this thread's device
        self.owner.call("upload", c_void_p(memory.address), c_void_p(data.ctypes.data), data.nbytes)
        if self.packed:
            self._array = None
        return memory


class DeviceState:
    """Memory on the GPU that training plans change: a weight, a moving statistic, or an optimiser's slots."""

    def __init__(self, owner: Device, array: npt.NDArray[Any]) -> None:
        self.owner, self.size = owner, array.size
        self._memory = Memory(owner, 4 * array.size)
        self.write(array)

    def address(self, precision: str) -> int:
        return self._memory.address

    def numpy(self) -> F32:
        """A copy of the values, flat."""
        out = np.empty(self.size, np.float32)
        self.owner.use()
        self.owner.call("download", c_void_p(out.ctypes.data), c_void_p(self._memory.address), out.nbytes)
        return out

    def write(self, array: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(array, np.float32)
        self.owner.use()
        self.owner.call("upload", c_void_p(self._memory.address), c_void_p(data.ctypes.data), data.nbytes)


class DeviceMemory:
    """Makes the states of a training on one GPU; see fastconv.target.HostMemory."""

    def __init__(self, owner: Device) -> None:
        self.owner = owner

    def holds(self, state: Any) -> bool:
        return isinstance(state, DeviceState) and state.owner is self.owner

    def put(self, array: npt.NDArray[Any]) -> DeviceState:
        return DeviceState(self.owner, array)


class DevicePacker:
    """What fastconv.packing.Packer is for the CPU; weights are held whole while they are packed."""

    def __init__(self, store: DeviceStore) -> None:
        self.store = store
        self.label = ""

    def finish(self, threads: int) -> None:
        """Nothing is left to do."""

    def conv2d(self, w: Weight, scale: Array | None, groups: int) -> DeviceWeight:
        return self.store.pack_conv2d(as_float32(w), scale, groups, ANY)

    def winograd(self, w: Weight, scale: Array | None, m: int) -> DeviceWeight:
        return self.store.pack_winograd(as_float32(w), scale, m, ANY)

    def depthwise(self, w: Weight, scale: Array | None) -> DeviceWeight:
        return self.store.pack_depthwise_conv2d(as_float32(w), scale, ANY)

    def linear(self, w: Weight, scale: Array | None, trans_b: bool, panel: int, taps: int) -> DeviceWeight:
        """panel: without meaning here."""
        return self.store.pack_linear(as_float32(w), scale, trans_b, ANY, taps)


class DeviceStore:
    """Packs like _core.WeightStore, for one precision. The level of the CPU that its methods get has no meaning."""

    def __init__(self, owner: Device, precision: str) -> None:
        self.owner, self.precision = owner, precision

    def put(self, array: F32) -> DeviceWeight:
        return DeviceWeight(self.owner, np.ascontiguousarray(array, np.float32), array.size, packed=False)

    def _rows(self, w: F32) -> DeviceWeight:
        """[K, depth], each row rounded up to 16 bytes."""
        depth = w.shape[1]
        padded = -(-depth // width(self.precision)) * width(self.precision)
        if padded != depth:
            w = np.pad(w, ((0, 0), (0, padded - depth)))
        array = stored(np.ascontiguousarray(w), self.precision, multiplied=True)
        return DeviceWeight(self.owner, array, array.size, packed=True)

    def pack_conv2d(self, w: F32, scale: F32 | None, groups: int, isa: _core.Isa) -> DeviceWeight:
        """w [K, C / groups, R, S]."""
        w = _scaled(w, scale)
        return self._rows(w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1))

    def pack_winograd(self, w: F32, scale: F32 | None, m: int, isa: _core.Isa) -> DeviceWeight:
        """w [K, C, 3, 3]; U = G g G^T of F(4x4, 3x3) in double precision, as in csrc/cpu/winograd_filter.cpp."""
        if m != 4 or w.shape[2:] != (3, 3) or self.precision != "fp32":
            raise UnsupportedOpError("Winograd on the GPU: F(4x4, 3x3) in fp32 is all there is")
        K, C = w.shape[:2]
        filters = w.reshape(K * C, 9).astype(np.float64)
        if scale is not None:
            filters *= np.repeat(np.asarray(scale, np.float64).reshape(-1), C)[:, None]
        planes = np.kron(WINOGRAD, WINOGRAD) @ filters.T
        array = planes.astype(np.float32).reshape(36, K, C)
        return DeviceWeight(self.owner, array, array.size, packed=True)

    def pack_depthwise_conv2d(self, w: F32, scale: F32 | None, isa: _core.Isa) -> DeviceWeight:
        """w [K, 1, R, S]."""
        w = np.ascontiguousarray(_scaled(w, scale).reshape(w.shape[0], -1).T)
        return DeviceWeight(self.owner, w, w.size, packed=True)

    def pack_linear(self, w: F32, scale: F32 | None, trans_b: bool, isa: _core.Isa, taps: int = 1) -> DeviceWeight:
        """w [K, C] (trans_b) or [C, K]; taps: C stands for [channels, taps] and x has [taps, channels]."""
        w = _scaled(w if trans_b else w.T, scale)
        if taps > 1:
            w = w.reshape(w.shape[0], -1, taps).transpose(0, 2, 1).reshape(w.shape[0], -1)
        return self._rows(w)


def _scaled(w: F32, scale: F32 | None) -> F32:
    if scale is None:
        return w
    return w * np.asarray(scale, np.float32).reshape(-1, *[1] * (w.ndim - 1))
