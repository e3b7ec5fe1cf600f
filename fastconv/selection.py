"""Which algorithm computes each convolution: the cost model's choice, or what was measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from . import _core
from .errors import DeviceError
from .graph import Node

if TYPE_CHECKING:
    from .tuning import Tuning


DEFAULT_WINOGRAD: int = _core.DEFAULT_WINOGRAD
LARGEST_WINOGRAD: int = _core.LARGEST_WINOGRAD
RUN_TIME_WINOGRAD = 4  # the largest m of weights that are packed at run time


class Shape(NamedTuple):
    """All that the choice looks at. Sizes as in a physical graph (N H W C); pads are top, left, bottom, right."""

    N: int
    H: int
    W: int
    C: int
    K: int
    P: int
    Q: int
    R: int
    S: int
    groups: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def core(self) -> _core.ConvShape:
        return _core.ConvShape(**self._asdict())


class Choice(NamedTuple):
    """An algorithm (gemm, implicit, row_run, depthwise, winograd, grouped) and the m of Winograd's F(m x m, r x r),
    else 0."""

    algorithm: str
    m: int = 0


@dataclass(frozen=True)
class Chosen:
    """A choice, the seconds that it should take on one thread, and who says so: "model" or "tuned"."""

    choice: Choice
    seconds: float
    source: str


@dataclass(frozen=True)
class Selection:
    """What decides the algorithms of a model. Without `tuning` that is shape and instruction set alone.

    strict: none whose rounding error is larger than that of direct summation. winograd: the largest m of Winograd's
    F(m x m, 3 x 3).
    """

    isa: _core.Isa
    strict: bool = False
    winograd: int = DEFAULT_WINOGRAD
    tuning: Tuning | None = None

    def candidates(self, shape: Shape, *, constant: bool = True) -> list[Choice]:
        """What may compute a shape; constant: whether its weights are, else they are packed at run time."""
        return [Choice(*c) for c in _core.conv2d_candidates(shape.core, self.isa, self._largest(shape, constant))]

    def choose(self, shape: Shape, *, constant: bool = True) -> Chosen:
        """The choice for a shape; for one that was not measured, the cost model's."""
        measured = self.tuning.seconds(shape, self.isa) if self.tuning is not None else {}
        if measured:
            allowed = [(s, c) for c in self.candidates(shape, constant=constant) if (s := measured.get(c)) is not None]
            if allowed:
                seconds, choice = min(allowed)
                return Chosen(choice, seconds, "tuned")
        core = shape.core
        choice = Choice(*_core.choose_conv2d(core, self.isa, self._largest(shape, constant)))
        return Chosen(choice, expected(shape, choice, self.isa), "model")

    def _largest(self, shape: Shape, constant: bool) -> int:
        """The largest m of Winograd's forms; the kernel that packs at run time knows r x r and m up to 4."""
        if self.strict or (not constant and _core.winograd_axes(shape.R, shape.S) != 0):
            return 0
        return self.winograd if constant else min(self.winograd, RUN_TIME_WINOGRAD)


def expected(shape: Shape, choice: Choice, isa: _core.Isa) -> float:
    """Seconds of one thread that the cost model expects; 0 for an empty batch."""
    if min(shape.N, shape.P, shape.Q) < 1:
        return 0.0
    return _core.conv2d_seconds(shape.core, *choice, isa)


def choice_name(choice: Choice, R: int, S: int) -> str:
    """As `fastconv inspect` shows it: F(4x4,3x3) for Winograd, else the algorithm."""
    if choice.algorithm != "winograd":
        return choice.algorithm
    return f"F({choice.m if R > 1 else 1}x{choice.m if S > 1 else 1},{R}x{S})"


def shape_of(node: Node) -> Shape:
    """The shape of a Conv in a physical graph."""
    a = node.attrs
    N, H, W, C = node.input(0).shape
    if "x_perm" in a:
        N, H, W, C = (node.input(0).shape[i] for i in a["x_perm"])
    _, P, Q, K = node.output.shape
    P, Q = a.get("pooled", (P, Q))
    R, S = node.input(1).shape[2:]
    return Shape(
        N, H, W, C, K, P, Q, R, S, a["group"], tuple(a["strides"]), tuple(a["dilations"]), tuple(a["pads"])
    )  # fmt: skip


def check_winograd(value: int) -> int:
    """`value` if it is an m that models may be loaded with, else DeviceError."""
    allowed = (DEFAULT_WINOGRAD, LARGEST_WINOGRAD)
    if isinstance(value, bool) or value not in allowed:
        raise DeviceError(f"winograd={value!r}: expected {' or '.join(map(str, sorted(set(allowed))))}")
    return int(value)
