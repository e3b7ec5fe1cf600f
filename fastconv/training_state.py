"""All that a training needs to go on, as a checkpoint: every weight, the optimiser, and what else is handed over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastconv import checkpoint
from fastconv.errors import ModelError

if TYPE_CHECKING:
    from fastconv.models import Model


def save_training(model: Model, path: str | os.PathLike[str], state: Mapping[str, Any] | None = None) -> None:
    """Write weights and, of a compiled model, the optimiser's slots, steps and rate. state: more, as JSON. OSError."""
    arrays = {f"weight/{i}": v.array for i, v in enumerate(model.weights)}
    optimizer: dict[str, Any] | None = None
    if model.optimizer is not None:
        optimizer = model.optimizer.state_for(model.trainable_weights)
        arrays |= {f"slot/{i}": a for i, a in enumerate(optimizer.pop("slots"))}
    names = [[v.path, list(v.graph_shape)] for v in model.weights]
    checkpoint.write(path, arrays, {"weights": names, "optimizer": optimizer, "state": dict(state or {})})


def load_training(model: Model, path: str | os.PathLike[str], *, optimizer: bool = True) -> dict[str, Any]:
    """Set what `save_training` kept and return its `state`; nothing is changed where the file is of another network.

    optimizer: also the optimiser's, of a model that is compiled in the same way. Raises ModelError and OSError.
    """
    arrays, kept = checkpoint.read(path)
    where, weights = os.fspath(path), model.weights
    names = kept.get("weights")
    if not isinstance(names, list) or any(f"weight/{i}" not in arrays for i in range(len(names))):
        raise ModelError(f"{where}: not the checkpoint of a model")
    if len(names) != len(weights):
        raise ModelError(f"{where}: has {len(names)} weights, the model {len(weights)}")
    for i, v in enumerate(weights):
        if arrays[f"weight/{i}"].shape != v.graph_shape:
            shape = arrays[f"weight/{i}"].shape
            raise ModelError(
                f"{where}: weight {names[i][0]!r} has shape {shape}, the model's {v.path!r} {v.graph_shape}"
            )
    if optimizer and kept.get("optimizer") is not None and model.optimizer is not None:
        slots = [arrays[f"slot/{i}"] for i in range(sum(name.startswith("slot/") for name in arrays))]
        try:
            model.optimizer.restore(model.trainable_weights, {**kept["optimizer"], "slots": slots})
        except ValueError as e:
            raise ModelError(f"{where}: {e}") from None
    for i, v in enumerate(weights):
        v.set(arrays[f"weight/{i}"])
    state: dict[str, Any] = kept["state"]
    return state
