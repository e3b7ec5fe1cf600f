"""Activation functions by Keras' names, as nodes of the Graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv.graph import Value
from fastconv.layers.base import Scope

_UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "relu6": ("Clip", {"min": 0.0, "max": 6.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "swish": ("Swish", {}),
    "silu": ("Swish", {}),
    "mish": ("Mish", {}),
    "softplus": ("Softplus", {}),
    "exponential": ("Exp", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "hard_silu": ("HardSwish", {}),
}
_CHANNELS = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
NAMES = ("linear", *_UNARY, *_CHANNELS)


def activation_name(activation: str | Callable[..., Any] | None) -> str:
    """The checked name; None is "linear". Raises ValueError naming those that exist."""
    name = "linear" if activation is None else activation
    if name not in NAMES:
        raise ValueError(f"activation {activation!r}: expected one of {', '.join(NAMES)}")
    return str(name)


def emit_activation(scope: Scope, x: Value, name: str) -> Value:
    """x under the activation; softmax goes along the channels."""
    if name == "linear":
        return x
    if name in _CHANNELS:
        return scope.add(_CHANNELS[name], [x], x.shape, axis=1 if x.rank == 4 else x.rank - 1)
    op, attrs = _UNARY[name]
    return scope.add(op, [x], x.shape, **attrs)
