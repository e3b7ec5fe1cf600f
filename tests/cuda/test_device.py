"""Finding the device, and exchanging arrays with it."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import DeviceError, ShapeError, UnsupportedOpError, _core
from fastconv.cuda import Target, arrays, library
from fastconv.cuda.arrays import Spare, _lent
from tests.models import nets, nets_formats
from tests.models.gate import network as gate_network

assert nets_formats  # importing it fills NETS
NET = "channel_tails"


def load(precision: str = "fp32") -> fastconv.Model:
    return fastconv.load(nets.serialized(NET), device="cuda", precision=precision)


def feed() -> np.ndarray[Any, Any]:
    return next(iter(nets.inputs(nets.NETS[NET](), 1).values()))


# -- what is missing ------------------------------------------------------------------------------------------------
@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(library, "_devices", {})
    return monkeypatch


def test_no_library(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setenv("FASTCONV_CUDA_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(DeviceError, match=r"CUDA plugin .*none.so is not installed; build it with `make cuda`"):
        load()


def test_broken_library(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    fresh.setenv("FASTCONV_CUDA_LIBRARY", str(broken))
    with pytest.raises(DeviceError, match="cannot be loaded"):
        load()


def test_another_library(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("FASTCONV_CUDA_LIBRARY", fastconv._core.__file__)
    with pytest.raises(DeviceError, match="cannot be loaded"):
        load()


@pytest.mark.skipif(bool(os.environ.get("FASTCONV_TEST_CUDA")), reason="the emulator's variables")
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SIMT_DRIVER", "0", "no NVIDIA driver is loaded"),
        ("SIMT_DEVICES", "0", "the driver shows 0 devices"),
        ("SIMT_MAJOR", "7", "compute capability 7.0; the kernels need 8.0"),
    ],
)
def test_no_device(fresh: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    fresh.setenv(variable, value)
    with pytest.raises(DeviceError, match=message):
        load()


def test_names() -> None:
    with pytest.raises(DeviceError, match='expected "cpu", "cuda" or "cuda:N"'):
        fastconv.load(nets.serialized(NET), device="gpu")
    with pytest.raises(DeviceError, match='expected "cpu", "cuda" or "cuda:N"'):
        fastconv.load(nets.serialized(NET), device="cuda:x")
    with pytest.raises(DeviceError, match="asked for number 9"):
        fastconv.load(nets.serialized(NET), device="cuda:9")
    with pytest.raises(DeviceError, match="the GPU computes in fp32, tf32, fp16, bf16"):
        load("int8")
    with pytest.raises(DeviceError, match="the CPU computes in"):
        fastconv.load(nets.serialized(NET), precision="fp16")


def test_the_cpu_loads_nothing_of_it() -> None:
    code = "import fastconv, sys; assert not [m for m in sys.modules if 'cuda' in m or m == 'ctypes.cuda']"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_fork() -> None:
    model, x = load(), feed()
    want = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: a driver has threads
        pid = os.fork()
    if pid == 0:
        try:
            model(x)
        except DeviceError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(model(x), want)


# -- running ----------------------------------------------------------------------------------------------------------
def test_graph_after_the_first_run() -> None:
    model, x = load(), feed()
    compiled = model.compile(x.shape)
    captured = []
    for _ in range(3):
        model(x)
        captured.append(model._executor.captured(compiled.plan))
    assert captured == [False, True, True]


def test_several_shapes_share_weights() -> None:
    model = load()
    x = np.random.default_rng(0).standard_normal((3, *feed().shape[1:]), np.float32)
    alone = [model(x[i : i + 1]) for i in range(3)]
    weights = len(model._cache.packed)
    np.testing.assert_allclose(model(x), np.concatenate(alone), rtol=1e-5, atol=1e-6)
    assert len(model._cache.packed) == weights


def test_profile() -> None:
    profile = load().profile(feed(), runs=2)
    assert len(profile.rows) == len(load().inspect()) and profile.total_ms > 0


def test_errors_of_inputs() -> None:
    model, x = load(), feed()
    with pytest.raises(ShapeError, match="expected rank"):
        model(x[0])
    with pytest.raises(ShapeError, match="dtype"):
        model(x.astype(np.float64))


def test_pickle() -> None:
    import pickle

    model = load("fp16")
    twin = pickle.loads(pickle.dumps(model))
    assert (twin.device, twin.precision) == ("cuda", "fp16")
    np.testing.assert_array_equal(twin(feed()), model(feed()))


# -- arrays that are on the device -------------------------------------------------------------------------------------
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


def test_uploads_are_there_when_they_return() -> None:
    """cudaMemcpy may return before its bytes have arrived, and streams that do not block do not wait for it."""
    from fastconv.cuda.executor import TO_HOST

    owner, x = Target("cuda", "fp32").owner, np.arange(64, dtype=np.float32)
    y, memory, stream = np.zeros_like(x), library.Memory(owner, x.nbytes), ctypes.c_void_p()
    owner.call("stream", ctypes.byref(stream))
    address = ctypes.c_void_p(memory.address)
    owner.call("upload", address, ctypes.c_void_p(x.ctypes.data), x.nbytes)
    owner.call("copy", ctypes.c_void_p(y.ctypes.data), address, x.nbytes, TO_HOST, stream)
    owner.call("synchronize", stream)
    owner.destroy("stream", stream)
    np.testing.assert_array_equal(y, x)


def test_an_error_is_told_once() -> None:
    """Memory that is not there is an error of its own, not of the launch that follows."""
    model, x = load(), feed()
    want = model(x)
    with pytest.raises(DeviceError, match=r"device memory, .* bytes: out of memory"):
        library.Memory(model._target.owner, 1 << 45)
    np.testing.assert_array_equal(load()(x), want)


def test_memory_is_of_its_device_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never called a model has device 0, whatever the model's is."""
    owner = Target("cuda", "fp32").owner
    watched = Watched(owner, monkeypatch)
    thread = threading.Thread(target=lambda: library.Memory(owner, 16))
    thread.start()
    thread.join()
    names = [c[0] for c in watched.calls]
    assert names[: names.index("allocate")][-1:] == ["set_device"]


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


# -- what it does not do --------------------------------------------------------------------------------------------
def test_absent_kernels_are_named() -> None:
    target = Target("cuda", "fp32")
    plan = target.plan(_core.Isa.scalar, target.store())
    x = plan.external(0, 0, 4)
    desc = _core.PackWeights(K=4, C=4, taps=9, groups=1, m=2)
    with pytest.raises(UnsupportedOpError, match="pack_winograd_weights: the GPU has no kernel for it"):
        plan.pack_winograd_weights(desc, [x], plan.external(1, 0, 4))
    present = {name for name, op in _core.Op.__members__.items() if target.owner.library.present(int(op))}
    assert set(_core.Op.__members__) - present == {
        "winograd_conv2d", "winograd_input", "winograd_product", "pack_winograd_weights"
    }  # fmt: skip


def test_no_gate_is_taken() -> None:
    """The CPU scales weights by a gate; packed weights of the GPU have another order."""
    rng, source = np.random.default_rng(0), gate_network(12, 19, 24)
    x = rng.standard_normal((1, 19, 12, 12), np.float32)
    cpu, gpu = fastconv.load(source), fastconv.load(source, device="cuda")
    assert "gate" in {op.algorithm for op in cpu.inspect(x.shape)}
    assert "gate" not in {op.algorithm for op in gpu.inspect(x.shape)}
    np.testing.assert_allclose(gpu(x), cpu(x), rtol=1e-4, atol=1e-5)


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
