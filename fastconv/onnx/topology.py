"""Order and reachability of a model's nodes; duplicate, missing and circular names are found here."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from fastconv.errors import ModelError
from fastconv.onnx.scan import NodeProto


def sort(nodes: list[NodeProto], known: Collection[str]) -> list[NodeProto]:
    """The nodes so that each comes after those that it reads from, in file order as far as possible.

    `known` are the names that are there before any node runs. ModelError for a name that is made twice, one that nobody
    makes, and a cycle.
    """
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        if not any(node.outputs):
            raise ModelError(f"{node.label}: it has no output")
        for name in node.outputs:
            if not name:
                continue
            if name in maker or name in known:
                raise ModelError(f"{node.label}: output {name!r} already exists")
            maker[name] = i
    sources = [_sources(node, maker, known) for node in nodes]
    if all(s < i for i, found in enumerate(sources) for s in found):
        return nodes
    readers: list[list[int]] = [[] for _ in nodes]
    for i, found in enumerate(sources):
        for s in found:
            readers[s].append(i)
    waiting = [len(found) for found in sources]
    ready = [i for i, n in enumerate(waiting) if n == 0]  # sorted, so already a heap
    order: list[NodeProto] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for r in readers[i]:
            waiting[r] -= 1
            if waiting[r] == 0:
                heapq.heappush(ready, r)
    if len(order) < len(nodes):
        stuck = next(nodes[i] for i, n in enumerate(waiting) if n > 0)
        raise ModelError(f"{stuck.label}: it is part of a cycle or behind one")
    return order


def _sources(node: NodeProto, maker: dict[str, int], known: Collection[str]) -> set[int]:
    found = set()
    for name in node.inputs:
        if name in maker:
            found.add(maker[name])
        elif name and name not in known:
            raise ModelError(f"{node.label}: input {name!r} is made by no node and is no input or initializer")
    return found


def reachable(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Those of the sorted nodes that the outputs need."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(o in wanted for o in node.outputs if o):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
