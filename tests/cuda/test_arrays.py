"""Exchanging arrays with the device."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError
from fastconv.cuda import arrays, library
from fastconv.cuda.arrays import Spare, _lent
from tests.models import nets

from .test_device import NET, feed, load


class Foreign:
    """Another library's array: lends its memory by one of the two protocols."""

    def __init__(self, model: fastconv.Model, x: np.ndarray[Any, Any], protocol: str) -> None:
        self._target = model._target
        self._array = self._target.empty(x.shape, [])
        from fastconv.cuda import DeviceArray

        self.array = DeviceArray(model._target.owner, x.shape)
        owner = model._target.owner
        owner.call("upload", ctypes.c_void_p(self.array.memory.address), ctypes.c_void_p(x.ctypes.data), x.nbytes)
        if protocol == "interface":
            self.__cuda_array_interface__ = dict(self.array.__cuda_array_interface__)


class ForeignDlpack(Foreign):
    def __init__(self, model: fastconv.Model, x: np.ndarray[Any, Any]) -> None:
        super().__init__(model, x, "dlpack")
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__(stream=stream)


@pytest.mark.parametrize("precision", ("fp32", "fp16"))
def test_device_arrays(precision: str) -> None:
    model, x = load(precision), np.ascontiguousarray(feed())
    want = model(x)
    by_interface, by_dlpack = Foreign(model, x, "interface"), ForeignDlpack(model, x)
    for given in (by_interface, by_dlpack, by_interface.array):
        got = model(given)
        assert type(got).__name__ == "DeviceArray" and got.shape == want.shape
        np.testing.assert_array_equal(np.asarray(got), want)
    assert by_dlpack.streams == [model._executor.stream.value]
    del given, by_dlpack
    gc.collect()
    assert not _lent  # capsules that nobody took give their array back


