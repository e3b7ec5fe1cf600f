"""FASTCONV_TEST_ALL=1 (the Makefile sets it): a test whose package is missing fails instead of being skipped."""

from __future__ import annotations

import importlib
import os

import pytest

if os.environ.get("FASTCONV_TEST_ALL"):
    pytest.importorskip = importlib.import_module  # type: ignore[assignment]

# Marked `long`, which `make check` leaves out to take less than two minutes: emulated GPUs, engines, whole networks,
# training, processes.
LONG = (
    *("tests/cuda/", "tests/bench/", "tests/applications/", "tests/test_finetune.py", "tests/test_cli_finetune.py"),
    *("tests/test_config.py", "tests/test_properties.py", "tests/test_threads.py::test_pool"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker(pytest.mark.long)
