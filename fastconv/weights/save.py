"""Writing models: their weights as safetensors, the network as ONNX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastconv.errors import ModelError
from fastconv.weights.files import write_safetensors

if TYPE_CHECKING:
    from fastconv.graph import Array
    from fastconv.models import Model


def save_safetensors(model: Model, path: str | os.PathLike[str]) -> None:
    """All weights as "layer/kernel" in Keras' layout, moving statistics included."""
    from fastconv.models import all_variables

    arrays: dict[str, Array] = {}
    for layer, v in all_variables(model):
        name = f"{layer.name}/{v.name}"
        if name in arrays:
            raise ModelError(f"model {model.name!r}: two weights are called {name!r}")
        arrays[name] = v.numpy()
    if not arrays:
        raise ModelError(f"model {model.name!r} has no weights")
    write_safetensors(path, arrays, {"format": "fastconv", "layout": "channels_last"})


def save_model(model: Model, path: str | os.PathLike[str], *, shape: Sequence[int] | None = None) -> None:
    """By the ending of `path`: .onnx or .safetensors. Raises ModelError for another one."""
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending == ".safetensors":
        save_safetensors(model, path)
    elif ending == ".onnx":
        from fastconv.models import LayerSource
        from fastconv.onnx.writer import write_source

        write_source(LayerSource(model), path, shape)
    else:
        raise ModelError(f"{os.fspath(path)}: expected .onnx or .safetensors")
