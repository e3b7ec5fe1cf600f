"""The memory plan: where each value of a physical graph lies, decided once, so that a run allocates nothing.

A tensor in memory is rows of its last axis: element (row, column) lies at `offset + 4 * (row * ld + column)`,
rows counting all other axes together; dense means ld = shape[-1]. A Place names the buffer: the arena (base None), or
the caller's memory of a graph input, state or output (base is that Value). Graph outputs are dense in their own memory.

Values share a *region*, one piece of memory with one lifetime:
    Concat   each input is written into its slice of the result (last axis, or an axis with only 1s before it). A Concat
             whose inputs already lie one after the other in a later Concat is a view of it (DenseNet is one region).
    Reshape  the same memory. Changing the last axis needs dense rows on both sides.
    Slice    of step 1 on the last axis, or on an axis with only 1s before it: the same memory, no copy.
    in place an element-wise node, or the residual of a Conv or Gemm, writes over the operand that dies there.

What could not share is in `copies`: node -> the input indices that the node must copy into its output. Concat, Reshape
and Slice cost nothing without an entry. No other node is in `copies`; op Copy always copies, into memory of its own or
the slice of a Concat. A Reshape in `copies` has a dense side. Nodes run in the graph's order. Sharing is settled from
the last node to the first, since later Concats contain earlier ones; then in place; then `arena.py` gives each region
an offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..graph import Graph, Node, Value
from .arena import Interval, assign_offsets, peak_bytes
from .regions import FOREVER, Region, Slot, leads, overlap, row_count, row_width
from .rewrite import BINARY, UNARY

VIEWS = frozenset(("Concat", "Reshape", "Slice"))
ITEM = 4  # bytes of an element: whatever the dtype, memory holds float32


@dataclass(frozen=True)
class Place:
    """Bytes from the start of `base` (None: the arena), and the distance of rows in elements."""

    offset: int
    ld: int
    base: Value | None = None

    @property
    def external(self) -> bool:
        return self.base is not None


@dataclass
class MemoryPlan:
    """`places` holds every value that a node makes; `regions` (first node, last node, bytes) is for reports."""

    arena_bytes: int = 0
    places: dict[Value, Place] = field(default_factory=dict)
    copies: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    workspaces: dict[Node, int] = field(default_factory=dict)
    regions: list[Interval] = field(default_factory=list)

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at one node: no arrangement of these regions can need less."""
        return peak_bytes(self.regions)


