"""One small network that API tests share: convolutions of every kind, a residual, a concatenation, a dense head."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.models.builder import Builder

F32 = npt.NDArray[np.float32]
ROOT = Path(__file__).resolve().parents[1]
SHAPE = (3, 20, 18)
CLASSES = 11


@lru_cache(maxsize=4)
def network(blocks: int = 1) -> bytes:
    """ONNX bytes: input "input" [N, 3, 20, 18], outputs "output" [N, 11] and "output1" [N, 40, 10, 9]."""
    b = Builder(7, SHAPE)
    x = b.conv_bn_relu(b.x, 40, 3, 2)
    for _ in range(blocks):
        y = b.relu(b.bn(b.conv(x, 40, 3, 1, group=40)))
        y = b.conv(y, 40, 3, 1, bias=True)
        x = b.relu(b.op("Add", x, y))
    features = x
    x = b.concat(b.conv_bn_relu(x, 5, 1), b.pool("MaxPool", x, 3, 1, (1, 1, 1, 1)))
    model = b.model((b.head(x, CLASSES), (CLASSES,)), (features, (40, 10, 9)))
    data: bytes = model.SerializeToString()
    return data


def images(batch: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal((batch, *SHAPE), np.float32)


def same_bits(a: F32, b: F32) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def python(code: str, *args: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds fastconv and tests where this one does."""
    import os

    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "PYTHONPATH": path, **env},
    )  # fmt: skip
