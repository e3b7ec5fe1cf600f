"""Try what `make wheel` built: `python -m tests.check_wheel dist`.

The wheel holds every file of the package and one compiled module, and is small; the sdist, from which pip built the
wheel with nothing but what it asks for, holds sources only. The wheel is installed into a fresh environment and passes
the quick tests and a few more there, which come from the sdist. Exit code 1 with one line for each fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 6e6  # bytes
SDIST_WANTS = (
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "bench/kernels.py",
    "csrc/cpu/kernels.def",
    "csrc/cuda/conv2d.cu",
    "fastconv/py.typed",
    "tests/cases.py",
    "tests/cuda/simt.h",
    "include/fastconv.h",
    "cmake/library.cmake",
)
PYTEST = "-m pytest -q -n auto --maxprocesses 4 -p no:cacheprovider"
QUICK = "not full and not torch and not slow and not long"  # those of `make check`
MORE = ("tests/test_properties.py", "tests/test_threads.py::test_pool")  # this compiler beside onnxruntime, its threads
NOT_SOURCES = (".so", ".o", ".pyc", ".onnx")
TRIAL = """
import sys
import numpy as np
import fastconv
assert "onnxruntime" not in sys.modules and "torch" not in sys.modules
fastconv.show_config()
x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
y = fastconv.ops.conv2d(x, np.ones((1, 2, 3, 3), np.float32))
assert y.shape == (1, 1, 1, 1) and y[0, 0, 0, 0] == x.sum(), y
import onnx
assert fastconv.load(onnx.helper.make_model(onnx.helper.make_graph(
    [onnx.helper.make_node("Relu", ["x"], ["y"])], "relu",
    [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
    [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))(np.float32([-1, 2])).tolist() == [0, 2]
"""


def check_wheel(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]  # auditwheel lists folders, too
    package = {n for n in names if n.startswith("fastconv/")}
    compiled = {n for n in package if n.endswith(".so")}
    sources = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "fastconv").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".so"
    }
    faults = [f"{path.name}: lacks {n}" for n in sorted(sources - package)]
    faults += [f"{path.name}: holds {n}" for n in sorted(package - compiled - sources)]
    faults += [f"{path.name}: holds {n}" for n in names if n not in package and ".dist-info/" not in n]
    if len(compiled) != 1:
        faults.append(f"{path.name}: expected one compiled module, got {sorted(compiled)}")
    if not any(n.endswith("/LICENSE") for n in names):
        faults.append(f"{path.name}: lacks LICENSE")
    if path.stat().st_size > LARGEST:
        faults.append(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, at most {LARGEST / 1e6:.0f} are allowed")
    return faults


def check_sdist(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
    faults = [f"{path.name}: lacks {n}" for n in SDIST_WANTS if n not in names]
    unwanted = [n for n in names if n.endswith(NOT_SOURCES) or n.startswith(("build/", "dist/", "."))]
    return faults + [f"{path.name}: holds {n}" for n in unwanted if n not in (".clang-format", ".gitignore")]


def try_wheel(path: Path, sdist: Path) -> None:
    """Install into a fresh environment and test it with the sdist's tests, without its package. CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder, "env"), with_pip=True)
        bin_ = Path(folder, "env", "bin")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"FASTCONV_TEST_ALL": "1"}
        shutil.unpack_archive(sdist, folder)
        (tree,) = (p for p in Path(folder).iterdir() if p.name.startswith("fastconv-"))
        shutil.rmtree(tree / "fastconv")
        for command in (
            [bin_ / "python", "-m", "pip", "install", "-q", "--no-cache-dir", str(path.resolve())],
            [bin_ / "python", "-c", TRIAL],
            [bin_ / "fastconv", "--version"],
            [bin_ / "python", "-m", "pip", "install", "-q", "fastconv[test]"],
            [bin_ / "python", *PYTEST.split(), "-m", QUICK],
            [bin_ / "python", *PYTEST.split(), *MORE],
        ):
            subprocess.run(list(map(str, command)), check=True, cwd=tree, env=clean)


def main() -> int:
    if sys.argv[1:] == ["--installed"]:  # what cibuildwheel asks of each of its environments
        exec(TRIAL, {})
        return 0
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    faults = check_wheel(wheel) + check_sdist(sdist)
    if "manylinux" not in wheel.name:
        faults.append(f"{wheel.name}: auditwheel gave it no manylinux tag")
    if not faults:
        print("wheel: a fresh environment, and the quick tests", flush=True)
        try:
            try_wheel(wheel, sdist)
        except subprocess.CalledProcessError as e:
            faults.append(f"{wheel.name}: {e}")
    for fault in faults:
        print(f"wheel: error: {fault}", file=sys.stderr)
    if not faults:
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB; {sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