def plan_memory(graph: Graph) -> MemoryPlan:
    """The plan of a physical graph, as `layout` makes it: each output is made by a node, none is listed twice."""
    return _Planner(graph).plan()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.copies: dict[Node, tuple[int, ...]] = {}
        self.slots: dict[Value, Slot] = {}
        self.producer: dict[Value, Node] = {}
        for v in [*graph.inputs, *graph.states]:
            self._found(v).lives(-1, -1)
            self.region(v).base = v
        for i, node in enumerate(graph.nodes):
            for u in node.inputs:
                if u is not None and not u.is_const:
                    self.slot(u).lives(i, i)
            for v in node.outputs:
                self.producer[v] = node
                self._found(v).lives(i, i)
            if node.op == "Reshape" and not node.input(0).is_const:
                for v in (node.input(0), node.output):
                    self.slot(v).reshapes.append(node)
        for v in graph.outputs:
            if v not in self.producer or self.region(v).base is not None:
                raise ValueError(f"output {v.name!r} must be made by a node and be listed once")
            self.region(v).base = v
            self.slot(v).lives(FOREVER, FOREVER)

    def _found(self, v: Value) -> Slot:
        (slot,) = Region(v).slots.values()
        self.slots[v] = slot
        return slot

    def plan(self) -> MemoryPlan:
        for node in reversed(self.graph.nodes):
            if node.op == "Concat":
                self._share_concat(node)
            elif node.op in VIEWS:
                shared = self._share_reshape(node) if node.op == "Reshape" else self._share_slice(node)
                if not shared:
                    self.copies[node] = (0,)
        for i, node in enumerate(self.graph.nodes):
            self._share_in_place(node, i)
        return self._assign()

    # -- regions ------------------------------------------------------------------------------------------------
    def slot(self, v: Value) -> Slot:
        slot = self.slots[v]
        while slot.merged is not None:
            if slot.merged.merged is not None:
                slot.merged = slot.merged.merged
            slot = slot.merged
        self.slots[v] = slot
        return slot

    def region(self, v: Value) -> Region:
        return self.slot(v).region

    def spot(self, v: Value) -> tuple[int, int]:
        """Offset in its region and ld, in elements."""
        slot = self.slot(v)
        return slot.at, slot.ld

    def dense(self, v: Value) -> bool:
        slot = self.slot(v)
        return slot.ld == slot.width or slot.rows <= 1

    def _fills(self, v: Value) -> bool:
        """True if v is all of its region."""
        r = self.region(v)
        return self.spot(v)[0] == 0 and v.size == r.rows * r.width

    def _movable(self, v: Value) -> bool:
        return self.region(v).base is None and self._fills(v)

    def _move(self, v: Value, into: Region, offset: int, ld: int) -> bool:
        """Let v, which fills its region, and all that shares it, lie in `into` from `offset`, v's rows `ld` apart.

        False, and nothing has changed, where a value of the region cannot follow.
        """
        slot = self.slot(v)
        moved = slot.region
        if moved is into:
            return False
        if slot.ld == ld or slot.rows <= 1:
            # All keep their rows, whatever they are. One row lies anywhere, but its ld still covers it.
            cover = ld if moved.rows <= 1 else 0
            supple = moved.supple and moved.width == ld
            if offset == 0 and cover <= moved.width and len(moved.slots) > len(into.slots):
                self._absorb(moved, into, into.supple and supple and ld == into.width)
                return True
            spots = [
                (s, offset + s.at, max(s.ld, cover) if s.ld == moved.width else s.ld) for s in moved.slots.values()
            ]
        elif moved.supple:
            width = max(moved.width, 1)
            supple = True
            spots = [(s, offset + s.at // width * ld + s.at % width, ld) for s in moved.slots.values()]
            if not self._reshapes_stay_dense(spots, into):
                return False
        else:
            return False
        into.supple = into.supple and supple and ld == into.width
        into.lives_with(moved)
        for s, at, own in spots:
            into.take(s, at, own)
        return True

    def _absorb(self, large: Region, small: Region, supple: bool) -> None:
        """Move the values of `large`, where they are, into `small`: the fewer slots change their region object."""
        large.base, large.width, large.rows, large.supple = small.base, small.width, small.rows, supple
        large.lives_with(small)
        for s in small.slots.values():
            large.take(s, s.at, s.ld)

    def _reshapes_stay_dense(self, spots: list[tuple[Slot, int, int]], into: Region) -> bool:
        """Whether each Reshape at these new spots still has a dense side, or two sides at one spot."""
        moved = {s: (at, ld) for s, at, ld in spots}
        for s, at, ld in spots:
            if ld == s.width or s.rows <= 1:
                continue
            for node in s.reshapes:
                for other in (self.slot(node.input(0)), self.slot(node.output)):
                    there, own = moved.get(other, (other.at, other.ld))
                    if other is s or own == other.width or other.rows <= 1:
                        continue
                    together = other in moved or other.region is into
                    if not together or (there, own, other.rows, other.width) != (at, ld, s.rows, s.width):
                        return False
        return True

    # -- views --------------------------------------------------------------------------------------------------
    def _share_concat(self, node: Node) -> None:
        y, axis = node.output, node.attrs["axis"]
        inputs = [v for v in node.inputs if v is not None]
        last = axis == y.rank - 1
        if not last and not leads(y.shape, axis):
            self.copies[node] = tuple(range(len(inputs)))
            return
        inner = 1 if last else math.prod(y.shape[axis + 1 : -1])  # elements, or rows, per step of the axis
        self._try_view(node, inputs, inner, last)
        start, ld = self.spot(y)
        copied, at = [], 0
        for i, v in enumerate(inputs):
            target = start + at * (1 if last else inner * ld)
            at += v.shape[axis]
            if not self._put(v, self.region(y), target, ld):
                copied.append(i)
        if copied:
            self.copies[node] = tuple(copied)

    def _try_view(self, node: Node, inputs: list[Value], inner: int, last: bool) -> None:
        """Let the result be a view where all inputs lie consecutively in one region already."""
        y, axis = node.output, node.attrs["axis"]
        if not self._movable(y) or any(v.is_const for v in inputs):
            return
        region, (start, ld) = self.region(inputs[0]), self.spot(inputs[0])
        at = 0
        for v in inputs:
            if self.region(v) is not region or self.spot(v) != (start + at * (1 if last else inner * ld), ld):
                return
            at += v.shape[axis]
        self._move(y, region, start, ld)

    def _put(self, v: Value, region: Region, offset: int, ld: int) -> bool:
        """Have v written at `offset` of `region`: True if it is or will be there."""
        if v.is_const:
            return False
        if self.region(v) is region:
            at, own = self.spot(v)
            return at == offset and (own == ld or row_count(v.shape) == 1)
        return v in self.producer and self._movable(v) and self._move(v, region, offset, ld)

    def _share_reshape(self, node: Node) -> bool:
        x, y = node.input(0), node.output
        if x.is_const:
            return False
        same_rows = row_width(x.shape) == row_width(y.shape)
        if self.region(x) is self.region(y):
            return False
        if self._movable(y) and (same_rows or self.dense(x)):
            return self._alias(y, x, same_rows)
        if x in self.producer and self._movable(x) and (same_rows or self.dense(y)):
            return self._alias(x, y, same_rows)
        return False

    def _alias(self, moved: Value, fixed: Value, same_rows: bool) -> bool:
        """Put `moved`, which fills its region, where `fixed` lies."""
        offset, ld = self.spot(fixed)
        return self._move(moved, self.region(fixed), offset, ld if same_rows else row_width(moved.shape))

    def _sliceable(self, node: Node) -> bool:
        """True if the slice is a block of rows and columns."""
        x, y = node.input(0), node.output
        cut = [a for a in range(x.rank) if x.shape[a] != y.shape[a]]
        if any(t != 1 for t, d in zip(node.attrs["steps"], y.shape, strict=True) if d > 1):
            return False
        outer = [a for a in cut if a != x.rank - 1]
        return len(outer) == 0 or (len(outer) == 1 and leads(x.shape, outer[0]))

    def _share_slice(self, node: Node) -> bool:
        x, y, starts = node.input(0), node.output, node.attrs["starts"]
        if x.is_const or not self._sliceable(node) or not self._movable(y):
            return False
        offset, ld = self.spot(x)
        for a in range(x.rank - 1):
            if x.shape[a] != y.shape[a]:
                offset += starts[a] * math.prod(x.shape[a + 1 : -1]) * ld
        return self._move(y, self.region(x), offset + (starts[-1] if x.rank else 0), ld)

    # -- in place -----------------------------------------------------------------------------------------------
    def _share_in_place(self, node: Node, i: int) -> None:
        if not node.outputs:
            return
        y = node.output
        for k in _overwritable(node):
            x = node.inputs[k]
            if x is None or x.is_const or x.shape != y.shape or x.dtype != y.dtype or self.region(x) is self.region(y):
                continue
            # x + x may overwrite x; a Conv may not overwrite a residual that is its image too
            others = [v for j, v in enumerate(node.inputs) if j != k and v is not None and (v is not x or k == 3)]
            joins = self._joins(x, y)
            if joins and self._may_overwrite(x, y, i, others):
                for moved, fixed in joins:
                    if self._move(moved, self.region(fixed), *self.spot(fixed)):
                        return

    def _joins(self, x: Value, y: Value) -> list[tuple[Value, Value]]:
        """The pairs (moved, fixed) by which x and y might come together."""
        rx, ry = self.region(x), self.region(y)
        pairs = []
        # Never let a large region wait long for a small one.
        if self._movable(x) and (self._fills(y) or ry.base is not None or ry.born <= rx.born + 2):
            pairs.append((x, y))
        if self._movable(y) and rx.dies >= ry.dies:
            pairs.append((y, x))
        return pairs

    def _may_overwrite(self, x: Value, y: Value, i: int, others: list[Value]) -> bool:
        """Nothing that overlaps x lives on after node i or is another operand; nothing at y's place lived before."""
        sx, sy = self.slot(x), self.slot(y)
        rx, ry = sx.region, sy.region
        if rx.base is not None and rx.base not in self.producer:
            return False  # the caller's input
        for v in others:
            if not v.is_const and self.region(v) is rx and overlap(self.slot(v), sx):
                return False
        if rx.dies > i and any(s.dies > i and overlap(s, sx) for s in rx.slots.values()):
            return False
        return ry.born >= i or not any(s.born < i and (s is sy or overlap(s, sy)) for s in ry.slots.values())

    # -- offsets ------------------------------------------------------------------------------------------------
    def _assign(self) -> MemoryPlan:
        regions = {id(r): r for r in map(self.region, self.slots)}
        intervals: list[Interval] = []
        where: dict[int, int] = {}
        for key, r in regions.items():
            if r.base is None:
                where[key] = len(intervals)
                intervals.append(Interval(r.born, r.dies, ITEM * r.rows * r.width))
        spaces: dict[Node, int] = {}
        for i, node in enumerate(self.graph.nodes):
            size = int(node.attrs.get("workspace_bytes", 0))
            if size > 0:
                spaces[node] = len(intervals)
                intervals.append(Interval(i, i, size))
        offsets, total = assign_offsets(intervals)
        plan = MemoryPlan(arena_bytes=total, copies=self.copies, regions=intervals)
        for v in self.producer:
            r, (at, ld) = self.region(v), self.spot(v)
            start = offsets[where[id(r)]] if r.base is None else 0
            plan.places[v] = Place(start + ITEM * at, ld, r.base)
        plan.workspaces = {node: offsets[k] for node, k in spaces.items()}
        return plan


def _overwritable(node: Node) -> tuple[int, ...]:
    """The inputs that the node may overwrite, element by element, as it writes its output."""
    if node.op in UNARY or node.op == "Affine":
        return (0,)
    if node.op in BINARY or node.op in ("UnaryBackward", "SoftmaxBackward", "LogSoftmaxBackward", "BatchNormBackward"):
        return (0, 1)
    if node.op == "Dropout":
        return (0,)
    return (3,) if node.op in ("Conv", "Gemm") and len(node.inputs) > 3 else ()
