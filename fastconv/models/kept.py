"""What a frozen part gives, kept while `fit` runs: each image goes through it once, whatever the number of epochs.

The graph of a step is cut at the Values that depend on no weight that learns, on no statistic that moves and on nothing
random; so is the graph of the validation. With `views` the random layers under frozen products lie below the cut, and
that many differently drawn copies of each image are kept. Below the cut everything is optimised as for inference.
"""

from __future__ import annotations

import copy
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.callbacks.progress import task
from fastconv.graph import Array, Graph, Shape, Value
from fastconv.models.batches import ArrayBatches, Batch, Batches, IterableBatches
from fastconv.preprocessing.dataset import Dataset
from fastconv.preprocessing.features import MEMORY, space
from fastconv.told import warn

if TYPE_CHECKING:
    from fastconv.layers.base import Scope
    from fastconv.models.model import Model
    from fastconv.models.trainer import Trainer

FloatArray = npt.NDArray[np.float32]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WORTH = 100  # operations per byte that is kept: a file is read at 1 GB/s, a core computes at 100 GFLOP/s and more
SHARE = 0.5  # of the free disk


@dataclass(frozen=True)
class Kept:
    """What stands for the inputs of a batch: what the frozen part gives for them, and their shapes."""

    arrays: list[FloatArray]
    shapes: list[Shape]


def changing(graph: Graph, scope: Scope, views: int) -> set[Value]:
    """The Values at which a graph is cut: states, batch statistics, and what is drawn at random."""
    moving = set(scope.states)
    for node in graph.nodes:
        if node.op == "BatchNormTrain":  # one image's outputs depend on the others in the batch
            moving.update(node.outputs)
    feeds = {feed.value for feed in scope.feeds}
    return moving | (feeds - _under_products(graph, moving, feeds) if views > 1 else feeds)


def _under_products(graph: Graph, moving: set[Value], feeds: set[Value]) -> set[Value]:
    """The random inputs on which a frozen convolution or dense layer depends."""
    moved, found = set(moving), set()
    reads = {v: {v} for v in feeds}
    for node in graph.nodes:
        if any(v in moved for v in (*node.inputs, *node.outputs)):
            moved.update(node.outputs)
            continue
        random = set().union(*(reads.get(v, set()) for v in node.inputs if v is not None))
        reads.update((v, random) for v in node.outputs)
        if node.op in PRODUCTS:
            found |= random
    return found


def operations(graph: Graph) -> int:
    """Multiplications and additions of convolutions and dense layers."""
    total = 0
    for node in graph.nodes:
        if node.op in PRODUCTS:
            w = node.input(1)
            reduced = w.size // w.shape[0] if node.op == "Conv" else node.input(0).shape[-1]
            total += 2 * node.output.size * reduced
    return total


