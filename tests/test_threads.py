"""Threads: equal bits for any number of them, several callers, fork, no idle burning, no allocation in a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import _core
from fastconv.isa import isa_levels

from .models.nets import NETS, inputs, serialized
from .small import F32, ROOT, images, network, python, same_bits

CC, CXX = shutil.which(os.environ.get("CC", "cc")), shutil.which(os.environ.get("CXX", "c++"))


def equal(a: Sequence[F32], b: Sequence[F32]) -> bool:
    return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))


# -- equal bits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", isa_levels())
def test_number_of_threads(isa: str) -> None:
    x = images(3)
    want = fastconv.load(network(3), threads=1, _isa=isa)(x)
    for threads in (2, 3, 4, 9):
        model = fastconv.load(network(3), threads=threads, _isa=isa)
        for _ in range(5):
            assert equal(model(x), want), threads


@pytest.mark.parametrize("name", NETS)
def test_number_of_threads_on_networks(name: str) -> None:
    import onnx

    x = inputs(onnx.load_from_string(serialized(name)), 2)
    want = fastconv.load(serialized(name), threads=1).run(None, x)
    for threads in (2, 4):
        assert equal(fastconv.load(serialized(name), threads=threads).run(None, x), want)


# -- several callers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", (1, 2))
def test_callers_share_a_model(threads: int) -> None:
    """Eight threads meet at the first call, which compiles, and go on with two shapes."""
    xs = [images(1 + i % 2, seed=i) for i in range(8)]
    serial = fastconv.load(network(), threads=1)
    wants = [serial(x) for x in xs]
    for _ in range(3):
        model = fastconv.load(network(), threads=threads)
        start = threading.Barrier(len(xs))

        def work(i: int, model: fastconv.Model = model, start: threading.Barrier = start) -> bool:
            start.wait()
            return all(equal(model(xs[i]), wants[i]) for _ in range(10))

        with ThreadPoolExecutor(len(xs)) as pool:
            assert all(pool.map(work, range(len(xs))))
        assert len(model._plans) == 2


def test_callers_have_models_of_their_own() -> None:
    x = images(2)
    want = fastconv.load(network(2), threads=1)(x)

    def work(_: int) -> bool:
        model = fastconv.load(network(2), threads=2)
        return all(equal(model(x), want) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_callers_share_the_threads_of_ops() -> None:
    x, w = images(2), np.random.default_rng(1).standard_normal((32, 3, 3, 3), np.float32)
    want = fastconv.ops.conv2d(x, w, threads=1)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: fastconv.ops.conv2d(x, w, threads=2), range(40)):
            assert same_bits(got, want)


# -- the interpreter goes on --------------------------------------------------------------------------------------
def steps_during(work: Callable[[], Any]) -> tuple[int, float]:
    """How far another Python thread, which rests a millisecond between steps, comes while `work` goes on."""
    steps, stop = 0, threading.Event()

    def count() -> None:
        nonlocal steps
        while not stop.is_set():
            steps += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    time.sleep(0.02)
    before, start = steps, time.perf_counter()
    work()
    seconds, done = time.perf_counter() - start, steps - before
    stop.set()
    thread.join()
    return done, seconds


def test_a_run_releases_the_interpreter() -> None:
    model = fastconv.load(network(40), threads=1)
    x = images(256)
    compiled = model.compile(x.shape)
    arrays = [x, *(np.empty(shape, np.float32) for _, shape in compiled.outputs)]
    model._executor.run(compiled.plan, arrays, compiled.repeats)
    steps, seconds = steps_during(lambda: model._executor.run(compiled.plan, arrays, compiled.repeats))
    assert seconds > 0.02, "too short a run to tell"
    assert steps >= 5, f"{steps} steps in {seconds:.3f} s"


def test_packing_releases_the_interpreter() -> None:
    w = np.zeros((4096, 8192), np.float32)
    isa = getattr(_core.Isa, isa_levels()[-1])
    store = _core.WeightStore()
    for pack in (lambda: store.pack_linear(w, None, True, 1024, isa), lambda: store.put(w)):
        steps, seconds = steps_during(pack)
        assert steps >= 3, f"{steps} steps in {seconds:.3f} s"


# -- processes ----------------------------------------------------------------------------------------------------
FORK = """
import os, sys, threading, numpy as np, fastconv
from tests.small import network, images
from tests.test_threads import equal
threads, busy = int(sys.argv[1]), sys.argv[2] == "busy"
model, x = fastconv.load(network(), threads=threads), images(2)
want = model(x)
fastconv.ops.relu(x, threads=threads)
stop = threading.Event()
def work():
    while not stop.is_set():
        model(x)
helpers = [threading.Thread(target=work) for _ in range(2 if busy else 0)]
for t in helpers: t.start()
status = 0
for _ in range(5):
    child = os.fork()
    if child == 0:
        ok = all(equal(model(x), want) for _ in range(3))
        ok = ok and equal(model(images(3))[:1], [fastconv.load(network(), threads=1)(images(3))[0]])
        ok = ok and np.array_equal(fastconv.ops.relu(x, threads=threads), np.maximum(x, 0))
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if equal(model(x), want) else 5)
        os._exit(os.waitpid(grandchild, 0)[1] or (0 if ok else 3))
    status = status or os.waitpid(child, 0)[1]
    if not equal(model(x), want):
        status = 7
