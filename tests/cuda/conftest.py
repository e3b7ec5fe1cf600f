"""Every test here runs csrc/cuda under the emulator, or on a real GPU with FASTCONV_TEST_CUDA=1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastconv.cuda import library

from . import emulator


@pytest.fixture(autouse=True, scope="session")
def plugin() -> Iterator[Path]:
    """The plugin that device="cuda" loads in these tests."""
    if os.environ.get("FASTCONV_TEST_CUDA"):
        yield library.find()
        return
    path = emulator.plugin()
    before = os.environ.get("FASTCONV_CUDA_LIBRARY")
    os.environ["FASTCONV_CUDA_LIBRARY"] = str(path)
    yield path
    if before is None:
        del os.environ["FASTCONV_CUDA_LIBRARY"]
    else:
        os.environ["FASTCONV_CUDA_LIBRARY"] = before
    library._devices.clear()
