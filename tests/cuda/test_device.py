"""Finding the device, and exchanging arrays with it."""

from __future__ import annotations

import ctypes
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
from fastconv.cuda import Target, library
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
    code = """
import sys, numpy
before = set(sys.modules)  # some machines' Python loads modules of this name at its start
import fastconv
assert not [m for m in set(sys.modules) - before if "cuda" in m]
assert "libcuda" not in open("/proc/self/maps").read()
"""
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
    x = np.random.default_rng(0).standard_normal((5, *feed().shape[1:]), np.float32)
    alone = [model(x[i : i + 1]) for i in range(5)]
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


# -- memory, errors, threads -----------------------------------------------------------------------------------------
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
    calls: list[Any] = []
    call = owner.call
    monkeypatch.setattr(owner, "call", lambda *a: (calls.append(a[0]), call(*a))[1])
    thread = threading.Thread(target=lambda: library.Memory(owner, 16))
    thread.start()
    thread.join()
    assert calls[: calls.index("allocate")][-1:] == ["set_device"]


def test_nobody_waits_for_a_device_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA forbids it, in whatever thread: waiting for the device begins when the capture has ended."""
    emulated, x = not os.environ.get("FASTCONV_TEST_CUDA"), feed()
    if emulated:
        monkeypatch.setenv("SIMT_CAPTURE_MS", "200")
    models = [load() for _ in range(1 if emulated else 20)]
    want = [model(x) for model in models]
    owner, longest, errors, over = models[0]._target.owner, [0.0], [], threading.Event()

    def wait() -> None:
        while not over.is_set():
            started = time.monotonic()
            try:
                owner.use()
                owner.call("synchronize_device")
            except DeviceError as error:
                errors.append(str(error))
            longest[0] = max(longest[0], time.monotonic() - started)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        got = [model(x) for model in models]  # the second run is captured
    finally:
        over.set()
        thread.join()
    assert not errors
    np.testing.assert_array_equal(got, want)
    assert all(model._executor.captured(model.compile(x.shape).plan) for model in models)
    assert longest[0] > 0.05 or not emulated  # it did come in between


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
        "winograd_input", "winograd_product", "pack_winograd_weights", "grouped_conv2d"
    }  # fmt: skip


def test_no_gate_is_taken() -> None:
    """The CPU scales weights by a gate; packed weights of the GPU have another order."""
    rng, source = np.random.default_rng(0), gate_network(12, 19, 24)
    x = rng.standard_normal((1, 19, 12, 12), np.float32)
    cpu, gpu = fastconv.load(source), fastconv.load(source, device="cuda")
    assert "gate" in {op.algorithm for op in cpu.inspect(x.shape)}
    assert "gate" not in {op.algorithm for op in gpu.inspect(x.shape)}
    np.testing.assert_allclose(gpu(x), cpu(x), rtol=1e-4, atol=1e-5)
