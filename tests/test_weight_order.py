"""The order in which weights are packed: it decides which of them lie in huge pages where those are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from fastconv.compiler import Compiler, WeightCache
from fastconv.errors import UnsupportedOpError
from fastconv.graph import Graph, Value
from fastconv.selection import Selection


def test_weights_of_few_pixels_are_packed_first() -> None:
    g, rng = Graph("order"), np.random.default_rng(0)

    def conv(x: Value, K: int, size: int, stride: int) -> Value:
        N, H, W, C = x.shape
        attrs: dict[str, Any] = dict(strides=(stride, stride), dilations=(1, 1), pads=(size // 2,) * 4, group=1)
        w, bias = g.constant(rng.standard_normal((K, C, size, size), np.float32)), g.constant(np.zeros(K, np.float32))
        return g.add("Conv", [x, w, bias], (N, -(-H // stride), -(-W // stride), K), **attrs)

    x = g.add_input("x", (1, 32, 32, 32))
    y = conv(conv(conv(x, 64, 1, 1), 64, 3, 1), 128, 1, 2)
    g.outputs = [y]
    weights = [node.input(1).weight for node in g.nodes]
    cache = WeightCache()
    plan = Compiler(g, cache, Selection(getattr(_core.Isa, _core.isa_levels()[-1]), False)).compile().plan
    keys: list[Any] = list(cache.packed)
    packed = [key[0] for key in keys if key[1] != "dense"]
    assert packed == [weights[i].key for i in (2, 0, 1) if weights[i] is not None]  # 256 pixels, then 1024 each
    out = np.empty(y.shape, np.float32)
    _core.Executor(1).run(plan, [rng.standard_normal(x.shape, np.float32), out])
    assert np.isfinite(out).all()


def test_nothing_is_packed_for_a_graph_without_kernels() -> None:
    g = Graph("unknown")
    x, w = g.add_input("x", (1, 8, 8, 16)), g.constant(np.ones((16, 16, 1, 1), np.float32))
    y = g.add("Conv", [x, w], x.shape, strides=(1, 1), dilations=(1, 1), pads=(0,) * 4, group=1)
    g.outputs = [g.add("Unheard", [y], x.shape)]
    cache = WeightCache()
    compiler = Compiler(g, cache, Selection(getattr(_core.Isa, _core.isa_levels()[-1]), False))
    with pytest.raises(UnsupportedOpError, match="Unheard has no kernel"):
        compiler.compile()
    assert not cache.packed
