"""Checks of an ONNX node while it is built: errors that name it, shapes that can exist, axes and lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.graph import Shape
from fastconv.onnx.scan import NodeProto

MAX_BYTES: Final = 1 << 40
MAX_INT: Final = (1 << 31) - 1  # of strides, pads and the like
MAX_RANK: Final = 8


def short(text: str) -> str:
    """A message that does not repeat a list of 60000 numbers."""
    return text if len(text) <= 600 else f"{text[:500]} ... ({len(text)} characters)"


class Checks:
    """The node that is being built, and what is checked of it."""

    def __init__(self) -> None:
        self._node: NodeProto | None = None
        self._name = ""

    # -- where we are -----------------------------------------------------------------------------------------
    def enter(self, node: NodeProto) -> None:
        """From now on build for this node."""
        self._node = node
        self._name = node.name or next((o for o in node.outputs if o), "")

    @property
    def node(self) -> NodeProto:
        assert self._node is not None
        return self._node

    def fail(self, problem: str) -> NoReturn:
        """The model is wrong here."""
        raise ModelError(f"{self.node.label}: {short(problem)}")

    def unsupported(self, problem: str) -> NoReturn:
        """The model is right, but fastconv cannot do this."""
        raise UnsupportedOpError(f"{self.node.label}: {short(problem)}")

    def check(self, condition: bool, problem: str) -> None:
        """Fail unless the condition holds. For texts that are cheap to make."""
        if not condition:
            self.fail(problem)

    # -- shapes and numbers -----------------------------------------------------------------------------------
    def shape(self, shape: Sequence[int], item: int = 4) -> Shape:
        """A shape that can exist: no negative dims, not above MAX_BYTES."""
        n = item
        for d in shape:
            if d < 0:
                self.fail(f"output shape {tuple(shape)} has a negative dimension")
            n *= max(d, 1)
        if n > MAX_BYTES:
            self.fail(f"output shape {tuple(shape)} asks for more than 2^40 bytes")
        if len(shape) > MAX_RANK:
            self.unsupported(f"output rank {len(shape)} is above {MAX_RANK}")
        return tuple(shape)

    def axis(self, axis: int, rank: int, what: str = "axis") -> int:
        """A non-negative axis; negative ones count from the end."""
        if not -rank <= axis < rank:
            self.fail(f"{what} {axis} is out of range for rank {rank}")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Sorted non-negative axes without duplicates."""
        if len(axes) > rank:
            self.fail(f"{len(axes)} axes, but the rank is {rank}")
        out = sorted(self.axis(a, rank) for a in axes)
        if len(set(out)) != len(out):
            self.fail(f"axes {tuple(axes)} repeat an axis (rank {rank})")
        return tuple(out)

    def positive(self, values: Sequence[int] | None, count: int, default: int, what: str) -> tuple[int, ...]:
        """A list attribute of `count` numbers in 1 .. 2^31 - 1."""
        if values is None:
            return (default,) * count
        if len(values) != count:
            self.fail(f"{what} {tuple(values)} has {len(values)} numbers, expected {count}")
        if not all(1 <= v <= MAX_INT for v in values):
            self.fail(f"{what} {tuple(values)}: expected numbers from 1 to {MAX_INT}")
        return tuple(values)

    def broadcast(self, *shapes: Shape) -> Shape:
        """numpy's broadcast shape."""
        rank = max(len(s) for s in shapes)
        out = [1] * rank
        for s in shapes:
            for i, d in enumerate(s, rank - len(s)):
                if d != 1 and out[i] not in (1, d):
                    self.fail(f"shapes {' and '.join(map(str, shapes))} do not broadcast")
                if d != 1:
                    out[i] = d
        return self.shape(out)
