"""Parts of networks: the outputs of inner layers, and networks without their classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fastconv.errors import ModelError
from fastconv.graph import Graph, Node, Value
from fastconv.onnx.reader import InputInfo, OutputInfo
from fastconv.passes import remove_dead
from fastconv.source import Source, distinct

PROBE = 299  # pixels, for files that leave the size of the image open
Choice = Callable[[Graph], list[Value]]
_DENSE = ("Gemm", "MatMul")
IMAGENET = (1000, 1001)  # classes; 1001 with TensorFlow's background
FEWER = 4  # a convolution that makes so many times fewer channels is a classifier: VoVNet's last features are half


def layer_names(graph: Graph) -> dict[str, Node]:
    """Name -> node, in order. Of several nodes that one layer became, the last has the layer's name."""
    left: dict[str, int] = {}
    for node in graph.nodes:
        left[node.name or node.op] = left.get(node.name or node.op, 0) + 1
    count = dict(left)
    names: dict[str, Node] = {}
    for node in graph.nodes:
        stem = node.name or node.op
        left[stem] -= 1
        name, n = (stem if left[stem] == 0 else f"{stem}_{count[stem] - left[stem]}"), 0
        while name in names:
            n += 1
            name = f"{stem}_{count[stem] + n}"
        names[name] = node
    return names


def probe_shape(shape: Sequence[int | str | None], size: int = PROBE) -> tuple[int, ...]:
    """Concrete sizes for a look: a batch of 1, `size` pixels where a size is free."""
    return tuple(d if isinstance(d, int) else 1 if i == 0 else size for i, d in enumerate(shape))


