"""The plugin library: found, opened and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

from .. import _core
from ..errors import DeviceError

NAME = "libfastconv_cuda.so"
VERSION = 8  # of the interface, fastconv_cuda_version()
BUILD = "build it with `make cuda`, or `pip install . -C cmake.define.FASTCONV_CUDA=ON`; that needs nvcc 12 or 13"


class DeviceInfo(ctypes.Structure):
    _fields_ = [("name", c_char * 256), ("major", c_int32), ("minor", c_int32), ("multiprocessors", c_int32),
                ("driver", c_int32), ("memory", c_int64)]  # fmt: skip


class Reference(ctypes.Structure):
    """An operand of an operation; see csrc/cuda/plugin.cu."""

    _fields_ = [("space", c_int32), ("index", c_int32), ("at", c_int64)]


NONE, ARENA, WEIGHT, EXTERNAL = range(4)
STATE = 4  # known to plans alone: the library gets its address, as a weight's

_SIGNATURES = {
    "set_device": [c_int],
    "allocate": [c_int64, POINTER(c_void_p)],
    "free": [c_void_p],
    "allocate_host": [c_int64, POINTER(c_void_p)],
    "free_host": [c_void_p],
    "upload": [c_void_p, c_void_p, c_int64],
    "device_of": [c_void_p, POINTER(c_int)],
    "download": [c_void_p, c_void_p, c_int64],
    "copy": [c_void_p, c_void_p, c_int64, c_int, c_void_p],
    "stream": [POINTER(c_void_p)],
    "stream_destroy": [c_void_p],
    "synchronize": [c_void_p],
    "synchronize_device": [],
    "convert": [c_void_p, c_int, c_void_p, c_int, c_int64, c_int, c_void_p],
    "plan": [c_int, c_int, c_int, c_void_p, POINTER(c_void_p)],
    "plan_destroy": [c_void_p],
    "add": [c_void_p, c_int, c_char_p, c_int64, POINTER(Reference)],
    "run": [c_void_p, POINTER(c_void_p), c_int, c_void_p, c_void_p],
    "profile": [c_void_p, POINTER(c_void_p), c_void_p, c_void_p, POINTER(c_int64)],
    "time": [c_void_p, POINTER(c_void_p), c_int, c_void_p, c_void_p, c_int, POINTER(c_double)],
    "present": [c_int],
    "own_size": [c_int, c_char_p, c_int64, c_int, c_int, POINTER(c_int64)],
    "force": [c_int, c_int],
    "force_winograd": [c_int, c_int64],
    "choose_winograd": [c_int64, c_int64, c_int64, c_int64, c_int64, c_int],
    "choose_hopper": [c_int64, c_int64, c_int64, c_int, POINTER(c_int32)],
    "choose": [c_int64, c_int64, c_int64, c_int64, c_int, POINTER(c_int32)],
}


def find() -> Path:
    """The library's file: FASTCONV_CUDA_LIBRARY, or beside the package's compiled module."""
    given = os.environ.get("FASTCONV_CUDA_LIBRARY")
    if given:
        return Path(given)
    return Path(_core.__file__).parent / NAME


class Library:
    """The functions of the plugin, each of which raises DeviceError where it fails."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DeviceError(f'device="cuda": the CUDA plugin {path} is not installed; {BUILD}')
        try:
            self._handle = ctypes.CDLL(str(path))
            self._handle.fastconv_cuda_version.restype = c_int
            version = self._handle.fastconv_cuda_version()
        except (OSError, AttributeError) as error:
            raise DeviceError(f'device="cuda": the CUDA plugin {path} cannot be loaded: {error}') from None
        if version != VERSION:
            raise DeviceError(f'device="cuda": {path} has interface {version}, this package wants {VERSION}; {BUILD}')
        self._handle.fastconv_cuda_error.restype = c_char_p
        self._handle.fastconv_cuda_open.argtypes = [c_int, POINTER(DeviceInfo)]
        self._handle.fastconv_cuda_workspace.argtypes = [c_void_p]
        self._handle.fastconv_cuda_workspace.restype = c_int64
        self._handle.fastconv_cuda_captured.argtypes = [c_void_p]
        self._handle.fastconv_cuda_hopper_launches.restype = c_int64
        for name, arguments in _SIGNATURES.items():
            getattr(self._handle, f"fastconv_cuda_{name}").argtypes = arguments

    def error(self) -> str:
        text: bytes = self._handle.fastconv_cuda_error()
        return text.decode("utf-8", "replace")

    def call(self, name: str, *arguments: object) -> None:
        if getattr(self._handle, f"fastconv_cuda_{name}")(*arguments) != 0:
            raise DeviceError(f"CUDA: {self.error()}")

    def open(self, number: int) -> DeviceInfo:
        info = DeviceInfo()
        status = self._handle.fastconv_cuda_open(number, byref(info))
        if status == -2:
            raise DeviceError('device="cuda": no NVIDIA driver is loaded on this machine')
        if status == -3:
            raise DeviceError(f'device="cuda:{number}": no such device: {self.error()}')
        if status != 0:
            raise DeviceError(f'device="cuda:{number}": {self.error()}')
        return info

    def present(self, op: int) -> bool:
        """Whether there is a kernel for this _core.Op."""
        return bool(self._handle.fastconv_cuda_present(op))

    def hopper_launches(self) -> int:
        """Convolutions launched on sm_90a's own kernel so far, by all models; -1 where library or device lack it."""
        return int(self._handle.fastconv_cuda_hopper_launches())

    def choose_winograd(self, N: int, P: int, Q: int, C: int, K: int, multiprocessors: int) -> bool:
        """Whether F(4x4, 3x3) should take less time in float32 than the direct product (csrc/cuda/winograd.cu)."""
        return bool(self._handle.fastconv_cuda_choose_winograd(N, P, Q, C, K, multiprocessors))

    def workspace(self, plan: c_void_p) -> int:
        return int(self._handle.fastconv_cuda_workspace(plan))

    def captured(self, plan: c_void_p) -> bool:
        return bool(self._handle.fastconv_cuda_captured(plan))


