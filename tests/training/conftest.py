"""Beside torch alone: `make test` deselects these tests and has no torch to import; `pytest tests/training` without it
finds none and fails."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_torch.py", "test_torch_images.py"]
