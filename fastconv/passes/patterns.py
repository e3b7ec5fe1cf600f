"""Activations that exporters spell out in small operations become one node again.

A Mul or Div node is read as a product, k * f1 * f2 ..., with numbers gathered into k, whatever the order in which the
exporter multiplied. Numbers are compared with a relative tolerance of 1e-4: files hold rounded constants. Intermediate
results that something else reads stay; `dead` drops the others.

    Swish        x * Sigmoid(x)                          Mish       x * Tanh(Softplus(x))
    HardSigmoid  Clip(a x + b, 0, 1), Clip(x + 3, 0, 6) / 6
    HardSwish    x * HardSigmoid(x; 1/6, 1/2)
    Gelu         x/2 (1 + Erf(x/sqrt 2)), x/2 (1 + Tanh(sqrt(2/pi) (x + 0.044715 x^3)))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..graph import Graph, Node, Value
from .rewrite import Draft, is_float, scalar


def restore_activations(graph: Graph) -> Graph:
    """One forward sweep; a restored activation can be part of a later pattern."""
    draft = Draft(graph)
    for node in draft:
        if not node.outputs or not is_float(node.output) or "activation" in node.attrs:
            continue
        if node.op == "Clip":
            _hard_sigmoid(draft, node)
        elif node.op in ("Mul", "Div"):
            _product_pattern(draft, node)
    return draft.finish()


def _near(a: float | None, b: float) -> bool:
    return a is not None and math.isclose(a, b, rel_tol=1e-4)


def _plain(draft: Draft, v: Value, *ops: str) -> Node | None:
    node = draft.producer(v, *ops)
    return node if node is not None and "activation" not in node.attrs else None


def _number(draft: Draft, v: Value) -> tuple[float, Value] | None:
    """(k, x) if v is k * x by one Mul or Div with a number."""
    node = _plain(draft, v, "Mul", "Div")
    if node is None:
        return None
    a, b = node.input(0), node.input(1)
    k = scalar(b)
    if k is not None and a.shape == v.shape:
        return (k, a) if node.op == "Mul" else (1.0 / k, a) if k else None
    k = scalar(a)
    return (k, b) if k is not None and node.op == "Mul" and b.shape == v.shape else None


def product(draft: Draft, v: Value, stop: Value, depth: int = 4) -> tuple[float, list[Value]]:
    """v as k times factors of v's shape. `stop` is never taken apart, though it may be a product itself."""
    scaled = _number(draft, v) if depth and v is not stop else None
    if scaled is not None:
        k, factors = product(draft, scaled[1], stop, depth - 1)
        return scaled[0] * k, factors
    pair = _pair(draft, v) if depth and v is not stop else None
    if pair is None:
        return 1.0, [v]
    (ka, fa), (kb, fb) = (product(draft, f, stop, depth - 1) for f in pair)
    return ka * kb, [*fa, *fb]


def _pair(draft: Draft, v: Value) -> tuple[Value, Value] | None:
    """(a, b) if v = a * b, both of v's shape and not constant."""
    node = _plain(draft, v, "Mul")
    if node is None:
        return None
    a, b = node.input(0), node.input(1)
    return None if a.shape != v.shape or b.shape != v.shape or a.is_const or b.is_const else (a, b)


def _readings(draft: Draft, v: Value) -> Iterator[tuple[float, tuple[Value, ...]]]:
    """Every way to read v as k * f1 or k * f1 * f2, the least taken apart first."""
    waiting: list[tuple[float, tuple[Value, ...]]] = [(1.0, (v,))]
    for _ in range(12):
        if not waiting:
            return
        k, factors = waiting.pop(0)
        yield k, factors
        for i, f in enumerate(factors):
            scaled = _number(draft, f)
            if scaled is not None:
                waiting.append((k * scaled[0], (*factors[:i], scaled[1], *factors[i + 1 :])))
        pair = _pair(draft, factors[0]) if len(factors) == 1 else None
        if pair is not None:
            waiting.append((k, pair))


def linear(draft: Draft, v: Value) -> list[tuple[Value, float, float]]:
    """The readings (x, a, b) of v as a x + b with numbers a and b, the plainest last."""
    node = _plain(draft, v, "Add", "Sub")
    shift, x = 0.0, v
    if node is not None:
        left, right = node.input(0), node.input(1)
        c = scalar(right)
        if c is None and node.op == "Add":
            left, c = right, scalar(left)
        if c is not None and left.shape == v.shape:
            x, shift = left, c if node.op == "Add" else -c
    scaled = _number(draft, x)
    whole = (x, 1.0, shift)
    return [whole] if scaled is None else [(scaled[1], scaled[0], shift), whole]


