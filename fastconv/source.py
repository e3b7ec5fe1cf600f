"""What a runtime Model runs: anything that names its inputs and outputs and builds Graphs for concrete shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fastconv.graph import Graph
from fastconv.onnx.reader import InputInfo, OutputInfo


class Source(Protocol):
    """An ONNX file, a network of layers, or a part of one. `build` gets the shapes of the inputs by name."""

    name: str
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        """The Graph for these input shapes."""


def distinct(names: Iterable[str]) -> list[str]:
    """The names, with _1, _2 ... where one comes again."""
    out: list[str] = []
    for name in names:
        candidate, n = name, 1
        while candidate in out:
            candidate, n = f"{name}_{n}", n + 1
        out.append(candidate)
    return out
