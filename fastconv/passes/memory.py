"""The memory plan: where each value of a physical graph lies, decided once, so that a run allocates nothing.

A tensor in memory is rows of its last axis: element (row, column) lies at `offset + itemsize * (row * ld + column)`,
rows counting all other axes together; dense means ld = shape[-1]. A Place names the buffer: the arena (base None), or
the caller's memory of a graph input or output (base is that Value). Graph outputs are dense in their own memory.

Values share a *region*, one piece of memory with one lifetime:
    Concat   each input is written into its slice of the result (last axis, or an axis with only 1s before it). A Concat
             whose inputs already lie one after the other in a later Concat is a view of it (DenseNet is one region).
    Reshape  the same memory. Changing the last axis needs dense rows on both sides.
    Slice    of step 1 on the last axis, or on an axis with only 1s before it: the same memory, no copy.
    in place an element-wise node, or the residual of a Conv or Gemm, writes over the operand that dies there.

What could not share is in `copies`: node -> the input indices that the node must copy into its output. Concat, Reshape
and Slice cost nothing without an entry. No other node is in `copies`; op Copy always copies. Nodes run in the graph's
order. Sharing is settled from the last node to the first, since later Concats contain earlier ones; then in place; then
`arena.py` gives each region an offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..graph import Graph, Node, Shape, Value
from .arena import Interval, assign_offsets, peak_bytes
from .rewrite import BINARY, UNARY

VIEWS = frozenset(("Concat", "Reshape", "Slice"))
_FOREVER = 1 << 60


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


# -- shapes as rows ---------------------------------------------------------------------------------------------
def _width(shape: Shape) -> int:
    return shape[-1] if shape else 1


def _rows(shape: Shape) -> int:
    return math.prod(shape[:-1])


def _leads(shape: Shape, axis: int) -> bool:
    """True if only axes of size 1 come before `axis`: its parts are blocks of whole rows."""
    return math.prod(shape[:axis]) == 1


class _Region:
    """Memory that values share. While `supple`, every member has ld = width and all move together to another ld."""

    __slots__ = ("base", "members", "rows", "supple", "width")

    def __init__(self, v: Value) -> None:
        self.base: Value | None = None
        self.width, self.rows = _width(v.shape), _rows(v.shape)
        self.supple = True
        self.members: dict[Value, tuple[int, int]] = {v: (0, self.width)}  # offset and ld in elements


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.copies: dict[Node, tuple[int, ...]] = {}
        self.born: dict[Value, int] = {}
        self.dies: dict[Value, int] = {}
        self.region: dict[Value, _Region] = {}
        self.producer: dict[Value, Node] = {}
        for v in graph.inputs:
            self.born[v] = -1
            self._found(v).base = v
        for i, node in enumerate(graph.nodes):
            for u in node.inputs:
                if u is not None and not u.is_const:
                    self.dies[u] = i
            for v in node.outputs:
                self.born[v] = self.dies[v] = i
                self.producer[v] = node
                self._found(v)
        for v in graph.outputs:
            if v not in self.producer or self.region[v].base is not None:
                raise ValueError(f"output {v.name!r} must be made by a node and be listed once")
            self.region[v].base = v
            self.dies[v] = _FOREVER

    def _found(self, v: Value) -> _Region:
        return self.region.setdefault(v, _Region(v))

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
    def spot(self, v: Value) -> tuple[int, int]:
        """Offset in its region and ld, in elements."""
        return self.region[v].members[v]

    def dense(self, v: Value) -> bool:
        return self.spot(v)[1] == _width(v.shape) or _rows(v.shape) <= 1

    def _fills(self, v: Value) -> bool:
        """True if v is all of its region."""
        r = self.region[v]
        return self.spot(v)[0] == 0 and v.size == r.rows * r.width

    def _movable(self, v: Value) -> bool:
        return self.region[v].base is None and self._fills(v)

    def _move(self, moved: _Region, into: _Region, offset: int, ld: int) -> bool:
        """Let all of `moved` lie in `into` from `offset` with row distance `ld`; False where a member cannot."""
        if moved is into:
            return False
        if ld != moved.width and moved.rows > 1:
            if not moved.supple:
                return False
            restrided = {
                v: (offset + at // moved.width * ld + at % moved.width, ld) for v, (at, _) in moved.members.items()
            }
        else:
            restrided = {  # one row lies anywhere, but its ld still covers it
                v: (offset + at, own if own != moved.width else max(own, ld)) for v, (at, own) in moved.members.items()
            }
        into.supple = into.supple and ld == into.width and all(own == ld for _, own in restrided.values())
        into.members.update(restrided)
        for v in restrided:
            self.region[v] = into
        return True

    # -- views --------------------------------------------------------------------------------------------------
    def _share_concat(self, node: Node) -> None:
        y, axis = node.output, node.attrs["axis"]
        inputs = [v for v in node.inputs if v is not None]
        last = axis == y.rank - 1
        if not last and not _leads(y.shape, axis):
            self.copies[node] = tuple(range(len(inputs)))
            return
        inner = 1 if last else math.prod(y.shape[axis + 1 : -1])  # elements, or rows, per step of the axis
        self._try_view(node, inputs, inner, last)
        start, ld = self.spot(y)
        copied, at = [], 0
        for i, v in enumerate(inputs):
            target = start + at * (1 if last else inner * ld)
            at += v.shape[axis]
            if not self._put(v, self.region[y], target, ld):
                copied.append(i)
        if copied:
            self.copies[node] = tuple(copied)

    def _try_view(self, node: Node, inputs: list[Value], inner: int, last: bool) -> None:
        """Let the result be a view where all inputs lie consecutively in one region already."""
        y, axis = node.output, node.attrs["axis"]
        if not self._movable(y) or any(v.is_const for v in inputs):
            return
        region, (start, ld) = self.region[inputs[0]], self.spot(inputs[0])
        at = 0
        for v in inputs:
            if self.region[v] is not region or self.spot(v) != (start + at * (1 if last else inner * ld), ld):
                return
            at += v.shape[axis]
        self._move(self.region[y], region, start, ld)

    def _put(self, v: Value, region: _Region, offset: int, ld: int) -> bool:
        """Have v written at `offset` of `region`: True if it is or will be there."""
        if v.is_const:
            return False
        if self.region[v] is region:
            at, own = self.spot(v)
            return at == offset and (own == ld or _rows(v.shape) == 1)
        return v in self.producer and self._movable(v) and self._move(self.region[v], region, offset, ld)

    def _share_reshape(self, node: Node) -> bool:
        x, y = node.input(0), node.output
        if x.is_const:
            return False
        same_rows = _width(x.shape) == _width(y.shape)
        if self.region[x] is self.region[y]:
            return False
        if self._movable(y) and (same_rows or self.dense(x)):
            return self._alias(y, x, same_rows)
        if x in self.producer and self._movable(x) and (same_rows or self.dense(y)):
            return self._alias(x, y, same_rows)
        return False

    def _alias(self, moved: Value, fixed: Value, same_rows: bool) -> bool:
        """Put `moved`, which fills its region, where `fixed` lies."""
        offset, ld = self.spot(fixed)
        return self._move(self.region[moved], self.region[fixed], offset, ld if same_rows else _width(moved.shape))

    def _sliceable(self, node: Node) -> bool:
        """True if the slice is a block of rows and columns."""
        x, y = node.input(0), node.output
        cut = [a for a in range(x.rank) if x.shape[a] != y.shape[a]]
        if any(t != 1 for t, d in zip(node.attrs["steps"], y.shape, strict=True) if d > 1):
            return False
        outer = [a for a in cut if a != x.rank - 1]
        return len(outer) == 0 or (len(outer) == 1 and _leads(x.shape, outer[0]))

    def _share_slice(self, node: Node) -> bool:
        x, y, starts = node.input(0), node.output, node.attrs["starts"]
        if x.is_const or not self._sliceable(node) or not self._movable(y):
            return False
        offset, ld = self.spot(x)
        for a in range(x.rank - 1):
            if x.shape[a] != y.shape[a]:
                offset += starts[a] * math.prod(x.shape[a + 1 : -1]) * ld
        return self._move(self.region[y], self.region[x], offset + (starts[-1] if x.rank else 0), ld)

    # -- in place -----------------------------------------------------------------------------------------------
    def _share_in_place(self, node: Node, i: int) -> None:
        y = node.output
        for k in _overwritable(node):
            x = node.inputs[k]
            if x is None or x.is_const or x.shape != y.shape or x.dtype != y.dtype or self.region[x] is self.region[y]:
                continue
            # x + x may overwrite x; a Conv may not overwrite a residual that is its image too
            others = [v for j, v in enumerate(node.inputs) if j != k and v is not None and (v is not x or k == 3)]
            if self._may_overwrite(x, y, i, others) and self._join_in_place(x, y, i):
                return

    def _may_overwrite(self, x: Value, y: Value, i: int, others: list[Value]) -> bool:
        """Nothing that overlaps x lives on after node i or is another operand; nothing at y's place lived before."""
        rx, ry = self.region[x], self.region[y]
        if rx.base is not None and rx.base not in self.producer:
            return False  # the caller's input
        for v in rx.members:
            if self._overlap(v, x) and (self.dies[v] > i or v in others):
                return False
        return all(self.born[v] >= i for v in ry.members if v is y or self._overlap(v, y))

    def _overlap(self, a: Value, b: Value) -> bool:
        """Whether two members of one region may share bytes; exact for equal ld, by their extents otherwise."""
        (oa, la), (ob, lb) = self.spot(a), self.spot(b)
        ea = oa + (_rows(a.shape) - 1) * la + _width(a.shape)
        eb = ob + (_rows(b.shape) - 1) * lb + _width(b.shape)
        if ea <= ob or eb <= oa:
            return False
        if la != lb or la <= 0:
            return True
        ca, cb = oa % la, ob % la
        if ca + _width(a.shape) > la or cb + _width(b.shape) > la:
            return True
        return ca < cb + _width(b.shape) and cb < ca + _width(a.shape)

    def _life(self, r: _Region) -> tuple[int, int]:
        return min(self.born[v] for v in r.members), max(self.dies[v] for v in r.members)

    def _join_in_place(self, x: Value, y: Value, i: int) -> bool:
        rx, ry = self.region[x], self.region[y]
        if self._movable(x):
            small = self._fills(y) or ry.base is not None
            begin = self._life(rx)[0]
            if small or self._life(ry)[0] <= begin + 2:  # never let a large region wait long for a small one
                offset, ld = self.spot(y)
                return self._move(rx, ry, offset, ld)
        if self._movable(y) and self._life(rx)[1] >= self._life(ry)[1]:
            offset, ld = self.spot(x)
            return self._move(ry, rx, offset, ld)
        return False

    # -- offsets ------------------------------------------------------------------------------------------------
    def _assign(self) -> MemoryPlan:
        regions = {id(r): r for r in self.region.values()}
        intervals: list[Interval] = []
        where: dict[int, int] = {}
        for key, r in regions.items():
            if r.base is None:
                first, last = self._life(r)
                item = max(v.dtype.itemsize for v in r.members)
                where[key] = len(intervals)
                intervals.append(Interval(first, last, r.rows * r.width * item))
        spaces: dict[Node, int] = {}
        for i, node in enumerate(self.graph.nodes):
            size = int(node.attrs.get("workspace_bytes", 0))
            if size > 0:
                spaces[node] = len(intervals)
                intervals.append(Interval(i, i, size))
        offsets, total = assign_offsets(intervals)
        plan = MemoryPlan(arena_bytes=total, copies=self.copies, regions=intervals)
        for v in self.producer:
            r = self.region[v]
            at, ld = r.members[v]
            start = offsets[where[id(r)]] if r.base is None else 0
            plan.places[v] = Place(start + at * v.dtype.itemsize, ld, r.base)
        plan.workspaces = {node: offsets[k] for node, k in spaces.items()}
        return plan


def _overwritable(node: Node) -> tuple[int, ...]:
    """The inputs that the node may overwrite, element by element, as it writes its output."""
    if node.op in UNARY or node.op in ("Affine", "Copy"):
        return (0,)
    if node.op in BINARY:
        return (0, 1)
    return (3,) if node.op in ("Conv", "Gemm") and len(node.inputs) > 3 else ()
