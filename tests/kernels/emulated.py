"""The tests of this folder on a level that only an emulated CPU has.

FASTCONV_TEST_EMULATOR is a command that runs tests/native/kernel_server, FASTCONV_TEST_LEVEL the level (neon). Kernel
calls then go to that process: descriptors and floats over pipes, buffers at guard pages there.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fastconv import _core

COMMAND = os.environ.get("FASTCONV_TEST_EMULATOR")
LEVEL = os.environ.get("FASTCONV_TEST_LEVEL", "neon")
ROWS = Path(__file__).resolve().parents[2] / "csrc" / "cpu" / "kernels.def"


def _kernels() -> dict[str, list[str]]:
    """The kernels of each descriptor."""
    found: dict[str, list[str]] = {}
    for name, descriptor in re.findall(r"^KERNEL\((\w+), (\w+)\)", ROWS.read_text(), re.MULTILINE):
        found.setdefault(descriptor, []).append(name)
    return found


KERNELS = _kernels()


class Server:
    """One kernel_server for all tests of this process."""

    def __init__(self, command: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(shlex.split(command), stdin=pipe, stdout=pipe)
        self.lock = threading.Lock()

    def run_kernel(
        self,
        isa: Any,
        desc: Any,
        inputs: Sequence[npt.NDArray[Any] | None],
        out: npt.NDArray[Any],
        chunks: tuple[int, int] | None = None,
        op: Any = None,
        more: Sequence[npt.NDArray[Any]] = (),
    ) -> None:
        """_core.run_kernel, elsewhere: buffers end at a guard page, those of single chunks start at one.

        Raises AssertionError where the process dies or an input changed.
        """
        if isa.name != LEVEL:
            raise ValueError(f"the emulated machine runs {LEVEL}, not {isa.name}")
        if op is None and isinstance(desc, _core.Conv2d):  # its algorithm says which
            grouped = desc.algorithm == _core.ConvAlgorithm.grouped
            op = _core.Op.grouped_conv2d if grouped else _core.Op.conv2d
        names = KERNELS[type(desc).__name__] if op is None else [op.name]
        if len(names) != 1:
            raise TypeError("several operations share this descriptor: name one with op")
        (name,) = names
        given, outs = [*inputs, *[None] * (4 - len(inputs))], [out, *more]
        sizes = [-1 if x is None else x.size for x in given]
        made = [outs[i].size if i < len(outs) else -1 for i in range(3)]
        begin, end = chunks or (0, -1)
        raw = bytes(desc)
        head = struct.pack("<40s12q", name.encode(), int(isa), len(raw), begin, end, *sizes, *made, chunks is not None)
        with self.lock:
            to, back = self.process.stdin, self.process.stdout
            assert to is not None and back is not None
            try:
                for part in (head, raw, *(x.tobytes() for x in (*given, *outs) if x is not None)):
                    to.write(part)
                to.flush()
                (status,) = struct.unpack("<q", _exactly(back, 8))
                answers = [_exactly(back, x.nbytes) for x in outs]
            except (BrokenPipeError, EOFError):
                raise AssertionError(f"{desc!r}: the emulated process died ({self.process.wait()})") from None
        if status == 1:
            raise ValueError(f"{name}: {desc!r} asks for other sizes")
        assert status == 0, "an input changed"
        for x, answer in zip(outs, answers, strict=True):
            x.ravel()[...] = np.frombuffer(answer, np.float32)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def levels() -> list[Any]:
    """The levels to test; starts the emulator where there is one to use."""
    if COMMAND is None:
        return [getattr(_core.Isa, name) for name in _core.isa_levels()]
    if not isinstance(getattr(_core.run_kernel, "__self__", None), Server):
        _core.run_kernel = Server(COMMAND).run_kernel  # type: ignore[assignment]
    return [getattr(_core.Isa, LEVEL)]
