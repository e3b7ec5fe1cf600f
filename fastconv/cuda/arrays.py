"""Arrays on the GPU, ours and others', exchanged without a way through the host."""

from __future__ import annotations

import math
from collections import deque
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
    cast,
    py_object,
    pythonapi,
)
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from .library import Device, Memory

CPU, CUDA, MANAGED = 1, 2, 13  # DLPack's kDLCPU, kDLCUDA, kDLCUDAManaged


class _DLDataType(Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _DLTensor(Structure):
    _fields_ = [("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
                ("dtype", _DLDataType), ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)),
                ("byte_offset", c_uint64)]  # fmt: skip


class _DLManagedTensor(Structure):
    pass


_Deleter = CFUNCTYPE(None, POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("dl_tensor", _DLTensor), ("manager_ctx", c_void_p), ("deleter", _Deleter)]
_CapsuleDestructor = CFUNCTYPE(None, c_void_p)

pythonapi.PyCapsule_New.restype = py_object
pythonapi.PyCapsule_New.argtypes = [c_void_p, c_char_p, _CapsuleDestructor]
pythonapi.PyCapsule_GetPointer.restype = c_void_p
pythonapi.PyCapsule_GetPointer.argtypes = [py_object, c_char_p]
pythonapi.PyCapsule_IsValid.argtypes = [py_object, c_char_p]
pythonapi.PyCapsule_SetName.argtypes = [py_object, c_char_p]

_lent: dict[int, Any] = {}  # what others hold by DLPack, until their deleter is called


def _give_back(managed: Any) -> None:
    _lent.pop(addressof(managed.contents), None)


def _drop_capsule(capsule: int) -> None:
    """A capsule that nobody took: a taken one is called "used_dltensor" and its taker calls the deleter."""
    pythonapi_valid = pythonapi.PyCapsule_IsValid
    obj = cast(capsule, py_object)
    if pythonapi_valid(obj, b"dltensor"):
        _lent.pop(pythonapi.PyCapsule_GetPointer(obj, b"dltensor"), None)


_release, _drop = _Deleter(_give_back), _CapsuleDestructor(_drop_capsule)


class Spare:
    """Memory of results that nobody holds any more, for the next ones: so that they have addresses that come again.

    Threads take and give at the same time, and `give` runs where the last holder lets go, even within `take`. So there
    is no lock, which that would wait for itself: each step is one call of a deque, which drops the oldest beyond MOST.
    """

    MOST = 4  # of a size

    def __init__(self) -> None:
        self._free: dict[int, deque[Memory]] = {}

    def take(self, owner: Device, size: int) -> Memory:
        try:
            return self._free[size].pop()
        except (KeyError, IndexError):
            return Memory(owner, size)

    def give(self, memory: Memory) -> None:
        self._free.setdefault(memory.size, deque(maxlen=self.MOST)).append(memory)


class DeviceArray:
    """A contiguous float32 array on the GPU: what a model returns for inputs that are there.

    torch.from_dlpack(a), cupy.asarray(a) and others take it without a copy; numpy.asarray(a) copies it to the host.
    """

    def __init__(self, owner: Device, shape: tuple[int, ...], spare: Spare | None = None) -> None:
        self.owner, self.shape, self.dtype = owner, tuple(shape), np.dtype(np.float32)
        size = 4 * math.prod(self.shape)
        self.memory = Memory(owner, size) if spare is None else spare.take(owner, size)
        self._spare = spare

    def __del__(self) -> None:
        spare: Spare | None = getattr(self, "_spare", None)
        if spare is not None:
            spare.give(self.memory)

    def _lend(self) -> None:
        """Others may still read it when this object is gone: freeing it waits for them, using it again would not."""
        self._spare = None

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._lend()
        return {"shape": self.shape, "typestr": "<f4", "data": (self.memory.address, False), "version": 3,
                "strides": None, "stream": None}  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.owner.number

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        """A capsule of DLPack 0.x. The array is complete when a model returns it: no stream has to wait."""
        self._lend()
        managed = _DLManagedTensor()
        shape = (c_int64 * max(len(self.shape), 1))(*self.shape)
        t = managed.dl_tensor
        t.data, t.device_type, t.device_id, t.ndim = self.memory.address, CUDA, self.owner.number, len(self.shape)
        t.dtype = _DLDataType(2, 32, 1)
        t.shape, t.strides, t.byte_offset = cast(shape, POINTER(c_int64)), None, 0
        managed.deleter = _release
        _lent[addressof(managed)] = (managed, shape, self)
        return pythonapi.PyCapsule_New(addressof(managed), b"dltensor", _drop)

    def numpy(self) -> npt.NDArray[np.float32]:
        out = np.empty(self.shape, np.float32)
        self.owner.use()
        self.owner.call("download", c_void_p(out.ctypes.data), c_void_p(self.memory.address), self.nbytes)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        x = self.numpy()
        return x if dtype is None else x.astype(dtype)

    def __repr__(self) -> str:
        return f"<fastconv.cuda.DeviceArray {list(self.shape)} on cuda:{self.owner.number}>"


