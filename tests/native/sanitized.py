"""A pytest plugin for run_sanitized.sh: fastconv is the one of build/sanitize, here and in every worker."""

from __future__ import annotations

import sys

# an editable installation answers before any path
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]

from fastconv import _core  # noqa: E402

assert "sanitize" in _core.__file__, _core.__file__
