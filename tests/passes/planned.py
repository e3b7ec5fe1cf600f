"""A memory plan that is checked against the interpreter, byte by byte, for the tests of passes/memory.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.graph import Graph, Node, Value
from fastconv.passes import MemoryPlan, plan_memory
from fastconv.passes.memory import VIEWS
from tests.interpret import interpret
from tests.passes.helpers import Build, feeds
from tests.passes.simulate import simulate


def check(g: Graph) -> MemoryPlan:
    """Plan a physical graph, run it in an arena of NaN, and compare bit by bit."""
    text = str(g)
    plan = plan_memory(g)
    assert str(g) == text
    made = {v for n in g.nodes for v in n.outputs}
    assert set(plan.places) == made
    for v in g.outputs:
        assert plan.places[v].base is v and plan.places[v].offset == 0 and plan.places[v].external
    assert all(node.op in VIEWS for node in plan.copies)
    for node in nodes(g, "Reshape"):  # the lowering of a copied Reshape walks one of the sides as a vector
        assert node not in plan.copies or dense(plan, node.input(0)) or dense(plan, node.output)
    for node in g.nodes:
        check_overwriting(plan, node)
    f = feeds(g)
    for a, b in zip(interpret(g, f, physical=True, rounded=True), simulate(g, plan, f), strict=True):
        np.testing.assert_array_equal(b, a)
        assert np.isfinite(a).all()
    return plan


def image(b: Build, *shape: int, name: str = "x") -> Value:
    return b.input(*(shape or (1, 4, 4, 6)), name=name)


def check_overwriting(plan: MemoryPlan, node: Node) -> None:
    """A node writes over none of its operands, or over one element by element, each after it was read."""
    y = node.output
    for i, x in enumerate(node.inputs):
        if x is None or x.is_const or (node.op in VIEWS and i not in plan.copies.get(node, ())):
            continue
        a, b = addresses(plan, x), addresses(plan, y)
        if node.op == "Concat":
            axis, at = node.attrs["axis"], sum(v.shape[node.attrs["axis"]] for v in node.inputs[:i])
            b = b.reshape(y.shape).take(range(at, at + x.shape[axis]), axis).reshape(-1)
        if base(plan, x) is base(plan, y) and set(a.tolist()) & set(b.tolist()):
            assert node.op not in VIEWS and node.op != "Copy", f"{node} copies over its operand"
            assert x.shape == y.shape and (a == b).all(), f"{node} writes over {x} where it has not read"


def base(plan: MemoryPlan, v: Value) -> Value | None:
    return plan.places[v].base if v in plan.places else v


def addresses(plan: MemoryPlan, v: Value) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The position of each element in the memory of `base`."""
    width = v.shape[-1] if v.shape else 1
    first, ld = (plan.places[v].offset // 4, plan.places[v].ld) if v in plan.places else (0, width)
    rows = np.arange(v.size // width if width else 0)
    return (first + ld * rows[:, None] + np.arange(width)).reshape(-1)


def dense(plan: MemoryPlan, v: Value) -> bool:
    place = plan.places.get(v)
    return place is None or place.ld == v.shape[-1] or v.size <= v.shape[-1]


def nodes(g: Graph, op: str) -> list[Node]:
    return [n for n in g.nodes if n.op == op]