def probe_shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Input shapes for a look at a source, by name."""
    return {info.name: probe_shape(info.shape) for info in source.inputs}


class Part:
    """A source that ends earlier: at named layers, or where the classifier begins.

    layers: names (see layer_names), each an output; None: the features in front of the classifier, as N C H W.
    pooling: "avg" or "max" appends the mean or the maximum over each image. head: what the last dense layer reads.
    channels_first: named layers' images come as N C H W even where the file has them as N H W C. headless: a network
    that ends with feature maps, because its classifier is cut off already, is taken as it is.
    """

    def __init__(
        self,
        base: Source,
        layers: Sequence[str] | None = None,
        pooling: str | None = None,
        *,
        head: bool = False,
        channels_first: bool = False,
        headless: bool = False,
    ) -> None:
        if pooling not in (None, "avg", "max"):
            raise ValueError(f"pooling={pooling!r}: expected None, 'avg' or 'max'")
        self.base, self.pooling, self.head = base, pooling, head
        self.channels_first, self.headless = channels_first, headless
        self.layers = None if layers is None else tuple(layers)
        self.name = base.name
        self.metadata: dict[str, str] = dict(getattr(base, "metadata", {}))  # an ONNX file's, such as class names
        self.inputs: tuple[InputInfo, ...] = base.inputs
        graph = self.build(probe_shapes(base))
        names = distinct(self.layers or ("features",))
        self.outputs = tuple(
            OutputInfo(name, None, np.dtype(np.float32)) for name, _ in zip(names, graph.outputs, strict=True)
        )

    def on(self, base: Source) -> Part:
        """The same part of another source."""
        return Part(
            base, self.layers, self.pooling, head=self.head, channels_first=self.channels_first, headless=self.headless
        )

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        """The Graph of the part for these input shapes."""
        graph = self.base.build(shapes)
        graph.outputs = self._outputs(graph)
        if self.pooling is not None:
            graph.outputs = [self._pooled(graph, v) for v in graph.outputs]
        return remove_dead(graph)

    def _outputs(self, graph: Graph) -> list[Value]:
        if self.layers is not None:
            names = layer_names(graph)
            for name in self.layers:
                if name not in names:
                    raise ModelError(f"no layer named {name!r} in {self.name!r}; it has {_some(names)}")
            outputs = [names[name].output for name in self.layers]
            producers = graph.producers()
            turn = [self.channels_first and v.rank == 4 and _channels_last(v, producers) for v in outputs]
            return [_turned(graph, v) if t else v for v, t in zip(outputs, turn, strict=True)]
        if self.head:
            return [last_dense(graph).input(0)]
        value, channels_last = features(graph, self.headless)
        return [_turned(graph, value) if channels_last else value]

    def _pooled(self, graph: Graph, v: Value) -> Value:
        if v.rank != 4:
            raise ModelError(f"pooling: expected feature maps [N, C, H, W], but {v.name!r} has shape {v.shape}")
        op = "ReduceMean" if self.pooling == "avg" else "ReduceMax"
        return graph.add(op, [v], v.shape[:2], axes=(2, 3), keepdims=False, name=f"{self.pooling}_pool")


def _turned(graph: Graph, v: Value) -> Value:
    perm = (0, 3, 1, 2)
    return graph.add("Transpose", [v], [v.shape[p] for p in perm], perm=perm, name=f"{v.name}//first")


def features(graph: Graph, headless: bool = False) -> tuple[Value, bool]:
    """The last feature maps in front of the classifier, and whether their channels come last.

    Walks back from the scores to where the image's axes vanish. Where no weights come after that, the classifier is the
    last convolution before it (SqueezeNet). Raises ModelError where there is no such place, and for networks without a
    classifier: images in and images out, or features that are only pooled. `headless`: theirs are taken as they are.
    """
    producers = graph.producers()
    v = scores(graph)
    if _spatial(v) and not headless:
        raise ModelError(
            f"network {graph.name!r}: no classifier: the output {v.name!r} is an image of shape {v.shape}: "
            "name a layer instead"
        )
    behind: list[Node] = []  # from the scores to the maps
    while not _spatial(v):
        node = producers.get(v)
        if node is None:
            raise ModelError(f"network {graph.name!r}: no classifier behind feature maps: name a layer instead")
        behind.append(node)
        v = _main_input(node)
    if behind and _shrinks(behind[-1]) and any(map(_flattens, behind)):  # the last maps are of 1x1 pixels
        while not _flattens(behind[-1]):
            behind.pop()
        v = _main_input(behind[-1])
    if behind and not any(node.op in (*_DENSE, "Conv") for node in behind):
        classifier = _last_convolution(graph, v)
        if classifier is not None:
            v = classifier.input(0)
        elif not headless:
            raise ModelError(
                f"network {graph.name!r}: no classifier: nothing is learnt behind the feature maps {v.name!r} of shape "
                f"{v.shape}; if it was cut off already, the network can be used as it is, and taught as layers "
                "(fine_tune(load(file).as_layers(), ...)): else name a layer instead"
            )
    node = producers.get(v)
    if node is not None and node.op == "Transpose" and tuple(node.attrs["perm"]) == (0, 2, 3, 1):
        return node.input(0), False
    return v, _channels_last(v, producers)


def _shrinks(node: Node) -> bool:
    """Whether a convolution makes 1x1 maps that are features: one over the whole image is a dense layer instead."""
    return node.op == "Conv" and node.input(1).shape[2:] != node.input(0).shape[2:]


def _flattens(node: Node) -> bool:
    return node.output.rank != 4 or node.op in ("ReduceMean", "ReduceMax", "AveragePool", "MaxPool")


def _last_convolution(graph: Graph, maps: Value) -> Node | None:
    """The 1x1 convolution that makes the scores of each place, whose mean the network takes; None where it is none.

    Backbones end alike, with a 1x1 convolution that makes features. A classifier's has as many outputs as ImageNet has
    classes, a softmax after it, or far fewer outputs than inputs; nothing but activations comes after it.
    """
    producers = graph.producers()
    node = producers.get(maps)
    while node is not None and node.op != "Conv":
        if node.op == "BatchNormalization" or sum(v is not None and not v.is_const for v in node.inputs) != 1:
            return None
        x = _main_input(node)
        if x.rank != 4 or math.prod(x.shape) != math.prod(node.output.shape):
            return None
        node = producers.get(x)
    if node is None or node.input(1).shape[2:] != (1, 1) or node.attrs["group"] != 1:
        return None
    k, c = node.input(1).shape[:2]
    last = producers.get(scores(graph))
    softmax = last is not None and last.op in ("Softmax", "LogSoftmax")
    return node if softmax or k in IMAGENET or k <= c // FEWER else None


def _channels_last(v: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether an image is N H W C: what made it, behind all that works element by element, was a Transpose to that."""
    node = producers.get(v)
    while node is not None:
        if node.op == "Transpose":
            return tuple(node.attrs["perm"]) == (0, 2, 3, 1)
        if node.op in ("Conv", "MaxPool", "AveragePool", "BatchNormalization", "LRN"):
            return False
        node = producers.get(_main_input(node))
    return False


def scores(graph: Graph) -> Value:
    """The first output that is no image, or the first."""
    return next((v for v in graph.outputs if not _spatial(v)), graph.outputs[0])


def last_dense(graph: Graph) -> Node:
    """The dense layer that makes the scores. Raises ModelError where there is none."""
    producers = graph.producers()
    node = producers.get(scores(graph))
    while node is not None and node.op not in _DENSE:
        node = producers.get(_main_input(node))
    if node is None or node.input(0).rank != 2:
        raise ModelError(f"network {graph.name!r}: it does not end with a dense layer")
    return node


def _main_input(node: Node) -> Value:
    return next((v for v in node.inputs if v is not None and not v.is_const), node.input(0))


def _spatial(v: Value) -> bool:
    return v.rank == 4 and sum(d > 1 for d in v.shape[1:]) >= 2


def _some(names: Mapping[str, Node]) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:20])) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")
