"""libfastconv and examples/embedded: found, linked, the same bits as Python's, and what they do with broken plans.

FASTCONV_TEST_TARGET=aarch64 cross-builds them and runs them under qemu-user (make test-emulated).
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import fastconv
from bench.embedded import LARGEST, program_bytes
from fastconv import _core
from fastconv.model import Model
from fastconv.models import LayerSource

from . import embedded
from .models.builder import Builder
from .small import CLASSES, SHAPE, network

pytestmark = pytest.mark.slow
TARGET = embedded.target()
REFUSED = r"classify: \S*bad.fcplan: (broken plan: |not a saved plan|plan file of version |the plan is for ).*\n"
FIVE = re.compile(
    r"(\s*\d+\.\d\d%  kind \d+\n){5}"
    r"load [\d.]+ ms, first answer after [\d.]+ ms, median of \d runs [\d.]+ ms; \w+, arena \d+ bytes\n"
)


@pytest.fixture(scope="module")
def prefix() -> Path:
    return embedded.build_library(TARGET)


@pytest.fixture(scope="module")
def classify(prefix: Path) -> Path:
    return embedded.build_example(TARGET, prefix, "static")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "net.fcplan"
    labels = [f"kind {i}" for i in range(CLASSES)]
    given = onnx.load_from_string(network())
    onnx.helper.set_model_props(given, {"author": "tests"})
    fastconv.load(given).save(path, shape=(1, *SHAPE), isa=TARGET.levels, labels=labels)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "foreign.fcplan"
    fastconv.load(network()).save(path, shape=(1, *SHAPE), isa=[TARGET.foreign])
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.ppm"
    pixels = np.random.default_rng(4).integers(0, 256, (SHAPE[1], SHAPE[2], 3), np.uint8)
    embedded.write_ppm(path, pixels)
    path.with_suffix(".rgb").write_bytes(pixels.tobytes())
    path.with_suffix(".f32").write_bytes(embedded.as_input(pixels).tobytes())
    np.save(path.with_suffix(".npy"), pixels)
    return path


@pytest.mark.parametrize("isa", TARGET.levels)
@pytest.mark.parametrize("suffix", (".ppm", ".rgb", ".f32"))
@pytest.mark.parametrize("threads", (0, 2))
def test_same_as_python(
    classify: Path, plan: Path, photo: Path, tmp_path: Path, isa: str, suffix: str, threads: int
) -> None:
    """To the last bit where Python runs that level too; NEON, which it does not, agrees with scalar closely."""
    dump = tmp_path / "y.f32"
    image = photo.with_suffix(suffix)
    done = embedded.run(TARGET, classify, plan, image, "--isa", isa, "--threads", threads, "--runs", 2, "--dump", dump)
    assert done.returncode == 0, done.stderr
    assert FIVE.fullmatch(done.stdout), done.stdout
    got = np.frombuffer(dump.read_bytes(), np.float32)
    here = isa in _core.isa_levels()
    model = fastconv.load(network(), _isa=isa if here else "scalar")
    want = model(embedded.as_input(np.load(photo.with_suffix(".npy"))))[0].ravel()
    assert f"kind {int(np.argmax(want))}" in done.stdout.splitlines()[0]
    if here:
        np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_channels_last(classify: Path, photo: Path, tmp_path: Path) -> None:
    """A network of layers takes its image that way."""
    from fastconv.layers import Conv2D, Dense, GlobalAveragePooling2D
    from fastconv.models import Sequential

    height, width = SHAPE[1:]
    net = Sequential(
        [Conv2D(8, 3, activation="relu", input_shape=(height, width, 3)), GlobalAveragePooling2D(), Dense(6)]
    )
    level = TARGET.levels[0]
    Model(LayerSource(net), _isa=level if level in _core.isa_levels() else None).save(
        tmp_path / "x.fcplan", isa=[level]
    )
    dump = tmp_path / "y.f32"
    done = embedded.run(TARGET, classify, tmp_path / "x.fcplan", photo, "--dump", dump)
    assert done.returncode == 0, done.stderr
    x = embedded.as_input(np.load(photo.with_suffix(".npy"))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(np.frombuffer(dump.read_bytes(), np.float32), net.predict(x)[0], rtol=0, atol=1e-5)


def test_broken_plans(classify: Path, plan: Path, foreign: Path, photo: Path, tmp_path: Path) -> None:
    """One line on stderr and exit code 1, whatever the file is."""
    data = plan.read_bytes()
    rng = np.random.default_rng(8)
    cases = {f"first {n} bytes": data[:n] for n in (0, 50, 80, 1000, len(data) // 2, len(data) - 1)}
    for at in rng.integers(0, len(data) - 4096, 12 if TARGET.emulator else 40):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        cases[f"bit of byte {at}"] = bytes(flipped)
    bad = tmp_path / "bad.fcplan"
    unseen = 0
    for what, content in cases.items():
        bad.write_bytes(content)
        done = embedded.run(TARGET, classify, bad, photo)
        if done.returncode == 0:  # the bit lies in another level's weights, or between parts
            unseen += 1
            continue
        assert done.returncode == 1 and done.stdout == "", what
        assert re.fullmatch(REFUSED, done.stderr), done.stderr
    assert unseen <= len(cases) // 2
    done = embedded.run(TARGET, classify, foreign, photo)
    assert done.returncode == 1 and f"the plan is for {TARGET.foreign}, which this CPU or build lacks" in done.stderr
    done = embedded.run(TARGET, classify, plan, photo, "--isa", TARGET.foreign)
    assert done.returncode == 1 and f"not for {TARGET.foreign}" in done.stderr
    done = embedded.run(TARGET, classify, tmp_path / "none.fcplan", photo)
    assert done.returncode == 1
    assert done.stderr == f"classify: plan: {tmp_path / 'none.fcplan'}: No such file or directory\n"
    done = embedded.run(TARGET, classify, plan, plan)
    assert done.returncode == 1 and "expected a PPM file" in done.stderr
    assert embedded.run(TARGET, classify, plan).returncode == 2


def test_photos_with_comments(classify: Path, plan: Path, photo: Path, tmp_path: Path) -> None:
    """As image editors write them; a head that ends early is no photo."""
    head, pixels = photo.read_bytes().split(b"\n", 1)
    height, width = SHAPE[1:]
    assert head == f"P6 {width} {height} 255".encode()
    other = tmp_path / "other.ppm"
    runs = []
    for start in (head, f"P6\n# made by #1\n{width} # wide\n#\n{height}\n255".encode()):
        other.write_bytes(start + b"\n" + pixels)
        runs.append(embedded.run(TARGET, classify, plan, other))
        assert runs[-1].returncode == 0, runs[-1].stderr
    assert runs[0].stdout.splitlines()[:5] == runs[1].stdout.splitlines()[:5]
    for start in (b"P6 # no end", b"P6 ", head[:-3] + b"-255"):
        other.write_bytes(start)
        done = embedded.run(TARGET, classify, plan, other)
        assert done.returncode == 1 and "expected a PPM file" in done.stderr


C_PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(app C)
find_package(fastconv REQUIRED)
add_executable(app app.c)
target_link_libraries(app PRIVATE fastconv::static)
"""
C_PROGRAM = """
#include <fastconv.h>
#include <stdio.h>
int main(int argc, char** argv) {
  fastconv_error error;
  fastconv_plan* plan;
  fastconv_session* session;
  if (argc != 2 || fastconv_plan_open(argv[1], NULL, 0, &plan, &error) != FASTCONV_OK) return 1;
  if (fastconv_session_create(plan, 0, NULL, 0, &session, &error) != FASTCONV_OK) return 1;
  fastconv_session_close(session);
  fastconv_plan_close(plan);
  return puts("fine") < 0;
}
"""


