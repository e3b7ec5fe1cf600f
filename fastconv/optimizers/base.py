"""Optimizer: what all optimisers share. The step itself is an update node of the training graph (see graph.py)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastconv.errors import ShapeError
from fastconv.graph import Array, Graph, Value
from fastconv.layers.variable import Variable
from fastconv.optimizers.schedules import LearningRateSchedule


class Optimizer(ABC):
    """Arguments of all optimisers.

    learning_rate: a number or a schedule. weight_decay: each step first takes rate * weight_decay * w off w (decoupled
    from the gradient, as Keras does it for every optimiser). clipnorm: the largest norm of one weight's gradient;
    clipvalue: the largest magnitude of its elements; global_clipnorm: the largest norm of all gradients together. At
    most one of the three. `iterations` counts steps. Raises ValueError, and TypeError for other keywords.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            hint = ": the rate is learning_rate" if "lr" in unknown else ""
            raise TypeError(f"{type(self).__name__}: unknown argument {', '.join(map(repr, unknown))}{hint}")
        limits = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        for what, limit in {**limits, "weight_decay": weight_decay}.items():
            if limit is not None and not 0 <= limit < math.inf:
                raise ValueError(f"{what}={limit!r}: expected None or a number of at least 0")
        if sum(limit is not None for limit in limits.values()) > 1:
            raise ValueError(f"expected at most one of clipnorm, clipvalue and global_clipnorm, got {limits}")
        self.name = name or type(self).__name__.lower()
        self.weight_decay = weight_decay
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm
        self.iterations = 0
        self.learning_rate = learning_rate
        self._undecayed: set[Variable] = set()
        self._undecayed_names: tuple[str, ...] = ()
        self._slots: dict[Variable, Variable] = {}

    # -- the rate -----------------------------------------------------------------------------------------------
    @property
    def learning_rate(self) -> float:
        """The rate of the next step. Setting a number replaces a schedule."""
        rate = self._rate
        return float(rate(self.iterations)) if isinstance(rate, LearningRateSchedule) else rate

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        if not isinstance(value, LearningRateSchedule):
            if not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"learning_rate={value!r}: expected a number of at least 0, or a schedule")
            value = float(value)
        self._rate: float | LearningRateSchedule = value

    @property
    def schedule(self) -> LearningRateSchedule | None:
        return self._rate if isinstance(self._rate, LearningRateSchedule) else None

    def exclude_from_weight_decay(
        self, var_list: Sequence[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Weights that do not decay: these, and all with one of these texts in their path. Before the first step."""
        self._undecayed |= set(var_list or ())
        self._undecayed_names += tuple(var_names or ())

    # -- what subclasses write ----------------------------------------------------------------------------------
    op = ""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Tensors of a weight's size that it remembers for each weight."""

    def attributes(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def numbers(self, rate: float, step: int) -> list[float]:
        """`hyper` of the update without the decay, for the step-th step, counted from 1."""

    # -- steps --------------------------------------------------------------------------------------------------
    def hyper(self) -> Array:
        """The vector `hyper` of the next step's updates."""
        rate = self.learning_rate
        numbers = [*self.numbers(rate, self.iterations + 1), rate * (self.weight_decay or 0.0)]
        return np.array(numbers, np.float64).astype(np.float32)

    def slot(self, variable: Variable) -> Variable | None:
        """What is remembered for a weight: [slots, *its shape], zeros at first."""
        if not self.slots:
            return None
        found = self._slots.get(variable)
        if found is None:
            from fastconv.layers.initializers import zeros

            found = Variable(f"{self.name}/{variable.path}", (self.slots, *variable.graph_shape), zeros)
            self._slots[variable] = found
        return found

    def decays(self, variable: Variable) -> bool:
        named = any(name in variable.path for name in self._undecayed_names)
        return bool(self.weight_decay) and variable not in self._undecayed and not named

    def append(
        self, graph: Graph, hyper: Value, weights: Sequence[tuple[Variable, Value, Value]]
    ) -> dict[str, Variable]:
        """Append the step for (variable, its state, its gradient). Returns the states of the slots by name."""
        made: dict[str, Variable] = {}
        factor = None
        if self.global_clipnorm is not None and weights:
            factor = _factor(graph, [g for *_, g in weights], self.global_clipnorm)
        for variable, w, g in weights:
            if self.clipvalue is not None:
                g = graph.add("Clip", [g], g.shape, min=-self.clipvalue, max=self.clipvalue)
            if self.clipnorm is not None:
                factor = _factor(graph, [g], self.clipnorm)
            slot, state = self.slot(variable), None
            if slot is not None:
                state = graph.add_state(graph.fresh(slot.path), slot.graph_shape)
                made[state.name] = slot
            attrs = {**self.attributes(), "decays": self.decays(variable)}
            graph.add_many(self.op, [w, g, state, hyper, factor], [], name=f"{variable.path}/step", **attrs)
        return made

    # -- checkpoints --------------------------------------------------------------------------------------------
    def state_for(self, variables: Sequence[Variable]) -> dict[str, Any]:
        """What a checkpoint keeps: class, number of steps, rate, and the slots in the order of `variables`."""
        slots = [slot.array.copy() for slot in map(self.slot, variables) if slot is not None]
        rate = None if self.schedule is not None else self.learning_rate
        kind = type(self).__name__
        return {"class": kind, "iterations": self.iterations, "learning_rate": rate, "slots": slots}

    def restore(self, variables: Sequence[Variable], state: Mapping[str, Any]) -> None:
        """Go on from an equal optimiser's `state_for`. Raises ValueError where it does not fit; nothing is changed."""
        slots = [slot for slot in map(self.slot, variables) if slot is not None]
        arrays, iterations, rate = (state.get(name) for name in ("slots", "iterations", "learning_rate"))
        kind = state.get("class", type(self).__name__)  # files of before do not say it
        if kind != type(self).__name__:
            raise ValueError(f"optimizer {self.name!r} is {type(self).__name__}, the checkpoint's {kind}")
        if not isinstance(arrays, list) or type(iterations) is not int or iterations < 0:
            raise ValueError(f"optimizer {self.name!r}: expected its slots and a number of steps, got {iterations!r}")
        if len(slots) != len(arrays):
            raise ValueError(f"optimizer {self.name!r} has {len(slots)} slots, the checkpoint {len(arrays)}")
        for slot, array in zip(slots, arrays, strict=True):
            if np.shape(array) != slot.graph_shape:
                raise ShapeError(f"slots of {slot.path!r}: expected shape {slot.graph_shape}, got {np.shape(array)}")
        if self.schedule is None and rate is not None:
            self.learning_rate = rate
        for slot, array in zip(slots, arrays, strict=True):
            slot.set(array)
        self.iterations = iterations


def _factor(graph: Graph, gradients: Sequence[Value], limit: float) -> Value:
    """limit / max(norm, limit): what multiplies gradients whose norm is too large."""
    bound = graph.constant(np.array([limit], np.float32))
    norm = graph.add("Sqrt", [graph.add("SquaredNorm", gradients, (1,))], (1,))
    return graph.add("Div", [bound, graph.add("Max", [norm, bound], (1,))], (1,))
