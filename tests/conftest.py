"""FASTCONV_TEST_ALL=1 (the Makefile sets it): a test whose package is missing fails instead of being skipped."""

from __future__ import annotations

import importlib
import os

import pytest

if os.environ.get("FASTCONV_TEST_ALL"):
    pytest.importorskip = importlib.import_module  # type: ignore[assignment]
