"""Normalisations spelled out: found where they are, left alone where they are not, and equal in any case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv.graph import Graph, Value
from fastconv.passes import optimize, restore_norms
from tests.interpret import interpret
from tests.passes.helpers import Build, feeds, ops


def layer_norm(b: Build, x: Value, axis: int, *, square: str = "Pow", epsilon: float = 1e-3) -> Value:
    mean = b.mean(x, (axis,))
    centred = b.bin("Sub", x, mean)
    power = b.bin("Pow", centred, b.number(2.0)) if square == "Pow" else b.mul(centred, centred)
    root = b.un("Sqrt", b.add(b.mean(power, (axis,)), b.number(epsilon)))
    return b.bin("Div", centred, root)


def check(g: Graph) -> Graph:
    """The restored graph, after both it and the physical graph give what the original does."""
    restored = restore_norms(g)
    f = feeds(g)
    want = interpret(g, f)
    for got, physical, w in zip(interpret(restored, f), interpret(optimize(g), f, physical=True), want, strict=True):
        np.testing.assert_allclose(got, w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(physical, w, rtol=1e-5, atol=1e-6)
    return restored


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_layer_norm(axis: int, square: str) -> None:
    b = Build()
    x = b.input(2, 5, 4, 6)
    shape = [x.shape[axis] if i == axis else 1 for i in range(4)]
    y = layer_norm(b, x, axis, square=square)
    y = b.add(b.mul(y, b.const(*shape)), b.const(*shape))
    (node,) = check(b.done(y)).nodes
    assert node.op == "LayerNormalization" and node.attrs == {"axis": axis, "epsilon": pytest.approx(1e-3)}


@pytest.mark.parametrize("first", [True, False])
def test_vectors_of_the_last_axis_join_from_either_side(first: bool) -> None:
    b = Build()
    y = layer_norm(b, b.input(2, 5, 6), 2)
    y = b.mul(b.const(6), y) if first else b.mul(y, b.const(6))
    y = b.mul(b.add(b.const(6), y) if first else b.add(y, b.const(6)), b.number(2.0))
    assert ops(check(b.done(y))) == ["LayerNormalization"]


@pytest.mark.parametrize("broken", ["other axis", "other mean", "not squared", "epsilon before", "read elsewhere"])
def test_what_only_looks_like_a_layer_norm_stays(broken: str) -> None:
    b = Build()
    x = b.un("Abs", b.input(2, 6, 6))
    centred = b.bin("Sub", x, b.mean(b.un("Exp", x) if broken == "other mean" else x, (1,)))
    power = b.bin("Pow", centred, b.number(4.0 if broken == "not squared" else 2.0))
    var = b.mean(power, (2,) if broken == "other axis" else (1,))
    if broken == "epsilon before":
        root = b.add(b.un("Sqrt", var), b.number(0.1))
    else:
        root = b.un("Sqrt", b.add(var, b.number(0.1)))
    y = b.bin("Div", centred, root)
    if broken == "read elsewhere":  # it is one, but the scale behind it must not join
        restored = check(b.done(b.mul(y, b.const(6, 1)), b.relu(y)))
        assert sorted(ops(restored)) == ["Abs", "LayerNormalization", "Mul", "Relu"]
    else:
        assert "LayerNormalization" not in ops(check(b.done(y)))


def group_norm(b: Build, x: Value, groups: int, **kw: Any) -> Value:
    """As PyTorch exports it: InstanceNormalization of [N, G, rest] with ones and zeros."""
    n = x.shape[0]
    flat = b.reshape(x, n, groups, 1, x.size // n // groups)
    y = b.g.add("GroupNormalization", [flat, b.const(groups), b.const(groups)], flat.shape, groups=groups, epsilon=0.01)
    return b.reshape(y, *x.shape)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups: int) -> None:
    b = Build()
    y = group_norm(b, b.relu(b.conv(b.input(2, 3, 4, 5), 6)), groups)
    y = b.add(b.mul(y, b.const(6, 1, 1)), b.const(6, 1, 1))
    restored = check(b.done(y))
    assert ops(restored) == ["Conv", "Relu", "GroupNormalization"]
    assert restored.nodes[-1].attrs["groups"] == groups
    assert sorted(ops(optimize(restored))) == ["Conv", "GroupNormalization", "Transpose", "Transpose"]  # the border


def test_groups_across_images_stay() -> None:
    b = Build()
    x = b.input(2, 4, 3, 5)
    flat = b.reshape(x, 1, 2, 1, 60)
    y = b.g.add("GroupNormalization", [flat, None, None], flat.shape, groups=2, epsilon=0.01)
    assert ops(check(b.done(b.reshape(y, *x.shape)))) == ["Reshape", "GroupNormalization", "Reshape"]
