"""Optimisers and learning rate schedules, with Keras' names, arguments and constants."""

from __future__ import annotations

from . import schedules
from .base import Optimizer
from .rules import SGD, Adam, AdamW, RMSprop

_NAMES = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(identifier: str | Optimizer) -> Optimizer:
    """The optimiser itself, or a new one with its defaults by name. Raises ValueError."""
    if isinstance(identifier, Optimizer):
        return identifier
    if not isinstance(identifier, str) or identifier.lower() not in _NAMES:
        raise ValueError(f"optimizer={identifier!r}: expected an optimiser or one of {', '.join(_NAMES)}")
    made: Optimizer = _NAMES[identifier.lower()]()
    return made


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "get", "schedules"]
