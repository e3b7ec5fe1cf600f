"""Trainer: compiled training steps. One plan does it all: forward, loss, backward, clipping, update.

Weights that training changes, moving statistics and the optimiser's slots are states of the graph: every plan, one for
each batch shape, works on the same memory, which is also that of the Variables. What a step draws at random follows
from (seed, number of the step, number of the feed) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.compiled import Compiled
from fastconv.compiler import WeightCache, compile_graph
from fastconv.errors import ModelError, ShapeError
from fastconv.grad import Tape, gradients
from fastconv.graph import Array, Graph, Shape, Value
from fastconv.isa import resolve_isa
from fastconv.layers.base import Feed, Layer, Scope, draw
from fastconv.layers.variable import Variable, last_change, touch
from fastconv.losses import Loss
from fastconv.models.kept import Kept, changing
from fastconv.optimizers import Optimizer
from fastconv.passes import remove_dead, restore_activations, restore_norms, simplify
from fastconv.passes.recompute import recompute
from fastconv.passes.split import split
from fastconv.target import CPU, Target
from fastconv.threads import thread_count

if TYPE_CHECKING:
    from fastconv.models.model import Model

FloatArray = npt.NDArray[np.float32]
MAX_STEPS = 8  # compiled batch shapes


def all_layers(layer: Layer) -> Iterator[Layer]:
    """The layer and all in it."""
    yield layer
    for inner in layer.sublayers():
        yield from all_layers(inner)


def moving_statistics(model: Model) -> list[Variable]:
    """What batch normalisations that are trainable move while they train."""
    found = [v for la in all_layers(model) if la.trainable for v in la.variables if v.name.startswith("moving_")]
    return list(dict.fromkeys(found))


class Step:
    """One compiled training step: for one shape of inputs and targets."""

    def __init__(self, compiled: Compiled, feeds: Sequence[Feed], outputs: Shape) -> None:
        self.compiled, self.feeds = compiled, feeds
        self.loss = np.empty(1, np.float32)
        self.y = np.empty(outputs, np.float32)


class Trainer:
    """Steps of one model with one optimiser and loss; made from what `Model.compile` decided.

    trained: the weights to learn; moving: the statistics to move. strict: as for `fastconv.load`. recompute: see
    passes/recompute.py. target: the device; weights that learn lie there from the first step on. Raises DeviceError.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        loss: Loss,
        trained: Sequence[Variable],
        moving: Sequence[Variable],
        strict: bool = False,
        recompute: bool = False,
        target: Target = CPU,
    ) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.trained, self.moving, self.strict, self.recompute = list(trained), list(moving), strict, recompute
        self.isa = resolve_isa(None)
        self.target = target
        self.threads = thread_count(model.threads)
        self.cache = WeightCache(target, self.threads)
        self.memory = target.memory()
        self.executor = target.executor(self.threads)
        self._bound: dict[Variable, Any] = {}  # the memory that compiled steps change
        self.steps: dict[object, Step] = {}
        self.halves = Halves(self)
        self.frozen: object = None  # what the plans hold as constants, as of the last `follow`
        self._looked = -1  # the last change of any Variable when that was compared

    def step(self, x: Sequence[FloatArray] | Kept, target: Array, weight: Array, seed: int) -> tuple[float, FloatArray]:
        """Learn from one batch: (its loss before the step, the model's outputs for it, valid until the next step).

        x: the model's inputs, or what was kept for them. weight: what each sample counts. Raises ModelError where
        memory is short.
        """
        self.follow()
        seen = self._looked
        kept = isinstance(x, Kept)
        shapes, x = (x.shapes, x.arrays) if isinstance(x, Kept) else ([a.shape for a in x], x)
        key = (kept and self.halves.views, tuple(shapes), target.shape)
        step = self.steps.get(key)
        if step is None:
            step = self.compiled(shapes, target.shape, kept)
            while len(self.steps) >= MAX_STEPS:
                self.steps.pop(next(iter(self.steps)))
            self.steps[key] = step
        optimizer = self.optimizer
        share = np.asarray(weight, np.float32) * np.float32(1 / len(target))
        drawn = draw(step.feeds, seed, optimizer.iterations)
        rest = [*drawn, np.ascontiguousarray(target, np.float32), share, optimizer.hyper(), step.loss, step.y]
        try:
            self.run(step.compiled, x, rest)
        finally:  # also where a Ctrl-C comes as the step ends: what it wrote must not stand as unchanged
            touch(self._bound)
        now = last_change()
        self._looked = now if now == seen + 1 else -1  # another change came during the step: look again
        optimizer.iterations += 1
        return float(step.loss[0]), step.y

    def follow(self) -> None:
        """Plans have frozen weights packed in them: where those were set anew since, they are to be compiled anew."""
        if self._looked == last_change():
            return
        now, moved = last_change(), {*self.trained, *self.moving}
        frozen = [(v.serial, v.version) for v in self.model.weights if v not in moved]
        if self.frozen not in (None, frozen):
            self.steps.clear()
            self.halves.forget()
            packed, self.cache = self.cache.packed, WeightCache(self.target, self.threads)
            self.cache.before = packed
        self.frozen, self._looked = frozen, now

    # -- compiling ----------------------------------------------------------------------------------------------
    def compiled(self, shapes: Sequence[Shape], target_shape: Shape, kept: bool = False) -> Step:
        graph, feeds, states = self.graph(shapes, target_shape, kept)
        return Step(self.compile(graph, states), feeds, graph.outputs[1].shape)

    def compile(self, graph: Graph, states: dict[str, Variable]) -> Compiled:
        memory = {name: variable.live(self.memory) for name, variable in states.items()}
        self._bound |= {states[name]: m for name, m in memory.items()}
        return compile_graph(graph, self.isa, self.cache, strict=self.strict, states=memory)

    def run(self, compiled: Compiled, x: Sequence[FloatArray], rest: Sequence[FloatArray]) -> None:
        """Run a plan for x, its first inputs, and the rest of its externals.

        Raises ShapeError for x of another cut, and ModelError where memory is short or weights are elsewhere.
        """
        inputs = [shape for _, shape in compiled.inputs[: len(x)]]
        if [a.shape for a in x] != inputs:
            raise ShapeError(f"features of the frozen part: expected {inputs}, got {[a.shape for a in x]}")
        self._check_memory()
        try:
            self.executor.run(compiled.plan, [*x, *rest])
        except MemoryError:
            size = compiled.arena_bytes
            raise ModelError(f"model {self.model.name!r}: no memory for {size:,} bytes of tensors") from None

    def _check_memory(self) -> None:
        """Another model that shares weights may have taken them to its own device since."""
        for variable, memory in self._bound.items():
            if not variable.lives_in(memory):
                raise ModelError(
                    f"weight {variable.path!r} has moved to another device: call compile() of {self.model.name!r} again"
                )

    def graph(
        self, shapes: Sequence[Shape], target_shape: Shape, kept: bool = False
    ) -> tuple[Graph, list[Feed], dict[str, Variable]]:
        """The logical graph of a step, what it draws, and the Variables of its states by name.

        Inputs: the model's (kept: what its frozen part gives for inputs of `shapes`), feeds, target, weight (a share of
        the batch), hyper. Outputs: loss [1], the model's output.
        """
        graph, scope, found = self._differentiated(shapes, target_shape, kept)
        hyper = graph.add_input("hyper", self.optimizer.hyper().shape)
        slots = self.optimizer.append(graph, hyper, found)
        # what an update writes, nothing may read behind it
        graph.nodes = [n for n in graph.nodes if n.outputs] + [n for n in graph.nodes if not n.outputs]
        graph.nodes += scope.updates
        states = {value.name: variable for value, variable in scope.states.items()}
        feeds = [feed for feed in scope.feeds if feed.value in graph.inputs]
        return graph, feeds, {**states, **slots}

    def gradients(
        self, x: Sequence[FloatArray], target: Array, weight: Array | None = None, seed: int = 0
    ) -> tuple[float, dict[Variable, FloatArray]]:
        """The loss of a batch and its gradient for each trained weight, in the Graph's layout; nothing is learnt."""
        graph, scope, found = self._differentiated([a.shape for a in x], target.shape)
        graph.outputs = [graph.outputs[0], *(graph.add("Copy", [g], g.shape) for *_, g in found)]
        memory = {value.name: variable for value, variable in scope.states.items()}
        compiled = self.compile(graph, memory)
        outputs = [np.empty(shape, np.float32) for _, shape in compiled.outputs]
        share = (np.ones(len(target)) if weight is None else np.asarray(weight)) / len(target)
        drawn = draw(scope.feeds, seed, self.optimizer.iterations)
        rest = [*drawn, np.ascontiguousarray(target, np.float32), share.astype(np.float32), *outputs]
        self.run(compiled, x, rest)
        return float(outputs[0][0]), {v: a for (v, *_), a in zip(found, outputs[1:], strict=True)}

    def _differentiated(
        self, shapes: Sequence[Shape], target_shape: Shape, kept: bool = False
    ) -> tuple[Graph, Scope, list[tuple[Variable, Value, Value]]]:
        """Forward, loss and backward; (variable, its state, its gradient) for what the loss depends on."""
        graph, scope = self.forward(shapes)
        if kept:
            _, graph = split(graph, changing(graph, scope, self.halves.views))
        (y,) = graph.outputs
        target = graph.add_input("target", target_shape)
        weight = graph.add_input("weight", (shapes[0][0],))
        each = self.loss.emit(graph, target, y)
        weighted = graph.add("Mul", [each, weight], each.shape)
        loss = graph.add("ReduceSum", [weighted], (1,), axes=(0,), keepdims=1, output="loss")
        state_of = {variable: value for value, variable in scope.states.items()}
        wanted = [state_of[v] for v in self.trained if v in state_of]
        forward = len(graph.nodes)
        made = gradients(graph, loss, wanted)
        if self.recompute:
            graph.outputs = [loss, y, *(g for g in made if g is not None)]
            graph = recompute(graph, forward, Tape(graph, wanted).active)
        found = [(scope.states[v], v, g) for v, g in zip(wanted, made, strict=True) if g is not None]
        if not found:
            raise ValueError(f"model {self.model.name!r}: the loss depends on no trainable weight")
        graph.outputs = [loss, y]
        return graph, scope, found

    def forward(self, shapes: Sequence[Shape], training: bool = True) -> tuple[Graph, Scope]:
        """The network, in training mode or not, cleaned up and with restored patterns, so that their rules apply."""
        model = self.model
        graph = Graph(model.name)
        scope = Scope(graph, training=training, states=[*self.trained, *self.moving])
        inputs = [graph.add_input(t.name, s) for t, s in zip(model.inputs, shapes, strict=True)]
        (y,) = model.emit(scope, *map(scope.channels_first, inputs))
        scope.name = model.name
        y = scope.channels_last(y)
        if y.is_const or y in graph.inputs:
            raise ShapeError(f"model {model.name!r}: its output does not depend on a layer")
        graph.outputs = [y]
        graph.nodes += scope.updates  # they keep what they read alive
        cleaned = restore_norms(restore_activations(simplify(remove_dead(graph))))
        scope.updates = [n for n in cleaned.nodes if not n.outputs]
        cleaned.nodes = [n for n in cleaned.nodes if n.outputs]
        return cleaned, scope


