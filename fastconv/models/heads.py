"""Networks from files as models of layers that can be trained, with a new head where one is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastconv.cut import Part, probe_shape
from fastconv.errors import FastconvError, ModelError
from fastconv.layers.base import Tensor
from fastconv.layers.core import Dense, Dropout, Flatten
from fastconv.layers.imported import Imported
from fastconv.layers.input import Input
from fastconv.models.model import Model
from fastconv.onnx.reader import InputInfo, OnnxModel
from fastconv.source import Source

if TYPE_CHECKING:
    from fastconv.model import Model as Runtime

COLOURS = (1, 3, 4)  # channels of pictures


def as_layers(runtime: Runtime, name: str | None = None) -> Model:
    """The network of `fastconv.load` as a model of layers; it shares nothing with `runtime` but the file."""
    inputs, outputs = _network(runtime)
    model = _finish(Model(inputs, outputs, name or runtime.name or None), runtime)
    model.metadata = dict(runtime.metadata)  # names of classes, preset: they stay true
    return model


def load_model(path: str | os.PathLike[str], *, threads: int | None = None) -> Model:
    """A network from an ONNX file as a model of layers that can be taught, as `fastconv.load(path).as_layers()`.

    What compile settles is not in such a file: compile it before `fit`. Layers that saw training and inference
    differently (Dropout, augmentation) are what they are in inference. Images go in as the file expects them, but
    channels-last. Raises ModelError for a file of weights alone and for a saved plan; else as `fastconv.load`.
    """
    from fastconv.loading import load

    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending in (".safetensors", ".ckpt"):
        raise ModelError(f"{os.fspath(path)}: holds weights alone: build the network and call load_weights")
    return as_layers(load(path, threads=threads))


def with_head(
    runtime: Runtime,
    classes: int,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    activation: str = "softmax",
    name: str | None = None,
    trainable: bool = False,
) -> Model:
    """The network of `fastconv.load(...).without_top(...)` under new dense layers; see `fastconv.Model.add_head`."""
    inputs, features = _network(runtime, trainable)
    if len(features) != 1:
        raise ValueError(f"add_head: expected a network with one output, it has {len(features)}")
    x = features[0]
    if x.rank > 2:
        x = Flatten(name="head_flatten")(x)
    for i, units in enumerate((hidden,) if isinstance(hidden, int) else hidden, 1):
        x = Dense(units, activation="relu", name=f"head_dense_{i}")(x)
        if dropout:
            x = Dropout(dropout, name=f"head_dropout_{i}")(x)
    if dropout and not hidden:
        x = Dropout(dropout, name="head_dropout")(x)
    y = Dense(classes, activation=activation, name="predictions")(x)
    return _finish(Model(inputs, y, name or runtime.name or None), runtime)


def _network(runtime: Runtime, trainable: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    source = _with_free_batch(runtime._onnx)
    infos = source.inputs
    last = all(len(i.shape) == 4 and _channels_last(i) for i in infos)
    inputs = [Input(batch_shape=_outer(i, last), name=i.name or None) for i in infos]
    layer = Imported(source, inputs_last=last, name="features")
    made: Any = layer(inputs)
    layer.trainable = trainable
    return inputs, made if isinstance(made, list) else [made]


def _with_free_batch(source: Source) -> Source:
    """The source with an open batch where its file fixes one that its nodes do not need; else the source itself."""
    if isinstance(source, Part):
        base = _with_free_batch(source.base)
        return source if base is source.base else source.on(base)
    if not isinstance(source, OnnxModel) or not any(isinstance(d, int) for i in source.inputs for d in i.shape[:1]):
        return source
    freed = source.with_free_batch()
    try:
        graph = freed.build({i.name: (2, *probe_shape(i.shape)[1:]) for i in freed.inputs})
    except FastconvError:
        return source
    return freed if all(v.shape[:1] == (2,) for v in graph.outputs) else source


def _channels_last(info: InputInfo) -> bool:
    """Whether an image comes as N H W C: by the axis that is as long as a picture has channels."""
    return info.shape[3] in COLOURS and info.shape[1] not in COLOURS


def _outer(info: InputInfo, last: bool) -> tuple[int | None, ...]:
    dims = [d if isinstance(d, int) else None for d in info.shape]
    if len(dims) == 4 and not last:
        dims = [dims[0], *dims[2:], dims[1]]
    return (None, *dims[1:])


def _finish(model: Model, runtime: Runtime) -> Model:
    model.threads = runtime._threads_arg
    model.place(runtime.device, runtime.precision)
    return model
