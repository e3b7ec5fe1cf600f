"""Pages of docs/ whose listings are run: what each prints must be what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```python( no-run)?\n(.*?)```\n(?:```text\n(.*?)```)?", re.S)


def check(page: Path, folder: Path, least: int) -> None:
    """Run a page's listings, at least so many, one after the other in one process that works in `folder`."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) >= least
    listings = [(code, want) for skipped, code, want in blocks if not skipped]
    text = "\n".join(f"{code}\nprint('--end--')\n" for code, _ in listings)
    path = os.pathsep.join((str(ROOT), str(ROOT / "examples")))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for (code, want), got in zip(listings, done.stdout.split("--end--\n")[:-1], strict=True):
        assert got == want, code