class Copies:
    """Counts the executor's copies and conversions of whole arrays."""

    def __init__(self, model: fastconv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("_copy", "_convert"):
            monkeypatch.setattr(model._executor, name, self._counted(getattr(model._executor, name)))

    def _counted(self, method: Any) -> Any:
        def counted(*arguments: Any) -> None:
            self.count += 1
            method(*arguments)

        return counted

    def of(self, run: Any) -> int:
        before = self.count
        run()
        return self.count - before


@pytest.mark.parametrize("protocol", ("interface", "dlpack"))
def test_no_copies(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays whose addresses come again are worked on as they are, in graphs of their own; others are copied once."""
    model, x = load("tf32"), np.ascontiguousarray(feed())
    want, copies = model(x), Copies(model, monkeypatch)
    make = ForeignDlpack if protocol == "dlpack" else lambda m, a: Foreign(m, a, "interface")
    given = make(model, x)
    results = []

    def run(array: Any = given) -> None:
        results[:] = [model(array)]  # the result before is let go: its memory comes again

    assert [copies.of(run) for _ in range(2)] == [2, 2]  # two results live in turn: two sets of addresses
    assert [copies.of(run) for _ in range(6)] == [0] * 6
    assert model._executor.captured(model.compile(x.shape).plan)
    np.testing.assert_array_equal(np.asarray(results[0]), want)
    other = make(model, 2 * x)
    assert copies.of(lambda: run(other)) == 2
    twice = np.asarray(results[0])
    assert not np.array_equal(twice, want)
    run()
    np.testing.assert_array_equal(np.asarray(results[0]), want)
    assert copies.of(lambda: model(x)) == 2  # numpy: to the device and back


def test_results_that_were_lent_are_not_used_again() -> None:
    """Another library may read one after this object is gone: its memory is freed, which waits, and not reused."""
    model, x = load(), np.ascontiguousarray(feed())
    given = Foreign(model, x, "interface")
    addresses = set()
    for _ in range(4):
        y = model(given)
        addresses.add(y.__cuda_array_interface__["data"][0])
        del y
        assert not any(model._target._spare._free.values())
    y = model(given)
    kept = y.memory
    del y
    assert model(given).memory is kept


class Watched:
    """What a library was called for."""

    def __init__(self, owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        call = owner.call
        monkeypatch.setattr(owner, "call", lambda *a: (self.calls.append(a), call(*a))[1])

    def named(self, start: str) -> list[tuple[Any, ...]]:
        found = [c for c in self.calls if c[0].startswith(start)]
        self.calls.clear()
        return found


def test_the_owner_of_an_array_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stream that the interface names; by all of the device where it can name none, as torch's version 2."""
    model, x = load(), np.ascontiguousarray(feed())
    watched, where = Watched(model._target.owner, monkeypatch), "x"
    given = Foreign(model, x, "interface")
    watched.calls.clear()
    assert model._target.borrow(given, where).address == given.array.memory.address
    assert watched.named("synchronize") == []  # its stream is None: nothing is under way
    given.__cuda_array_interface__["stream"] = 1
    model._target.borrow(given, where)
    ((_, stream),) = watched.named("synchronize")
    assert stream.value is None
    given.__cuda_array_interface__ = {**given.__cuda_array_interface__, "version": 2}
    del given.__cuda_array_interface__["stream"]
    model._target.borrow(given, where)
    assert watched.named("synchronize") == [("synchronize_device",)]


def test_dlpack_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's tensors have both: the interface does not say what to wait for."""
    model, x = load(), np.ascontiguousarray(feed())
    given = ForeignDlpack(model, x)
    given.__cuda_array_interface__ = {**given.array.__cuda_array_interface__, "version": 2}
    watched = Watched(model._target.owner, monkeypatch)
    model._target.borrow(given, "x")
    assert given.streams == [model._executor.stream.value] and watched.named("synchronize") == []


class OtherMemory(ForeignDlpack):
    """DLPack says that its memory is of another kind than the GPU's own."""

    def __init__(self, model: fastconv.Model, x: np.ndarray[Any, Any], kind: int, number: int = 0) -> None:
        super().__init__(model, x)
        self.where = kind, number

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where


def test_managed_and_pinned_memory() -> None:
    """Managed memory, as CuPy's may be, is every GPU's; of other kinds the interface tells, the host's is numpy's."""
    model, x = load(), np.ascontiguousarray(feed())
    want = model(x)
    managed = OtherMemory(model, x, 13, 1)
    np.testing.assert_array_equal(np.asarray(model(managed)), want)
    assert managed.streams == [model._executor.stream.value]
    pinned = OtherMemory(model, x, 3)
    assert model._target.borrow(pinned, "x") is None
    pinned.__cuda_array_interface__ = dict(pinned.array.__cuda_array_interface__)
    np.testing.assert_array_equal(np.asarray(model(pinned)), want)
    host = OtherMemory(model, x, 1)
    host.__cuda_array_interface__ = dict(host.array.__cuda_array_interface__)
    assert model._target.borrow(host, "x") is None
    assert pinned.streams == host.streams == []


@pytest.mark.skipif(bool(os.environ.get("FASTCONV_TEST_CUDA")), reason="the emulator's variables")
def test_arrays_of_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither protocol brings the model an address that its GPU cannot read."""
    model, x = load(), np.ascontiguousarray(feed())
    monkeypatch.setattr(library, "_devices", {})
    monkeypatch.setenv("SIMT_DEVICES", "2")
    other = fastconv.load(nets.serialized(NET), device="cuda:1")
    given, by_dlpack = Foreign(other, x, "interface"), ForeignDlpack(other, x)
    np.testing.assert_array_equal(np.asarray(other(given)), model(x))
    with pytest.raises(ShapeError, match="is on another GPU than the model, which is on cuda:0"):
        model(given)
    with pytest.raises(ShapeError, match="the array is on cuda:1, the model on cuda:0"):
        model(by_dlpack)
    given.__cuda_array_interface__.update(shape=(0, *x.shape[1:]), data=(0, False))
    assert model._target.borrow(given, "x").size == 0  # an empty array has no address


def test_wrong_device_arrays() -> None:
    model, x = load(), np.ascontiguousarray(feed())
    with pytest.raises(ShapeError, match="expected"):
        model(Foreign(model, x[:, :, :2].copy(), "interface"))
    strided = Foreign(model, x, "interface")
    strided.__cuda_array_interface__["strides"] = (4, 8, 12, 16)
    with pytest.raises(ShapeError, match="contiguous"):
        model(strided)
    double = Foreign(model, x, "interface")
    double.__cuda_array_interface__["typestr"] = "<f8"
    with pytest.raises(ShapeError, match="float32"):
        model(double)


def test_taken_capsule() -> None:
    """Whoever takes a capsule renames it and calls its deleter."""
    from fastconv.cuda.arrays import _DLManagedTensor, pythonapi

    model = load()
    got = model(Foreign(model, np.ascontiguousarray(feed()), "interface"))
    capsule = got.__dlpack__()
    address = pythonapi.PyCapsule_GetPointer(capsule, b"dltensor")
    managed = ctypes.cast(address, ctypes.POINTER(_DLManagedTensor))
    assert managed.contents.dl_tensor.data == got.memory.address
    assert tuple(managed.contents.dl_tensor.shape[: len(got.shape)]) == got.shape
    pythonapi.PyCapsule_SetName(capsule, b"used_dltensor")
    del capsule
    gc.collect()
    assert address in _lent
    managed.contents.deleter(managed)
    assert address not in _lent


def test_spare_memory_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece has two holders, and no more are kept than MOST, however takes and gives interleave."""

    class Piece:
        def __init__(self, owner: Any, size: int) -> None:
            self.size, self.holders = size, 0

    monkeypatch.setattr(arrays, "Memory", Piece)
    spare, failures = Spare(), []
    watched = {Spare.take.__code__, Spare.give.__code__}

    def switch(frame: Any, event: str, arg: object) -> Any:
        if frame.f_code not in watched:
            return None
        frame.f_trace_opcodes = True
        time.sleep(0)  # between any two instructions another thread may go on
        return switch

    def work() -> None:
        sys.settrace(switch)
        try:
            for _ in range(60):
                held: list[Any] = [spare.take(None, 64) for _ in range(2)]  # type: ignore[arg-type]
                for piece in held:
                    piece.holders += 1
                assert [piece.holders for piece in held] == [1, 1]
                for piece in held:
                    piece.holders -= 1
                    spare.give(piece)
                assert len(spare._free[64]) <= Spare.MOST
        except (AssertionError, IndexError, KeyError) as error:
            failures.append(repr(error))
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
