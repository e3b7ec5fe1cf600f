"""The optimisers. The formulas are Keras'; graph.py writes them down beside the update nodes that compute them."""

from __future__ import annotations

import math
from typing import Any

from fastconv.optimizers.base import Optimizer
from fastconv.optimizers.schedules import LearningRateSchedule

Rate = float | LearningRateSchedule


class SGD(Optimizer):
    """Gradient descent, with `momentum` (Polyak 1964) or Nesterov's form of it."""

    op = "Sgd"

    def __init__(
        self, learning_rate: Rate = 0.01, momentum: float = 0.0, nesterov: bool = False, **kwargs: Any
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, **kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum!r}: expected a number from 0 to 1")
        self.momentum, self.nesterov = float(momentum), bool(nesterov)

    @property
    def slots(self) -> int:
        return 1 if self.momentum else 0

    def numbers(self, rate: float, step: int) -> list[float]:
        return [rate, self.momentum, float(self.nesterov)]


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015). amsgrad is not supported."""

    op = "Adam"

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        amsgrad: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, **kwargs)
        if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1 and epsilon > 0):
            raise ValueError(f"beta_1={beta_1!r}, beta_2={beta_2!r}, epsilon={epsilon!r}: expected [0, 1), [0, 1), > 0")
        if amsgrad:
            raise ValueError("amsgrad=True: expected False, it is not supported")
        self.beta_1, self.beta_2, self.epsilon = float(beta_1), float(beta_2), float(epsilon)

    @property
    def slots(self) -> int:
        return 2

    def numbers(self, rate: float, step: int) -> list[float]:
        corrected = rate * math.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return [corrected, 1 - self.beta_1, 1 - self.beta_2, self.epsilon]


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(
        self, learning_rate: Rate = 0.001, weight_decay: float = 0.004, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-7, amsgrad: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **kwargs)


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012): each gradient is divided by its root mean square."""

    op = "RmsProp"

    def __init__(
        self, learning_rate: Rate = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
        centered: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, **kwargs)
        if not (0 <= rho < 1 and 0 <= momentum <= 1 and epsilon > 0):
            raise ValueError(f"rho={rho!r}, momentum={momentum!r}, epsilon={epsilon!r}: expected [0, 1), [0, 1], > 0")
        self.rho, self.momentum, self.epsilon = float(rho), float(momentum), float(epsilon)
        self.centered = bool(centered)

    @property
    def slots(self) -> int:
        return 1 + bool(self.momentum) + self.centered

    def attributes(self) -> dict[str, Any]:
        return {"momentum": bool(self.momentum), "centered": self.centered}

    def numbers(self, rate: float, step: int) -> list[float]:
        return [rate, 1 - self.rho, self.epsilon, self.momentum]
