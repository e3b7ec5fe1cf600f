"""Every test here runs csrc/cuda under the emulator, or on a real GPU with FASTCONV_TEST_CUDA=1."""

from __future__ import annotations

import os
from ctypes import c_void_p
from pathlib import Path

import numpy as np
import pytest

from fastconv.cuda import library

from . import emulator

_devices: dict[int, library.Device] = {}
_take = library.Memory.__init__


def _poisoned(self: library.Memory, owner: library.Device, size: int, *, host: bool = False) -> None:
    """Memory that holds NaN in every type, as the emulator's does: what nobody wrote shows."""
    _take(self, owner, size, host=host)
    if not host:
        fill = np.full(size, 0xFF, np.uint8)
        owner.call("upload", c_void_p(self.address), c_void_p(fill.ctypes.data), size)


@pytest.fixture(scope="session")
def plugin_path() -> Path:
    return library.find() if os.environ.get("FASTCONV_TEST_CUDA") else emulator.plugin()


@pytest.fixture(autouse=True)
def plugin(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin that device="cuda" loads in these tests, and in no others."""
    monkeypatch.setenv("FASTCONV_CUDA_LIBRARY", str(plugin_path))
    monkeypatch.setattr(library, "_devices", _devices)
    if os.environ.get("FASTCONV_TEST_CUDA"):
        monkeypatch.setattr(library.Memory, "__init__", _poisoned)
    return plugin_path
