"""Orders of axes in memory: permutations, and what a Reshape does to them (see layout.py)."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Shape

Perm = tuple[int, ...]
Block = tuple[Perm, Perm]


def identity(rank: int) -> Perm:
    """ONNX order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """(0, 2, 3, 1) for images; (0, 3, 4, 1, 2) for channels split in two; (0, 2, 1) for sequences."""
    if rank < 3:
        return identity(rank)
    spatial = 1 if rank == 3 else 2
    return (0, *range(rank - spatial, rank), *range(1, rank - spatial))


def long_axes(axes: Sequence[int], shape: Shape) -> Perm:
    """Those longer than 1."""
    return tuple(a for a in axes if shape[a] != 1)


def complete(order: Perm, shape: Shape) -> Perm:
    """A perm of all axes whose axes longer than 1 come in the given order; a usual perm where one fits."""
    rank = len(shape)
    usual = [channels_last(rank), identity(rank)] if rank >= 4 else [identity(rank), channels_last(rank)]
    for perm in usual:
        if long_axes(perm, shape) == order:
            return perm
    perm_list = list(order)
    for a in range(rank):
        if shape[a] == 1:
            perm_list.insert(perm_list.index(a - 1) + 1 if a else 0, a)
    return tuple(perm_list)


def blocks(before: Shape, after: Shape) -> list[Block]:
    """The finest groups of axes longer than 1, in order, that a Reshape turns into one another."""
    a, b = long_axes(identity(len(before)), before), long_axes(identity(len(after)), after)
    if 0 in before or 0 in after:
        return [(a, b)]
    found: list[Block] = []
    i = j = i0 = j0 = 0
    left = right = 1
    while i < len(a) or j < len(b):
        if left <= right and i < len(a):
            left *= before[a[i]]
            i += 1
        else:
            right *= after[b[j]]
            j += 1
        if left == right:
            found.append((a[i0:i], b[j0:j]))
            i0, j0, left, right = i, j, 1, 1
    return found


def split_order(order: Perm, groups: Sequence[Perm]) -> list[int] | None:
    """The sequence of group numbers if `order` is those groups one after the other, each in its own order."""
    first = {g[0]: k for k, g in enumerate(groups) if g}
    sequence, i = [], 0
    while i < len(order):
        k = first.get(order[i])
        if k is None or order[i : i + len(groups[k])] != groups[k]:
            return None
        sequence.append(k)
        i += len(groups[k])
    return sequence