class KeptBatches:
    """Batches of what was kept, in the order of the batches that they stand for; `epoch` as of Batches.

    arrays: [views, N, ...] each; the epochs take an image's views in turns. order: the samples of an epoch, in order.
    shapes: of one sample of each input.
    """

    def __init__(
        self, arrays: Sequence[FloatArray], shapes: Sequence[Shape], y: Array | None, weights: Array | None,
        order: Callable[[int], Array], size: int, seed: int, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.arrays, self.shapes, self.y, self.weights = list(arrays), list(shapes), y, weights
        self.order, self.size, self.seed = order, size, seed
        self.views, self.samples = arrays[0].shape[:2]
        whole = math.ceil(self.samples / size)
        self.steps: int | None = whole if steps is None else min(steps, whole)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        order = self.order(number)
        first = np.random.default_rng(self.seed).integers(self.views, size=self.samples)
        view = (first + number) % self.views
        for i in range(start, self.steps or 0):
            rows = order[i * self.size : (i + 1) * self.size]
            arrays = [np.ascontiguousarray(a[view[rows], rows]) for a in self.arrays]
            yield (
                Kept(arrays, [(len(rows), *s) for s in self.shapes]),
                None if self.y is None else self.y[rows],
                None if self.weights is None else self.weights[rows],
            )


class Keeper:
    """Makes KeptBatches of what `fit` was given, anew where the frozen part is another; see there for the arguments."""

    def __init__(self, model: Model, wanted: bool | None, views: int, seed: int, verbose: str | int) -> None:
        self.model, self.wanted, self.views, self.seed = model, wanted, views, seed
        self.shown = verbose not in (0, "0")
        self.used: dict[bool, int] = {}  # bytes of memory
        self._made: dict[bool, tuple[Trainer, object, KeptBatches | None]] = {}  # and of what they were made

    def training(self, data: Batches) -> Batches:
        if not self._current(True):
            self._keep(data, True)
        return self._made[True][2] or data

    def validation(self, data: Any, size: int | None, steps: int | None) -> Any:
        """What `fit` got as validation_data; as batches of what was kept where that goes."""
        if data is None or steps is not None:
            return data
        if not self._current(False):
            self._keep(self.model._validation(data, size, None), False)
        return self._made[False][2] or data

    def _current(self, training: bool) -> bool:
        """Whether what was kept still holds: callbacks may set weights, call compile, or choose other threads."""
        self.trainer = self.model.trainer()
        self.trainer.halves.views = self.views
        self.trainer.follow()
        trainer, frozen, _ = self._made.get(training, (None, None, None))
        return trainer is self.trainer and frozen == self.trainer.frozen

    def _keep(self, data: Batches, training: bool) -> None:
        now = (self.trainer, self.trainer.frozen)
        self._made.pop(training, None)  # its memory is free again
        self.used.pop(training, None)
        try:
            self._made[training] = (*now, self._kept(data, training))
        except _Refused as e:
            if training and (self.wanted or self.views > 1):
                raise ValueError(f"cache_features: {e}") from None
            if e.warns:
                warn(f"features are not kept: {e}")
            self._made[training] = (*now, None)

    def _kept(self, data: Batches, training: bool) -> KeptBatches:
        batches = self._in_order(data)
        found: list[FloatArray] = []
        shapes: list[Shape] = []
        targets: list[Array] = []
        weights: list[Array] = []
        done, views = 0, self.views if training else 1
        source: Any = data if isinstance(data, ArrayBatches) else data.source  # type: ignore[attr-defined]
        total, most = source.samples, data.size if isinstance(data, ArrayBatches) else source.batch_size
        tick: Callable[[int, str], None] | None = None
        with ExitStack() as bar:
            for number, (x, y, weight) in enumerate(batches):
                arrays = self.model._inputs(x)
                if not number:
                    shapes = [a.shape[1:] for a in arrays]
                    found = self._space([a.shape for a in arrays], training, total)
                    tick = bar.enter_context(task("features of the frozen part", total, self.shown, sys.stdout))
                if [a.shape[1:] for a in arrays] != shapes:
                    raise _Refused("the images have different sizes")
                n = len(arrays[0])
                size = min(most, source.samples - done)  # broken files are known once the last batch is there
                counts = [np.shape(part)[:1] for part in (arrays[0], y, weight) if part is not None]
                if any(count != (size,) for count in counts):
                    raise _Refused(f"expected {size} images and labels of as many files, got {counts}")
                for view in range(views):
                    outputs = self.trainer.halves.below(arrays, training, self.seed, number * views + view)
                    for kept, out in zip(found, outputs, strict=True):
                        kept[view, done : done + n] = out
                done += n
                if tick is not None:
                    tick(done, "")
                targets += [] if y is None else [np.asarray(y)]
                weights += [] if weight is None else [np.asarray(weight, np.float32).reshape(-1)]
        if not found:
            raise _Refused("there are no images")
        whole = [np.concatenate(part) if part else None for part in (targets, weights)]
        return self._batches(data, [a[:, :done] for a in found], shapes, *whole)

    def _in_order(self, data: Batches) -> Iterator[Batch]:
        """Every sample once, in the order in which they are given."""
        if isinstance(data, ArrayBatches):
            return ArrayBatches(data.x, data.y, data.weights, data.size).epoch(0)
        source = data.source if isinstance(data, IterableBatches) else None
        if not isinstance(source, Dataset) or data.steps != len(source) or (source._functions and not self.wanted):
            raise _Refused(f"batches of {type(getattr(data, 'source', data)).__name__} may differ from epoch to epoch")
        plain = copy.copy(source)
        plain.shuffle = False
        return IterableBatches(plain).epoch(0)

    def _batches(
        self, data: Any, arrays: list[FloatArray], shapes: list[Shape], y: Array | None, weights: Array | None
    ) -> KeptBatches:
        if isinstance(data, ArrayBatches):
            return KeptBatches(arrays, shapes, y, weights, data.order, data.size, self.seed, data.steps)
        source: Dataset = data.source
        whole = np.array([i not in source._broken for i in range(len(source.file_paths))])
        place = np.cumsum(whole) - 1

        def order(epoch: int) -> Array:
            files = source.order(epoch)
            return np.asarray(place[files[whole[files]]])

        return KeptBatches(arrays, shapes, y, weights, order, source.batch_size, self.seed)

    def _space(self, shapes: list[Shape], training: bool, total: int) -> list[FloatArray]:
        """Room for what the frozen part gives for all samples."""
        below, _, _ = self.trainer.halves.graphs(shapes, training)
        views = self.views if training else 1
        if any(v.shape[:1] != shapes[0][:1] for v in below.outputs):
            raise _Refused("the frozen part mixes the images of a batch")
        work, each = operations(below), 4 * sum(v.size for v in below.outputs)
        if not work or not each:
            raise _Refused("no convolution or dense layer is frozen below all that learns or is random")
        if work < WORTH * each and not self.wanted and views == 1:
            raise _Refused("it does not pay")
        shape = [(views, total, *v.shape[1:]) for v in below.outputs]
        size, memory = 4 * sum(math.prod(s) for s in shape), MEMORY - sum(self.used.values())
        if size > memory and not self.wanted:  # the folder of temporary files may be memory, too
            raise _Refused(f"{size:,} bytes are more than {memory:,}: cache_features=True puts them into a file", True)
        if size > memory and size > SHARE * shutil.disk_usage(tempfile.gettempdir()).free:
            raise _Refused(f"{size:,} bytes are more than {memory:,} in memory, and than half of the free disk", True)
        self.used[training] = size if size <= memory else 0
        return [space(s, memory if size <= memory else 0, None) for s in shape]


class _Refused(Exception):
    """Features are not kept, for this reason; warns: one that depends on the machine."""

    def __init__(self, why: str, warns: bool = False) -> None:
        super().__init__(why)
        self.warns = warns
