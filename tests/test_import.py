"""`import fastconv` is quick and loads nothing but numpy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import fastconv

from .small import network, python

LIMIT = 0.25  # seconds on an idle machine
HEAVY = ("onnx", "onnxruntime", "torch", "PIL", "typer", "click", "rich", "pybind11", "scipy", "google", "tests")


def test_loads_no_other_package() -> None:
    code = f"import sys, fastconv; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = python(code)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.split() == []


def test_running_a_model_loads_no_other_package(tmp_path: Path) -> None:
    """From a file: onnx is for those who hand over a ModelProto."""
    code = f"""
import sys, fastconv, numpy as np
session = fastconv.InferenceSession(open(sys.argv[1], "rb").read())
session.run(None, {{"input": np.zeros((1, 3, 20, 18), np.float32)}})
print(*[m for m in {HEAVY!r} if m in sys.modules])
"""
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    done = python(code, str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_modules_come_when_they_are_asked_for() -> None:
    code = """
import sys, fastconv
assert "fastconv.layers" not in sys.modules
print(fastconv.applications.VGG16.__name__, fastconv.layers.Dense.__name__, fastconv.preprocessing.load_img.__name__)
fastconv.nothing
"""
    done = python(code)
    assert done.stdout.split() == ["VGG16", "Dense", "load_img"]
    assert done.stderr.strip().endswith("AttributeError: module 'fastconv' has no attribute 'nothing'")


def test_a_source_folder_that_hides_the_installed_package(tmp_path: Path) -> None:
    """Says so; a compiled module that is there and cannot be loaded keeps its own message."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(fastconv.__file__).parent, tmp_path / "fastconv", ignore=ignored)
    command = [sys.executable, "-S", "-c", "import fastconv"]  # -S: an editable installation would come first
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'fastconv'} is fastconv's source") and "pip install -e" in last
    (tmp_path / "fastconv" / f"_core{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "_core" in last and "fastconv's source" not in last


def test_import_time(tmp_path: Path) -> None:
    """The best of several processes, in units of this machine: what importing numpy costs says how slow it is.

    Processor time: other programs on the machine do not count, and nothing here waits. All but the first find byte
    code, as users of an installed package do, also where the environment asks for none.
    """
    code = """
import sys, time
start = time.process_time(); import numpy; numpy_s = time.process_time() - start
start = time.process_time(); import fastconv; print(numpy_s, time.process_time() - start)
"""
    env = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    runs = [[float(v) for v in python(code, **env).stdout.split()] for _ in range(7)]
    numpy_s, own = (min(r[i] for r in runs) for i in (0, 1))
    slack = max(1.0, numpy_s / 0.12)  # numpy takes 0.05 to 0.12 s on an idle machine
    assert numpy_s + own < LIMIT * slack, f"numpy {numpy_s:.3f} s, fastconv {own:.3f} s on top"
    assert own < 0.15 * slack


def test_version_is_the_installed_one() -> None:
    try:
        installed = version("fastconv")
    except PackageNotFoundError:
        pytest.skip("not installed")
    assert fastconv.__version__ == installed


def test_every_public_name_is_there() -> None:
    start = time.process_time()
    for name in fastconv.__all__:
        assert getattr(fastconv, name) is not None
    assert time.process_time() - start < 1
