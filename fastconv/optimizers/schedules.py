"""Learning rates that follow the number of the step, with Keras' names and formulas."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from fastconv.layers.windows import whole


class LearningRateSchedule(ABC):
    """A function of the number of steps done so far."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The learning rate for the next step."""


class _Decay(LearningRateSchedule):
    """Base of schedules that fall with the number of decay_steps done; whole ones count if `staircase`."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
    ) -> None:
        whole(decay_steps, "decay_steps")
        self.initial_learning_rate, self.decay_steps = float(initial_learning_rate), decay_steps
        self.decay_rate, self.staircase = float(decay_rate), bool(staircase)

    def _passed(self, step: int) -> float:
        share = step / self.decay_steps
        return math.floor(share) if self.staircase else share


class ExponentialDecay(_Decay):
    """initial * decay_rate ** (step / decay_steps); in whole powers if `staircase`."""

    def __call__(self, step: int) -> float:
        return float(self.initial_learning_rate * self.decay_rate ** self._passed(step))


class InverseTimeDecay(_Decay):
    """initial / (1 + decay_rate * step / decay_steps); in whole steps if `staircase`."""

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * self._passed(step))


class CosineDecay(LearningRateSchedule):
    """Half a cosine from the initial rate to alpha times it in decay_steps (Loshchilov and Hutter 2017).

    With warmup_target the rate first grows in a straight line from the initial one to the target in warmup_steps, and
    the cosine begins there.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        whole(decay_steps, "decay_steps")
        self.initial_learning_rate, self.decay_steps, self.alpha = float(initial_learning_rate), decay_steps, alpha
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        peak = self.initial_learning_rate
        if self.warmup_target is not None:
            if step <= self.warmup_steps:
                share = step / self.warmup_steps if self.warmup_steps else 1.0
                return peak + (self.warmup_target - peak) * share
            peak, step = self.warmup_target, step - self.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, self.decay_steps) / self.decay_steps))
        return peak * ((1 - self.alpha) * cosine + self.alpha)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i] up to and with step boundaries[i], the last value behind the last boundary."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float], name: str = "PiecewiseConstant") -> None:
        if len(boundaries) != len(values) - 1:
            raise ValueError(f"expected one value more than boundaries, got {len(values)} and {len(boundaries)}")
        self.boundaries, self.values = tuple(boundaries), tuple(values)

    def __call__(self, step: int) -> float:
        passed = sum(step > boundary for boundary in self.boundaries)
        return self.values[passed]


class PolynomialDecay(LearningRateSchedule):
    """(initial - end) * (1 - step / decay_steps) ** power + end."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        whole(decay_steps, "decay_steps")
        self.initial_learning_rate, self.decay_steps = float(initial_learning_rate), decay_steps
        self.end_learning_rate, self.power, self.cycle = float(end_learning_rate), float(power), bool(cycle)

    def __call__(self, step: int) -> float:
        length = self.decay_steps
        if self.cycle:
            length *= max(1, math.ceil(step / self.decay_steps))
        left = 1 - min(step, length) / length
        return (self.initial_learning_rate - self.end_learning_rate) * float(left**self.power) + self.end_learning_rate


class WarmUp(LearningRateSchedule):
    """A straight line from 0 to the rate of another schedule (or a number), which then begins at its step 0."""

    def __init__(self, schedule: LearningRateSchedule | float, warmup_steps: int) -> None:
        whole(warmup_steps, "warmup_steps")
        self.schedule, self.warmup_steps = schedule, warmup_steps

    def _rate(self, step: int) -> float:
        return self.schedule(step) if isinstance(self.schedule, LearningRateSchedule) else float(self.schedule)

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self._rate(0) * (step + 1) / self.warmup_steps
        return self._rate(step - self.warmup_steps)
