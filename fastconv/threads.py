"""What `threads` means wherever it is asked for."""

from __future__ import annotations

import numpy as np

from . import _core

MAX_THREADS = 1024


def thread_count(threads: int | None) -> int:
    """How many threads `threads` means. Raises ValueError."""
    if threads is not None and not (
        isinstance(threads, (int, np.integer)) and not isinstance(threads, bool) and 1 <= threads <= MAX_THREADS
    ):
        raise ValueError(f"threads={threads!r}: expected None or an int from 1 to {MAX_THREADS}")
    return int(threads) if threads else _core.usable_cpus()