stop.set()
for t in helpers: t.join()
print("status", status)
"""


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("others", ("idle", "busy"))
def test_fork(threads: int, others: str) -> None:
    """A child computes, with threads of its own, and so does its child, and its parent goes on."""
    done = python(FORK, str(threads), others, timeout=60)
    assert done.stdout.strip() == "status 0", (done.stdout, done.stderr)


def test_exit_while_running() -> None:
    """A daemon thread that computes does not keep the interpreter from ending in order."""
    code = """
import threading, time, fastconv
from tests.small import network, images
model, x = fastconv.load(network(4), threads=2), images(8)
model(x)
def work():
    while True:
        model(x)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
print("end")
"""
    for _ in range(3):
        done = python(code, timeout=60)
        assert (done.returncode, done.stdout) == (0, "end\n"), (done.returncode, done.stderr)


def test_idle_threads_sleep() -> None:
    model, x = fastconv.load(network(), threads=4), images(2)
    model(x)
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - start < 0.1


def test_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); import fastconv; print(fastconv._core.usable_cpus())"
    assert python(code).stdout.strip() == "1"
    assert 1 <= _core.usable_cpus() <= len(os.sched_getaffinity(0))


def test_round_trip() -> None:
    """Tens of nanoseconds between neighbours, hundreds between sockets; milliseconds would be the scheduler's."""
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); import fastconv; print(fastconv._core.measure_round_trip())"
    assert python(code).stdout.strip() == "0.0"
    if _core.usable_cpus() > 1:
        deadline = time.monotonic() + 10
        while not 5 < (got := _core.measure_round_trip()) < 20_000:  # other tests have the cores
            assert time.monotonic() < deadline, got
            time.sleep(0.1)


def test_a_discarded_model_ends_its_threads() -> None:
    code = """
import gc, os, numpy as np, fastconv
from tests.small import network, images
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
model = fastconv.load(network(), threads=4)
assert count() == before, "threads before the first run"
model(images(2))
during = count()
compiled = model.compile(images(2).shape)
arrays = [images(6), *(np.empty((6, *s[1:]), np.float32) for _, s in compiled.outputs)]
model._executor.run(compiled.plan, arrays, 3)  # two teams of two: the pool of four begins both, each has a worker
teams = count()
del model
gc.collect()
print(during - before, teams - before, count() - before)
"""
    done = python(code)
    assert done.stdout.split() == ["3", "5", "0"], done.stderr


# -- memory -------------------------------------------------------------------------------------------------------
ALLOCATIONS = """
import ctypes, json, sys, numpy as np, fastconv
from tests.small import network, images
counter = ctypes.CDLL(None)
counter.count_stop.restype = ctypes.c_long
result = {}
for blocks in (1, 40):
    model, counts = fastconv.load(network(blocks), threads=int(sys.argv[1]), _isa=sys.argv[2]), []
    compiled = model.compile(images(4).shape)
    for parts in (1, 5):  # five: rounds of teams, and one that all threads do together
        arrays = [images(4 * parts), *(np.empty((4 * parts, *s[1:]), np.float32) for _, s in compiled.outputs)]
        model._executor.run(compiled.plan, arrays, parts)
        for _ in range(5):
            counter.count_start()
            model._executor.run(compiled.plan, arrays, parts)
            counts.append(counter.count_stop())
    result[len(compiled.ops)] = counts
counter.count_start()
np.empty(1 << 20, np.float32)
result["array"] = counter.count_stop()
print(json.dumps(result))
"""


@pytest.mark.skipif(CC is None, reason="no C compiler")
@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("threads", (1, 2))
def test_a_run_allocates_nothing(threads: int, isa: str, tmp_path: Path) -> None:
    """A plan of many operations asks for memory exactly as often as one of few: for the binding's argument lists."""
    assert CC is not None
    library = tmp_path / "count.so"
    source = ROOT / "tests/native/count_allocations.c"
    subprocess.run([CC, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    done = python(ALLOCATIONS, str(threads), isa, LD_PRELOAD=str(library))
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts.pop("array") >= 1, "the counter does not count"
    (few, a), (many, b) = counts.items()
    assert int(few) < 20 and int(many) > 60
    assert set(a) == set(b) and len(set(a)) == 1, counts
    assert a[0] <= 10


# -- the pool itself ----------------------------------------------------------------------------------------------
@pytest.mark.skipif(CXX is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizer", ("", "thread"))
def test_pool(sanitizer: str, tmp_path: Path) -> None:
    """tests/native/pool_stress.cpp: every chunk of hundreds of thousands of jobs once, before its run returns."""
    assert CXX is not None
    program = tmp_path / "pool_stress"
    options = ["-fsanitize=thread", "-g"] if sanitizer else []
    built = subprocess.run(
        [CXX, "-std=gnu++17", "-O2", *options, "-I", str(ROOT / "csrc"), str(ROOT / "tests/native/pool_stress.cpp"),
         str(ROOT / "csrc/threads.cpp"), "-o", str(program), "-pthread"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if sanitizer and built.returncode:
        pytest.skip("no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    fixed = (
        ["setarch", "-R"] if sanitizer and shutil.which("setarch") else []
    )  # it wants addresses where it expects them
    jobs = "20000" if sanitizer else "300000"
    # clang's would die in the child of a fork as it starts threads of its own
    env = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0"}
    done = subprocess.run(
        [*fixed, str(program), jobs], capture_output=True, text=True, timeout=200, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr[:3000]
