"""Builds libfastconv and examples/embedded, for tests and bench.embedded: for this machine, or cross-built for aarch64.

One level each, in build/embedded/<target>, kept from run to run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastconv import _core

from .locked import locked

ROOT = Path(__file__).resolve().parents[1]
TOOLCHAIN = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
EMULATOR = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")


@dataclass(frozen=True)
class Target:
    """What to build for; `levels` are tested, `foreign` is one that it lacks."""

    name: str
    levels: tuple[str, ...]
    foreign: str
    options: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()
    tools: str = ""  # what the names of its compiler and of strip begin with

    @property
    def folder(self) -> Path:
        return ROOT / "build" / "embedded" / self.name


def target() -> Target:
    """This machine's best level, or what FASTCONV_TEST_TARGET=aarch64 asks for."""
    if os.environ.get("FASTCONV_TEST_TARGET") == "aarch64":
        options = (f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}",)
        return Target("aarch64", ("scalar", "neon"), "avx2", options, EMULATOR, "aarch64-linux-gnu-")
    best = _core.isa_levels()[-1]
    return Target(best, (best,), "neon" if best != "neon" else "avx2")


def tool(name: str) -> str:
    """cmake or ninja: that of the environment, else the system's."""
    own = Path(sysconfig.get_path("scripts"), name)
    found = str(own) if own.exists() else shutil.which(name)
    assert found is not None, f"{name} is missing"
    return found


def call(*command: object, cwd: Path | None = None) -> str:
    """stdout; the whole output in an AssertionError where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def build_library(to: Target, kernels: str = "", folder: Path | None = None) -> Path:
    """The installed library's prefix. kernels: for FASTCONV_KERNELS."""
    folder = folder or to.folder
    prefix = folder / "prefix"
    with locked(folder):
        # not FASTCONV_NATIVE_TESTS' other programs: they need kernels and packing that a small build leaves out
        call(tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-S", ROOT,
             "-B", folder / "library", "-DFASTCONV_PYTHON=OFF", "-DFASTCONV_LIBRARY=ON", "-DFASTCONV_NATIVE_TESTS=ON",
             "-DCMAKE_INSTALL_LIBDIR=lib", f"-DCMAKE_INSTALL_PREFIX={prefix}",
             f"-DFASTCONV_LEVELS={';'.join(to.levels)}", f"-DFASTCONV_KERNELS={kernels}", *to.options)  # fmt: skip
        targets = ["fastconv_static", "fastconv_shared", *([] if kernels else ["capi_test"])]
        call(tool("cmake"), "--build", folder / "library", "--target", *targets)
        call(tool("cmake"), "--install", folder / "library", "--component", "library")
    return prefix


def configure(to: Target, prefix: Path, source: Path, folder: Path, *options: str) -> None:
    """A project that looks for that library."""
    call(tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-S", source, "-B", folder,
         f"-DCMAKE_PREFIX_PATH={prefix}", f"-Dfastconv_DIR={prefix}/lib/cmake/fastconv", *options,
         *to.options)  # fmt: skip


def pkg_config(prefix: Path, *options: str) -> list[str]:
    """What a compiler needs to be told for that library."""
    command = ("pkg-config", *options, "--cflags", "--libs", "fastconv")
    return shlex.split(call("env", f"PKG_CONFIG_PATH={prefix}/lib/pkgconfig", *command))


def build_example(to: Target, prefix: Path, name: str, *options: str) -> Path:
    """examples/embedded against that library."""
    folder = prefix.parent / name
    with locked(folder):
        configure(to, prefix, ROOT / "examples" / "embedded", folder, *options)
        call(tool("cmake"), "--build", folder)
    return folder / "classify"


def run(to: Target, *command: object) -> subprocess.CompletedProcess[str]:
    """A program of that target."""
    return subprocess.run([*to.emulator, *map(str, command)], capture_output=True, text=True, check=False)


def write_ppm(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """pixels [H, W, 3]."""
    height, width, _ = pixels.shape
    path.write_bytes(f"P6 {width} {height} 255\n".encode() + pixels.tobytes())


def as_input(pixels: Sequence[object] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What classify.c makes of them: [1, 3, H, W]."""
    x = np.asarray(pixels).astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return np.ascontiguousarray(((x - mean) / std).transpose(2, 0, 1)[None])
