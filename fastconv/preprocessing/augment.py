"""Images as training sees them: a network of augmentation layers run by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastconv import _core
from fastconv.errors import ShapeError
from fastconv.graph import Graph
from fastconv.threads import thread_count

if TYPE_CHECKING:
    from fastconv.compiled import Compiled
    from fastconv.layers.base import Feed
    from fastconv.models import Model

FloatArray = npt.NDArray[np.float32]
_MAX_PLANS = 4


class Augmentation:
    """A model run as in training: `Augmentation(Sequential([Input((32, 32, 1)), RandomRotation(0.1)]), seed=1)(x, 0)`.

    The same seed, number and shape give the same images. Layers with weights use them as they are.
    """

    def __init__(self, model: Model, seed: int = 0, threads: int | None = None) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(f"model {model.name!r}: expected one input and one output")
        self.model, self.seed = model, int(seed)
        self._executor = _core.Executor(thread_count(threads))
        self._plans: dict[tuple[int, ...], tuple[Compiled, list[Feed]]] = {}

    def __call__(self, x: npt.ArrayLike, number: int = 0) -> FloatArray:
        """Images [N, H, W, C] changed by what `seed` and `number` draw."""
        from fastconv.layers.base import draw

        images = np.ascontiguousarray(x, np.float32)
        compiled, feeds = self._plan(images.shape)
        out = np.empty(compiled.outputs[0][1], np.float32)
        self._executor.run(compiled.plan, [images, *draw(feeds, self.seed, int(number)), out])
        return out

    def _plan(self, shape: tuple[int, ...]) -> tuple[Compiled, list[Feed]]:
        from fastconv.compiler import WeightCache, compile_graph
        from fastconv.isa import resolve_isa
        from fastconv.layers.base import Scope

        if shape in self._plans:
            return self._plans[shape]
        want = self.model.inputs[0].shape
        if len(want) != len(shape) or any(w not in (None, s) for w, s in zip(want[1:], shape[1:], strict=True)):
            raise ShapeError(f"model {self.model.name!r}: expected images of shape {want}, got {shape}")
        graph = Graph(self.model.name)
        scope = Scope(graph, training=True)
        x = scope.channels_first(graph.add_input("images", shape))
        graph.outputs = [scope.channels_last(self.model.emit(scope, x)[0])]
        compiled = compile_graph(graph, resolve_isa(None), WeightCache())
        while len(self._plans) >= _MAX_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[shape] = compiled, scope.feeds
        return self._plans[shape]
