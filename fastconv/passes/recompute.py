"""Recomputation: keep fewer activations for the backward pass, and compute the others again where it reads them.

The forward nodes that gradients pass through are cut into about sqrt(n) segments of equal bytes (Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost"). What a later segment reads is kept. What only the backward pass reads
is computed again, from what is kept, in front of the first backward node that reads it. Numbers do not change: the same
nodes compute the same (Dropout from its seed, batch statistics from the same batch).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..graph import Graph, Node, Value


def recompute(graph: Graph, forward: int, active: set[Value]) -> Graph:
    """`graph`, whose first `forward` nodes are the forward pass, with copies of forward nodes among the others.

    active: the Values that gradients pass through; what lies below them is left alone.
    """
    result = graph.copy()
    ahead, behind = result.nodes[:forward], result.nodes[forward:]
    segment = _segments(ahead, active)
    kept = set(graph.inputs) | set(graph.states) | set(graph.outputs)
    for node in ahead:  # what another segment reads, and what lies outside of all segments
        kept.update(v for v in node.inputs if v is not None and segment.get(v) != segment.get(node.output))
    producers = {v: n for n in ahead for v in n.outputs}
    last = max(segment.values(), default=0)
    again: dict[Value, Value] = {}  # the second life of a Value
    nodes: list[Node] = []

    def needed(v: Value | None) -> bool:
        return v is not None and v not in kept and segment.get(v, last) < last

    for node in behind:
        wanted = [v for v in node.inputs if v is not None and needed(v) and v not in again]
        for copy in _slice(wanted, producers, needed, again):
            outs = [Value(result.fresh(v.name), v.shape, v.dtype) for v in copy.outputs]
            inputs = [v if v is None else again.get(v, v) for v in copy.inputs]
            nodes.append(Node(copy.op, inputs, outs, dict(copy.attrs), f"{copy.name}/again"))
            again.update(zip(copy.outputs, outs, strict=True))
        node.inputs = [v if v is None else again.get(v, v) for v in node.inputs]
        nodes.append(node)
    result.nodes = ahead + nodes
    return result


def _segments(nodes: list[Node], active: set[Value]) -> dict[Value, int]:
    """The segment of each Value that the active nodes make."""
    inside = [n for n in nodes if n.outputs and n.output in active]
    count = max(1, math.isqrt(len(inside)))
    total = sum(v.size for n in inside for v in n.outputs) or 1
    found: dict[Value, int] = {}
    done = 0
    for n in inside:
        for v in n.outputs:
            found[v] = min(count - 1, done * count // total)
            done += v.size
    for n in inside:  # all outputs of a node lie together
        for v in n.outputs[1:]:
            found[v] = found[n.output]
    return found


def _slice(
    wanted: list[Value], producers: dict[Value, Node], needed: Callable[[Value | None], bool], again: dict[Value, Value]
) -> list[Node]:
    """The forward nodes that compute `wanted` from what is kept or was computed again, in order."""
    order: list[Node] = []
    seen: set[int] = set()
    stack = [(producers[v], False) for v in reversed(wanted)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((producers[v], False) for v in node.inputs if v is not None and v not in again and needed(v))
    return order
