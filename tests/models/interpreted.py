"""Training steps computed by tests/interpret.py: the engine without kernels, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.layers.variable import Variable
from fastconv.models import Model
from fastconv.models.trainer import Trainer
from tests.interpret import interpret


class Interpreted:
    """A Trainer whose steps are interpreted; `arrays` holds the float64 states."""

    def __init__(self, model: Model) -> None:
        self.trainer: Trainer = model.trainer()
        self.arrays: dict[Variable, np.ndarray] = {}

    def state(self, variable: Variable) -> np.ndarray:
        if variable not in self.arrays:
            self.arrays[variable] = variable.array.astype(np.float64)
        return self.arrays[variable]

    def step(self, x: Any, y: Any, weight: Any = None, seed: int = 0) -> tuple[float, np.ndarray]:
        t = self.trainer
        x = np.asarray(x, np.float32)
        target = t.loss.targets(y, t.model._output_shape([x.shape]))
        graph, feeds, states = t.graph([x.shape], target.shape)
        w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
        given: Sequence[np.ndarray] = [x, *_drawn(feeds, seed, t.optimizer.iterations), target, w / len(x)]
        hyper = np.array([*t.optimizer.hyper()], np.float64)
        feed = {v.name: a for v, a in zip(graph.inputs, [*given, hyper], strict=True)}
        loss, out = interpret(graph, feed, states={name: self.state(v) for name, v in states.items()})
        t.optimizer.iterations += 1
        return float(loss[0]), out


def _drawn(feeds: Sequence[Any], seed: int, step: int) -> list[np.ndarray]:
    return [
        np.asarray(f.draw(np.random.default_rng((seed if f.seed is None else f.seed, step, i))))
        for i, f in enumerate(feeds)
    ]
