"""Graph -> Plan: the last step. Places every tensor, packs weights, and lowers each node to descriptors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, lowering_grad, lowering_tensors
from .errors import FastconvError, ModelError, UnsupportedOpError
from .graph import Array, Graph, Node, Shape, Value, Weight
from .lowering import LOWERINGS, parts_of_sum
from .packing import as_float32
from .packing_states import pack_at_run_time, packed_bytes, turned_weight
from .passes import optimize, plan_memory
from .selection import DEFAULT_WINOGRAD, Choice, Selection, shape_of
from .selection import Shape as ConvShape
from .target import CPU, Target
from .views import View, reach, round_up, row_strides

if TYPE_CHECKING:
    from .tuning import Tuning

_REGISTERED = (lowering_tensors, lowering_grad)  # importing it fills LOWERINGS


@dataclass(frozen=True)
class OpInfo:
    """One operation of a plan, for people: what `fastconv inspect` prints."""

    name: str
    op: str
    algorithm: str
    isa: str
    shape: Shape  # of the output, in physical order
    flops: int
    bytes: int  # read and written, each tensor once
    buffer: str
    expected_ms: float = 0.0  # of one thread: the cost model's, or what was measured (chosen_by "tuned")
    chosen_by: str = ""  # "model" or "tuned" where there was a choice


@dataclass(frozen=True)
class Compiled:
    """A plan for one set of input shapes. Externals are the inputs, then the outputs, in the model's order."""

    plan: _core.Plan
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    ops: tuple[OpInfo, ...]
    graph: Graph  # physical
    arena_bytes: int
    ragged: tuple[int, ...]  # outputs that are lists of unknown length: rows from the first negative one on are empty


def _is_ragged(graph: Graph, output: Value) -> bool:
    producers = graph.producers()
    node = producers.get(output)
    while node is not None and node.op == "Copy":
        node = producers.get(node.input(0))
    return node is not None and node.op == "Suppress"


class WeightCache:
    """Packed weights of one model on one ISA level, shared by its plans; each (weight, scale, packing) exists once."""

    def __init__(self, target: Target = CPU) -> None:
        self.target = target
        self.store = target.store()
        self.packed: dict[object, Any] = {}
        self.before: Mapping[object, Any] = {}  # of a model whose other weights have changed

    def find(self, key: object) -> Any:
        packed = self.packed.get(key)
        if packed is None and (packed := self.before.get(key)) is not None:
            self.packed[key] = packed
        return packed


States = Mapping[str, Any]  # as target.memory() makes them


def compile_graph(
    graph: Graph,
    isa: _core.Isa,
    cache: WeightCache,
    *,
    strict: bool = False,
    winograd: int = DEFAULT_WINOGRAD,
    tuning: Tuning | None = None,
    states: States | None = None,
) -> Compiled:
    """Optimise a logical graph (ONNX axis order, concrete shapes) and compile it.

    states: the memory of each of the graph's states by name; plans that are given the same memory share it.
    strict, winograd, tuning: as for Selection.
    Raises UnsupportedOpError for an operation that has no kernel.
    """
    return Compiler(optimize(graph), cache, Selection(isa, strict, winograd, tuning), states).compile()


