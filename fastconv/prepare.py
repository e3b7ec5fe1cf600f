"""The last change of a physical graph (N H W C) before its memory is planned.

What the memory plan must know is decided here: the algorithm of each convolution and the workspace that it needs,
which convolution takes a pool, a mean, a border or a gate into itself, and what reductions and others need to be dense.
"""

from __future__ import annotations

import math

from . import _core, lowering_grad
from .graph import Graph, Node, Value
from .lowering import parts_of_sum
from .packing_states import packed_bytes
from .selection import Selection, shape_of
from .selection import Shape as ConvShape
from .target import CPU, Target
from .views import round_up


def prepare(graph: Graph, selection: Selection, target: Target = CPU) -> Graph:
    """The graph with algorithms and workspaces as attributes, copies where a tensor must be dense, and reductions in
    steps that the kernel knows."""
    return _Preparation(graph.copy(), selection, target).done()


class _Preparation:
    def __init__(self, graph: Graph, selection: Selection, target: Target) -> None:
        self.graph, self.selection, self.target = graph, selection, target
        self.users, self.producers = graph.users(), graph.producers()
        self.outputs = set(graph.outputs)
        self.nodes: list[Node] = []
        self.taken: set[Node] = set()  # what a convolution in front of them does

    def done(self) -> Graph:
        for node in self.graph.nodes:
            if node not in self.taken:
                self._add(lowering_grad.prepare(node, self.selection.isa, self.target))
        self.graph.nodes = self.nodes
        return self.graph

    def _add(self, node: Node) -> None:
        g, nodes = self.graph, self.nodes
        if node.op == "Conv":
            self._conv(node)
        elif node.op == "Gemm":
            _add_packed(node, packed_bytes(node, self.selection.isa, self.target))
        elif node.op == "MatMul":
            a, b = node.input(0), node.input(1)
            node.inputs = [_batches(g, a, b, nodes), _batches(g, b, a, nodes)]
        elif node.op == "AffineSample":
            node.inputs = [node.input(0), _dense(g, node.input(1), nodes)]
        elif node.op.startswith(("Reduce", "Arg")):
            nodes.extend(_reductions(g, node))
            return
        elif (
            node.op in ("TopK", "Take", "Suppress")
            or (node.op == "Resample" and node.attrs["axis"] == node.input(0).rank - 1)
            or (node.op in ("Softmax", "LogSoftmax") and node.attrs["axis"] < node.input(0).rank - 2)
        ):
            node.inputs = [v if v is None else _dense(g, v, nodes) for v in node.inputs]
            _copied(g, node.output, nodes, node)
            return
        nodes.append(node)

    def _conv(self, node: Node) -> None:
        shape, isa = shape_of(node), self.selection.isa
        chosen = node.attrs["chosen"] = self.selection.choose(shape, constant=node.input(1).is_const)
        choice = chosen.choice
        if choice.algorithm == "winograd" and self.target.splits_winograd:
            axes, r = _core.winograd_axes(shape.R, shape.S), max(shape.R, shape.S)
            if axes == 0 and choice.m % 2 == 0:
                self._take_pool(node)
            size = _core.winograd_workspace(shape.N, shape.P, shape.Q, shape.C, shape.K, choice.m, r, axes)
            node.attrs["workspace_bytes"] = 4 * size
        elif choice.algorithm == "gemm" and self.target.takes_gates:
            self._take_gate(node, shape)
        elif choice.algorithm == "depthwise" and self.target.gathers_means:
            self._take_mean(node)
        elif choice.algorithm == "row_run":
            top, left, bottom, right = shape.pads
            pixels = (shape.H + top + bottom) * (shape.W + left + right)
            node.attrs["workspace_bytes"] = (
                4 * shape.N * pixels * round_up(shape.C, self.target.stem_unit(node.input(1).is_const))
            )
            self._take_border(node)
        _add_packed(node, packed_bytes(node, isa, self.target, choice))

    def _take_pool(self, conv: Node) -> None:
        """A 2x2 maximum behind Winograd's tiles becomes a part of the convolution."""
        after = self.users.get(conv.output, [])
        if len(after) == 1 and conv.output not in self.outputs and _pools_by_two(conv, after[0]):
            self.taken.add(after[0])
            conv.attrs["pooled"] = conv.output.shape[1:3]
            conv.outputs = [after[0].output]

    def _take_mean(self, conv: Node) -> None:
        """A mean over all pixels of one image, as in squeeze-and-excite, becomes a second output of a depthwise
        convolution.

        Of several images a pass of its own leaves more of them in L3 for the product that follows: EfficientNet-B0
        gained 1% by one and lost 3% by eight (Zen 5). Nor where the weights are trained: what is packed at run
        time would need the place of the sums.
        """
        y = conv.output
        if y.shape[0] != 1 or y.size == 0 or not conv.input(1).is_const:
            return
        for node in self.users.get(y, []):
            if node.op == "ReduceMean" and tuple(node.attrs["axes"]) == (1, 2):
                self.taken.add(node)
                conv.outputs = [y, node.output]
                conv.attrs["workspace_bytes"] = 4 * _core.depthwise_bands(y.shape[1]) * y.shape[3]
                return

    def _take_border(self, conv: Node) -> None:
        """A stem that copies its image with a border reads the planes in front of a transpose."""
        x = conv.input(0)
        border = self.producers.get(x)
        alone = len(self.users[x]) == 1 and x not in self.outputs
        if border is not None and border.op == "Transpose" and alone:
            conv.attrs["x_perm"] = border.attrs["perm"]
            conv.inputs[0] = border.input(0)
            self.nodes.remove(border)

    def _take_gate(self, conv: Node, shape: ConvShape) -> None:
        """Squeeze-and-excite in front of a 1x1 convolution of one image: the gate becomes input 4, which scales the
        weights where they are fewer than the pixels, and the product in front vanishes."""
        x = conv.input(0)
        mul = self.producers.get(x)
        alone = len(self.users[x]) == 1 and x not in self.outputs
        if mul is None or mul.op != "Mul" or "activation" in mul.attrs or not alone:
            return
        C, K = shape.C, shape.K
        if shape.N != 1 or shape.groups != 1 or shape.P * shape.Q <= K or conv.input(1).weight is None:
            return
        for image, gate in ((mul.input(0), mul.input(1)), (mul.input(1), mul.input(0))):
            if image.shape == x.shape and gate.shape == (1, 1, 1, C) and not gate.is_const and not image.is_const:
                conv.inputs = [image, *conv.inputs[1:], *[None] * (4 - len(conv.inputs)), gate]
                conv.attrs["workspace_bytes"] = 4 * C * sum(_core.conv2d_panels(K, self.selection.isa))
                self.nodes.remove(mul)
                return


