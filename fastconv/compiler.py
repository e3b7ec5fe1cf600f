"""Graph -> Plan: the last step. Places every tensor, packs weights, and lowers each node to descriptors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, lowering_grad, lowering_moves, lowering_tensors
from .compiled import Compiled, OpInfo, check_memory
from .errors import FastconvError, ModelError, UnsupportedOpError
from .graph import Array, Graph, Node, Value, Weight
from .lowering import LOWERINGS
from .packing import as_float32
from .packing_states import linear_panel, pack_at_run_time, turned_weight
from .passes import optimize, plan_memory
from .prepare import prepare
from .selection import DEFAULT_WINOGRAD, Choice, Selection, shape_of
from .stems import spread
from .target import CPU, Target
from .views import View, reach, round_up, row_strides

if TYPE_CHECKING:
    from .tuning import Tuning

_REGISTERED = (lowering_moves, lowering_tensors, lowering_grad)  # importing them fills LOWERINGS


def _is_ragged(graph: Graph, output: Value) -> bool:
    producers = graph.producers()
    node = producers.get(output)
    while node is not None and node.op == "Copy":
        node = producers.get(node.input(0))
    return node is not None and node.op == "Suppress"


class WeightCache:
    """Packed weights of one model on one ISA level, shared by its plans; each (weight, scale, packing) exists once.
    Large ones are packed on `threads` threads."""

    def __init__(self, target: Target = CPU, threads: int = 1) -> None:
        self.target, self.threads = target, threads
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
        self.selection = self.target.selection(selection, states=bool(graph.states))
        self.graph = prepare(graph, self.selection, self.target)
        self.cache = cache
        self.memory = plan_memory(self.graph)
        self.plan = self.target.plan(isa, cache.store)
        self.ops: list[OpInfo] = []
        externals = [*self.graph.inputs, *self.graph.outputs]
        self.external = {v: i for i, v in enumerate(externals)}
        self.states = {v: (states or {})[v.name] for v in graph.states}
        self._tensors: dict[object, int] = {}
        self.packer = self.target.packer(cache.store, isa)
        self._packed: dict[object, Any] = {}  # what this compilation adds to the cache

    def compile(self) -> Compiled:
        lowerings = [(node, self._lowering(node)) for node in self.graph.nodes]
        try:
            for node in self._early():
                self._lower(node, Compiler._pack_early)
            for node, lowering in lowerings:
                self._lower(node, lowering)
            self.packer.finish(self.cache.threads)
        except BaseException:
            # The old store cannot take back what this compilation had of it: it goes when no other weight needs it.
            self.cache.store = self.target.store()
            raise
        self.cache.packed.update(self._packed)  # not before they are filled: others may copy from there
        g = self.graph
        check_memory(g, self.plan.arena_bytes + 4 * sum(v.size for v in g.outputs))
        return Compiled(
            self.plan,
            tuple((v.name, v.shape) for v in g.inputs),
            tuple((v.name, v.shape) for v in g.outputs),
            tuple(self.ops),
            g,
            max(self.memory.arena_bytes, self.plan.arena_bytes),
            tuple(i for i, v in enumerate(g.outputs) if _is_ragged(g, v)),
        )

    def _lower(self, node: Node, lowering: Callable[[Compiler, Node], None]) -> None:
        self.packer.label = f"node {node.name!r} ({node.op})"
        try:
            lowering(self, node)
        except MemoryError:
            raise ModelError(f"{self.packer.label}: no memory for its weights") from None
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, FastconvError):
                raise
            # the descriptor's own check: sizes that no kernel can address
            raise UnsupportedOpError(f"{self.packer.label}: {error}") from error

    def _lowering(self, node: Node) -> Callable[[Compiler, Node], None]:
        lowering = LOWERINGS.get(node.op)
        if lowering is None:
            raise UnsupportedOpError(f"node {node.name!r}: operator {node.op} has no kernel")
        return lowering

    def _early(self) -> list[Node]:
        """Convolutions whose weights few pixels use, small weights first."""
        if not self.target.packs_early:
            return []

        def order(conv: Node) -> tuple[int, int]:
            shape = shape_of(conv)
            return shape.N * shape.P * shape.Q, conv.input(1).size

        return sorted((n for n in self.graph.nodes if n.op == "Conv" and n.input(1).is_const), key=order)

    def _pack_early(self, conv: Node) -> None:
        """What few pixels use is read from memory, and wants huge pages, which the first weights get: WeightStore
        (csrc/memory.h) takes small ones where the system is slow to find more. Dense layers do not care."""
        choice = conv.attrs["chosen"].choice
        if choice.algorithm in ("gemm", "implicit", "winograd", "grouped"):
            self.packed(conv, choice)

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
        weight = value.weight
        return self._once((weight.key, "dense"), lambda: self.packer.store.put(as_float32(weight)))

    def _once(self, key: object, pack: Callable[[], Any]) -> Any:
        """What is packed under this key, by `pack` where nothing is."""
        packed = self._found(key)
        if packed is None:
            packed = self._packed[key] = pack()
        return packed

    def _found(self, key: object) -> Any:
        packed = self._packed.get(key)
        return self.cache.find(key) if packed is None else packed

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
        packed = self._once(key, lambda: pack(source or w, scale))
        number = self._tensors.get(key)
        if number is None:
            number = self._tensors[key] = self.plan.weight(packed)
        return number

    def packed_from(self, node: Node, choice: Choice, first: int) -> int:
        """The tensor of a convolution's packed constant weights from an element on."""
        self.packed(node, choice)
        key = _packed_key(node, self._packing(node, choice))
        number: int = self.plan.weight(self._found(key), first)
        return number

    def packed(self, node: Node, choice: Choice, group: int = 1) -> int:
        """The tensor of a convolution's packed weights; group: see stems.py."""
        if not node.input(1).is_const:
            return pack_at_run_time(self, node, choice)
        groups, packer, how = node.attrs["group"], self.packer, self._packing(node, choice)
        source = turned_weight(node, groups) if node.attrs.get("turned") else None
        if choice.algorithm == "depthwise":
            return self.pack_constant(node, how, packer.depthwise, source)
        if choice.algorithm == "winograd":
            return self.pack_constant(node, how, lambda w, s: packer.winograd(w, s, choice.m), source)
        unit = self.channel_unit(node) if choice.algorithm == "row_run" else 1
        stride = node.attrs["strides"][1]
        if group > 1:

            def pack_group(w: Weight, s: Array | None) -> Any:
                return packer.conv2d(spread(w, group, stride), None if s is None else np.tile(s, group), groups)

            return self.pack_constant(node, (*how, group, stride), pack_group, source)
        return self.pack_constant(node, how, lambda w, s: packer.conv2d(_pad_channels(w, unit), s, groups), source)

    def channel_unit(self, conv: Node) -> int:
        return self.target.stem_unit(conv.input(1).is_const)

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
        panel = linear_panel(node, self.isa, self.target)
        how = ("linear", trans_b, panel)
        return self.pack_constant(node, how, lambda x, s: self.packer.linear(x, s, trans_b, panel, taps), source)

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


def _packed_key(node: Node, how: object) -> tuple[object, ...]:
    weight, scale = node.input(1).weight, node.attrs.get("scale")
    assert weight is not None
    return (weight.key, how, None if scale is None else scale.tobytes())


def _pad_channels(w: Weight, unit: int) -> Weight:
    """w [K, C, R, S] with zeros for channels up to a multiple of `unit`."""
    K, C, R, S = w.shape
    missing = round_up(C, unit) - C
    if missing == 0:
        return w
    pads = ((0, 0), (0, missing), (0, 0), (0, 0))
    return w.derive((K, C + missing, R, S), w.dtype, lambda x: np.pad(x, pads), ("channels", unit))
