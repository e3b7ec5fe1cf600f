"""Settings that must stand before any test module is imported.

FASTCONV_TEST_ALL=1 (the Makefile sets it): a test whose package is missing fails instead of being skipped.
"""

from __future__ import annotations

import importlib
import os

import pytest

# Reference models are of opset 24, which onnxruntime 1.23, the last for Python 3.10, runs only if told to.
os.environ.setdefault("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")

if os.environ.get("FASTCONV_TEST_ALL"):
    pytest.importorskip = importlib.import_module  # type: ignore[assignment]
