"""Runs a physical graph in a real arena, following its MemoryPlan to the byte, as the executor will.

The arena, and the memory of the outputs, start as NaN. A node reads its operands through their Places when it runs and
writes its result through its Place, so a lifetime that ends early, a slice in the wrong place or an unsafe in-place
write changes an output. Workspaces are filled with NaN while their node runs.
"""

from __future__ import annotations

import numpy as np

from fastconv.graph import Array, Graph, Node, Value
from fastconv.passes.memory import VIEWS, MemoryPlan
from tests.interpret import evaluate


def simulate(graph: Graph, plan: MemoryPlan, feeds: dict[str, Array]) -> list[Array]:
    arena = np.full(plan.arena_bytes // 4, np.nan, np.float32)
    memory: dict[Value | None, Array] = {None: arena}
    for v in graph.inputs:
        memory[v] = np.ascontiguousarray(feeds[v.name], np.float32).reshape(-1)
        memory[v].flags.writeable = False
    for v in graph.outputs:
        memory[v] = np.full(v.size, np.nan, np.float32)

    def rows(v: Value) -> Array:
        """The tensor as rows of its last axis, a window into its memory."""
        width = v.shape[-1] if v.shape else 1
        count = v.size // width if width else 0
        if v in graph.inputs:
            return memory[v].reshape(count, width)
        place = plan.places[v]
        flat = memory[place.base]
        assert place.offset % 4 == 0 and place.offset >= 0
        start = place.offset // 4
        if count:
            assert start + (count - 1) * place.ld + width <= flat.size, f"{v} leaves its memory"
            assert count == 1 or place.ld >= width
        strides = (4 * place.ld, 4)
        return np.lib.stride_tricks.as_strided(flat[start:], (count, width), strides, writeable=flat.flags.writeable)

    def read(v: Value | None) -> Array | None:
        if v is None:
            return None
        array = v.numpy() if v.is_const else rows(v)
        return array.astype(np.float64).reshape(v.shape)

    for node in graph.nodes:
        if node in plan.workspaces:
            start = plan.workspaces[node]
            assert start % 64 == 0
            arena[start // 4 : start // 4 + -(-node.attrs["workspace_bytes"] // 4)] = np.nan
        if node.op in VIEWS:
            _copy(node, plan.copies.get(node, ()), rows, read)
            continue
        assert node not in plan.copies
        y = evaluate(node, [read(v) for v in node.inputs], physical=True)
        width = node.output.shape[-1] if node.output.shape else 1
        rows(node.output)[...] = y.reshape(-1, width)
    return [memory[v].reshape(v.shape).astype(np.float64) for v in graph.outputs]


def _copy(node: Node, indices: tuple[int, ...], rows, read) -> None:  # type: ignore[no-untyped-def]
    """What a view must move by hand: everything else has to be in place already."""
    if not indices:
        return
    y = node.output
    width = y.shape[-1] if y.shape else 1
    if node.op != "Concat":
        assert indices == (0,)
        rows(y)[...] = evaluate(node, [read(node.inputs[0])], physical=True).reshape(-1, width)
        return
    axis, at = node.attrs["axis"], 0
    for i, v in enumerate(node.inputs):
        assert v is not None
        if i in indices:
            part = np.zeros(y.shape, bool)
            part[(slice(None),) * axis + (slice(at, at + v.shape[axis]),)] = True
            values = np.zeros(y.shape)
            values[part] = read(v).reshape(-1)
            mask = part.reshape(-1, width)
            rows(y)[mask] = values.reshape(-1, width)[mask]
        at += v.shape[axis]
