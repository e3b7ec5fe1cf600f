"""Dead code: nodes that no output and no update depends on are dropped. Graph inputs and states stay, read or not."""

from __future__ import annotations

from ..graph import Graph, Node, Value


def remove_dead(graph: Graph) -> Graph:
    """A graph with the needed nodes of `graph`, in their order."""
    needed: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not node.outputs or any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(v for v in node.inputs if v is not None)
    result = graph.copy()
    keep = {id(n) for n in kept}
    result.nodes = [copy for copy, n in zip(result.nodes, graph.nodes, strict=True) if id(n) in keep]
    return result
