"""Engines with known faults, for bench.runner. Each returns its input doubled, or not quite."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.peers import Array, Engine, Shapes


class Right(Engine):
    name, package, settings = "right", "none", "none at all"
    factor = np.float32(2.0)

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        pass

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        return [a * self.factor for a in x.values()]


class Inexact(Right):
    factor = np.float32(2.002)


class Wrong(Right):
    factor = np.float32(3.0)


class Raises(Right):
    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        raise RuntimeError(f"cannot read {Path(path).name}\nsecond line")


class Aborts(Right):
    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        os.abort()


class Hangs(Right):
    def run(self, x: Mapping[str, Array]) -> list[Array]:
        time.sleep(600)
        return []


class AbortsLate(Right):
    """Works when it is checked and dies while it is timed."""

    calls = 0

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        self.calls += 1
        if self.calls > 3:
            os._exit(7)
        return super().run(x)


class RaisesAlone(Right):
    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        if threads == 1:
            raise RuntimeError("wants company")


class WrongAlone(Right):
    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        if threads == 1:
            self.factor = np.float32(3.0)
