"""Draft: a graph under change, with readers and producers kept up to date, so that a rule costs O(1) graph look-ups.

A rule matches backwards from a node to what produces its inputs and changes nodes in place: the list of nodes keeps its
order, and a node that nobody reads any more is removed at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..graph import Graph, Node, Value

UNARY = frozenset(
    (
        "Relu",
        "Clip",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Tanh",
        "Gelu",
        "Softplus",
        "Mish",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Erf",
        "Neg",
        "Abs",
        "Floor",
        "Ceil",
        "Trunc",
        "Round",
        "Sign",
        "RoundHalf",
    )
)
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Less", "LessOrEqual", "Equal"))


class Draft:
    """A copy of `graph` that rules change; `finish()` returns it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.copy()
        self.nodes = self.graph.nodes
        self.producers = self.graph.producers()
        self.readers = self.graph.users()
        self.results = set(self.graph.outputs)
        self.position = {n: i for i, n in enumerate(self.nodes)}
        self._removed: set[Node] = set()

    def __iter__(self) -> Iterator[Node]:
        """The nodes in order, without those that a rule has removed meanwhile."""
        for n in self.nodes:
            if n not in self._removed:
                yield n

    def finish(self) -> Graph:
        if self._removed:
            self.graph.nodes = [n for n in self.nodes if n not in self._removed]
        return self.graph

    def alive(self, node: Node) -> bool:
        return node not in self._removed

    def producer(self, v: Value | None, *ops: str) -> Node | None:
        """The node that makes v, if it is one of `ops` (any without `ops`)."""
        n = None if v is None else self.producers.get(v)
        return n if n is not None and (not ops or n.op in ops) else None

    def private(self, v: Value) -> bool:
        """True if exactly one input of one node reads v, and the caller of the graph does not see it."""
        return len(self.readers.get(v, ())) == 1 and v not in self.results

    # -- changes ----------------------------------------------------------------------------------------------
    def change(self, node: Node, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any]) -> None:
        """Let the node compute its output in another way; producers that lose their last reader vanish."""
        old = node.inputs
        node.op, node.inputs, node.attrs = op, list(inputs), attrs
        for v in node.inputs:
            if v is not None:
                self.readers.setdefault(v, []).append(node)
        self._release(node, old)

    def drop(self, node: Node) -> None:
        """Remove a node whose outputs nobody reads."""
        self._removed.add(node)
        for v in node.outputs:
            if self.producers.get(v) is node:
                del self.producers[v]
        self._release(node, node.inputs)

    def take_over(self, earlier: Node, later: Node) -> None:
        """Let `earlier`, whose output only `later` reads, write `later`'s output; `later` vanishes."""
        old = earlier.output
        earlier.outputs = list(later.outputs)
        del self.producers[old]
        for v in earlier.outputs:
            self.producers[v] = earlier
        self.drop(later)
        self.readers.pop(old, None)

    def bypass(self, node: Node) -> bool:
        """Remove a node that hands its first input through unchanged. False where the graph's outputs forbid it."""
        source, result = node.input(0), node.output
        if result not in self.results:
            self._redirect(result, source)
            self.drop(node)
            return True
        # The graph's output keeps its identity (and name): the source's producer writes it instead.
        maker = self.producers.get(source)
        if maker is None or source in self.results or len(maker.outputs) != 1:
            return False
        self._redirect(source, result, skip=node)
        self.take_over(maker, node)
        return True

    def _redirect(self, old: Value, new: Value, skip: Node | None = None) -> None:
        for n in self.readers.pop(old, []):
            if n is skip:
                self.readers.setdefault(old, []).append(n)
                continue
            n.inputs = [new if v is old else v for v in n.inputs]
            self.readers.setdefault(new, []).append(n)

    def _release(self, node: Node, inputs: Sequence[Value | None]) -> None:
        for v in inputs:
            if v is None:
                continue
            readers = self.readers.get(v)
            if readers is None:
                continue
            readers.remove(node)
            if not readers:
                del self.readers[v]
                maker = self.producers.get(v)
                if maker is not None and not any(u in self.readers or u in self.results for u in maker.outputs):
                    self.drop(maker)


def scalar(v: Value | None) -> float | None:
    """The number in a constant of one element, else None."""
    if v is None or v.weight is None or v.size != 1:
        return None
    return float(v.numpy().reshape(()))


def is_float(v: Value) -> bool:
    return bool(v.dtype == np.float32)
