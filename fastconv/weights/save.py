"""Writing models: their weights as safetensors, the network as ONNX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastconv.cut import probe_shapes
from fastconv.errors import ModelError
from fastconv.training_state import save_training
from fastconv.weights.files import write_safetensors

if TYPE_CHECKING:
    from fastconv.graph import Array
    from fastconv.models import Model
    from fastconv.source import Source


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


def save_model(model: Model, path: str | os.PathLike[str], *, shape: Sequence[int | None] | None = None) -> None:
    """By the ending of `path`: .onnx, .safetensors, .fcplan or .ckpt (see training_state); ModelError for another."""
    from fastconv.saved import names_plan

    if names_plan(path):
        from fastconv.model import Model as Loaded
        from fastconv.models import LayerSource

        Loaded(LayerSource(model)).save(path, shape=None if shape is None else [1 if d is None else d for d in shape])
        return
    if os.fspath(path).lower().endswith(".ckpt"):
        save_training(model, path)
    elif _ending(path) == ".safetensors":
        save_safetensors(model, path)
    else:
        from fastconv.models import LayerSource
        from fastconv.onnx.writer import write_source

        write_source(LayerSource(model), path, shape, model.metadata)


def save_source(source: Source, path: str | os.PathLike[str], shape: Sequence[int | None] | None = None) -> None:
    """The same for a file that was loaded, or a part of one: its weights keep their names and layout."""
    if _ending(path) == ".safetensors":
        graph = source.build(probe_shapes(source))
        constants = {v.weight.key: (v.name, v.weight) for v in graph.values() if v.weight is not None}
        arrays = {name: w.numpy() for name, w in constants.values() if w.size > 1}
        if not arrays:
            raise ModelError(f"model {source.name!r} has no weights")
        write_safetensors(path, arrays, {"format": "fastconv", "layout": "onnx"})
    else:
        from fastconv.onnx.writer import write_source

        write_source(source, path, shape, getattr(source, "metadata", None))


def _ending(path: str | os.PathLike[str]) -> str:
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in (".onnx", ".safetensors"):
        raise ModelError(f"{os.fspath(path)}: expected a name that ends with .onnx, .safetensors or .fcplan")
    return ending
