"""Graph, Node, Value, Weight: the only description of a network in fastconv.

A Graph is specialised to concrete shapes; every Value knows its shape and dtype. Readers and layers build one with the
axes in ONNX order (N C H W); `passes.layout` turns it into the physical order (N H W C) that kernels use. Weights are
lazy: `Weight.numpy()` reads or computes the array on demand, so that large weights exist in memory only while they
are packed.

Vocabulary: ONNX operator names, normalised so that passes and compiler meet one spelling of each idea.

    Conv                x, w[K, C/group, R, S], bias[K]?, residual?     strides, dilations, group,
                                                                       pads=(top, left, bottom, right)
    Gemm                x[M, C], w, bias[K]?     trans_b: w is [K, C] if true, else [C, K]
    MatMul              a[..., M, K], b[..., K, N] where b is no constant matrix
    MaxPool             x                        kernel_shape, strides, dilations, pads  (ceil_mode: see output shape)
    AveragePool         x                        the same, count_include_pad
    MaxPoolIndex        x                        as MaxPool, columns_first: where each maximum lies in x, flattened
    ReduceMean/Max/     x                        axes (sorted, non-negative), keepdims (global pooling is axes=(2, 3))
      Min/Sum
    ArgMax ArgMin       x                        axes=(axis,), keepdims, last: of equal ones the last
    unary               Relu Clip(min, max) LeakyRelu(alpha) Elu(alpha) Selu(alpha, gamma) Sigmoid
                        HardSigmoid(alpha, beta) HardSwish Swish Tanh Gelu(approximate) Softplus Mish Exp Log Sqrt
                        Reciprocal Erf Neg Abs Floor Ceil Trunc Round Sign RoundHalf (to float16's precision)
    binary              Add Sub Mul Div Max Min Pow PRelu Less LessOrEqual Equal: two inputs, numpy broadcasting
    Where               condition, a, b          numpy broadcasting
    BatchNormalization  x, scale, bias, mean, var     epsilon
    LayerNormalization  x, scale[D]?, shift[D]?  axis (of size D), epsilon
    GroupNormalization  x, scale[C]?, shift[C]?  groups, epsilon
    LRN                 x                        size, alpha, beta, bias
    Softmax LogSoftmax  x                        axis (one axis, non-negative)
    Concat              x...                     axis
    Pad                 x                        pads=((before, after), ...) per axis, value, mode="constant"|...
    Slice               x                        starts, steps >= 1 per axis (the ends follow from the output shape)
    Resample            x, index[P * T], weight[P * T]?   axis, taps=T: the sum over t of weight[p, t] x[index[p, t]]
                                                 along the axis (Gather, Resize; T = 1 without weight)
    AffineSample        x, matrix[N, 6]          each image at column a q + b p + t, row d q + e p + u of its matrix
                                                 (a, b, t, d, e, u): interpolation, fill_mode, fill_value (Keras' words)
    TopK                x                        axis, k, largest: the indices of the k largest, in order
    Take                x, index                 axis: elements by index, as TopK gives them
    Suppress            boxes, scores, order     most, iou, score (or None), center: rows (image, class, box), -1 behind
    Transpose           x                        perm
    Reshape             x                        (Flatten, Squeeze, Unsqueeze too; the output shape says it all)
    Expand              x                        (broadcast to the output shape)
    Affine              x, scale[C], shift[C]    axis: x * scale + shift along it (made by passes)
    Copy                x                        (the same, dense; made by passes)

Training (made by grad, losses, optimizers and layers, before `layout`: images are N C H W). `g` is the gradient of the
forward node's output; attributes are the forward node's unless said:

    ConvBackwardInput   g, w                     -> dx (the output's shape is x's)
    ConvBackwardWeight  x, g                     -> dw[K, C/group, R, S]
    GemmBackwardWeight  x[M, C], g[M, K]         -> dw, as w: [K, C] if trans_b, else [C, K]
    MaxPoolBackward     g, x, y                  -> dx; the first maximum of a window, row by row, gets it all
    AveragePoolBackward g                        -> dx
    UnaryBackward       g, v                     -> dx; of=(operator, alpha, beta) as in the fused `activation`;
                                                    from_output: v is the operator's output, else its input
    SoftmaxBackward LogSoftmaxBackward   g, y    -> dx
    SoftmaxCrossEntropy x[N, K], target          -> loss[N]; target: class indices [N] or shares [N, K]; label_smoothing
    SoftmaxCrossEntropyBackward  g[N], x, target -> dx
    BatchNormTrain      x, scale[C], shift[C]    -> y, mean[C], var[C]; epsilon; var divides by the count
    BatchNormBackward   g, x, scale, mean, var   -> dx, dscale[C], dshift[C]
    LayerNormalizationBackward GroupNormalizationBackward   g, x, scale?   -> dx, dscale, dshift
    LRNBackward         g, x, y                  -> dx
    Dropout             x, seed[1]               -> y; rate; element i, counted channels-last, is kept by a hash of
                                                    (seed, i); its gradient is Dropout(g, seed)
    SquaredNorm         g...                     -> [1]: the sum of all squares

Updates have no outputs and are never dead. They stand behind all that reads the states which they write: w, slots (one
state, the optimiser's tensors for w one after the other: [count, *w.shape]) or state. `hyper` is an input; `factor`
multiplies g first; with the attribute `decays` w -= decay * w comes first.

    Sgd            w, g, slots[1]?, hyper=(rate, momentum, nesterov 0 or 1, decay), factor[1]?
                        w -= rate * g; or v = momentum * v - rate * g; w += momentum * v - rate * g if nesterov else v
    Adam           w, g, slots[2], hyper=(rate, 1 - beta1, 1 - beta2, epsilon, decay), factor[1]?
                        m += (g - m) * (1 - beta1); v += (g^2 - v) * (1 - beta2); w -= rate * m / (sqrt(v) + epsilon)
    RmsProp        w, g, slots[1..3], hyper=(rate, 1 - rho, epsilon, momentum, decay), factor[1]?
                        attributes momentum, centered: slots are v, then u if momentum, then a if centered
                        v += (g^2 - v) * (1 - rho); a += (g - a) * (1 - rho); d = rate * g / sqrt(v - a^2 + epsilon)
                        w -= d; or u = momentum * u + d; w -= u
    MovingAverage  state, value     momentum: state = momentum * state + (1 - momentum) * value

Values are float32 in memory. Those of an integer or bool dtype hold whole numbers, exact up to 2^24 (comparisons give
bool, indices int64; other operations on them only move or choose).

Fused attributes, added by passes: `activation` (a tuple: operator name, alpha, beta) on Conv, Gemm and the binaries;
`scale` (float32[K]: multiplies the output channels of w while it is packed) on Conv and Gemm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
MAX_EXACT = 1 << 24  # plans hold whole numbers and bools as float32, which is exact up to here


class Weight:
    """A constant tensor whose bytes are produced on demand.

    `load` is a function of the arrays of `parents` (of nothing where there are none). `key` identifies the contents:
    two Weights with equal keys hold the same array, and packed copies are shared by it. `origin` is (weight, tag) where
    `derive` made this one: who packs it may fold the function into the packing. `read_part(first, out)`, where there is
    one, fills an array with the float32 elements from the first-th on, so that a large tensor need not be held whole.
    """

    __slots__ = ("_array", "_load", "dtype", "key", "origin", "parents", "read_part", "shape")

    def __init__(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        load: Callable[..., Array],
        key: object = None,
        parents: Sequence[Weight] = (),
        read_part: Callable[[int, Array], None] | None = None,
    ) -> None:
        self.shape: Shape = tuple(int(d) for d in shape)
        self.dtype = np.dtype(dtype)
        self.key: object = self if key is None else key
        self.origin: tuple[Weight, Any] | None = None
        self.parents = tuple(parents)
        self._load = load
        self.read_part = read_part
        self._array: Array | None = None

    @classmethod
    def of(cls, array: Array) -> Weight:
        """Wrap an array that is already in memory."""
        w = cls(array.shape, array.dtype, lambda: array)
        w._array = array
        return w

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def in_memory(self) -> bool:
        return self._array is not None

    def numpy(self) -> Array:
        """The array, read-only by convention. Small ones are kept, large ones are produced anew at each call.

        One call computes each ancestor once, without recursion, and lets go of it after its last use.
        """
        if self._array is not None:
            return self._array
        order, uses = self._ancestors()
        arrays: dict[object, Array] = {}
        for w, parents in order:
            arrays[w.key] = w._produce([arrays[p.key] for p in parents])
            for p in parents:
                uses[p.key] -= 1
                if not uses[p.key]:
                    del arrays[p.key]
        return arrays[self.key]

    def _produce(self, arrays: list[Array]) -> Array:
        if self._array is not None:
            return self._array
        array = self._load(*arrays)
        if array.nbytes <= 65536:
            self._array = array
        return array

    def _ancestors(self) -> tuple[list[tuple[Weight, tuple[Weight, ...]]], dict[object, int]]:
        """What must be computed with its parents, parents first and each key once; and how often each key is used."""
        order: list[tuple[Weight, tuple[Weight, ...]]] = []
        uses: dict[object, int] = {}
        seen: set[object] = set()
        stack: list[tuple[Weight, tuple[Weight, ...] | None]] = [(self, None)]
        while stack:
            w, parents = stack.pop()
            if parents is not None:
                order.append((w, parents))
            elif w.key not in seen:
                seen.add(w.key)
                parents = () if w.in_memory else w.parents
                stack.append((w, parents))
                for p in parents:
                    uses[p.key] = uses.get(p.key, 0) + 1
                    stack.append((p, None))
        return order, uses

    def derive(self, shape: Sequence[int], dtype: npt.DTypeLike, fn: Callable[[Array], Array], tag: object) -> Weight:
        """A lazy function of this weight. `tag` must be hashable and determine `fn`, so that equal ones share a key."""
        w = Weight(shape, dtype, fn, key=(self.key, tag), parents=(self,))
        w.origin = (self, tag)
        return w


class Value:
    """A tensor that flows along an edge: a name, a concrete shape, a dtype, and its Weight where it is constant."""

    __slots__ = ("dtype", "name", "shape", "weight")

    def __init__(
        self, name: str, shape: Sequence[int], dtype: npt.DTypeLike = np.float32, weight: Weight | None = None
    ):
        self.name = name
        self.shape: Shape = tuple(int(d) for d in shape)
        self.dtype = np.dtype(dtype)
        self.weight = weight

    @property
    def is_const(self) -> bool:
        return self.weight is not None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def numpy(self) -> Array:
        """The constant's array; only where `is_const`."""
        if self.weight is None:
            raise TypeError(f"value {self.name!r} is not constant")
        return self.weight.numpy()

    def __repr__(self) -> str:
        kind = "const " if self.is_const else ""
        return f"<{kind}{self.name} {self.dtype}{list(self.shape)}>"


