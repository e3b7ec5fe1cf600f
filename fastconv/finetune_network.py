"""The networks of `fine_tune`: a base that gives features, a new head, and what lies in front of both while training.

raw 0 to 255 -> augment -> scale -> base -> head        `whole`: what is fine-tuned
raw 0 to 255 ------------> scale -> base                `features`: what the head learns from
prepared images -------------------> base -> head       `taught`: what is saved
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cut import Part
from fastconv.errors import ModelError, ShapeError
from fastconv.graph import Graph
from fastconv.layers import (
    Dense,
    Dropout,
    GlobalAveragePooling2D,
    Input,
    RandomBrightness,
    RandomContrast,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
)
from fastconv.layers.base import Layer, Scope
from fastconv.layers.imported import Imported
from fastconv.layers.input import InputLayer
from fastconv.layers.variable import Variable
from fastconv.model import Model as Runtime
from fastconv.models import Model, Sequential
from fastconv.preprocessing.presets import Preset, from_metadata, of_function

if TYPE_CHECKING:
    from fastconv.finetune_recipe import Recipe

AUGMENTATIONS: dict[str, Callable[[], Layer]] = {
    "flip": lambda: RandomFlip("horizontal"),
    "rotate": lambda: RandomRotation(0.04),
    "zoom": lambda: RandomZoom(0.15),
    "translate": lambda: RandomTranslation(0.1, 0.1),
    "contrast": lambda: RandomContrast(0.2),
    "brightness": lambda: RandomBrightness(0.1),
}
DEFAULT_SIZE = (224, 224)  # of images, where neither network nor preset says


class Network:
    """See above. size: of the images. learning: all weights that may change, in a fixed order."""

    head: Sequential
    taught: Model
    whole: Model

    def __init__(
        self, base: Model, size: tuple[int, int], scale: Rescaling, augment: Sequential, threads: int | None
    ) -> None:
        self.base, self.size, self.threads = base, size, threads
        self.augment = augment
        self._scale = scale
        base.trainable = False
        self._raw = Input((*size, 3))
        self.features = Model(self._raw, self._pooled(scale(self._raw)))
        self.features.threads = threads

    def _pooled(self, x: Any) -> Any:
        y = self.base(x)
        if isinstance(y, list):
            raise ModelError(f"network {self.base.name!r} has several outputs: expected one of features")
        if y.rank == 4:
            y = GlobalAveragePooling2D()(y)
        if y.rank != 2 or y.shape[1] is None:
            raise ShapeError(f"network {self.base.name!r}: expected features [N, C], got shape {y.shape}")
        return y

    def with_head(self, classes: int, recipe: Recipe) -> Network:
        """This network with a new head of so many classes."""
        made = copy.copy(self)
        layers: list[Any] = [Input((self.features.output_shape[1],))]
        for i, units in enumerate(recipe.hidden, 1):
            name = f"head_dense_{i}"
            layers.append(Dense(units, activation="relu", kernel_initializer="he_uniform", name=name))
        if recipe.dropout:
            layers.append(Dropout(recipe.dropout, name="head_dropout"))
        made.head = Sequential([*layers, Dense(classes, activation="softmax", name="predictions")], name="head")
        prepared = Input((*self.size, 3), name="images")
        made.taught = Model(prepared, made.head(self._pooled(prepared)), name="taught")
        made.whole = Model(self._raw, made.head(self._pooled(self._scale(self.augment(self._raw)))), name="whole")
        for model in (made.head, made.taught, made.whole):
            model.threads = self.threads
        return made

    def place(self, device: str, precision: str) -> None:
        """Let all of them run there."""
        for model in (self.features, self.head, self.taught, self.whole):
            model.place(device, precision)

    def free(self, blocks: int) -> None:
        """Let the last blocks of the base learn; their batch normalisations stay as they are."""
        self.base.trainable = False
        chosen = last_blocks(self.base, self.size, blocks)
        for layer in leaves(self.base):
            if layer.variables and not any(v.statistic for v in layer.variables):
                layer.trainable = all(v in chosen for v in layer.variables)
        self.learning: list[Variable] = self.whole.trainable_weights

    @property
    def blocks(self) -> int:
        """How many blocks the base has."""
        return len(set(block_of(self.base, self.size).values()))


def build_network(
    model: Any, preset: Preset, augment: Any, size: tuple[int, int] | None, threads: int | None
) -> Network:
    """The base with what stands in front of it; `with_head` makes it complete."""
    base = as_base(model)
    h, w = base.inputs[0].shape[1:3]
    size = (h, w) if h is not None and w is not None else size or preset.size or DEFAULT_SIZE
    std = np.asarray(preset.std)
    scale = Rescaling(preset.scale / std, -np.asarray(preset.mean) / std)
    return Network(base, size, scale, augmentation(augment, size), threads)


def augmentation(wanted: Any, size: tuple[int, int]) -> Sequential:
    """Layers by name, or a model of layers, as a network of its own."""
    if isinstance(wanted, Layer):
        return Sequential([Input((*size, 3)), wanted], name="augment")
    if isinstance(wanted, str) or any(name not in AUGMENTATIONS for name in wanted):
        given = wanted if isinstance(wanted, str) else ",".join(map(str, wanted))
        raise ValueError(f"augment={given!r}: expected names among {', '.join(AUGMENTATIONS)}")
    made = [AUGMENTATIONS[name]() for name in wanted] or [Rescaling(1.0)]
    return Sequential([Input((*size, 3)), *made], name="augment")


def as_base(model: Any) -> Model:
    """A model of layers from images to features or feature maps, without the classifier."""
    if isinstance(model, Runtime):
        cut = model if isinstance(model._onnx, Part) else model.without_top(pooling="avg")
        base: Model = cut.as_layers("base")
    elif isinstance(model, Model):
        base = _of_file(model)
    else:
        raise ValueError(f"model: expected a path, a loaded model or a model of layers, got {type(model).__name__}")
    ends = base.layers[-1] if base.layers else None
    if isinstance(ends, Dense) and ends.activation == "softmax":
        raise ModelError(f"model {base.name!r} ends with its classifier: make it with include_top=False")
    if len(base.inputs) != 1 or base.inputs[0].rank != 4 or base.inputs[0].shape[3] != 3:
        raise ModelError(f"model {base.name!r}: expected one RGB image as input, got {base.input_shape}")
    return base


def own_preset(model: Any) -> Preset | None:
    """What the network says of the images that it expects: a file's metadata, an application's preprocess_input."""
    own = None if isinstance(model, Runtime) else of_function(getattr(model, "preprocess_input", None))
    return own or from_metadata(getattr(model, "metadata", {}))


def _of_file(model: Model) -> Model:
    """A model that is one network from a file and nothing else, without its classifier; it shares the weights."""
    inner = [layer for layer in model.sublayers() if not isinstance(layer, InputLayer)]
    whole = inner[0] if len(inner) == 1 else None
    if not isinstance(whole, Imported) or isinstance(whole.source, Part) or len(model.outputs) != 1:
        return model
    inputs = [Input(batch_shape=t.shape, name=t.name) for t in model.inputs]
    return Model(inputs, whole.part(Part(whole.source, None, "avg", headless=True))(inputs), model.name)


# -- blocks ---------------------------------------------------------------------------------------------------------
def leaves(layer: Layer) -> list[Layer]:
    """The layer and all in it, those with weights of their own among them."""
    return [layer, *(leaf for inner in layer.sublayers() for leaf in leaves(inner))]


def block_of(base: Layer, size: tuple[int, int]) -> dict[Variable, tuple[int, ...]]:
    """For each weight the height and width of what its layer gives, in the order of the network.

    Where an image shrinks to one pixel in between (squeeze and excitation), the weight belongs to the size before it.
    """
    graph = Graph("probe")
    scope = Scope(graph)
    image = graph.add_input("image", (1, 3, *size))
    base.emit(scope, image)
    variables = {value: variable for variable, value in scope.variables.items()}
    found: dict[Variable, tuple[int, ...]] = {}
    now: tuple[int, ...] = size
    for node in graph.nodes:
        if node.op in ("Conv", "MaxPool", "AveragePool") and node.output.shape[2:] != (1, 1):
            now = node.output.shape[2:]
        for v in node.inputs:
            if v is not None and v in variables:
                found.setdefault(variables[v], now)
    return found


def last_blocks(base: Layer, size: tuple[int, int], count: int) -> set[Variable]:
    """The weights of the last blocks; a block is all layers whose outputs are of one size."""
    places = block_of(base, size)
    sizes = list(dict.fromkeys(reversed(list(places.values()))))[:count] if count else []
    return {v for v, place in places.items() if place in sizes}