def _clip_limits(clip: Node) -> tuple[float, float]:
    return float(clip.attrs.get("min", -math.inf)), float(clip.attrs.get("max", math.inf))


def _hard_sigmoid(draft: Draft, node: Node) -> None:
    x, a, b = linear(draft, node.input(0))[0]
    if _clip_limits(node) == (0.0, 1.0) and (a, b) != (1.0, 0.0):
        draft.change(node, "HardSigmoid", [x], {"alpha": a, "beta": b})


def _relu6_of_plus_3(draft: Draft, v: Value) -> list[Value]:
    """Each x such that v = Clip(x + 3, 0, 6); there is one at most."""
    clip = draft.producer(v, "Clip")
    if clip is None or _clip_limits(clip) != (0.0, 6.0):
        return []
    return [x for x, a, b in linear(draft, clip.input(0)) if a == 1.0 and _near(b, 3.0)]


def _product_pattern(draft: Draft, node: Node) -> None:
    for k, factors in _readings(draft, node.output):
        if len(factors) == 1:
            found = _relu6_of_plus_3(draft, factors[0]) if _near(k, 1.0 / 6.0) else []
            if found:
                draft.change(node, "HardSigmoid", found, {"alpha": 1.0 / 6.0, "beta": 0.5})
                return
            continue
        for x, gate in (factors, factors[::-1]):
            restored = _gate(draft, x, gate, k)
            if restored is not None:
                draft.change(node, restored[0], [x], restored[1])
                return


def _gate(draft: Draft, x: Value, gate: Value, k: float) -> tuple[str, dict[str, Any]] | None:
    """The activation that k * x * gate is, if any."""
    maker = _plain(draft, gate)
    if maker is None:
        return None
    if _near(k, 1.0 / 6.0) and x in _relu6_of_plus_3(draft, gate):
        return "HardSwish", {}
    if _near(k, 1.0):
        if maker.op == "Sigmoid" and maker.input(0) is x:
            return "Swish", {}
        if maker.op == "HardSigmoid" and maker.input(0) is x:
            alpha, beta = maker.attrs.get("alpha", 0.2), maker.attrs.get("beta", 0.5)
            return ("HardSwish", {}) if _near(alpha, 1.0 / 6.0) and _near(beta, 0.5) else None
        if maker.op == "Tanh":
            inner = draft.producer(maker.input(0), "Softplus")
            return ("Mish", {}) if inner is not None and inner.input(0) is x else None
    if _near(k, 0.5) and maker.op == "Add":
        inside, _, b = linear(draft, gate)[-1]
        curve = draft.producer(inside, "Erf", "Tanh")
        if curve is None or not _near(b, 1.0):
            return None
        if curve.op == "Erf" and _is_multiple(draft, curve.input(0), x, math.sqrt(0.5)):
            return "Gelu", {"approximate": "none"}
        if curve.op == "Tanh" and _is_tanh_gelu_argument(draft, curve.input(0), x):
            return "Gelu", {"approximate": "tanh"}
    return None


def _is_multiple(draft: Draft, v: Value, x: Value, ratio: float) -> bool:
    k, factors = product(draft, v, x)
    return factors == [x] and _near(k, ratio)


def _is_tanh_gelu_argument(draft: Draft, v: Value, x: Value) -> bool:
    """v = sqrt(2/pi) (x + 0.044715 x^3), or the same with x factored out of the sum."""
    k, factors = product(draft, v, x)
    if not _near(k, math.sqrt(2.0 / math.pi)):
        return False
    if len(factors) == 2 and x in factors:  # x (1 + 0.044715 x^2)
        rest = factors[1] if factors[0] is x else factors[0]
        node = _plain(draft, rest, "Add")
        if node is None:
            return False
        terms = [node.input(0), node.input(1)]
        if scalar(terms[0]) is not None:
            terms.reverse()
        return _near(scalar(terms[1]), 1.0) and _is_power(draft, terms[0], x, 2)
    node = _plain(draft, factors[0], "Add") if len(factors) == 1 else None
    if node is None:
        return False
    a, b = node.input(0), node.input(1)
    return (a is x and _is_power(draft, b, x, 3)) or (b is x and _is_power(draft, a, x, 3))


def _is_power(draft: Draft, v: Value, x: Value, n: int) -> bool:
    """v = 0.044715 x^n, as a product or with Pow."""
    k, factors = product(draft, v, x)
    if not _near(k, 0.044715):
        return False
    count = 0
    for f in factors:
        power = _plain(draft, f, "Pow")
        if f is x:
            count += 1
        elif power is not None and power.input(0) is x and scalar(power.input(1)) is not None:
            count += int(scalar(power.input(1)) or 0)
        else:
            return False
    return count == n