class Borrowed:
    """Somebody's array on the GPU, kept alive while it is read."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str, keep: Any) -> None:
        self.address, self.shape, self.dtype, self.keep = address, shape, np.dtype(dtype), keep
        self.size = math.prod(shape)


def borrow(value: Any, owner: Device, stream: int, where: str) -> Borrowed | None:
    """`value` if it lies on a GPU, else None. DLPack goes first; where its kind of memory is none of ours, as pinned
    memory, the interface tells. Work of the array's owner is waited for: by DLPack on `stream`; what comes by the
    interface names its stream, or None where nothing is under way, and before its version 3 (torch has 2) it says
    nothing, so that the whole device is waited for.

    Raises ShapeError for one in another GPU's memory (managed memory is every GPU's) or that is not contiguous; by
    DLPack also for types but float32 and float16. What comes by the interface may have any type: see the executor.
    """
    if isinstance(value, DeviceArray) and value.owner is owner:
        return Borrowed(value.memory.address, value.shape, "f4", value)
    if hasattr(value, "__dlpack_device__") and hasattr(value, "__dlpack__"):
        kind = int(value.__dlpack_device__()[0])
        if kind in (CUDA, MANAGED):
            return _borrow_dlpack(value, owner, stream, where)
        if kind == CPU:
            return None
    if hasattr(value, "__cuda_array_interface__"):
        a = value.__cuda_array_interface__
        shape, strides = tuple(a["shape"]), a.get("strides")
        dtype = np.dtype(a["typestr"])
        if strides is not None and tuple(strides) != _dense(shape, dtype.itemsize):
            raise ShapeError(f"{where}: an array on the GPU must be contiguous, got strides {tuple(strides)}")
        address = a["data"][0]
        if address and not owner.holds(address):
            raise ShapeError(f"{where}: the array is on another GPU than the model, which is on cuda:{owner.number}")
        if a.get("version", 0) < 3:
            owner.use()
            owner.call("synchronize_device")
        elif a.get("stream") is not None:
            owner.use()
            owner.call("synchronize", c_void_p(None if a["stream"] == 1 else a["stream"]))  # 1: the default one
        return Borrowed(address, shape, dtype.str, value)
    return None


def _borrow_dlpack(value: Any, owner: Device, stream: int, where: str) -> Borrowed:
    kind, number = value.__dlpack_device__()
    if int(kind) == CUDA and number != owner.number:
        raise ShapeError(f"{where}: the array is on cuda:{number}, the model on cuda:{owner.number}")
    capsule = value.__dlpack__(stream=stream)
    address = pythonapi.PyCapsule_GetPointer(capsule, b"dltensor")
    t = cast(address, POINTER(_DLManagedTensor)).contents.dl_tensor
    shape = tuple(t.shape[i] for i in range(t.ndim))
    strides = tuple(t.strides[i] for i in range(t.ndim)) if t.strides else None
    if strides is not None and any(n > 1 and s != d for n, s, d in zip(shape, strides, _dense(shape, 1), strict=True)):
        raise ShapeError(f"{where}: an array on the GPU must be contiguous, got strides {strides}")
    code = {0: "i", 1: "u", 2: "f", 4: "bf"}.get(t.dtype.code, "?")
    name = f"{code}{t.dtype.bits // 8}"
    if name not in ("f4", "f2"):
        raise ShapeError(f"{where}: an array on the GPU must be float32, got DLPack's type {name}")
    return Borrowed((t.data or 0) + t.byte_offset, shape, name, (value, capsule))


def _dense(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    strides: list[int] = []
    for n in reversed(shape):
        strides.append(item)
        item *= n
    return tuple(reversed(strides))


__all__ = ["Borrowed", "DeviceArray", "borrow", "byref"]
