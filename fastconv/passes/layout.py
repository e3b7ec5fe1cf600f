"""Layout: the logical graph (N C H W) becomes the physical one (N H W C), with as few Transposes as possible.

In a physical graph Value.shape is the row-major shape in memory and attributes name physical axes. Graph inputs and
outputs keep their ONNX shape. Conv, MaxPool, AveragePool and LRN read and write N H W C; all other operations work in
the order their input has. A *form* of a logical value is a physical value with its perm: physical axis i is logical
axis perm[i]. Transposes therefore cost nothing until somebody needs another order; they only relabel axes:

    Transpose   the same physical value under another perm
    Reshape     stays a plain Reshape if each group of axes that it merges or splits is contiguous and in order in
                memory (a channel shuffle keeps N, H, W, and splits the last axis)
    Flatten     (N, C, H, W) -> (N, C*H*W) in front of Gemm: the weight's rows are permuted, lazily, instead

Constants are permuted at compile time through Weight.derive. Operands of lower rank get leading axes of size 1.
Conv weights stay [K, C/group, R, S]. Affine and BatchNormalization always find their axis last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph import Array, Graph, Node, Shape, Value
from .orders import Perm, blocks, channels_last, complete, identity, long_axes, split_order
from .rewrite import BINARY, UNARY

# Backward operations: which inputs are images, read in N H W C.
IMAGES = {
    "ConvBackwardInput": (0, 3), "ConvBackwardWeight": (0, 1), "MaxPoolBackward": (0, 1, 2),
    "AveragePoolBackward": (0,), "LRNBackward": (0, 1, 2), "BatchNormTrain": (0,), "BatchNormBackward": (0, 1),
    "Dropout": (0,), "GroupNormalizationBackward": (0, 1),
}  # fmt: skip


def to_channels_last(graph: Graph) -> Graph:
    """The physical graph of a logical one; `graph` is not changed."""
    return _Layout(graph).run()


# -- the pass ---------------------------------------------------------------------------------------------------
class _Layout:
    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.out = Graph(graph.name)
        self.out.inputs, self.out.states = list(graph.inputs), list(graph.states)
        self.out._serial = graph._serial
        self.forms: dict[Value, dict[Perm, Value]] = {v: {identity(v.rank): v} for v in [*graph.inputs, *graph.states]}
        self.waiting: dict[Value, Value] = {}  # result of a Reshape that cannot be a plain one -> its input
        self.extended: dict[tuple[Value, int], Value] = {}

    def run(self) -> Graph:
        for node in self.source.nodes:
            self._handler(node.op)(node)
        made: set[Value] = set()
        for v in self.source.outputs:
            physical = self.get(v, identity(v.rank))
            given = physical in self.out.inputs or physical in self.out.states
            if physical.is_const or given or physical in made:
                physical = self._emit("Copy", [physical], physical.shape, v.name, dtype=v.dtype)
            elif physical.name != v.name:
                physical.name = self._free_name(v.name)
            made.add(physical)
            self.out.outputs.append(physical)
        return self.out

    def _free_name(self, name: str) -> str:
        """`name`, after the value that held it (the same tensor in another order) got a fresh one."""
        for n in self.out.nodes:
            for v in n.outputs:
                if v.name == name:
                    v.name = self.out.fresh(name)
        return name

    def _handler(self, op: str) -> Callable[[Node], None]:
        if op in UNARY or op == "Copy":
            return self._unary
        if op in BINARY:
            return self._binary
        if op in IMAGES:
            return self._mixed
        handler: Callable[[Node], None] = getattr(self, f"_on_{op}", self._on_other)
        return handler

    # -- forms --------------------------------------------------------------------------------------------------
    def primary(self, v: Value) -> Perm:
        """The order in which v is at hand; channels last where there is a choice."""
        if v in self.waiting:
            self._resolve(v, None)
        table = self._table(v)
        last = channels_last(v.rank)
        return last if last in table else next(iter(table))

    def _table(self, v: Value) -> dict[Perm, Value]:
        if v not in self.forms:
            if not v.is_const:
                raise ValueError(f"value {v.name!r} is read before it is made")
            self.forms[v] = {identity(v.rank): v}
        return self.forms[v]

    def cost(self, v: Value, perm: Perm) -> int:
        """Elements that a Transpose would move to bring v into `perm`."""
        if v.is_const or v in self.waiting:
            return 0
        order = long_axes(perm, v.shape)
        return 0 if any(long_axes(p, v.shape) == order for p in self._table(v)) else v.size

    def get(self, v: Value, perm: Perm) -> Value:
        """The physical value of v in the order `perm`."""
        if v in self.waiting:
            self._resolve(v, perm)
        table = self._table(v)
        if perm not in table:
            table[perm] = self._permuted_constant(v, perm) if v.is_const else self._permuted(v, perm)
        return table[perm]

    def _permuted_constant(self, v: Value, perm: Perm) -> Value:
        assert v.weight is not None
        shape = tuple(v.shape[a] for a in perm)
        w = v.weight.derive(shape, v.dtype, lambda x: np.ascontiguousarray(x.transpose(perm)), ("transpose", perm))
        return Value(self.out.fresh(v.name), shape, v.dtype, w)

    def _permuted(self, v: Value, perm: Perm) -> Value:
        table, order = self._table(v), long_axes(perm, v.shape)
        shape = tuple(v.shape[a] for a in perm)
        for have, physical in table.items():
            if long_axes(have, v.shape) == order:
                return self._emit("Reshape", [physical], shape, self.out.fresh(v.name), dtype=v.dtype)
        have, physical = next(iter(table.items()))
        moves = tuple(have.index(a) for a in perm)
        return self._emit("Transpose", [physical], shape, self.out.fresh(v.name), dtype=v.dtype, perm=moves)

    def extend(self, v: Value, rank: int) -> Value:
        """v with leading axes of size 1, as a logical value."""
        lead = rank - v.rank
        if lead == 0:
            return v
        if (v, rank) not in self.extended:
            shape = (1,) * lead + v.shape
            if v.weight is not None:
                w = v.weight.derive(shape, v.dtype, lambda x: x.reshape(shape), ("reshape", shape))
                u = Value(self.out.fresh(v.name), shape, v.dtype, w)
            else:
                u = Value(self.out.fresh(v.name), shape, v.dtype)
                self._reshape(v, u)
            self.extended[v, rank] = u
        return self.extended[v, rank]

    def _emit(
        self, op: str, inputs: Sequence[Value | None], shape: Shape, name: str, dtype: Any = np.float32, **attrs: Any
    ) -> Value:
        return self.out.add(op, inputs, shape, dtype=dtype, output=name, name=name, **attrs)

    def place(self, node: Node, inputs: Sequence[Value | None], perm: Perm, **changed: Any) -> None:
        """Append the physical node whose output has the order `perm`."""
        v = node.output
        out = Value(v.name, [v.shape[a] for a in perm], v.dtype)
        self.out.nodes.append(Node(node.op, list(inputs), [out], {**node.attrs, **changed}, node.name))
        self.forms[v] = {perm: out}

    # -- operations ---------------------------------------------------------------------------------------------
    def _on_other(self, node: Node) -> None:
        """Operations in ONNX order: MatMul and whatever this pass knows nothing about."""
        inputs = [None if v is None else self.get(v, identity(v.rank)) for v in node.inputs]
        outputs = [Value(v.name, v.shape, v.dtype) for v in node.outputs]
        self.out.nodes.append(Node(node.op, list(inputs), outputs, dict(node.attrs), node.name))
        for v, physical in zip(node.outputs, outputs, strict=True):
            self.forms[v] = {identity(v.rank): physical}

    def _image(self, node: Node) -> None:
        perm = channels_last(node.output.rank)
        inputs: list[Value | None] = []
        for i, v in enumerate(node.inputs):
            image = i in (0, 3)  # x and residual
            inputs.append(None if v is None else self.get(v, perm if image else identity(v.rank)))
        self.place(node, inputs, perm)

    _on_Conv = _on_MaxPool = _on_AveragePool = _on_LRN = _on_GroupNormalization = _on_MaxPoolIndex = _image
    _on_AffineSample = _image

    def _unary(self, node: Node) -> None:
        x = node.input(0)
        perm = self.primary(x)
        self.place(node, [self.get(x, perm)], perm)

    def _vote(self, values: Sequence[Value]) -> Perm:
        """The order that moves the fewest elements; channels last wins ties, then the first value's order."""
        last = channels_last(values[0].rank)
        orders = list(dict.fromkeys(self.primary(v) for v in values if not v.is_const))
        if not orders:
            return identity(values[0].rank)
        return min(orders, key=lambda p: (sum(self.cost(v, p) for v in values), p != last))

    def _binary(self, node: Node) -> None:
        operands = [self.extend(node.input(i), node.output.rank) for i in (0, 1)]
        perm = self._vote(operands)
        self.place(node, [self.get(v, perm) for v in operands], perm)

    def _on_Where(self, node: Node) -> None:
        operands = [self.extend(node.input(i), node.output.rank) for i in (0, 1, 2)]
        perm = self._vote(operands)
        self.place(node, [self.get(v, perm) for v in operands], perm)

    def _on_Resample(self, node: Node) -> None:
        x = node.input(0)
        perm = self.primary(x)
        if perm[-1] == node.attrs["axis"] and x.rank >= 3:  # single elements: many times as slow as whole pixels
            perm = channels_last(x.rank)
        tables = [None if v is None else self.get(v, identity(v.rank)) for v in node.inputs[1:]]
        self.place(node, [self.get(x, perm), *tables], perm, axis=perm.index(node.attrs["axis"]))

    def _on_LayerNormalization(self, node: Node) -> None:
        x, axis = node.input(0), node.attrs["axis"]
        perm = self.primary(x)
        if perm[-1] != axis:
            perm = (*(a for a in range(x.rank) if a != axis), axis)
        vectors = [None if v is None else self.get(v, identity(v.rank)) for v in node.inputs[1:]]
        self.place(node, [self.get(x, perm), *vectors], perm, axis=x.rank - 1)

    def _on_Concat(self, node: Node) -> None:
        values = [v for v in node.inputs if v is not None]
        perm = self._vote(values)
        self.place(node, [self.get(v, perm) for v in values], perm, axis=perm.index(node.attrs["axis"]))

    def _on_Softmax(self, node: Node) -> None:
        x = node.input(0)
        perm = self.primary(x)
        self.place(node, [self.get(x, perm)], perm, axis=perm.index(node.attrs["axis"]))

    _on_LogSoftmax = _on_Softmax

    def _reduce(self, node: Node) -> None:
        x, axes = node.input(0), set(node.attrs["axes"])
        perm = self.primary(x)
        out = perm
        if not node.attrs.get("keepdims", 1):
            kept = [a for a in range(x.rank) if a not in axes]
            out = tuple(kept.index(a) for a in perm if a not in axes)
        self.place(node, [self.get(x, perm)], out, axes=tuple(sorted(perm.index(a) for a in axes)))

    _on_ReduceMean = _on_ReduceMax = _on_ReduceMin = _on_ReduceSum = _on_ArgMax = _on_ArgMin = _reduce

    def _on_Slice(self, node: Node) -> None:
        x = node.input(0)
        perm = self.primary(x)
        named = {k: tuple(node.attrs[k][a] for a in perm) for k in ("starts", "steps")}
        self.place(node, [self.get(x, perm)], perm, **named)

    def _on_Pad(self, node: Node) -> None:
        x = node.input(0)
        perm = self.primary(x)
        self.place(node, [self.get(x, perm)], perm, pads=tuple(node.attrs["pads"][a] for a in perm))

    def _mixed(self, node: Node) -> None:
        """Some inputs and the first output are images; vectors and weights keep their order."""
        images = IMAGES[node.op]
        inputs = [
            None if v is None else self.get(v, channels_last(v.rank) if i in images else identity(v.rank))
            for i, v in enumerate(node.inputs)
        ]
        outputs = []
        for i, v in enumerate(node.outputs):
            perm = channels_last(v.rank) if i == 0 and node.op != "ConvBackwardWeight" else identity(v.rank)
            outputs.append(Value(v.name, [v.shape[a] for a in perm], v.dtype))
            self.forms[v] = {perm: outputs[-1]}
        self.out.nodes.append(Node(node.op, list(inputs), outputs, dict(node.attrs), node.name))

    def _on_UnaryBackward(self, node: Node) -> None:
        g, v = node.input(0), node.input(1)
        perm = self._vote([g, v])
        axis = {"axis": perm.index(node.attrs["axis"])} if "axis" in node.attrs else {}
        self.place(node, [self.get(g, perm), self.get(v, perm)], perm, **axis)

    _on_SoftmaxBackward = _on_LogSoftmaxBackward = _on_UnaryBackward

    def _on_LayerNormalizationBackward(self, node: Node) -> None:
        g, x, scale, axis = node.input(0), node.input(1), node.optional(2), node.attrs["axis"]
        perm = self.primary(x)
        if perm[-1] != axis:
            perm = (*(a for a in range(x.rank) if a != axis), axis)
        vector = None if scale is None else self.get(scale, identity(1))
        self.place(node, [self.get(g, perm), self.get(x, perm), vector], perm, axis=x.rank - 1)
        for v in node.outputs[1:]:
            self.out.nodes[-1].outputs.append(Value(v.name, v.shape, v.dtype))
            self.forms[v] = {identity(1): self.out.nodes[-1].outputs[-1]}

    def _on_Expand(self, node: Node) -> None:
        x = self.extend(node.input(0), node.output.rank)
        perm = self.primary(x)
        self.place(node, [self.get(x, perm)], perm)

    def _on_Affine(self, node: Node) -> None:
        x, axis = node.input(0), node.attrs.get("axis", 1)
        perm = self.primary(x)
        if perm[-1] != axis:
            perm = (*(a for a in range(x.rank) if a != axis), axis)
        vectors = [None if v is None else self.get(v, identity(v.rank)) for v in node.inputs[1:]]
        self.place(node, [self.get(x, perm), *vectors], perm, axis=x.rank - 1)

    _on_BatchNormalization = _on_Affine

    def _on_Transpose(self, node: Node) -> None:
        x, perm = node.input(0), list(node.attrs["perm"])
        self.primary(x)  # makes a waiting Reshape
        self.forms[node.output] = {tuple(perm.index(a) for a in q): v for q, v in self._table(x).items()}

    def _on_Gemm(self, node: Node) -> None:
        x, w = node.input(0), node.input(1)
        flat = self._flat_rows(x) if w.is_const else None
        if flat is None:
            data, weight = self.get(x, identity(2)), self.get(w, identity(2))
        else:
            data, dims, order = flat
            weight = self._permuted_rows(w, dims, order, bool(node.attrs.get("trans_b")))
        rest = [None if v is None else self.get(v, identity(v.rank)) for v in node.inputs[2:]]
        self.place(node, [data, weight, *rest], identity(2))

    # -- Reshape ------------------------------------------------------------------------------------------------
    def _on_Reshape(self, node: Node) -> None:
        self._reshape(node.input(0), node.output)

    def _reshape(self, x: Value, y: Value) -> None:
        """Give y forms: plain Reshapes of x's forms where memory order allows, else it waits for its first reader."""
        self.primary(x)
        groups = blocks(x.shape, y.shape)
        sources, targets = [g[0] for g in groups], [g[1] for g in groups]
        for have, physical in self._table(x).items():
            sequence = split_order(long_axes(have, x.shape), sources)
            if sequence is not None and 0 not in x.shape:
                order = tuple(a for k in sequence for a in targets[k])
                self._plain_reshape(y, physical, complete(order, y.shape))
                return
        self.waiting[y] = x

    def _plain_reshape(self, y: Value, physical: Value, perm: Perm) -> None:
        shape = tuple(y.shape[a] for a in perm)
        self.forms[y] = {perm: self._emit("Reshape", [physical], shape, y.name, dtype=y.dtype)}

    def _resolve(self, y: Value, wanted: Perm | None) -> None:
        """Transpose x, then reshape it to y: into the wanted order of y, or moving as little of x as possible."""
        x = self.waiting.pop(y)
        groups = blocks(x.shape, y.shape)
        sources, targets = [g[0] for g in groups], [g[1] for g in groups]
        sequence = None if wanted is None else split_order(long_axes(wanted, y.shape), targets)
        if sequence is None:
            have = self.primary(x)
            sequence = sorted(range(len(groups)), key=lambda k: min((have.index(a) for a in sources[k]), default=-1))
            wanted = None
        perm = complete(tuple(a for k in sequence for a in sources[k]), x.shape)
        if wanted is None:
            wanted = complete(tuple(a for k in sequence for a in targets[k]), y.shape)
        self._plain_reshape(y, self.get(x, perm), wanted)

    def _flat_rows(self, y: Value) -> tuple[Value, Shape, Perm] | None:
        """For y[M, C] that waits: (physical y, dims of C, their order in memory) if M is outermost in memory."""
        if y not in self.waiting:
            return None
        x = self.waiting[y]
        have = self.primary(x)
        order = long_axes(have, x.shape)
        rows: list[int] = []
        for source, target in blocks(x.shape, y.shape):
            if target == (0,):
                rows.extend(source)
            elif target != (1,):
                return None  # one group feeds both axes
        if order[: len(rows)] != tuple(rows) or y.size == 0:
            return None
        columns = [a for a in long_axes(identity(x.rank), x.shape) if a not in rows]
        dims = tuple(x.shape[a] for a in columns)
        key = self.extended.get((y, -1))  # the flat value, made once for several readers
        if key is None:
            name = self.out.fresh(y.name)
            key = self._emit("Reshape", [self.get(x, have)], y.shape, name, dtype=y.dtype)
            self.extended[y, -1] = key
        return key, dims, tuple(columns.index(a) for a in order[len(rows) :])

    def _permuted_rows(self, w: Value, dims: Shape, order: Perm, trans_b: bool) -> Value:
        assert w.weight is not None

        def permute(x: Array) -> Array:
            if trans_b:
                moved = x.reshape(x.shape[0], *dims).transpose(0, *(a + 1 for a in order))
            else:
                moved = x.reshape(*dims, x.shape[1]).transpose(*order, len(dims))
            return np.ascontiguousarray(moved).reshape(x.shape)

        weight = w.weight.derive(w.shape, w.dtype, permute, ("flatten", dims, order, trans_b))
        return Value(self.out.fresh(w.name), w.shape, w.dtype, weight)