def test_a_project_in_c_alone(prefix: Path, plan: Path, tmp_path: Path) -> None:
    """The package names the C++ runtime that a C linker does not know; so does pkg-config --static."""
    (tmp_path / "CMakeLists.txt").write_text(C_PROJECT)
    (tmp_path / "app.c").write_text(C_PROGRAM)
    embedded.configure(TARGET, prefix, tmp_path, tmp_path / "build")
    embedded.call(embedded.tool("cmake"), "--build", tmp_path / "build")
    compiler = TARGET.tools + ("gcc" if TARGET.tools else "cc")
    flags = embedded.pkg_config(prefix, "--static")
    embedded.call(compiler, tmp_path / "app.c", "-o", tmp_path / "static", "-static", *flags)
    for program in (tmp_path / "build" / "app", tmp_path / "static"):
        assert embedded.run(TARGET, program, plan).stdout == "fine\n"


def test_levels(tmp_path: Path) -> None:
    """Commas do as well; a level that the target lacks is refused by name."""
    cmake = (embedded.tool("cmake"), "-DFASTCONV_PYTHON=OFF", "-DFASTCONV_LIBRARY=ON", "-S", embedded.ROOT)
    cases = {f"scalar,{TARGET.levels[0]}": "", f"scalar;{TARGET.foreign}": f"has no level called {TARGET.foreign};"}
    for given, refused in {**cases, ",": "no level to build"}.items():
        command = [*map(str, cmake), "-B", str(tmp_path), f"-DFASTCONV_LEVELS={given}", *TARGET.options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (1 if refused else 0), done.stderr
        assert refused in " ".join(done.stderr.split())


@pytest.mark.parametrize("isa", TARGET.levels)
def test_c_interface(prefix: Path, plan: Path, foreign: Path, isa: str) -> None:
    done = embedded.run(TARGET, prefix.parent / "library" / "capi_test", plan, foreign, isa)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shared_library_shows_its_interface_only(prefix: Path) -> None:
    (library,) = (p for p in (prefix / "lib").glob("libfastconv.so.*.*") if not p.is_symlink())
    listing = embedded.call("nm", "-D", "--defined-only", library)
    names = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    header = (prefix / "include" / "fastconv.h").read_text()
    assert names - {"FASTCONV_1"} == set(re.findall(r"FASTCONV_API [\w ]+\*?\s*(fastconv_\w+)\(", header))


def test_shared_and_pkg_config(prefix: Path, plan: Path, photo: Path, tmp_path: Path) -> None:
    shared = embedded.build_example(TARGET, prefix, "shared", "-DCLASSIFY_SHARED=ON")
    assert embedded.run(TARGET, shared, plan, photo).returncode == 0
    flags = embedded.pkg_config(prefix)
    source, program = embedded.ROOT / "examples" / "embedded" / "classify.c", tmp_path / "by_pkg_config"
    compiler = TARGET.tools + ("gcc" if TARGET.tools else "cc")
    embedded.call(compiler, source, "-o", program, *flags, "-lm", f"-Wl,-rpath,{prefix}/lib")
    assert embedded.run(TARGET, program, plan, photo).returncode == 0


def test_kernels_that_a_plan_does_not_use_are_dropped(plan: Path, photo: Path, classify: Path, tmp_path: Path) -> None:
    """A build for one plan is smaller, runs that plan, and refuses another that needs more."""
    kernels = embedded.call(sys.executable, "-m", "fastconv.cli", "info", plan, "--kernels").strip()
    folder = TARGET.folder.with_name(f"{TARGET.name}-small")
    prefix = embedded.build_library(TARGET, kernels, folder)
    small = embedded.build_example(TARGET, prefix, "static")
    assert embedded.run(TARGET, small, plan, photo).returncode == 0
    for name, program in (("a", small), ("b", classify)):
        embedded.call(f"{TARGET.tools}strip", "-o", tmp_path / name, program)
    assert (tmp_path / "a").stat().st_size < (tmp_path / "b").stat().st_size - 80000
    b = Builder(3, SHAPE)
    other = tmp_path / "other.fcplan"
    fastconv.load(b.model((b.op("Softmax", b.head(b.x, 4), axis=1), (4,))).SerializeToString()).save(
        other, shape=(1, *SHAPE), isa=TARGET.levels
    )
    done = embedded.run(TARGET, small, other, photo)
    assert done.returncode == 1 and "other.fcplan: this build leaves softmax out" in done.stderr
    assert "FASTCONV_KERNELS" in done.stderr


def test_the_size_of_a_program() -> None:
    """With MobileNetV2's kernels and one instruction set, the C++ runtime included: LARGEST bytes, 600 kB."""
    assert program_bytes(True, replace(TARGET, levels=TARGET.levels[-1:])) <= LARGEST == 600_000
