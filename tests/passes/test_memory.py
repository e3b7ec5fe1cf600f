"""plan_memory: simulated to the byte, in place, and small."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph import Graph
from fastconv.passes import optimize, plan_memory
from tests.passes.helpers import SKELETONS, Build, densenet, efficientnet, inception, random_graph, resnet
from tests.passes.planned import check, image, nodes


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
