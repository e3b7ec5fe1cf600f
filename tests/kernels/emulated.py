"""The tests of this folder on a level that only an emulated CPU has.

FASTCONV_TEST_EMULATOR is a command that runs tests/native/kernel_server, FASTCONV_TEST_LEVEL the level (neon). Kernel
calls then go to that process: descriptors and floats over pipes, buffers at guard pages there.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fastconv import _core

COMMAND = os.environ.get("FASTCONV_TEST_EMULATOR")
LEVEL = os.environ.get("FASTCONV_TEST_LEVEL", "neon")
# the kernel of a descriptor where no `op` tells which of several
KERNELS = {
    "Conv2d": "conv2d", "DepthwiseConv2d": "depthwise_conv2d", "Winograd": "winograd_conv2d", "Linear": "linear",
    "MatMul": "matmul", "Pool2d": "max_pool2d", "TopK": "topk",
}  # fmt: skip


class Server:
    """One kernel_server for the whole run of tests."""

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
    ) -> None:
        """_core.run_kernel, elsewhere. Raises AssertionError where the process dies or an input changed."""
        if isa.name != LEVEL:
            raise ValueError(f"the emulated machine runs {LEVEL}, not {isa.name}")
        name = op.name if op is not None else KERNELS.get(type(desc).__name__, type(desc).__name__.lower())
        given = [*inputs, *[None] * (4 - len(inputs))]
        sizes = [-1 if x is None else x.size for x in given]
        begin, end = chunks or (0, -1)
        raw = bytes(desc)
        head = struct.pack("<32s9q", name.encode(), int(isa), len(raw), begin, end, *sizes, out.size)
        with self.lock:
            to, back = self.process.stdin, self.process.stdout
            assert to is not None and back is not None
            try:
                for part in (head, raw, *(x.tobytes() for x in given if x is not None), out.tobytes()):
                    to.write(part)
                to.flush()
                (status,) = struct.unpack("<q", _exactly(back, 8))
                answer = _exactly(back, out.nbytes)
            except (BrokenPipeError, EOFError):
                raise AssertionError(f"{desc!r}: the emulated process died ({self.process.wait()})") from None
        if status == 1:
            raise ValueError(f"{name}: {desc!r} asks for other sizes")
        assert status == 0, "an input changed"
        out.ravel()[...] = np.frombuffer(answer, np.float32)


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
