"""Regions: pieces of memory that values of a physical graph share, and the slots in them (see memory.py)."""

from __future__ import annotations

import math

from ..graph import Node, Shape, Value

FOREVER = 1 << 60


# -- shapes as rows ---------------------------------------------------------------------------------------------
def row_width(shape: Shape) -> int:
    """Elements of a row: the last axis."""
    return shape[-1] if shape else 1


def row_count(shape: Shape) -> int:
    """Rows: all other axes."""
    return math.prod(shape[:-1])


def leads(shape: Shape, axis: int) -> bool:
    """True if only axes of size 1 come before `axis`: its parts are blocks of whole rows."""
    return math.prod(shape[:axis]) == 1


class Slot:
    """A place in a region, and all values of one row count and width that lie exactly there."""

    __slots__ = ("at", "born", "dies", "ld", "merged", "region", "reshapes", "rows", "width")

    def __init__(self, v: Value, region: Region) -> None:
        self.at, self.ld = 0, row_width(v.shape)  # in elements
        self.rows, self.width = row_count(v.shape), row_width(v.shape)
        self.born, self.dies = FOREVER, -1
        self.reshapes: list[Node] = []  # that read or write a value here
        self.region = region
        self.merged: Slot | None = None  # the slot that took over

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.at, self.ld, self.rows, self.width

    @property
    def end(self) -> int:
        return self.at + (self.rows - 1) * self.ld + self.width

    def lives(self, born: int, dies: int) -> None:
        for owner in (self, self.region):
            owner.born, owner.dies = min(owner.born, born), max(owner.dies, dies)


class Region:
    """Memory that values share. While `supple`, every slot has ld = width and all move together to another ld."""

    __slots__ = ("base", "born", "dies", "rows", "slots", "supple", "width")

    def __init__(self, v: Value) -> None:
        self.base: Value | None = None
        self.width, self.rows = row_width(v.shape), row_count(v.shape)
        self.supple = True
        self.born, self.dies = FOREVER, -1
        slot = Slot(v, self)
        self.slots: dict[tuple[int, int, int, int], Slot] = {slot.key: slot}

    def lives_with(self, other: Region) -> None:
        self.born, self.dies = min(self.born, other.born), max(self.dies, other.dies)

    def take(self, slot: Slot, at: int, ld: int) -> None:
        """Let `slot` of another region lie here."""
        slot.at, slot.ld, slot.region = at, ld, self
        here = self.slots.setdefault(slot.key, slot)
        if here is slot:
            return
        slot.merged = here
        here.born, here.dies = min(here.born, slot.born), max(here.dies, slot.dies)
        if len(here.reshapes) < len(slot.reshapes):
            here.reshapes, slot.reshapes = slot.reshapes, here.reshapes
        here.reshapes += slot.reshapes


def overlap(a: Slot, b: Slot) -> bool:
    """Whether two slots of one region may share bytes; exact for equal ld, by their extents otherwise."""
    if a.end <= b.at or b.end <= a.at:
        return False
    ld = a.ld
    if ld != b.ld or ld <= 0:
        return True
    ca, cb = a.at % ld, b.at % ld
    if ca + a.width > ld or cb + b.width > ld:
        return True
    return ca < cb + b.width and cb < ca + a.width
