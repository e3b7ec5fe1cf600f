"""Every test here runs csrc/cuda under the emulator, or on a real GPU with FASTCONV_TEST_CUDA=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastconv.cuda import library

from . import emulator

_devices: dict[int, library.Device] = {}


@pytest.fixture(scope="session")
def plugin_path() -> Path:
    return library.find() if os.environ.get("FASTCONV_TEST_CUDA") else emulator.plugin()


@pytest.fixture(autouse=True)
def plugin(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin that device="cuda" loads in these tests, and in no others."""
    monkeypatch.setenv("FASTCONV_CUDA_LIBRARY", str(plugin_path))
    monkeypatch.setattr(library, "_devices", _devices)
    return plugin_path
