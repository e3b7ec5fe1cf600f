"""The command line `fastconv`. Each command's work sits in a module of its own, imported when it runs."""

from __future__ import annotations

from fastconv.cli.app import main, run

__all__ = ["main", "run"]
