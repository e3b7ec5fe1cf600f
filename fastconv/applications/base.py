"""How an architecture becomes a function with Keras' signature: arguments, input, head, weights."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fastconv.applications.imagenet import Preprocess
from fastconv.layers import Dense, Dropout, GlobalAveragePooling2D, GlobalMaxPooling2D, Input, InputLayer, Tensor
from fastconv.layers.activations import activation_name
from fastconv.layers.base import Dims
from fastconv.layers.initializers import seeded
from fastconv.layers.variable import mark
from fastconv.layers.windows import whole
from fastconv.models import Model
from fastconv.preprocessing.presets import Preset


def pooled_top(x: Tensor, classes: int, activation: str | None, dropout: float = 0.0) -> Tensor:
    """The usual head: mean over the image, a dense layer "predictions"."""
    x = GlobalAveragePooling2D(name="avg_pool")(x)
    if dropout:
        x = Dropout(dropout, name="top_dropout")(x)
    layer = Dense(classes, activation=activation, name="predictions")
    layer.torch_name = "fc"
    y: Tensor = layer(x)
    return y


@dataclass(frozen=True)
class Architecture:
    """What the functions of applications differ in.

    network         images to features
    top             features, classes, activation to predictions
    size, minimum   default and smallest side of the image; `channels` of it
    mode            preprocessing that the published weights want; keras_mode: Keras' own for this network
    preset          how images were resized and cropped where the published weights were tested; None: as torchvision's
    published       key in the table of published weights, or None
    ignored         beginnings of names in torch's files that belong to parts which are not built here
    """

    name: str
    network: Callable[[Tensor], Tensor]
    top: Callable[[Tensor, int, str | None], Tensor] = pooled_top
    size: int = 224
    minimum: int = 32
    channels: int = 3
    mode: str = "torch"
    keras_mode: str = "caffe"
    preset: Preset | None = None
    classes: int = 1000
    published: str | None = None
    ignored: tuple[str, ...] = ()


class Application(Protocol):
    """The signature of keras.applications. seed: of the random weights with weights=None."""

    __name__: str

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
        input_tensor: Any = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: str | None = "softmax",
        *,
        name: str | None = None,
        seed: int | None = None,
    ) -> Model: ...


_DOC = """{title}

    include_top             with the classifier; without, `pooling` says what comes out: None the last feature maps,
                            "avg" or "max" their mean or maximum
    weights                 {weights}a path to a torch state dict (.pth), .safetensors or .onnx, or None (random, see
                            `seed`)
    input_tensor            what `Input(shape=(640, 480, 3))` gives, or a tensor of another model
    input_shape             (H, W, {channels}), at least {minimum} pixels a side; else {size} by {size}, or any size
                            where include_top is False
    classes                 of the classifier
    classifier_activation   "softmax", or None for the logits

    Returns a Model: images channels-last, prepared by this module's `preprocess_input`. Raises ValueError as Keras does
    for arguments that contradict each other, and ModelError (a ValueError too) for weights that do not fit.
    """


def application(arch: Architecture, title: str) -> Application:
    """The function of an architecture."""
    default = "imagenet" if arch.published else None

    def build(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = default,
        input_tensor: Any = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = arch.classes,
        classifier_activation: str | None = "softmax",
        *,
        name: str | None = None,
        seed: int | None = None,
    ) -> Model:
        request = Request(
            arch, include_top, weights, input_tensor, input_shape, pooling, classes, classifier_activation,
            name or arch.name.lower(), seed,
        )  # fmt: skip
        return request.model()

    build.__name__ = build.__qualname__ = arch.name
    build.__module__ = sys._getframe(1).f_globals["__name__"]
    known = '"imagenet" (published, loaded once and kept), ' if arch.published else ""
    build.__doc__ = _DOC.format(
        title=title, weights=known, channels=arch.channels, minimum=arch.minimum, size=arch.size
    )
    return build


@dataclass
class Request:
    """One call of an application."""

    arch: Architecture
    include_top: bool
    weights: str | os.PathLike[str] | None
    input_tensor: Any
    input_shape: tuple[int | None, ...] | None
    pooling: str | None
    classes: int
    activation: str | None
    name: str
    seed: int | None

    def model(self) -> Model:
        self.check()
        if self.weights is not None and os.fspath(self.weights).lower().endswith(".onnx"):
            from fastconv.applications.exported import from_onnx

            return from_onnx(self)
        since = mark()
        with seeded(self.seed):
            model = self.assemble()
        if self.weights is not None:
            from fastconv.weights import load_into, published

            path = self.weights
            if path == "imagenet":
                assert self.arch.published is not None
                path = published(self.arch.published)
            load_into(model, path, ignored=self.ignored(), since=since)
        return model

    def ignored(self) -> tuple[str, ...]:
        """What a file may hold beyond this model: the classifier that was not asked for."""
        if self.include_top:
            return self.arch.ignored
        from fastconv.weights.load import names_of

        shape = (self.arch.size, self.arch.size, self.arch.channels)
        whole = replace(
            self, include_top=True, weights=None, input_tensor=None, input_shape=shape, classes=1, pooling=None
        )
        return (*self.arch.ignored, *names_of(whole.assemble()))

    def assemble(self) -> Model:
        """The network with random weights."""
        x = self.image()
        y = self.arch.network(x)
        if self.include_top:
            y = self.arch.top(y, self.classes, self.activation)
        else:
            y = pooled(y, self.pooling)
        return self.finish(Model(self.source(x), y, name=self.name), self.arch.mode)

    def finish(self, model: Model, mode: str, keras: bool = False) -> Model:
        """keras: the weights are Keras'."""
        own = mode == self.arch.mode and not keras
        model.preprocess_input = Preprocess(mode, self.arch.preset if own else None)
        return model

    def source(self, x: Tensor) -> Any:
        """The inputs of the model that `input_tensor` belongs to."""
        if x.call is None or isinstance(x.call.layer, InputLayer):
            return x
        sources: dict[Tensor, None] = {}
        todo = [x]
        while todo:
            t = todo.pop()
            if t.call is None or isinstance(t.call.layer, InputLayer):
                sources[t] = None
            else:
                todo.extend(t.call.inputs)
        return list(sources)

    # -- arguments ----------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Keras' ValueErrors."""
        w = self.weights
        if w is not None and not isinstance(w, (str, os.PathLike)):
            raise ValueError(f"weights={w!r}: expected None, 'imagenet' or the path of a file")
        if w == "imagenet" and self.arch.published is None:
            raise ValueError(f"weights='imagenet': nobody publishes ImageNet weights of {self.arch.name}; use None")
        if w is not None and w != "imagenet" and not Path(w).is_file():
            raise ValueError(
                "The `weights` argument should be either `None` (random initialization), 'imagenet' (pre-training on "
                f"ImageNet), or the path to the weights file to be loaded.  Received: weights={w} (no such file)"
            )
        self.classes = whole(self.classes, "classes")
        if w == "imagenet" and self.include_top and self.classes != 1000:
            raise ValueError(
                "If using `weights='imagenet'` with `include_top=True`, `classes` should be 1000.  "
                f"Received classes={self.classes}"
            )
        if self.pooling not in (None, "avg", "max"):
            raise ValueError(f"pooling={self.pooling!r}: expected None, 'avg' or 'max'")
        activation_name(self.activation)
        if w is not None and self.include_top and self.activation not in (None, "softmax"):
            raise ValueError(
                "Only `None` and `softmax` activations are allowed for the `classifier_activation` argument when using "
                f"pretrained weights, with `include_top=True`; Received: classifier_activation={self.activation}"
            )
        if self.input_tensor is not None and not isinstance(self.input_tensor, Tensor):
            raise ValueError(f"input_tensor: expected what Input(...) gives, got {type(self.input_tensor).__name__}")

    def shape(self) -> Dims:
        """(H, W, C) as Keras' obtain_input_shape decides."""
        a, shape = self.arch, self.input_shape
        if shape is not None and (isinstance(shape, str) or not hasattr(shape, "__len__")):
            raise ValueError(f"`input_shape` must be a tuple of three integers. Received: input_shape={shape!r}")
        default: Dims = (a.size, a.size, a.channels)
        if self.weights != "imagenet" and shape is not None and len(shape) == 3:
            if shape[-1] not in (1, 3):
                warnings.warn(
                    f"This model usually expects 1 or 3 input channels. However, it was passed an input_shape with "
                    f"{shape[-1]} input channels.",
                    stacklevel=4,
                )
            default = (a.size, a.size, shape[-1])
        if self.weights == "imagenet" and self.include_top:
            if shape is not None and tuple(shape) != default:
                raise ValueError(
                    "When setting `include_top=True` and loading `imagenet` weights, `input_shape` should be "
                    f"{default}.  Received: input_shape={shape}"
                )
            return default
        if shape is not None:
            self.check_shape(tuple(shape))
            result: Dims = tuple(shape)
        else:
            result = default if self.include_top else (None, None, a.channels)
        if self.include_top and None in result:
            raise ValueError(
                "If `include_top` is True, you should specify a static `input_shape`. "
                f"Received: input_shape={self.input_shape}"
            )
        return result

    def check_shape(self, shape: Dims) -> None:
        a = self.arch
        if len(shape) != 3:
            raise ValueError("`input_shape` must be a tuple of three integers.")
        if shape[-1] != 3 and self.weights == "imagenet":
            raise ValueError(f"The input must have 3 channels; Received `input_shape={shape}`")
        if any(d is not None and d < a.minimum for d in shape[:2]):
            raise ValueError(f"Input size must be at least {a.minimum}x{a.minimum}; Received: input_shape={shape}")

    def image(self) -> Tensor:
        """Where the network begins."""
        if self.input_tensor is None:
            return Input(shape=self.shape())
        self.shape()
        self.check_shape(self.input_tensor.shape[1:])
        if self.include_top and None in self.input_tensor.shape[1:]:
            raise ValueError(
                "If `include_top` is True, you should specify a static `input_shape`. "
                f"Received: input_tensor of shape {self.input_tensor.shape}"
            )
        tensor: Tensor = self.input_tensor
        return tensor


def pooled(x: Tensor, pooling: str | None) -> Tensor:
    """The output without a classifier."""
    if pooling == "avg":
        x = GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = GlobalMaxPooling2D(name="max_pool")(x)
    return x