@dataclass(eq=False)
class Node:
    """One operation. `inputs` may hold None for an optional input that is absent."""

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def output(self) -> Value:
        return self.outputs[0]

    def input(self, i: int) -> Value:
        """The i-th input, which must be there."""
        v = self.inputs[i] if i < len(self.inputs) else None
        if v is None:
            raise IndexError(f"node {self.name!r} ({self.op}) has no input {i}")
        return v

    def optional(self, i: int) -> Value | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def __repr__(self) -> str:
        outs = ", ".join(f"{v.name}{list(v.shape)}" for v in self.outputs)
        ins = ", ".join("-" if v is None else v.name for v in self.inputs)
        attrs = " ".join(f"{k}={v}" for k, v in self.attrs.items() if not isinstance(v, np.ndarray))
        return f"{outs} = {self.op}({ins}) {attrs}".rstrip()


class Graph:
    """Nodes in execution order, with inputs and outputs. Passes take a Graph and return one."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.states: list[Value] = []  # tensors that live across runs, in plain order; updates write them
        self._serial = 0

    # -- building ---------------------------------------------------------------------------------------------
    def fresh(self, stem: str) -> str:
        """A name that no other value of this graph made by `fresh` has; '/' keeps it apart from ONNX names."""
        self._serial += 1
        return f"{stem}//{self._serial}"

    def add_input(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Value:
        v = Value(name, shape, dtype)
        self.inputs.append(v)
        return v

    def add_state(self, name: str, shape: Sequence[int]) -> Value:
        v = Value(name, shape)
        self.states.append(v)
        return v

    def constant(self, array: Array | Weight, name: str | None = None) -> Value:
        w = array if isinstance(array, Weight) else Weight.of(array)
        return Value(name or self.fresh("const"), w.shape, w.dtype, w)

    def make(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shape: Sequence[int],
        *,
        dtype: npt.DTypeLike = np.float32,
        name: str = "",
        output: str | None = None,
        **attrs: Any,
    ) -> Node:
        """Make a node with one output without placing it."""
        out = Value(output or self.fresh(name or op), shape, dtype)
        return Node(op, list(inputs), [out], attrs, name or out.name)

    def add(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **kw: Any) -> Value:
        """Append a node with one output (see `make`) and return that output."""
        node = self.make(op, inputs, shape, **kw)
        self.nodes.append(node)
        return node.output

    def add_many(
        self, op: str, inputs: Sequence[Value | None], shapes: Sequence[Sequence[int]], *, name: str = "", **attrs: Any
    ) -> list[Value]:
        """Append a node with as many outputs as `shapes`; none is an update."""
        outs = [Value(self.fresh(name or op), s) for s in shapes]
        self.nodes.append(Node(op, list(inputs), outs, attrs, name or self.fresh(op)))
        return outs

    # -- looking ----------------------------------------------------------------------------------------------
    def producers(self) -> dict[Value, Node]:
        return {v: n for n in self.nodes for v in n.outputs}

    def users(self) -> dict[Value, list[Node]]:
        """Who reads each value; a node that reads it twice is listed twice. Graph outputs are not counted."""
        users: dict[Value, list[Node]] = {}
        for n in self.nodes:
            for v in n.inputs:
                if v is not None:
                    users.setdefault(v, []).append(n)
        return users

    def values(self) -> Iterator[Value]:
        """Every value once: inputs and states, then what nodes read and write, in order."""
        seen: set[int] = set()
        stream: Iterable[Value | None] = [
            *self.inputs,
            *self.states,
            *(v for n in self.nodes for v in [*n.inputs, *n.outputs]),
        ]
        for v in stream:
            if v is not None and id(v) not in seen:
                seen.add(id(v))
                yield v

    # -- changing ---------------------------------------------------------------------------------------------
    def copy(self) -> Graph:
        """A graph whose node list and nodes may be changed; Values and Weights are shared."""
        g = Graph(self.name)
        g.inputs, g.outputs, g._serial = list(self.inputs), list(self.outputs), self._serial
        g.states = list(self.states)
        g.nodes = [Node(n.op, list(n.inputs), list(n.outputs), dict(n.attrs), n.name) for n in self.nodes]
        return g

    def substitute(self, mapping: dict[Value, Value]) -> None:
        """Let every reader, graph outputs included, read mapping[v] instead of v; chains are followed."""

        def final(v: Value) -> Value:
            while v in mapping:
                v = mapping[v]
            return v

        for n in self.nodes:
            n.inputs = [None if v is None else final(v) for v in n.inputs]
        self.outputs = [final(v) for v in self.outputs]

    def __str__(self) -> str:
        head = ", ".join(f"{v.name}{list(v.shape)}" for v in self.inputs)
        tail = ", ".join(v.name for v in self.outputs)
        return "\n".join([f"graph {self.name}({head})", *(f"  {n}" for n in self.nodes), f"  return {tail}"])
