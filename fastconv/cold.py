"""Time of one layer as it is inside a large network: its weights come from memory, its activations from caches.

A plan holds the layer several times, each with weights of its own, and runs them in turn: between two uses of a weight
at least `reach` bytes are read, by the other copies or, where they are too few, by a sweep over a large array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .compiler import Compiler, WeightCache
from .graph import Graph, Value, Weight
from .selection import LARGEST_WINOGRAD, Choice, Selection, Shape, shape_of
from .target import Target
from .tuning import Tuning

COPIES = 64  # at most, in a plan; fewer, but at least 3, where all together take more than
FLOPS = 3e9
FACTOR = 3.0  # last-level caches that are read between two uses


def last_level_cache() -> int:
    """Bytes of the largest cache that the first CPU reports; 32 MiB where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text))
    return max(sizes, default=32 * 2**20)


def tensor_inside(g: Graph, shape: Sequence[int]) -> Value:
    """The positive part of an input of `g`, which lies where a network's tensors do: on cache lines of its own, in huge
    pages. numpy's arrays begin within a line, so that each vector is read from two."""
    return g.add("Relu", [g.add_input("x", tuple(shape))], tuple(shape))


class PatientTarget(Target):
    """The CPU with all weights in huge pages, where the system has any, so that times do not depend on how long it
    takes for them: models take what comes fast, most of it huge on most days."""

    def store(self) -> Any:
        return _core.WeightStore(patient=True)


class ColdPlan:
    """A layer ready to be timed on one thread. build(copies): a physical graph (N H W C) that has it so many times on
    one tensor_inside(). `algorithm` is what the selection chose."""

    def __init__(
        self, build: Callable[[int], Graph], weight_bytes: int, flops: int, selection: Selection, reach: float
    ) -> None:
        self.copies = max(1, min(COPIES, math.ceil(reach / weight_bytes), max(3, math.ceil(FLOPS / flops))))
        self._sweep = np.zeros(int(reach) // 4, np.float32) if self.copies * weight_bytes < reach else None
        graph = build(self.copies + 1)  # the first one finds other activations than the rest and is not counted
        compiled = Compiler(graph, WeightCache(PatientTarget()), selection).compile()
        self._plan, self._executor = compiled.plan, _core.Executor(1)
        names = {n.name: i for i, n in enumerate(graph.nodes)}
        self._owner = np.array([names[op.name] for op in compiled.ops])
        of_layers = [op.algorithm for op, owner in zip(compiled.ops, self._owner, strict=True) if owner]
        self.algorithm = "+".join(dict.fromkeys(of_layers))
        x = np.random.default_rng(1).standard_normal(compiled.inputs[0][1], dtype=np.float32)
        self._arrays = [x, np.empty(compiled.outputs[0][1], np.float32)]

    @property
    def output(self) -> npt.NDArray[np.float32]:
        """The last copy's output, N H W C."""
        return self._arrays[1]

    def round(self) -> list[float]:
        """Seconds of each copy; a layer that takes several operations is their sum."""
        if self._sweep is not None:
            float(np.max(self._sweep))
        ns = np.asarray(self._executor.profile(self._plan, self._arrays, 1))[0]
        totals = np.bincount(self._owner, weights=ns, minlength=self.copies + 2)
        return [max(float(t), 1.0) * 1e-9 for t in totals[2:]]  # without tensor_inside() and the first copy


def convolutions(shape: Shape, copies: int) -> Graph:
    """A physical graph with a convolution of this shape, bias and ReLU, `copies` times on one tensor."""
    g, rng = Graph("convolution"), np.random.default_rng(0)
    x = tensor_inside(g, (shape.N, shape.H, shape.W, shape.C))
    w = rng.standard_normal((shape.K, shape.C // shape.groups, shape.R, shape.S), dtype=np.float32)
    w *= np.float32(math.sqrt(2.0 / w[0].size))
    bias = g.constant(rng.standard_normal(shape.K, dtype=np.float32))
    y = x
    for _ in range(copies):
        # a Weight of its own for each: equal arrays with another key are packed again
        weight = g.constant(Weight(w.shape, w.dtype, lambda: w))
        y = g.add(
            "Conv", [x, weight, bias], (shape.N, shape.P, shape.Q, shape.K), activation=("Relu", 0.0, 0.0),
            strides=shape.strides, dilations=shape.dilations, pads=shape.pads, group=shape.groups,
        )  # fmt: skip
    g.outputs = [y]
    return g


def cold_convolution(shape: Shape, choice: Choice, isa: _core.Isa, reach: float | None = None) -> ColdPlan:
    """The candidate `choice` for a shape, ready to be timed."""
    only = Tuning({(shape, isa.name): {choice: 1.0}})  # known to be the best of those that were measured
    selection = Selection(isa, winograd=LARGEST_WINOGRAD, tuning=only)
    weights = shape.K * (shape.C // shape.groups) * shape.R * shape.S
    flops = 2 * shape.N * shape.P * shape.Q * weights
    where = FACTOR * last_level_cache() if reach is None else reach
    return ColdPlan(lambda copies: convolutions(shape, copies), 4 * weights, flops, selection, where)


def time_cold(plans: Sequence[ColdPlan], seconds: float, rounds: int = 3) -> list[float]:
    """Median seconds of each, timed in turns: at least `rounds` rounds, and `seconds` of time in the slowest."""
    samples: list[list[float]] = [[] for _ in plans]
    for p in plans:
        p.round()
    turns = 0
    while turns < rounds or (max(map(sum, samples)) < seconds and turns < 100):
        for p, s in zip(plans, samples, strict=True):
            s += p.round()
        turns += 1
    return [float(np.median(s)) for s in samples]


def time_candidates(shape: Shape, selection: Selection, seconds: float = 0.05) -> dict[Choice, float]:
    """Median seconds of every candidate that the selection allows, on one thread with cold weights, in turns."""
    choices: list[Any] = selection.candidates(shape)
    plans = [cold_convolution(shape, c, selection.isa) for c in choices]
    return dict(zip(choices, time_cold(plans, seconds), strict=True))


def layers_with_choice(graph: Graph, selection: Selection) -> list[Shape]:
    """The distinct convolutions of a physical graph that have several candidates, in order."""
    shapes = dict.fromkeys(shape_of(n) for n in graph.nodes if n.op == "Conv")
    return [s for s in shapes if len(selection.candidates(s)) > 1]


def tune(graph: Graph, selection: Selection, tuning: Tuning, seconds: float = 0.05) -> Iterator[tuple[Shape, bool]]:
    """Measure what `tuning` does not know of a physical graph's convolutions and put it there. Yields each layer that
    has a choice, when it is done, and whether it was measured now."""
    for shape in layers_with_choice(graph, selection):
        known = tuning.seconds(shape, selection.isa)
        missing = any(c not in known for c in selection.candidates(shape))
        if missing:  # all of them, for only times of the same minute can be compared
            tuning.add(shape, selection.isa, {**known, **time_candidates(shape, selection, seconds)})
        yield shape, missing