class Compiler:
    """One compilation: an optimised graph (ONNX axis order) becomes physical (N H W C) and then a plan, node by node.

    The constructor lays the graph out, chooses algorithms and places every tensor; `compile` packs weights and appends
    descriptors. The functions of LOWERINGS take a Compiler and a Node: they ask it where tensors lie (`view`,
    `tensor`) and for packed weights, and hand it what they made. Weights and their packings come from `cache`.
    """

    def __init__(self, graph: Graph, cache: WeightCache, selection: Selection, states: States | None = None) -> None:
        self.target = cache.target
        self.isa = isa = selection.isa
        self.selection = self.target.selection(selection)
        self.graph = _prepare(graph, self.selection, self.target)
        self.cache = cache
        self.memory = plan_memory(self.graph)
        self.plan = self.target.plan(isa, cache.store)
        self.ops: list[OpInfo] = []
        externals = [*self.graph.inputs, *self.graph.outputs]
        self.external = {v: i for i, v in enumerate(externals)}
        self.states = {v: (states or {})[v.name] for v in graph.states}
        self._tensors: dict[object, int] = {}
        self.packer = self.target.packer(cache.store, isa)

    def compile(self) -> Compiled:
        for node in self.graph.nodes:
            lowering = LOWERINGS.get(node.op)
            if lowering is None:
                raise UnsupportedOpError(f"node {node.name!r}: operator {node.op} has no kernel")
            try:
                lowering(self, node)
            except MemoryError:
                raise ModelError(f"node {node.name!r} ({node.op}): no memory for its weights") from None
            except (TypeError, ValueError, OverflowError) as error:
                if isinstance(error, FastconvError):
                    raise
                # the descriptor's own check: sizes that no kernel can address
                raise UnsupportedOpError(f"node {node.name!r} ({node.op}): {error}") from error
        g = self.graph
        needed = self.plan.arena_bytes + 4 * sum(v.size for v in g.outputs)
        if needed > _physical_memory():
            raise ModelError(f"graph {g.name!r}: its tensors need {needed:,} bytes, more than this machine has")
        return Compiled(
            self.plan,
            tuple((v.name, v.shape) for v in g.inputs),
            tuple((v.name, v.shape) for v in g.outputs),
            tuple(self.ops),
            g,
            max(self.memory.arena_bytes, self.plan.arena_bytes),
            tuple(i for i, v in enumerate(g.outputs) if _is_ragged(g, v)),
        )

    # -- where things are ---------------------------------------------------------------------------------------
    def view(self, value: Value) -> View:
        """The place of a value: weight, state, model input, or what the memory plan says."""
        if value.is_const:
            return View("weight", self._put(value), 0, value.shape, row_strides(value.shape))
        place = self.memory.places.get(value)
        state = self.states.get(value if place is None or place.base is None else place.base)
        if state is not None:
            offset, ld = (0, None) if place is None else (place.offset // 4, place.ld)
            return View("state", state, offset, value.shape, row_strides(value.shape, ld))
        if place is None:
            return View("external", self.external[value], 0, value.shape, row_strides(value.shape))
        strides = row_strides(value.shape, place.ld)
        if place.base is not None:
            return View("external", self.external[place.base], place.offset // 4, value.shape, strides)
        return View("arena", None, place.offset // 4, value.shape, strides)

    def tensor(self, view: View) -> int:
        """The number of a view in the plan."""
        size = reach(view.shape, view.strides)
        key = (view.kind, id(view.base) if view.kind in ("weight", "state") else view.base, view.first, size)
        number = self._tensors.get(key)
        if number is None:
            if view.kind == "arena":
                number = self.plan.arena(4 * view.first, size)
            elif view.kind == "weight":
                number = self.plan.weight(view.base)
            elif view.kind == "state":
                number = self.plan.state(view.base, view.first, size)
            else:
                number = self.plan.external(view.base, view.first, size)
            self._tensors[key] = number
        return number

    def workspace(self, node: Node) -> int:
        return self.memory.workspaces.get(node, 0)  # none is planned for an empty batch

    # -- weights ------------------------------------------------------------------------------------------------
    def _put(self, value: Value) -> Any:
        assert value.weight is not None
        key = (value.weight.key, "dense")
        packed = self.cache.find(key)
        if packed is None:
            packed = self.cache.packed[key] = self.cache.store.put(as_float32(value.weight))
        return packed

    def constant(self, value: Value | None) -> int:
        """The tensor of an optional constant vector; -1 where it is absent."""
        return -1 if value is None else self.tensor(self.view(value))

    def pack_constant(
        self,
        node: Node,
        how: object,
        pack: Callable[[Weight, Array | None], _core.PackedWeight],
        source: Weight | None = None,
    ) -> int:
        """The tensor of input 1, packed; `source` is what `pack` gets instead of it."""
        w = node.input(1).weight
        if w is None:
            raise UnsupportedOpError(f"node {node.name!r} ({node.op}): weights that are computed at run time")
        scale, key = node.attrs.get("scale"), _packed_key(node, how)
        packed = self.cache.find(key)
        if packed is None:
            packed = self.cache.packed[key] = pack(source or w, scale)
        number = self._tensors.get(key)
        if number is None:
            number = self._tensors[key] = self.plan.weight(packed)
        return number

    def packed_from(self, node: Node, choice: Choice, first: int) -> int:
        """The tensor of a convolution's packed constant weights from an element on."""
        self.packed(node, choice)
        packed = self.cache.packed[_packed_key(node, self._packing(node, choice))]
        number: int = self.plan.weight(packed, first)
        return number

    def packed(self, node: Node, choice: Choice) -> int:
        if not node.input(1).is_const:
            return pack_at_run_time(self, node, choice)
        groups, packer, how = node.attrs["group"], self.packer, self._packing(node, choice)
        source = turned_weight(node, groups) if node.attrs.get("turned") else None
        if choice.algorithm == "depthwise":
            return self.pack_constant(node, how, packer.depthwise, source)
        if choice.algorithm == "winograd":
            return self.pack_constant(node, how, lambda w, s: packer.winograd(w, s, choice.m), source)
        unit = self.channel_unit(node) if choice.algorithm == "row_run" else 1
        return self.pack_constant(node, how, lambda w, s: packer.conv2d(_pad_channels(w, unit), s, groups), source)

    def channel_unit(self, conv: Node) -> int:
        return _channel_unit(conv, self.target)

    def _packing(self, node: Node, choice: Choice) -> tuple[object, ...]:
        """What tells packed weights of a convolution apart, beside the weight and its scale."""
        groups, turned = node.attrs["group"], bool(node.attrs.get("turned"))
        if choice.algorithm in ("depthwise", "winograd"):
            return (*choice, groups, turned)
        return ("conv2d", groups, turned, self.channel_unit(node) if choice.algorithm == "row_run" else 1)

    def packed_linear(self, node: Node) -> int:
        if not node.input(1).is_const:
            return pack_at_run_time(self, node)
        trans_b = bool(node.attrs.get("trans_b"))
        taps, source = 1, None
        w = node.input(1).weight
        if w is not None and w.origin is not None and w.origin[1][0] == "flatten":
            # The weight of a flattened image, permuted to N H W C: packing reads the original in that order.
            _, dims, order, _ = w.origin[1]
            if tuple(order) == (*range(1, len(dims)), 0):
                taps, source = math.prod(dims[1:]), w.origin[0]
        how = ("linear", trans_b)
        return self.pack_constant(node, how, lambda x, s: self.packer.linear(x, s, trans_b, taps), source)

    # -- operations ---------------------------------------------------------------------------------------------
    def emit(
        self,
        name: str,
        desc: Any,
        inputs: Sequence[int],
        out: int,
        node: Node,
        algorithm: str,
        flops: int = 0,
        bytes_: int | None = None,
        *,
        more: Sequence[int] = (),
        seconds: float | None = None,
        chosen_by: str = "",
    ) -> None:
        """Append one kernel call and its description.

        more: tensors of its further outputs; seconds: expected of a CPU's thread, None for what its bytes take.
        """
        getattr(self.plan, name)(desc, list(inputs), out, list(more))
        if bytes_ is None:
            values = [v for v in [*node.inputs, *node.outputs] if v is not None]
            bytes_ = 4 * sum(v.size for v in values)
        if not self.target.predicts:
            seconds = 0.0
        elif seconds is None:
            seconds = _core.moved_seconds(bytes_, self.isa)
        result = node.output if node.outputs else node.input(0)
        view = self.view(result)
        where = f"state+{4 * view.first:#x}" if view.kind == "state" else f"arena+{4 * view.first:#x}"
        if view.kind == "external":
            where = f"output {view.base - len(self.graph.inputs)}"
        level = self.target.level(self.isa)
        op = OpInfo(node.name, node.op, algorithm, level, result.shape, flops, bytes_, where, seconds * 1e3, chosen_by)
        self.ops.append(op)


def _channel_unit(conv: Node, target: Target) -> int:
    """What a stem's channels are rounded up to; weights that are packed at run time keep theirs."""
    return target.channel_unit if conv.input(1).is_const else 1


def _packed_key(node: Node, how: object) -> tuple[object, ...]:
    weight, scale = node.input(1).weight, node.attrs.get("scale")
    assert weight is not None
    return (weight.key, how, None if scale is None else scale.tobytes())


def _prepare(graph: Graph, selection: Selection, target: Target = CPU) -> Graph:
    """What the memory plan must know: workspaces, and reductions that take two steps or dense rows."""
    isa, g = selection.isa, graph.copy()
    users, producers = g.users(), g.producers()
    outputs = set(g.outputs)
    nodes: list[Node] = []
    pools: set[Node] = set()
    for node in g.nodes:
        if node in pools:
            continue
        node = lowering_grad.prepare(node, isa, target)
        if node.op == "Conv":
            shape = shape_of(node)
            N, P, Q, C, K = shape.N, shape.P, shape.Q, shape.C, shape.K
            choice = selection.choose(shape, constant=node.input(1).is_const).choice
            algorithm, m = choice
            if algorithm == "winograd":
                after = users.get(node.output, [])
                axes, r = _core.winograd_axes(shape.R, shape.S), max(shape.R, shape.S)
                if (
                    axes == 0
                    and m % 2 == 0
                    and len(after) == 1
                    and node.output not in outputs
                    and _pools_by_two(node, after[0])
                ):
                    pools.add(after[0])
                    node.attrs["pooled"] = (P, Q)
                    node.outputs = [after[0].output]
                node.attrs["workspace_bytes"] = 4 * _core.winograd_workspace(N, P, Q, C, K, m, r, axes)
            if algorithm == "gemm" and target.takes_gates:
                _take_gate(node, shape, nodes, producers, users, outputs, isa)
            if algorithm == "row_run":
                top, left, bottom, right = shape.pads
                pixels, channels = (
                    (shape.H + top + bottom) * (shape.W + left + right),
                    round_up(C, _channel_unit(node, target)),
                )
                node.attrs["workspace_bytes"] = 4 * N * pixels * channels
                border = producers.get(node.input(0))
                alone = len(users[node.input(0)]) == 1 and node.input(0) not in outputs
                if border is not None and border.op == "Transpose" and alone:
                    node.attrs["x_perm"] = border.attrs["perm"]
                    node.inputs[0] = border.input(0)
                    nodes.remove(border)
            _add_packed(node, packed_bytes(node, isa, target, choice))
        elif node.op == "Gemm":
            _add_packed(node, packed_bytes(node, isa, target))
        elif node.op == "MatMul":
            a, b = node.input(0), node.input(1)
            node.inputs = [_batches(g, a, b, nodes), _batches(g, b, a, nodes)]
        elif node.op == "AffineSample":
            node.inputs = [node.input(0), _dense(g, node.input(1), nodes)]
        elif node.op.startswith(("Reduce", "Arg")):
            nodes.extend(_reductions(g, node))
            continue
        elif (
            node.op in ("TopK", "Take", "Suppress")
            or (node.op == "Resample" and node.attrs["axis"] == node.input(0).rank - 1)
            or (node.op in ("Softmax", "LogSoftmax") and node.attrs["axis"] < node.input(0).rank - 2)
        ):
            node.inputs = [v if v is None else _dense(g, v, nodes) for v in node.inputs]
            _copied(g, node.output, nodes, node)
            continue
        nodes.append(node)
    g.nodes = nodes
    return g


def _take_gate(
    conv: Node,
    shape: ConvShape,
    nodes: list[Node],
    producers: dict[Value, Node],
    users: dict[Value, list[Node]],
    outputs: set[Value],
    isa: _core.Isa,
) -> None:
    """Squeeze-and-excite in front of a 1x1 convolution of one image: the gate becomes input 4, which scales the weights
    where they are fewer than the pixels, and the product in front vanishes."""
    x = conv.input(0)
    mul = producers.get(x)
    if mul is None or mul.op != "Mul" or "activation" in mul.attrs or len(users[x]) != 1 or x in outputs:
        return
    C, K = shape.C, shape.K
    if shape.N != 1 or shape.groups != 1 or shape.P * shape.Q <= K or conv.input(1).weight is None:
        return
    for image, gate in ((mul.input(0), mul.input(1)), (mul.input(1), mul.input(0))):
        if image.shape == x.shape and gate.shape == (1, 1, 1, C) and not gate.is_const and not image.is_const:
            conv.inputs = [image, *conv.inputs[1:], *[None] * (4 - len(conv.inputs)), gate]
            conv.attrs["workspace_bytes"] = 4 * C * sum(_core.conv2d_panels(K, isa))
            nodes.remove(mul)
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


def _pad_channels(w: Weight, unit: int) -> Weight:
    """w [K, C, R, S] with zeros for channels up to a multiple of `unit`."""
    K, C, R, S = w.shape
    missing = round_up(C, unit) - C
    if missing == 0:
        return w
    pads = ((0, 0), (0, missing), (0, 0), (0, 0))
    return w.derive((K, C + missing, R, S), w.dtype, lambda x: np.pad(x, pads), ("channels", unit))


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