class Device:
    """An opened GPU. Raises DeviceError where the library, the driver or the device is missing or too old."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.library = Library(find())
        self.info = self.library.open(number)
        self.name = self.info.name.decode("utf-8", "replace")
        self.process = os.getpid()
        if self.info.major < 8:
            capability = f"{self.info.major}.{self.info.minor}"
            raise DeviceError(
                f'device="cuda:{number}": {self.name} has compute capability {capability}; the kernels need 8.0'
            )

    def call(self, name: str, *arguments: object) -> None:
        if os.getpid() != self.process:
            raise DeviceError("CUDA does not survive a fork: load the model in the child process, or start it by spawn")
        self.library.call(name, *arguments)

    def use(self) -> None:
        """Make this the calling thread's device."""
        self.call("set_device", self.number)

    def holds(self, address: int) -> bool:
        """Whether this GPU may read memory at that address: all but what another one allocated for itself."""
        number = c_int(-1)
        self.use()
        self.call("device_of", c_void_p(address), byref(number))
        return number.value in (-1, self.number)

    def destroy(self, what: str, handle: c_void_p) -> None:
        """Destroy a plan or a stream, errors aside; nothing in the child of a fork, whose driver does not answer."""
        if os.getpid() == self.process:
            self.library._handle[f"fastconv_cuda_{what}_destroy"](handle)


_devices: dict[int, Device] = {}
_lock = threading.Lock()


def device(number: int) -> Device:
    """The GPU of that number, opened once in a process."""
    with _lock:
        found = _devices.get(number)
        if found is None or found.process != os.getpid():
            found = _devices[number] = Device(number)
    found.use()
    return found


class Memory:
    """Device memory, or pinned memory of the host, that is freed with this object."""

    def __init__(self, owner: Device, size: int, *, host: bool = False) -> None:
        self.owner, self.size, self._free = owner, size, "free_host" if host else "free"
        address = c_void_p()
        owner.use()  # the calling thread may never have been here
        owner.call("allocate_host" if host else "allocate", size, byref(address))
        self.address = address.value or 0

    def __del__(self) -> None:
        address = getattr(self, "address", 0)
        if address and os.getpid() == self.owner.process:
            self.owner.library._handle[f"fastconv_cuda_{self._free}"](c_void_p(address))
