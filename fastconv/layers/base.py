"""Variable, Tensor, Layer, Scope: what every layer is made of.

A layer is called on symbolic Tensors (shapes N H W C, None where a size is free) and remembers each Call. For concrete
sizes it appends Nodes to a Graph through a Scope; there, Values of rank 4 are N C H W as everywhere in Graphs, and the
border of the model transposes. Weights are Variables: named float32 arrays in the Graph's layout, made when needed.
"""

from __future__ import annotations

import itertools
import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv.errors import ShapeError
from fastconv.graph import Array, Graph, Node, Value
from fastconv.layers.initializers import Initializer
from fastconv.layers.variable import Variable

Dims = tuple[int | None, ...]
_serials = itertools.count(1)
_names: Counter[str] = Counter()
_names_lock = threading.Lock()


def unique_name(stem: str) -> str:
    """Keras' automatic names: conv2d, conv2d_1, conv2d_2 ..."""
    with _names_lock:
        n = _names[stem]
        _names[stem] += 1
    return f"{stem}_{n}" if n else stem


class Tensor:
    """A symbolic tensor: what a call of a layer gives. Shapes are channels-last, None where a size is free."""

    def __init__(self, shape: Dims, name: str, call: Call | None = None) -> None:
        self.shape: Dims = tuple(shape)
        self.name = name
        self.call = call
        self.dtype = "float32"

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<Tensor {self.name} {list(self.shape)}>"


class Call:
    """One use of a layer: its inputs and what came out. Serial numbers grow in the order of the calls.

    training: False for a use in which the layer behaves as in inference, whatever the model does.
    """

    __slots__ = ("inputs", "layer", "outputs", "serial", "training")

    def __init__(self, layer: Layer, inputs: Sequence[Tensor], training: bool | None = None) -> None:
        self.training = training
        self.layer = layer
        self.inputs = tuple(inputs)
        self.outputs: tuple[Tensor, ...] = ()
        self.serial = next(_serials)


class Feed(NamedTuple):
    """A graph input that is drawn anew at each step."""

    value: Value
    draw: Callable[[np.random.Generator], npt.ArrayLike]
    seed: int | None


def draw(feeds: Sequence[Feed], seed: int, step: int) -> list[npt.NDArray[np.float32]]:
    """What each feed draws for a step; it follows from the seed, the step and the feed's place alone."""
    drawn = []
    for i, feed in enumerate(feeds):
        rng = np.random.default_rng((seed if feed.seed is None else feed.seed, step, i))
        drawn.append(np.ascontiguousarray(feed.draw(rng), np.float32).reshape(feed.value.shape))
    return drawn


class Scope:
    """Where layers append their nodes: a Graph for concrete sizes, one Value per Variable.

    `training` is False for inference, where Dropout does nothing and BatchNormalization uses its statistics.
    `states`: the Variables that live in states of the graph instead of constants, since training changes them.
    """

    def __init__(self, graph: Graph, training: bool = False, states: Collection[Variable] = ()) -> None:
        self.graph = graph
        self.training = training
        self.stateful = frozenset(states)
        self.variables: dict[Variable, Value] = {}
        self.states: dict[Value, Variable] = {}
        self.feeds: list[Feed] = []
        self.updates: list[Node] = []
        self.name = ""

    def state(self, variable: Variable) -> Value:
        """The Value of a Variable that training changes: a state of the graph."""
        value = self.variables.get(variable)
        if value is None:
            value = self.graph.add_state(self.graph.fresh(variable.path), variable.graph_shape)
            self.variables[variable] = value
            self.states[value] = variable
        return value

    def feed(
        self, shape: Sequence[int], draw: Callable[[np.random.Generator], npt.ArrayLike], seed: int | None = None
    ) -> Value:
        """A small graph input that the trainer fills at each step with `draw(rng)`, float32 numbers of this shape.

        rng is np.random.default_rng((seed, step, number of the feed)): no state is carried from step to step.
        seed: the layer's own; None for the one that `fit` was given.
        """
        value = self.graph.add_input(self.graph.fresh(f"{self.name}/feed"), shape)
        self.feeds.append(Feed(value, draw, seed))
        return value

    @contextmanager
    def mode(self, training: bool | None) -> Iterator[None]:
        """Inside, layers behave as in inference where `training` is False."""
        before = self.training
        self.training = before and training is not False
        yield
        self.training = before

    def update(self, op: str, inputs: Sequence[Value], **attrs: Any) -> None:
        """An update of states (see graph.py): it runs at the end of the step."""
        self.updates.append(Node(op, list(inputs), [], attrs, self.name))

    def weight(self, variable: Variable) -> Value:
        if variable in self.stateful:
            return self.state(variable)
        value = self.variables.get(variable)
        if value is None:
            value = self.variables[variable] = Value(variable.path, variable.graph_shape, np.float32, variable.weight())
        return value

    def constant(self, array: npt.ArrayLike) -> Value:
        return self.graph.constant(np.asarray(array, np.float32))

    def add(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attrs: Any) -> Value:
        return self.graph.add(op, inputs, shape, name=self.name, **attrs)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return self.add("Transpose", [x], [x.shape[p] for p in perm], perm=tuple(perm))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return x if tuple(shape) == x.shape else self.add("Reshape", [x], shape)

    def channels_last(self, x: Value) -> Value:
        """The Value of an image with its axes in the order in which users see them."""
        return self.transpose(x, (0, 2, 3, 1)) if x.rank == 4 else x

    def channels_first(self, x: Value) -> Value:
        return self.transpose(x, (0, 3, 1, 2)) if x.rank == 4 else x


