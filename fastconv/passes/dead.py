"""Dead code: nodes that no graph output depends on are dropped. Graph inputs stay, read or not."""

from __future__ import annotations

from ..graph import Graph, Node, Value


def remove_dead(graph: Graph) -> Graph:
    """A graph with the needed nodes of `graph`, in their order."""
    needed: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(v for v in node.inputs if v is not None)
    result = graph.copy()
    keep = {id(n.outputs[0]) for n in kept}
    result.nodes = [n for n in result.nodes if id(n.outputs[0]) in keep]
    return result
