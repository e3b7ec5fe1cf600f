"""Where files are written."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def target_path(path: str | os.PathLike[str]) -> Path:
    """The place of a file to be written. Raises FileNotFoundError or IsADirectoryError where there can be none."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
    return target