class Halves:
    """The frozen part of a Trainer's network and the rest, as plans of their own; see kept.py.

    views: more than 1 puts the random layers under frozen products into the frozen part of training.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.views = trainer, 1
        self._plans: dict[object, tuple[Step, list[Shape]]] = {}

    def forget(self) -> None:
        """Compile anew what is asked for from now on."""
        self._plans.clear()

    def graphs(self, shapes: Sequence[Shape], training: bool) -> tuple[Graph, Graph, Scope]:
        """(below, above, scope) of training or of validation for inputs of these shapes."""
        graph, scope = self.trainer.forward(shapes, training)
        return *split(graph, changing(graph, scope, self.views if training else 1)), scope

    def below(self, x: Sequence[FloatArray], training: bool, seed: int, number: int) -> list[FloatArray]:
        """What the frozen part gives for inputs; what is random follows from `seed` and `number`."""
        return self._run(("below", training, self.views), [a.shape for a in x], x, training, seed, number)

    def above(self, kept: Kept) -> FloatArray:
        """The model's outputs for what was kept for a batch of the validation."""
        return self._run(("above",), kept.shapes, kept.arrays, False)[0]

    def _run(
        self, which: tuple[object, ...], shapes: Sequence[Shape], x: Sequence[FloatArray], training: bool,
        seed: int = 0, number: int = 0,
    ) -> list[FloatArray]:  # fmt: skip
        self.trainer.follow()
        key = (which, tuple(shapes))
        if key not in self._plans:
            below, above, scope = self.graphs(shapes, training)
            graph = below if which[0] == "below" else above
            states = {value.name: variable for value, variable in scope.states.items() if value in graph.states}
            feeds = [feed for feed in scope.feeds if feed.value in graph.inputs]
            while len(self._plans) >= MAX_STEPS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = Step(self.trainer.compile(graph, states), feeds, (1,)), [v.shape for v in graph.outputs]
        step, outer = self._plans[key]
        outputs = [np.empty(shape, np.float32) for shape in outer]
        self.trainer.run(step.compiled, x, [*draw(step.feeds, seed, number), *outputs])
        return outputs
