"""Runs plans on the GPU: inputs go there, operations follow on one stream (as a graph from the second run on), outputs
come back."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from .arrays import Borrowed, DeviceArray
from .library import Device, Memory
from .plan import DevicePlan
from .weights import HALVES, PRECISIONS, item_size

TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3
STORED = {"fp32": np.float32, "tf32": np.float32, "fp16": np.float16}  # numpy has no bfloat16


class External:
    """One input or output of a plan: its memory on the device, in the storage type, and what stands between that and a
    numpy array."""

    def __init__(self, owner: Device, size: int, precision: str) -> None:
        self.size = size
        self.memory = Memory(owner, size * item_size(precision))
        self.floats = Memory(owner, 4 * size) if precision in HALVES else self.memory
        self._owner = owner
        self._pinned: Memory | None = None

    def pinned(self) -> tuple[int, npt.NDArray[np.float32]]:
        if self._pinned is None:
            self._pinned = Memory(self._owner, 4 * self.size, host=True)
        address = self._pinned.address
        memory: Any = (ctypes.c_float * max(self.size, 1)).from_address(address)
        array = np.frombuffer(memory, np.float32, self.size)
        return address, array


class DeviceExecutor:
    """One stream, arena and workspace. Runs from several threads go one after the other."""

    def __init__(self, owner: Device, precision: str) -> None:
        self.owner, self.precision = owner, precision
        self.threads = 1
        self._lock = threading.Lock()
        self.stream = c_void_p()
        owner.call("stream", byref(self.stream))
        self._arena: Memory | None = None
        self._workspace: Memory | None = None

    def __del__(self) -> None:
        if getattr(self, "stream", None):
            self.owner.destroy("stream", self.stream)

    # -- running ------------------------------------------------------------------------------------------------
    def run(self, plan: DevicePlan, arrays: Sequence[Any], repeats: int = 1) -> None:
        """Inputs then outputs: float32 numpy arrays, or arrays on this GPU. repeats: 1, as its Target says."""
        assert repeats == 1
        with self._lock:
            self.owner.use()
            externals, pointers = self._bind(plan, arrays)
            direct = self._direct(plan, arrays)
            for i, address in direct.items():
                pointers[i] = address
            for i, e in enumerate(externals):
                if i not in plan.written and i not in direct:
                    self._send(e, arrays[i])
            self.owner.call("run", plan.handle, pointers, len(externals), *self._memory(plan))
            for i, e in enumerate(externals):
                if i in plan.written and i not in direct:
                    self._receive(e, arrays[i])
            self.owner.call("synchronize", self.stream)
            for i, e in enumerate(externals):
                if i in plan.written and isinstance(arrays[i], np.ndarray):
                    arrays[i].reshape(-1)[:] = e.pinned()[1]

    def profile(self, plan: DevicePlan, arrays: Sequence[Any], runs: int, repeats: int = 1) -> npt.NDArray[np.int64]:
        """Nanoseconds as int64[runs, operations], by events on the stream; launches are not replayed as a graph."""
        assert repeats == 1
        result = np.zeros((runs, len(plan)), np.int64)
        with self._lock:
            self.owner.use()
            externals, pointers = self._bind(plan, arrays)
            for i, e in enumerate(externals):
                if i not in plan.written:
                    self._send(e, arrays[i])
            for row in result:
                times = row.ctypes.data_as(ctypes.POINTER(c_int64))
                self.owner.call("profile", plan.handle, pointers, *self._memory(plan), times)
            self.owner.call("synchronize", self.stream)
        return result

    def time(self, plan: DevicePlan, repeats: int) -> float:
        """Nanoseconds of a run on the device alone: replays of the graph on whatever its inputs hold, no copies."""
        total = ctypes.c_double()
        with self._lock:
            self.owner.use()
            externals, pointers = self._bind(plan, [None] * len(plan.external_sizes))
            self.owner.call("time", plan.handle, pointers, len(externals), *self._memory(plan), repeats, byref(total))
        return total.value / repeats

    def captured(self, plan: DevicePlan) -> bool:
        """Whether runs of this plan are replays of a graph by now."""
        return self.owner.library.captured(plan.handle)

    def _direct(self, plan: DevicePlan, arrays: Sequence[Any]) -> dict[int, int]:
        """Addresses of arrays on the device that the plan works on as they are: external -> address.

        Those of its storage type, when their addresses come again: a graph holds addresses, and one for each new set
        would cost more than a copy on the device.
        """
        found: dict[int, int] = {}
        for i, x in enumerate(arrays[: len(plan.external_sizes)]):
            if not isinstance(x, (Borrowed, DeviceArray)) or math.prod(x.shape) < plan.external_sizes[i]:
                continue
            address = x.address if isinstance(x, Borrowed) else x.memory.address
            if x.dtype == STORED.get(self.precision) and address % 16 == 0:
                found[i] = address
        return found if found and plan.recur(tuple(found.items())) else {}

    def _bind(self, plan: DevicePlan, arrays: Sequence[Any]) -> tuple[list[External], Any]:
        if len(arrays) < len(plan.external_sizes):
            raise ValueError("too few arrays")
        if plan.buffers is None:
            plan.buffers = [External(self.owner, n, self.precision) for n in plan.external_sizes]
        externals: list[External] = plan.buffers
        pointers = (c_void_p * max(len(externals), 1))(*(e.memory.address for e in externals))
        return externals, pointers

    def _memory(self, plan: DevicePlan) -> tuple[c_void_p, c_void_p]:
        arena = plan.arena_elements * item_size(self.precision)
        if self._arena is None or self._arena.size < arena:
            self._arena = None
            self._arena = Memory(self.owner, arena)
        workspace = self.owner.library.workspace(plan.handle)
        if self._workspace is None or self._workspace.size < workspace:
            self._workspace = None
            self._workspace = Memory(self.owner, workspace)
        return c_void_p(self._arena.address), c_void_p(self._workspace.address)

    # -- moving -------------------------------------------------------------------------------------------------
    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        self.owner.call("copy", c_void_p(to), c_void_p(source), size, kind, self.stream)

    def _convert(self, x: int, x_float: bool, y: int, y_float: bool, n: int) -> None:
        precision = PRECISIONS.index(self.precision)
        self.owner.call("convert", c_void_p(x), x_float, c_void_p(y), y_float, n, precision, self.stream)

    def _send(self, e: External, x: Any) -> None:
        halves = self.precision in HALVES
        if isinstance(x, (Borrowed, DeviceArray)):
            if math.prod(x.shape) < e.size:
                raise ValueError("an array is too small")
            address = x.address if isinstance(x, Borrowed) else x.memory.address
            if x.dtype == np.float16 and self.precision == "fp16":
                self._copy(e.memory.address, address, 2 * e.size, ON_DEVICE)
            elif x.dtype != np.float32:
                raise ShapeError(f"an array on the GPU must be float32 for precision {self.precision}, got {x.dtype}")
            elif halves:
                self._convert(address, True, e.memory.address, False, e.size)
            else:
                self._copy(e.memory.address, address, 4 * e.size, ON_DEVICE)
            return
        if x.size < e.size:
            raise ValueError("an array is too small")
        address, pinned = e.pinned()
        pinned[:] = x.reshape(-1)[: e.size]
        self._copy(e.floats.address, address, 4 * e.size, TO_DEVICE)
        if halves:
            self._convert(e.floats.address, True, e.memory.address, False, e.size)

    def _receive(self, e: External, y: Any) -> None:
        to = y.memory.address if isinstance(y, DeviceArray) else e.floats.address
        if self.precision in HALVES:
            self._convert(e.memory.address, False, to, True, e.size)
        elif to != e.memory.address:
            self._copy(to, e.memory.address, 4 * e.size, ON_DEVICE)
        if not isinstance(y, DeviceArray):
            self._copy(e.pinned()[0], to, 4 * e.size, TO_HOST)
