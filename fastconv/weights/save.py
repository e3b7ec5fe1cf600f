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


KINDS = (".onnx", ".safetensors", ".fcplan")  # what loaded models and models of layers are written as


def save_safetensors(model: Model, path: str | os.PathLike[str]) -> None:
    """All weights as "layer/kernel" in Keras' layout, moving statistics included. Raises ModelError and OSError."""
    from fastconv.models import all_variables

    check_ending(path, (".safetensors",))
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
    """By the ending of `path`: one of KINDS, or .ckpt (see training_state). Raises ModelError for another, OSError."""
    from fastconv.models import LayerSource

    ending = check_ending(path, (*KINDS, ".ckpt"))
    source = LayerSource(model)
    source.metadata = _metadata(model)
    if ending == ".fcplan":
        from fastconv.model import Model as Loaded

        strict = "strict" if model.precision == "strict" else "fp32"
        Loaded(source, precision=strict).save(
            path, shape=None if shape is None else [1 if d is None else d for d in shape]
        )
    elif ending == ".ckpt":
        save_training(model, path)
    elif ending == ".safetensors":
        save_safetensors(model, path)
    else:
        from fastconv.onnx.writer import write_source

        write_source(source, path, shape, source.metadata)


def _metadata(model: Model) -> dict[str, str]:
    """The model's own metadata and, where they do not name it, the preset of its preprocess_input."""
    from fastconv.preprocessing.presets import of_function

    own = of_function(model.preprocess_input)
    return model.metadata if own is None else {**own.to_metadata(), **model.metadata}


def save_source(source: Source, path: str | os.PathLike[str], shape: Sequence[int | None] | None = None) -> None:
    """A file that was loaded, or a part of one, as .onnx or .safetensors: its weights keep their names and layout."""
    if check_ending(path, KINDS) == ".safetensors":
        graph = source.build(probe_shapes(source))
        constants = {v.weight.key: (v.name, v.weight) for v in graph.values() if v.weight is not None}
        arrays = {name: w.numpy() for name, w in constants.values() if w.size > 1}
        if not arrays:
            raise ModelError(f"model {source.name!r} has no weights")
        write_safetensors(path, arrays, {"format": "fastconv", "layout": "onnx"})
    else:
        from fastconv.onnx.writer import write_source

        write_source(source, path, shape, getattr(source, "metadata", None))


def check_ending(path: str | os.PathLike[str], kinds: Sequence[str]) -> str:
    """The ending of a name, in lower case. Raises ModelError for one that is not among `kinds`."""
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in kinds:
        listed = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
        raise ModelError(f"{os.fspath(path)}: expected a name that ends with {listed}")
    return ending
