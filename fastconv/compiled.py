"""What compiling gives: a plan with what it was made for, and its operations for people."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from . import _core
from .errors import ModelError
from .graph import Graph, Shape


@dataclass(frozen=True)
class OpInfo:
    """One operation of a plan, for people: what `fastconv inspect` prints."""

    name: str
    op: str
    algorithm: str
    isa: str
    shape: Shape  # of the output, in physical order
    flops: int
    bytes: int  # read and written, each tensor once
    buffer: str
    expected_ms: float = 0.0  # of one thread: the cost model's, or what was measured (chosen_by "tuned")
    chosen_by: str = ""  # "model" or "tuned" where there was a choice


@dataclass(frozen=True)
class Compiled:
    """A plan for one set of input shapes. Externals are the inputs, then the outputs, in the model's order."""

    plan: _core.Plan
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    ops: tuple[OpInfo, ...]
    graph: Graph  # physical
    arena_bytes: int
    ragged: tuple[int, ...]  # outputs that are lists of unknown length: rows from the first negative one on are empty
    repeats: int = 1  # the plan runs so many times, each on its share of the batch (batches.py)

    def times(self, repeats: int, threads: int) -> Compiled:
        """The same plan for so many times the batch. Operations are told for all of it; `graph` is that of the plan.

        Raises ModelError for more memory than there is.
        """

        def whole(shape: Shape) -> Shape:
            return (repeats * shape[0], *shape[1:]) if shape else shape

        arenas = min(repeats, threads) * self.arena_bytes
        check_memory(self.graph, arenas + 4 * repeats * sum(v.size for v in self.graph.outputs))
        return replace(
            self,
            inputs=tuple((name, whole(shape)) for name, shape in self.inputs),
            outputs=tuple((name, whole(shape)) for name, shape in self.outputs),
            ops=tuple(
                replace(op, shape=whole(op.shape), flops=repeats * op.flops, bytes=repeats * op.bytes,
                        expected_ms=repeats * op.expected_ms)
                for op in self.ops
            ),
            arena_bytes=arenas,
            repeats=repeats,
        )  # fmt: skip


def check_memory(graph: Graph, needed: int) -> None:
    """Raises ModelError for more bytes than this machine has."""
    if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ModelError(f"graph {graph.name!r}: its tensors need {needed:,} bytes, more than this machine has")