def outer_shape(x: Value) -> tuple[int, ...]:
    """The shape of a Value as users see it: N H W C for images."""
    return (x.shape[0], *x.shape[2:], x.shape[1]) if x.rank == 4 else x.shape


def inner_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the Value for a shape as users see it: N C H W for images."""
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else tuple(shape)


def inner_axis(axis: int, rank: int) -> int:
    """An axis as users count it, in the Value's order."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return (0, 2, 3, 1)[axis % rank] if rank == 4 else axis % rank


class Layer(ABC):
    """Base of all layers: a name, Variables made by `build`, shapes by `output_shape_of`, nodes by `emit`.

    name: unique in a model; made from the class where it is None. trainable: whether training changes its weights.
    input_shape: (H, W, C) without the batch, for the first layer of a Sequential; input_dim: the same for one axis.
    Raises TypeError for other keywords.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(f"{type(self).__name__}: {unknown_arguments(unknown)}")
        if name is not None and (not isinstance(name, str) or not name):
            raise ValueError(f"name={name!r}: expected a string")
        self.named_automatically = name is None
        self.name = name or unique_name(snake_case(type(self).__name__))
        self._trainable = bool(trainable)
        self.built = False
        self.torch_name: str | None = None  # in torch's state dicts; the layer's own name where it is None
        self.variables: list[Variable] = []
        self.calls: list[Call] = []
        asked = (input_dim,) if input_dim is not None else input_shape
        self.asked_shape: Dims | None = None if asked is None else (None, *asked)

    # -- what subclasses write ------------------------------------------------------------------------------------
    def build(self, *shapes: Dims) -> None:  # noqa: B027  (many layers have none)
        """Make the Variables for inputs of these shapes."""

    def output_shape_of(self, *shapes: Dims) -> Dims:
        """The output's shape; sizes that are None stay so. Raises ValueError for shapes that do not fit."""
        return shapes[0]

    @abstractmethod
    def emit(self, scope: Scope, *inputs: Value) -> Value | list[Value]:
        """Append the nodes of this layer."""

    # -- weights --------------------------------------------------------------------------------------------------
    def add_weight(
        self, name: str, shape: Sequence[int], initializer: Initializer, layout: str = "plain", statistic: bool = False
    ) -> Variable:
        v = Variable(name, shape, initializer, layout, statistic)
        v.path = f"{self.name}/{name}"
        self.variables.append(v)
        return v

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for layer in self.sublayers():
            layer.trainable = value

    def sublayers(self) -> Sequence[Layer]:
        """Layers inside of this one."""
        return ()

    @property
    def weights(self) -> list[Variable]:
        """All Variables, those of inner layers included, each once."""
        found = dict.fromkeys(self.variables)
        for layer in self.sublayers():
            found.update(dict.fromkeys(layer.weights))
        return list(found)

    @property
    def trainable_weights(self) -> list[Variable]:
        own = [v for v in self.variables if not v.statistic] if self._trainable else []
        found = dict.fromkeys(own)
        for layer in self.sublayers():
            found.update(dict.fromkeys(layer.trainable_weights))
        return list(found)

    @property
    def non_trainable_weights(self) -> list[Variable]:
        trainable = set(self.trainable_weights)
        return [v for v in self.weights if v not in trainable]

    def variable(self, name: str) -> Variable | None:
        return next((v for v in self.variables if v.name == name), None)

    def get_weights(self) -> list[Array]:
        """The arrays in Keras' order and layout, as copies."""
        return [v.numpy().copy() for v in self.weights]

    def set_weights(self, arrays: Sequence[npt.ArrayLike]) -> None:
        """Replace all arrays, in the order and layout of `get_weights`. Raises ValueError, with nothing replaced, where
        they do not fit."""
        weights = self.weights
        if len(arrays) != len(weights):
            raise ValueError(f"layer {self.name!r} has {len(weights)} weights, got {len(arrays)}")
        ready = [np.asarray(a, np.float32) for a in arrays]
        for v, a in zip(weights, ready, strict=True):
            if a.shape != v.shape:
                raise ShapeError(f"weight {v.path!r}: expected shape {v.shape}, got {a.shape}")
        for v, a in zip(weights, ready, strict=True):
            v.assign(a)

    def count_params(self) -> int:
        """Learnable numbers: moving statistics do not count (Keras' count_params includes them)."""
        if not self.built:
            raise ValueError(f"layer {self.name!r} has no weights yet: it was called on nothing")
        return sum(v.size for v in self.weights if not v.statistic)

    # -- calling --------------------------------------------------------------------------------------------------
    def __call__(self, inputs: Tensor | Sequence[Tensor], *, training: bool | None = None) -> Any:
        """The symbolic output for symbolic inputs.

        training=False: this use of the layer behaves as in inference while a model is trained, too (batch
        normalisation keeps its statistics); otherwise fit and predict decide.
        """
        tensors: list[Any] = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for t in tensors:
            if not isinstance(t, Tensor):
                raise ValueError(f"layer {self.name!r}: expected symbolic tensors (see Input), got {type(t).__name__}")
        call = Call(self, tensors, training)
        self.ensure_built(*(t.shape for t in tensors))
        call.outputs = self.make_outputs(call)
        self.calls.append(call)
        return call.outputs[0] if len(call.outputs) == 1 else list(call.outputs)

    def ensure_built(self, *shapes: Dims) -> None:
        if not self.built:
            self.build(*shapes)
            self.built = True

    def make_outputs(self, call: Call) -> tuple[Tensor, ...]:
        shape = self.output_shape_of(*(t.shape for t in call.inputs))
        return (Tensor(shape, self.name, call),)

    def _call(self) -> Call:
        if not self.calls:
            raise AttributeError(f"layer {self.name!r} was called on nothing yet")
        return self.calls[0]

    @property
    def input(self) -> Any:
        """The symbolic input of the first call."""
        inputs = self._call().inputs
        return inputs[0] if len(inputs) == 1 else list(inputs)

    @property
    def output(self) -> Any:
        """The symbolic output of the first call: what `Model(inputs, layer.output)` makes features of."""
        outputs = self._call().outputs
        return outputs[0] if len(outputs) == 1 else list(outputs)

    @property
    def input_shape(self) -> Any:
        shapes = [t.shape for t in self._call().inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        shapes = [t.shape for t in self._call().outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "calls"}  # whoever holds the graph calls it anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.calls = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def unknown_arguments(names: Iterable[str]) -> str:
    """What is said of keywords that a layer does not have; Keras has those of the hint."""
    listed = ", ".join(map(repr, names))
    what = f"unknown argument{'s' if ',' in listed else ''} {listed}"
    if "regularizer" in listed:
        return f"{what}: weights decay by optimizers.AdamW(weight_decay=...) or by weight_decay= of another optimizer"
    return f"{what}: constraints are not supported" if "constraint" in listed else what


def snake_case(name: str) -> str:
    """MaxPooling2D as max_pooling2d."""
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


LayerFunction = Callable[[Tensor], Tensor]
