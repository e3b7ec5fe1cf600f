"""Reverse-mode differentiation as a function of graphs.

`gradients` walks a logical graph (N C H W, before `fuse`) backwards. For each node between the wanted Values and the
loss it appends the nodes of a rule; for nodes that depend on no wanted Value it appends nothing, so what lies below
the lowest trained weight stays an inference graph. A rule gets the Tape, the node and the gradient of its first output,
and returns one gradient or None for each input. Rules read a node's output rather than its input where they can: then
convolution and activation still fuse. They are in grad_rules.py (networks) and grad_rules_tensors.py (moving,
broadcasting, reducing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import UnsupportedOpError
from .graph import Graph, Node, Shape, Value, Weight

Gradient = Value | None
Rule = Callable[["Tape", Node, Value], Sequence[Gradient]]
RULES: dict[str, Rule] = {}


def backward(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for these operators."""

    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


class Tape:
    """What rules build with: the graph that grows, and which Values need a gradient."""

    def __init__(self, graph: Graph, wanted: Sequence[Value]) -> None:
        self.graph = graph
        self.active: set[Value] = set(wanted)
        for node in graph.nodes:
            if any(v in self.active for v in node.inputs):
                self.active.update(node.outputs)
        self.node: Node | None = None

    def needs(self, v: Value | None) -> bool:
        return v is not None and v in self.active

    def add(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attrs: Any) -> Value:
        return self.graph.add(op, inputs, shape, name=self._name(), **attrs)

    def add_many(
        self, op: str, inputs: Sequence[Value | None], shapes: Sequence[Sequence[int]], **attrs: Any
    ) -> list[Value]:
        return self.graph.add_many(op, inputs, shapes, name=self._name(), **attrs)

    def _name(self) -> str:
        return "loss" if self.node is None else f"{self.node.name}/grad"

    # -- the usual steps of rules -------------------------------------------------------------------------------
    def constant(self, array: Any) -> Value:
        vector = np.asarray(array, np.float32)
        weight = Weight.of(vector)
        if vector.size <= 65536:
            weight.key = ("small", vector.dtype.str, vector.shape, vector.tobytes())
        return self.graph.constant(weight)

    def number(self, x: float, rank: int = 0) -> Value:
        return self.constant(np.full((1,) * rank, x))

    def mul(self, a: Value, b: Value) -> Value:
        """a * b with broadcasting; a factor of constant ones of the right shape vanishes."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        for x, one in ((a, b), (b, a)):
            if x.shape == shape and is_ones(one):
                return x
        return self.add("Mul", [a, b], shape)

    def scale(self, x: Value, factor: float) -> Value:
        if factor == 1.0:
            return x
        if is_ones(x):
            return self.constant(np.full(x.shape, factor, np.float32))
        return self.add("Mul", [x, self.number(factor, x.rank)], x.shape)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        if tuple(shape) == x.shape:
            return x
        if x.is_const:
            return self.constant(x.numpy().reshape(shape))
        return self.add("Reshape", [x], shape)

    def expand(self, x: Value, shape: Shape) -> Value:
        if tuple(shape) == x.shape:
            return x
        if x.is_const and x.size == 1:
            return self.constant(np.full(shape, x.numpy().reshape(())))
        return self.add("Expand", [x], shape)

    def sum_to(self, g: Value, shape: Shape) -> Value:
        """The sum of g over the axes along which a tensor of `shape` was broadcast to it."""
        if g.shape == shape:
            return g
        lead = g.rank - len(shape)
        axes = tuple(i for i, d in enumerate(g.shape) if i < lead or (d != 1 and shape[i - lead] == 1))
        if axes:
            kept = tuple(1 if i in axes else d for i, d in enumerate(g.shape))
            g = self.add("ReduceSum", [g], kept, axes=axes, keepdims=1)
        return self.reshape(g, shape)


def is_ones(v: Value) -> bool:
    return v.weight is not None and v.size <= 65536 and v.dtype == np.float32 and bool(np.all(v.numpy() == 1.0))


def gradients(graph: Graph, loss: Value, wanted: Sequence[Value], seed: Value | None = None) -> list[Gradient]:
    """Append to `graph` what computes the gradient of `loss` for each wanted Value, and return those gradients.

    seed: the gradient of the loss itself, ones where None (so a loss of several numbers counts as their sum).
    None stands for a Value on which the loss does not depend, or only through steps (rounding, comparisons).
    Raises UnsupportedOpError for an operation on the way that has no rule.
    """
    from . import grad_rules, grad_rules_tensors

    assert grad_rules and grad_rules_tensors  # importing them fills RULES
    tape = Tape(graph, wanted)
    found: dict[Value, Value] = {}
    if tape.needs(loss):
        found[loss] = seed if seed is not None else tape.constant(np.ones(loss.shape))
    for node in reversed(list(graph.nodes)):
        if not node.outputs or not any(map(tape.needs, node.inputs)):
            continue
        g = found.get(node.output)
        if any(v in found for v in node.outputs[1:]):
            raise UnsupportedOpError(f"node {node.name!r} ({node.op}): no gradient through its further outputs")
        if g is None:
            continue
        rule = RULES.get(node.op)
        if rule is None:
            raise UnsupportedOpError(f"node {node.name!r}: operator {node.op} has no gradient")
        tape.node = node
        for v, dv in zip(node.inputs, rule(tape, node, g), strict=False):
            if v is None or dv is None or not tape.needs(v):
                continue
            if dv.shape != v.shape:
                raise AssertionError(f"{node}: gradient of shape {dv.shape} for {v!r}")
            before = found.get(v)
            found[v] = dv if before is None else tape.add("Add", [before, dv], v.shape)
    return [found.get(v) for v in wanted]


def grad(graph: Graph, loss: Value, wrt: Sequence[Value]) -> Graph:
    """A Graph with the outputs of `graph` and behind them the gradient of `loss` for each Value in `wrt`, in order.

    A Value on which the loss does not depend has zeros. `graph` is not changed. Raises as `gradients`.
    """
    result = graph.copy()
    for v, g in zip(wrt, gradients(result, loss, wrt), strict=True):
        constant = result.constant(np.zeros(v.shape, np.float32)) if g is None else g
        # an output of its own: several Values may share one gradient
        result.outputs.append(result.add("Copy", [constant], v.shape, output=f"gradient of {v.name}"))
    return result