def _add_packed(node: Node, size: int) -> None:
    """Room for weights that are packed at run time, behind the node's workspace."""
    if size:
        at = -(-node.attrs.get("workspace_bytes", 0) // 64) * 64
        node.attrs["packed_at"], node.attrs["workspace_bytes"] = at, at + size


def _pools_by_two(conv: Node, pool: Node) -> bool:
    """Whether `pool` is a 2x2 maximum that the convolution in front can take: its windows then align with tiles."""
    a = pool.attrs
    if pool.op != "MaxPool" or len(pool.outputs) != 1 or conv.optional(3) is not None:
        return False
    window = (*a["kernel_shape"], *a["strides"], *a["pads"], *a["dilations"])
    activation = conv.attrs.get("activation")
    _, P, Q, _ = conv.output.shape
    return (
        window == (2, 2, 2, 2, 0, 0, 0, 0, 1, 1)
        and (activation is None or activation[0] in ("Relu", "Clip"))
        and pool.output.shape[1:3] == (P // 2, Q // 2)
    )


def _dense(g: Graph, x: Value, nodes: list[Node]) -> Value:
    """x, or a dense copy where x may be the slice of a concatenation."""
    if x in g.inputs or x.is_const:
        return x
    node = g.make("Copy", [x], x.shape, dtype=x.dtype, name=f"{x.name}//dense")
    nodes.append(node)
    return node.output


def _batches(g: Graph, v: Value, other: Value, nodes: list[Node]) -> Value:
    """v, or a copy in the arena where a constant would be read in parts, batch by batch: only the arena has parts."""
    batch, against = v.shape[:-2], other.shape[:-2]
    if not v.is_const or math.prod(batch) == 1 or math.prod(against) == 1 or batch == against:
        return v
    node = g.make("Copy", [v], v.shape, dtype=v.dtype, name=f"{v.name}//arena")
    nodes.append(node)
    return node.output


def _copied(g: Graph, y: Value, nodes: list[Node], node: Node) -> None:
    """Append `node`, whose output must be dense, and a copy of it to y, which may be the slice of a concatenation."""
    node.outputs = [Value(g.fresh(node.name), y.shape, y.dtype)]
    nodes.append(node)
    nodes.append(Node("Copy", list(node.outputs), [y], {}, f"{y.name}//copy"))


def _reductions(g: Graph, node: Node) -> list[Node]:
    """The reduction kernel folds one run of neighbouring axes: others take a step for each run, last run first.

    The kernel knows one stride before the run, one in it, and contiguous elements behind it. So x must be dense unless
    the run is the last axis alone or ends before the last axis, and y must be dense unless each of its rows belongs to
    one index before the run.
    """
    axes, x = tuple(node.attrs["axes"]), node.input(0)
    runs: list[list[int]] = []
    for axis in axes:
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    nodes: list[Node] = []
    for run in reversed(runs):
        final, end = run is runs[0], x.rank - 1
        if run[-1] != end - 1 and run != [end]:
            x = _dense(g, x, nodes)
        if not final:
            shape = tuple(1 if i in run else d for i, d in enumerate(x.shape))
            part = Node(
                node.op, [x], [Value(g.fresh(node.name), shape)], {"axes": tuple(run), "keepdims": 1}, node.name
            )
            nodes.append(part)
            x = part.output
            continue
        last = Node(node.op, [x], node.outputs, {**node.attrs, "axes": tuple(run)}, node.name)
        parts = parts_of_sum(last)
        if parts > 1:
            last.attrs["workspace_bytes"] = 4 * (parts + 1) * math.prod(x.shape[run[-1] + 1 :])
        if run[-1] == end - 1 or (run[-1] == end and node.attrs.get("keepdims", 1)):
            nodes.append(last)
        else:
            _copied(g, node.output, nodes, last)
    return nodes
