"""Graph -> Plan: the last step. Places every tensor, packs weights, and lowers each node to descriptors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _core, lowering_tensors
from .errors import FastconvError, ModelError, UnsupportedOpError
from .graph import Array, Graph, Node, Shape, Value, Weight
from .lowering import LOWERINGS
from .packing import Packer, as_float32
from .passes import optimize, plan_memory
from .selection import DEFAULT_WINOGRAD, Choice, Selection, shape_of
from .views import View, reach, row_strides

if TYPE_CHECKING:
    from .tuning import Tuning

_REGISTERED = (lowering_tensors,)  # importing it fills LOWERINGS


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

    def __init__(self) -> None:
        self.store = _core.WeightStore()
        self.packed: dict[object, _core.PackedWeight] = {}


def compile_graph(
    graph: Graph,
    isa: _core.Isa,
    cache: WeightCache,
    *,
    strict: bool = False,
    winograd: int = DEFAULT_WINOGRAD,
    tuning: Tuning | None = None,
) -> Compiled:
    """Optimise a logical graph (ONNX axis order, concrete shapes) and compile it; the rest as for Selection.

    Raises UnsupportedOpError for an operation that has no kernel.
    """
    return Compiler(optimize(graph), cache, Selection(isa, strict, winograd, tuning)).compile()


class Compiler:
    def __init__(self, graph: Graph, cache: WeightCache, selection: Selection) -> None:
        self.graph = _prepare(graph, selection)
        self.isa = isa = selection.isa
        self.selection = selection
        self.cache = cache
        self.memory = plan_memory(self.graph)
        self.plan = _core.Plan(isa, cache.store)
        self.ops: list[OpInfo] = []
        externals = [*self.graph.inputs, *self.graph.outputs]
        self.external = {v: i for i, v in enumerate(externals)}
        self._tensors: dict[object, int] = {}
        self._packer = Packer(cache.store, isa)

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
        """The place of a value: weight, model input, or what the memory plan says."""
        if value.is_const:
            return View("weight", self._put(value), 0, value.shape, row_strides(value.shape))
        place = self.memory.places.get(value)
        if place is None:
            return View("external", self.external[value], 0, value.shape, row_strides(value.shape))
        strides = row_strides(value.shape, place.ld)
        if place.base is not None:
            return View("external", self.external[place.base], place.offset // 4, value.shape, strides)
        return View("arena", None, place.offset // 4, value.shape, strides)

    def tensor(self, view: View) -> int:
        """The number of a view in the plan."""
        size = reach(view.shape, view.strides)
        key = (view.kind, id(view.base) if view.kind == "weight" else view.base, view.first, size)
        number = self._tensors.get(key)
        if number is None:
            if view.kind == "arena":
                number = self.plan.arena(4 * view.first, size)
            elif view.kind == "weight":
                number = self.plan.weight(view.base)
            else:
                number = self.plan.external(view.base, view.first, size)
            self._tensors[key] = number
        return number

    def workspace(self, node: Node) -> int:
        return self.memory.workspaces.get(node, 0)  # none is planned for an empty batch

    # -- weights ------------------------------------------------------------------------------------------------
    def _put(self, value: Value) -> _core.PackedWeight:
        assert value.weight is not None
        key = (value.weight.key, "dense")
        packed = self.cache.packed.get(key)
        if packed is None:
            packed = self.cache.packed[key] = self.cache.store.put(as_float32(value.weight))
        return packed

    def constant(self, value: Value | None) -> int:
        """The tensor of an optional constant vector; -1 where it is absent."""
        return -1 if value is None else self.tensor(self.view(value))

    def _pack(
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
        scale = node.attrs.get("scale")
        key = (w.key, how, None if scale is None else scale.tobytes())
        packed = self.cache.packed.get(key)
        if packed is None:
            packed = self.cache.packed[key] = pack(source or w, scale)
        number = self._tensors.get(key)
        if number is None:
            number = self._tensors[key] = self.plan.weight(packed)
        return number

    def packed(self, node: Node, choice: Choice) -> int:
        groups, m = node.attrs["group"], choice.m
        if choice.algorithm == "depthwise":
            return self._pack(node, "depthwise", self._packer.depthwise)
        if choice.algorithm == "winograd":
            return self._pack(node, choice, lambda w, s: self._packer.winograd(w, s, m))
        return self._pack(node, ("conv2d", groups), lambda w, s: self._packer.conv2d(w, s, groups))

    def packed_linear(self, node: Node) -> int:
        trans_b = bool(node.attrs.get("trans_b"))
        taps, source = 1, None
        w = node.input(1).weight
        if w is not None and w.origin is not None and w.origin[1][0] == "flatten":
            # The weight of a flattened image, permuted to N H W C: packing reads the original in that order.
            _, dims, order, _ = w.origin[1]
            if tuple(order) == (*range(1, len(dims)), 0):
                taps, source = math.prod(dims[1:]), w.origin[0]
        return self._pack(node, ("linear", trans_b), lambda x, s: self._packer.linear(x, s, trans_b, taps), source)

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
        seconds: float | None = None,
        chosen_by: str = "",
    ) -> None:
        """Append one kernel call and its description; seconds: expected, None for what its bytes take."""
        getattr(self.plan, name)(desc, list(inputs), out)
        if bytes_ is None:
            values = [v for v in [*node.inputs, *node.outputs] if v is not None]
            bytes_ = 4 * sum(v.size for v in values)
        if seconds is None:
            seconds = _core.moved_seconds(bytes_, self.isa)
        view = self.view(node.output)
        external = view.kind == "external"
        where = f"output {view.base - len(self.graph.inputs)}" if external else f"arena+{4 * view.first:#x}"
        self.ops.append(
            OpInfo(node.name, node.op, algorithm, self.isa.name, node.output.shape, flops, bytes_, where, seconds * 1e3,
                   chosen_by)
        )  # fmt: skip


def _prepare(graph: Graph, selection: Selection) -> Graph:
    """What the memory plan must know: workspaces, and reductions that take two steps or dense rows."""
    g = graph.copy()
    users, producers = g.users(), g.producers()
    outputs = set(g.outputs)
    nodes: list[Node] = []
    pools: set[Node] = set()
    for node in g.nodes:
        if node in pools:
            continue
        if node.op == "Conv":
            shape = shape_of(node)
            N, P, Q, C, K = shape.N, shape.P, shape.Q, shape.C, shape.K
            algorithm, m = selection.choose(shape).choice
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
            if algorithm == "row_run":
                top, left, bottom, right = shape.pads
                node.attrs["workspace_bytes"] = 4 * N * (shape.H + top + bottom) * (shape.W + left + right) * C
                border = producers.get(node.input(0))
                alone = len(users[node.input(0)]) == 1 and node.input(0) not in outputs
                if border is not None and border.op == "Transpose" and alone:
                    node.attrs["x_perm"] = border.attrs["perm"]
                    node.inputs[0] = border.input(0)
                    nodes.remove(border)
        elif node.op == "MatMul":
            a, b = node.input(0), node.input(1)
            node.inputs = [_batches(g, a, b, nodes), _batches(g, b, a, nodes)]
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
        if run[-1] == end - 1 or (run[-1] == end and node.attrs.get("keepdims", 1)):
            nodes.append(last)
        else:
            _copied(g, node.output, nodes, last)
    return nodes


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
