"""Compiles csrc/cuda for the host under the SIMT emulator (simt.h): a library with the plugin's own interface.

Objects are kept in build/simt and made anew where a source, the compiler or its flags change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.locked import locked

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "simt"
# -fsanitize=thread makes the compiler call a function at every access to memory; simt.cpp has those functions, the
# sanitizer's own library is not linked.
INSTRUMENT = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-O1"]
COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi",
          "-ffp-contract=off",
          f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'cuda'}", f"-I{HERE}"]  # fmt: skip


def compiler() -> str:
    """g++: clang's option to leave out function entries differs."""
    return os.environ.get("FASTCONV_SIMT_CXX", "g++")


def _key(source: Path, flags: list[str]) -> str:
    digest = hashlib.sha256(repr((compiler(), flags)).encode())
    csrc = ROOT / "csrc"
    headers = [*(csrc / "cuda").glob("*.*h"), csrc / "cuda" / "absent.def", csrc / "cpu" / "kernels.def"]
    headers += [csrc / "ops.h", csrc / "training_ops.h", csrc / "cpu" / "winograd.h"]
    for path in sorted([*headers, *HERE.glob("*.h"), source]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _compile(source: Path) -> Path:
    flags = [*COMMON, *(INSTRUMENT if source.suffix == ".cu" else ["-O2"])]
    target = BUILD / f"{source.stem}-{_key(source, flags)}.o"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler(), *flags, "-x", "c++", "-c", str(source), "-o", str(part)], check=True)
        part.replace(target)
    return target


def build(name: str, sources: list[Path]) -> Path:
    """The shared library of these sources and the emulator."""
    with locked(BUILD), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(_compile, [*sources, *sorted(HERE.glob("simt*.cpp"))]))
        key = hashlib.sha256("".join(map(str, objects)).encode()).hexdigest()[:20]
        library = BUILD / f"lib{name}-{key}.so"
        if not library.exists():
            part = library.with_suffix(f".{os.getpid()}")
            subprocess.run([compiler(), "-shared", "-o", str(part), *map(str, objects)], check=True)
            part.replace(library)
    return library


def plugin() -> Path:
    return build("plugin", sorted((ROOT / "csrc" / "cuda").glob("*.cu")))
