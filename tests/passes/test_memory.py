"""plan_memory: simulated to the byte, and small."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph import Graph, Node, Value
from fastconv.passes import MemoryPlan, optimize, plan_memory
from fastconv.passes.arena import Interval, assign_offsets, peak_bytes
from fastconv.passes.memory import VIEWS
from tests.interpret import interpret
from tests.passes.helpers import SKELETONS, Build, densenet, efficientnet, feeds, inception, random_graph, resnet
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


# -- Concat -----------------------------------------------------------------------------------------------------
def test_concat_is_free() -> None:
    b = Build()
    x = image(b)
    parts = [b.un("Abs", x), b.un("Neg", x), b.un("Tanh", x)]
    c = b.concat(3, *parts)
    plan = check(b.done(b.un("Exp", c)))
    assert not plan.copies
    base = plan.places[c].offset
    assert [plan.places[v].offset - base for v in parts] == [0, 24, 48]
    assert {plan.places[v].ld for v in [c, *parts]} == {18}


def test_nested_concats_are_one_region() -> None:
    b = Build()
    x = image(b)
    inner = b.concat(3, b.un("Abs", x), b.un("Neg", x))
    c = b.concat(3, b.un("Tanh", x), inner, b.un("Exp", x))
    plan = check(b.done(b.mean(c, axes=(1, 2))))
    assert not plan.copies and len(plan.regions) == 1


def test_prefix_concats_are_views() -> None:
    b = Build()
    features = [b.un("Abs", image(b))]
    for _ in range(5):
        features.append(b.un("Tanh", b.mean(b.concat(3, *features), axes=(3,))))
    plan = check(b.done(b.un("Exp", b.concat(3, *features))))
    assert not plan.copies


def test_densenet_block_is_one_buffer() -> None:
    g = optimize(densenet((4, 3), growth=4, size=32))
    plan = check(g)
    assert not plan.copies
    first = [n for n in nodes(g, "Concat") if n.output.shape[1] == 8]
    assert len(first) == 4 and len({(plan.places[n.output].offset, plan.places[n.output].ld) for n in first}) == 1


def test_concat_copies_what_it_must() -> None:
    b = Build()
    x = image(b)
    y = b.un("Abs", x)
    c = b.concat(3, x, y, y, b.const(1, 4, 4, 2))
    plan = check(b.done(b.un("Exp", c), b.un("Exp", y)))
    (indices,) = plan.copies.values()
    assert set(indices) >= {0, 3} and len(indices) == 3  # the input, the constant, and y once of twice


def test_value_in_two_concats_is_copied_once() -> None:
    b = Build()
    x = image(b)
    y, z = b.un("Abs", x), b.un("Neg", x)
    g = b.done(b.un("Exp", b.concat(3, y, z)), b.un("Exp", b.concat(3, z, y)))
    plan = check(g)
    assert sum(len(c) for c in plan.copies.values()) == 2 and len(plan.copies) == 1


def test_concat_of_rows_and_of_an_inner_axis() -> None:
    b = Build()
    x = image(b, 1, 4, 4, 6)
    assert not check(b.done(b.un("Exp", b.concat(1, b.un("Abs", x), b.un("Neg", x))))).copies
    b = Build()
    x = image(b, 1, 4, 4, 6)
    plan = check(b.done(b.un("Exp", b.concat(2, b.un("Abs", x), b.un("Neg", x)))))
    assert list(plan.copies.values()) == [(0, 1)]


def test_concat_is_an_output_and_its_part_too() -> None:
    b = Build()
    x = image(b)
    y, z = b.un("Abs", x), b.un("Neg", x)
    c = b.concat(3, y, z)
    plan = check(b.done(c, y))
    assert list(plan.copies.values()) == [(0,)]
    assert plan.places[z].base is c and plan.places[z].ld == 12


# -- Reshape and Slice ------------------------------------------------------------------------------------------
def test_reshape_is_a_view() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    plan = check(b.done(b.un("Exp", b.reshape(y, 12, 8))))
    assert not plan.copies


def test_reshape_of_a_slice_of_a_concat() -> None:
    for width, copied in ((6, 0), (8, 1)):  # rows of a slice stay rows, but cannot become other rows
        b = Build()
        x = image(b)
        y = b.un("Abs", x)
        r = b.un("Neg", b.reshape(y, 96 // width, width))
        plan = check(b.done(b.un("Exp", b.concat(3, y, b.un("Neg", x))), r))
        assert len(plan.copies) == copied


def test_reshaped_heads_are_written_in_place() -> None:
    b = Build()
    x = image(b)
    heads = [b.reshape(b.un(op, x), 1, 24, 4) for op in ("Abs", "Neg", "Tanh")]
    plan = check(b.done(b.concat(1, *heads)))
    assert not plan.copies and not plan.regions  # all in the output's own memory


def test_reshape_between_a_slice_and_a_concat() -> None:
    """Rows of 3 of 6 cannot become rows of 6 of 12: one copy must make one of the two dense."""
    b = Build()
    part = b.slice(b.un("Abs", image(b)), 3, 2, 5)
    r = b.reshape(part, 1, 4, 2, 6)
    check(b.done(b.un("Exp", b.concat(3, r, b.un("Neg", image(b, 1, 4, 2, 6, name="z"))))))


@pytest.mark.parametrize("rows", [(1, 16, 1, 6), (1, 4, 2, 12)])
def test_reshape_between_two_concats(rows: tuple[int, ...]) -> None:
    """The two sides lie in slices of different results, whether or not their rows are the same."""
    for order in (0, 1):
        b = Build()
        x = image(b)
        y = b.un("Abs", x)
        r = b.reshape(y, *rows)

        def left(b: Build = b, x: Value = x, y: Value = y) -> Value:
            return b.concat(3, y, b.un("Neg", x))

        first = left() if order else None
        right = b.un("Exp", b.concat(3, r, b.un("Neg", image(b, *rows, name="z")), r))
        check(b.done(b.un("Exp", first or left()), right))


def test_reshape_of_an_input() -> None:
    b = Build()
    x = image(b)
    r = b.reshape(x, 12, 8)
    plan = check(b.done(b.un("Exp", r)))
    assert plan.places[r].base is x and not plan.copies
    b = Build()
    plan = check(b.done(b.reshape(image(b), 12, 8)))
    assert len(plan.copies) == 1


def test_slices_are_views() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    left, right, rows = b.slice(y, 3, 0, 2), b.slice(y, 3, 2, 6), b.slice(y, 1, 1, 3)
    plan = check(b.done(b.un("Exp", left), b.un("Exp", right), b.un("Exp", rows)))
    assert not plan.copies and plan.places[right].offset - plan.places[y].offset == 8


def test_slices_that_need_a_copy() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    parts = [b.slice(y, 3, 0, 6, 2), b.slice(y, 2, 1, 3), b.slice(y, 1, 3, -1, -1)]
    plan = check(b.done(*(b.un("Exp", p) for p in parts)))
    assert len(plan.copies) == 3


# -- in place ---------------------------------------------------------------------------------------------------
def test_elementwise_runs_in_place() -> None:
    b = Build()
    y = b.conv(b.input(1, 4, 4, 4), 6, 1)
    z = b.un("Exp", b.un("Neg", b.un("Abs", y)))
    plan = check(optimize(b.done(b.mean(z))))
    assert len(plan.regions) == 2  # the transposed input, and one for all the rest


def test_in_place_waits_for_the_last_reader() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    z = b.un("Neg", y)
    plan = check(b.done(b.mean(b.add(b.un("Exp", z), y), axes=(1, 2))))
    assert plan.places[z] != plan.places[y]


def test_in_place_of_a_broadcast_takes_the_full_operand() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    gate = b.un("Sigmoid", b.mean(y, axes=(1, 2)))
    m = b.mul(gate, y)
    plan = check(b.done(b.mean(m, axes=(1, 2))))
    assert plan.places[m] == plan.places[y]


def test_a_view_of_the_operand_stops_in_place() -> None:
    """y * y[..., :1]: writing over y would change the other operand while it is read."""
    b = Build()
    y = b.un("Abs", image(b))
    m = b.mul(y, b.slice(y, 3, 0, 1))
    plan = check(b.done(b.mean(m, axes=(1, 2))))
    assert plan.places[m].offset != plan.places[y].offset


def test_residual_is_overwritten_unless_it_is_the_image() -> None:
    b = Build()
    x = b.input(1, 4, 4, 4)
    y = b.un("Exp", x)
    z = b.add(b.conv(b.un("Neg", y), 4, 3, pad=1), y)
    w = b.add(b.conv(z, 4, 3, pad=1), z)
    g = optimize(b.done(b.mean(w)))
    first, second = nodes(g, "Conv")
    plan = check(g)
    assert plan.places[first.output] == plan.places[first.input(3)]
    assert plan.places[second.output] != plan.places[second.input(3)]


def test_copy_really_copies() -> None:
    """A Copy is how the compiler gets dense rows: over its operand, a slice of wider rows, it would not get them."""
    b = Build()
    y = b.un("Abs", image(b))
    left, right = b.slice(y, 3, 0, 2), b.slice(y, 3, 2, 6)
    made = b.g.add("Copy", [left], left.shape)
    whole = b.g.add("Copy", [b.un("Exp", right)], right.shape)
    plan = check(b.done(b.mean(made, axes=(1,)), b.mean(whole, axes=(1,))))
    assert plan.places[made].ld == 2 and plan.places[left].ld == 6
    assert plan.places[whole] != plan.places[nodes(b.g, "Exp")[0].output]


@pytest.mark.parametrize("shape", [(1, 4, 4, 6), (1, 1, 1, 96)])
@pytest.mark.parametrize("first", [True, False])
def test_rows_of_a_reshaped_operand_are_its_own(shape: tuple[int, ...], first: bool) -> None:
    """b, rows of 3, shares a region whose rows are 6 (or one row). c lies in rows 6 apart: b cannot."""
    b = Build()
    c = b.un("Neg", b.reshape(b.un("Abs", image(b, *shape)), 1, 1, 32, 3))
    other = b.un("Tanh", image(b, 1, 1, 32, 3, name="z"))
    plan = check(b.done(b.un("Exp", b.concat(3, *((c, other) if first else (other, c))))))
    assert plan.places[c].ld == 6 and not plan.copies


def test_inputs_are_never_overwritten() -> None:
    b = Build()
    x = image(b)
    top, bottom = b.slice(x, 1, 0, 2), b.slice(x, 1, 2, 4)  # x itself is read no more, but lives on through both
    y = b.un("Neg", top)
    z = b.un("Exp", b.mean(y, axes=(1, 2)))
    plan = check(b.done(z, b.un("Exp", b.un("Abs", bottom))))
    assert plan.places[top].base is x
    assert plan.places[y].base is None


def test_outputs_are_never_overwritten() -> None:
    b = Build()
    y = b.un("Abs", image(b))
    z = b.un("Neg", y)
    plan = check(b.done(y, z, b.un("Exp", z)))
    assert not plan.regions


def test_outputs_must_be_distinct_and_made() -> None:
    b = Build()
    x = image(b)
    y = b.un("Abs", x)
    for outputs in ((x,), (y, y)):
        with pytest.raises(ValueError, match="made by a node"):
            plan_memory(b.done(*outputs))


# -- offsets ----------------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 3000)), max_size=25))
def test_offsets_never_overlap(items: list[tuple[int, int, int]]) -> None:
    intervals = [Interval(first, first + length, size) for first, length, size in items]
    offsets, total = assign_offsets(intervals)
    assert total % 64 == 0
    assert total >= peak_bytes(intervals)
    for (a, p), (b, q) in itertools.combinations(zip(intervals, offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert p + a.size <= q or q + b.size <= p
    for a, p in zip(intervals, offsets, strict=True):
        assert p % 64 == 0 and p + a.size <= total


def test_retries_reach_the_peak() -> None:
    """The three orders alone need 8 units for these five pieces; the peak is 7."""
    pieces = [(3, 5, 3), (5, 7, 2), (6, 7, 2), (5, 8, 2), (0, 3, 3)]
    assert assign_offsets([Interval(first, last, 64 * size) for first, last, size in pieces])[1] == 7 * 64


def test_offsets_of_very_many_at_once() -> None:
    """More pairs than a list of neighbours may hold: one fit in order of birth."""
    rng = np.random.default_rng(0)
    intervals = [Interval(i, i + int(rng.integers(1400)), int(rng.integers(1, 4000))) for i in range(1000)]
    start = time.process_time()
    offsets, total = assign_offsets(intervals)
    assert time.process_time() - start < 2
    first, last, size = (np.array(column) for column in zip(*intervals, strict=True))
    at = np.array(offsets)
    end = at + size
    together = (first[:, None] <= last) & (first <= last[:, None])
    apart = (end[:, None] <= at) | (end <= at[:, None])
    np.fill_diagonal(apart, True)
    assert together.sum() > 2 * 200_000 and not (together & ~apart).any()
    assert end.max() <= total <= 1.2 * peak_bytes(intervals)


def chain(count: int, op: str) -> Graph:
    b = Build()
    y = b.input(1, 4)
    for _ in range(count):
        y = b.un(op, y)
    return b.done(y)


@pytest.mark.parametrize("op", ["Erf", "Identity"])  # in place, and a region for each node
def test_planning_time_grows_with_the_nodes(op: str) -> None:
    """Eight times the nodes takes about eight times as long: a plan that is quadratic takes 64 times."""
    seconds = []
    for count in (500, 4000):
        g = chain(count, op)
        times = []
        for _ in range(3):
            start = time.process_time()
            plan = plan_memory(g)
            times.append(time.process_time() - start)
        seconds.append(min(times))
        assert len(plan.regions) == (0 if op == "Erf" else count - 1)
    assert seconds[1] < 24 * seconds[0]


def test_rows_of_no_width() -> None:
    b = Build()
    none, some = b.un("Abs", image(b, 1, 4, 4, 0)), b.un("Neg", image(b, name="z"))
    c = b.concat(3, none, some, b.un("Exp", none))
    plan = plan_memory(b.done(b.un("Tanh", c)))
    assert plan.places[some].ld == plan.places[c].ld == 6


def test_workspaces() -> None:
    b = Build()
    y = b.conv(b.conv(b.input(1, 4, 4, 4), 6, 1), 8, 1)
    g = optimize(b.done(b.mean(y)))
    for n in nodes(g, "Conv"):
        n.attrs["workspace_bytes"] = 1000
    plan = check(g)
    assert set(plan.workspaces) == set(nodes(g, "Conv"))
    without = plan.arena_bytes
    for n in nodes(g, "Conv"):
        n.attrs["workspace_bytes"] = 0
    assert without >= check(g).arena_bytes + 1000 // 64 * 64 - 512


def naive_peak(g: Graph) -> int:
    """Bytes of all values alive at the worst node, when nothing is shared but views of one input are free."""
    last = {v: i for i, n in enumerate(g.nodes) for v in n.inputs if v is not None and not v.is_const}
    external = {*g.inputs, *g.outputs}
    peak, alive = 0, 0
    for i, n in enumerate(g.nodes):
        alive += sum(4 * v.size for v in n.outputs if v not in external)
        peak = max(peak, alive)
        alive -= sum(4 * v.size for v, at in last.items() if at == i and v not in external)
    return peak


@pytest.mark.parametrize("make", [resnet, densenet, inception, efficientnet])
def test_arena_is_small(make) -> None:  # type: ignore[no-untyped-def]
    g = optimize(make())
    plan = plan_memory(g)
    assert not plan.copies
    assert plan.arena_bytes <= 1.1 * plan.peak_bytes
    assert plan.arena_bytes <= 1.1 * naive_peak(g)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", SKELETONS)
def test_skeletons(name: str, n: int) -> None:
    check(optimize(SKELETONS[name](n)))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 24), st.integers(0, 2000))
def test_random_graphs(seed: int, count: int, workspace: int) -> None:
    g = optimize(random_graph(seed, count))
    for n in nodes(g, "Conv"):
        n.attrs["workspace_bytes"] = workspace
    check(g)
