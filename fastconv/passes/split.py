"""Cut a graph in two: what depends on none of the given Values, and the rest."""

from __future__ import annotations

from collections.abc import Collection

from ..graph import Graph, Node, Value
from .dead import remove_dead

OUTER, INNER = (0, 2, 3, 1), (0, 3, 1, 2)


def split(graph: Graph, changing: Collection[Value]) -> tuple[Graph, Graph]:
    """(below, above). below: inputs of `graph` -> the Values that the rest reads; above: those -> outputs of `graph`.

    changing: inputs and states of `graph`, or outputs of its nodes; what depends on one of them is above. The inputs of
    `above` are what `below` gives, in its order, then the changing inputs of `graph`. Images are passed channels last.
    `graph` is not changed.
    """
    moved = set(changing)
    below, above = Graph(f"{graph.name}/below"), graph.copy()
    below._serial = graph._serial
    above.nodes = []
    for node in graph.copy().nodes:
        if not node.outputs or any(v in moved for v in (*node.inputs, *node.outputs)):
            moved.update(node.outputs)
            above.nodes.append(node)
        else:
            below.nodes.append(node)
    known = {v for v in graph.inputs if v not in moved} | {v for n in below.nodes for v in n.outputs}
    read = {v for n in above.nodes for v in n.inputs} | set(graph.outputs)
    made = [v for v in [*graph.inputs, *(v for n in below.nodes for v in n.outputs)] if v in known and v in read]
    below.inputs = [v for v in graph.inputs if v not in moved]
    above.inputs = []
    turns: list[Node] = []
    for v in made:
        if v.rank == 4:
            last = below.add("Transpose", [v], [v.shape[p] for p in OUTER], perm=OUTER)
            turns.append(Node("Transpose", [last], [v], {"perm": INNER}, v.name))
        else:
            last = v
        below.outputs.append(last)
        above.inputs.append(last)
    above.nodes = turns + above.nodes
    above.inputs += [v for v in graph.inputs if v in moved]
    return remove_dead(below), above
