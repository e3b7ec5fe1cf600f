"""plan_memory: Concat, Reshape and Slice that share memory."""

from __future__ import annotations

import pytest

from fastconv.graph import Value
from fastconv.passes import optimize
from tests.passes.helpers import Build, densenet
from tests.passes.planned import check, image, nodes


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
