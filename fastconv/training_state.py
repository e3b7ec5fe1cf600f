"""All that a training needs to go on, as a checkpoint: weights, the optimiser, and what else is handed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastconv import checkpoint
from fastconv.errors import ModelError
from fastconv.graph import Array
from fastconv.told import warn

if TYPE_CHECKING:
    from fastconv.callbacks import Callback
    from fastconv.layers.variable import Variable
    from fastconv.models import Model


def save_training(model: Model, path: str | os.PathLike[str], state: Mapping[str, Any] | None = None) -> None:
    """Write weights and, of a compiled model, the optimiser's slots, steps and rate. state: more, as JSON. OSError."""
    arrays, kept = packed(model.weights, model)
    checkpoint.write(path, arrays, {**kept, "state": dict(state or {})})


def load_training(
    model: Model,
    path: str | os.PathLike[str],
    *,
    other_optimizer: Literal["raise", "warn"] = "raise",
    keep_rate: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Set what `save_training` kept and return its `state`; nothing is changed where the file does not fit.

    The optimiser's state is set where the file has one and the model is compiled; other_optimizer: what happens where
    it does not fit, an error, or a UserWarning and only the weights. keep_rate: the learning rate stays as compiled,
    which is not for going on in the middle of a `fit`, whose callbacks may have changed it. check: gets the state
    first, and raises where it will not do. Raises ModelError and OSError.
    """
    arrays, kept = checkpoint.read(path)
    where, weights = os.fspath(path), model.weights
    found, slots = unpacked(where, weights, arrays, kept)
    state = kept.get("state")
    if not isinstance(state, dict):
        raise ModelError(f"{where}: not the checkpoint of a model")
    if check is not None:
        check(state)
    if slots is not None and model.optimizer is not None:
        try:
            model.optimizer.restore(model.trainable_weights, {**slots, "learning_rate": None} if keep_rate else slots)
        except ValueError as e:
            if other_optimizer == "raise":
                raise ModelError(f"{where}: {e}") from None
            warn(f"{where}: only the weights were read: {e}")
    for v, array in zip(weights, found, strict=True):
        v.set(array)
    return state


def packed(weights: Sequence[Variable], model: Model) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, state) of a checkpoint: these weights, and the optimiser where the model is compiled."""
    arrays = {f"weight/{i}": v.array for i, v in enumerate(weights)}
    optimizer: dict[str, Any] | None = None
    if model.optimizer is not None:
        optimizer = model.optimizer.state_for(model.trainable_weights)
        arrays |= {f"slot/{i}": a for i, a in enumerate(optimizer.pop("slots"))}
    names = [v.path for v in weights]
    return arrays, {"weights": names, "optimizer": optimizer}


def unpacked(
    where: str, weights: Sequence[Variable], arrays: Mapping[str, Array], state: Mapping[str, Any]
) -> tuple[list[Array], dict[str, Any] | None]:
    """What `packed` gave: an array for each weight, and what `Optimizer.restore` takes.

    Raises ModelError where a checkpoint is no such thing, or of other weights; `where` begins the message.
    """
    names, optimizer = state.get("weights"), state.get("optimizer")
    slots = [arrays.get(f"slot/{i}") for i in range(sum(name.startswith("slot/") for name in arrays))]
    if not isinstance(names, list) or any(f"weight/{i}" not in arrays for i in range(len(names))):
        raise ModelError(f"{where}: not the checkpoint of a model")
    if any(a is None for a in slots) or not isinstance(optimizer, dict | None):
        raise ModelError(f"{where}: its optimiser's state is damaged")
    if len(names) != len(weights):
        raise ModelError(f"{where}: has {len(names)} weights, the model {len(weights)}")
    found = [arrays[f"weight/{i}"] for i in range(len(weights))]
    for v, name, array in zip(weights, names, found, strict=True):
        if array.shape != v.graph_shape:
            raise ModelError(
                f"{where}: weight {name!r} has shape {array.shape}, the model's {v.path!r} {v.graph_shape}"
            )
    return found, None if optimizer is None else {**optimizer, "slots": slots}


def states_of(callbacks: Sequence[Callback]) -> list[list[Any]]:
    """What a checkpoint keeps of callbacks: the class and the state of each."""
    return [[type(c).__name__, c.state()] for c in callbacks]


def are_of(states: Any, callbacks: Sequence[Callback]) -> bool:
    """Whether `states_of` was given as many callbacks, of the same classes where they remember anything."""
    if not isinstance(states, list) or len(states) != len(callbacks):
        return False
    return all(
        isinstance(s, list) and len(s) == 2 and isinstance(s[1], dict)
        and (s[0] == type(c).__name__ or (not s[1] and not c.state()))
        for s, c in zip(states, callbacks, strict=True)
    )  # fmt: skip


def restore(callbacks: Sequence[Callback], states: Sequence[Sequence[Any]]) -> None:
    """Hand each callback its own of `states_of`."""
    for callback, (_, state) in zip(callbacks, states, strict=True):
        callback.restore(state)
