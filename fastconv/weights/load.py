"""Arrays from a file into the layers of a model: all of them, or nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastconv.errors import ModelError
from fastconv.graph import Array
from fastconv.layers.base import Layer, Tensor
from fastconv.layers.core import Dense, Dropout, Flatten
from fastconv.layers.variable import Variable
from fastconv.weights.automatic import difference, file_names
from fastconv.weights.files import read_weights

if TYPE_CHECKING:
    from fastconv.models import Model

_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "depthwise_kernel": "conv1.weight",
    "pointwise_kernel": "pointwise.weight",
}
_COUNTERS = ".num_batches_tracked"
_PARALLEL = "module."  # before every name where torch.nn.DataParallel was saved


def load_into(
    model: Model,
    source: str | os.PathLike[str] | Mapping[str, Array],
    *,
    ignored: Sequence[str] = (),
    by_name: bool = False,
    since: int = 0,
) -> None:
    """Set the weights of a model from a file (or from named arrays) in torch's names and layout, or in fastconv's.

    fastconv's names are "layer/kernel"; arrays have Keras' layout. Names that fastconv gave the layers (conv2d_1) are
    matched by their order, since they count on in a process; not with by_name. ignored: beginnings of names that the
    file may have beyond the model's. by_name: layers that the file does not have keep their weights, and the rest of
    the file does not matter. since: only Variables made after this serial number take part.

    Raises ModelError naming the first layer that differs, with what was expected and what came.
    """
    from fastconv.models import all_variables

    where = "weights" if isinstance(source, Mapping) else os.fspath(source)
    arrays = dict(source) if isinstance(source, Mapping) else read_weights(source)
    if arrays and all(name.startswith(_PARALLEL) for name in arrays):
        arrays = {name.removeprefix(_PARALLEL): a for name, a in arrays.items()}
    pairs = [(layer, v) for layer, v in all_variables(model) if v.serial > since]
    stored = {} if by_name else _stored_names([layer for layer, _ in pairs], arrays)
    own = any(f"{stored.get(layer.name, layer.name)}/{v.name}" in arrays for layer, v in pairs)
    unused = set(arrays)
    ready: list[tuple[Variable, Array]] = []
    for layer, v in pairs:
        name = f"{stored.get(layer.name, layer.name)}/{v.name}" if own else torch_name(layer, v)
        array = arrays.get(name)
        if array is None:
            if by_name:
                continue
            raise ModelError(
                f"{where}: layer {layer.name!r}: expected {name!r} of shape {_stored_shape(v, layer, own)}, "
                f"but the file has no such tensor{_similar(arrays, [layer for layer, _ in pairs])}"
            )
        unused.discard(name)
        expected = _stored_shape(v, layer, own)
        if array.shape != expected:
            raise ModelError(f"{where}: layer {layer.name!r}: {name!r}: expected shape {expected}, got {array.shape}")
        if array.dtype.kind != "f":
            raise ModelError(f"{where}: layer {layer.name!r}: {name!r}: expected floats, got {array.dtype}")
        ready.append((v, array if own else _from_torch(layer, v, array)))
    unused = {n for n in unused if not n.endswith(_COUNTERS) and not n.startswith(tuple(ignored))}
    rest = [name for name in arrays if name in unused]
    if rest and not by_name:
        raise ModelError(f"{where}: {rest[0]!r} of shape {arrays[rest[0]].shape} belongs to no layer of {model.name!r}")
    if not ready:
        raise ModelError(f"{where}: holds nothing for model {model.name!r}")
    for v, array in ready:
        if own:
            v.assign(array)
        else:
            v.set(array)


def names_of(model: Model) -> list[str]:
    """The names that files may use for the weights of a model, torch's and fastconv's."""
    from fastconv.models import all_variables

    pairs = all_variables(model)
    return [name for layer, v in pairs for name in (torch_name(layer, v), f"{layer.name}/{v.name}")]


def torch_name(layer: Layer, v: Variable) -> str:
    """The name of a weight in torch's state dicts."""
    return f"{layer.torch_name or layer.name}.{_TORCH.get(v.name, v.name)}"


def _stored_shape(v: Variable, layer: Layer, own: bool) -> tuple[int, ...]:
    if own:
        return v.shape
    return v.graph_shape[::-1] if isinstance(layer, Dense) and v.name == "kernel" else v.graph_shape


def _from_torch(layer: Layer, v: Variable, array: Array) -> Array:
    """The Graph's layout: dense kernels are turned, and read flattened images as H W C instead of C H W."""
    if not (isinstance(layer, Dense) and v.name == "kernel"):
        return np.asarray(array, np.float32)
    image = _flattened(layer)
    if image is not None and image[0] * image[1] > 1:
        h, w, c = image
        turned: Array = array.reshape(-1, c, h * w).transpose(2, 1, 0).reshape(array.shape[::-1])
        return np.ascontiguousarray(turned, np.float32)
    return np.ascontiguousarray(array.T, np.float32)


def _flattened(layer: Dense) -> tuple[int, int, int] | None:
    """(H, W, C) of the image whose flattened form a dense layer reads, or None."""
    t: Tensor = layer.calls[0].inputs[0]
    while t.call is not None and isinstance(t.call.layer, Dropout):
        t = t.call.inputs[0]
    if t.call is None or not isinstance(t.call.layer, Flatten):
        return None
    shape = t.call.inputs[0].shape
    if len(shape) != 4 or None in shape[1:]:
        return None
    return int(shape[1] or 0), int(shape[2] or 0), int(shape[3] or 0)


def _stored_names(layers: Sequence[Layer], arrays: Mapping[str, Array]) -> dict[str, str]:
    """The name of each layer in a file with fastconv's names."""
    return file_names(layers, {name.rpartition("/")[0] for name in arrays if "/" in name})


def _similar(arrays: Mapping[str, Array], layers: Sequence[Layer]) -> str:
    stored = {name.rpartition("/")[0] for name in arrays if "/" in name}
    counted = difference(layers, stored) if stored else ""
    names = list(arrays)[:3]
    return counted or (f"; it begins with {', '.join(map(repr, names))}" if names else "")
