"""The passes: functions from Graph to Graph, and the memory plan of the final one."""

from __future__ import annotations

from ..graph import Graph
from .dead import remove_dead
from .fuse import fuse
from .layout import to_channels_last
from .memory import MemoryPlan, Place, plan_memory
from .norms import restore_norms
from .patterns import restore_activations
from .simplify import simplify

__all__ = [
    "MemoryPlan",
    "Place",
    "fuse",
    "optimize",
    "optimize_logical",
    "plan_memory",
    "remove_dead",
    "restore_activations",
    "restore_norms",
    "simplify",
    "to_channels_last",
]


def optimize_logical(graph: Graph) -> Graph:
    """The passes that keep ONNX axis order: clean-up, activations, fusion. `graph` is not changed."""
    return fuse(restore_norms(restore_activations(simplify(remove_dead(graph)))))


def optimize(graph: Graph) -> Graph:
    """The physical graph (see `layout`) that the compiler turns into a Plan.

    The clean-up and fusion run again after the layout: it removes the Transposes that stood between their partners.
    """
    physical = to_channels_last(optimize_logical(graph))
    return fuse(simplify(physical, channels_last=True), channels_last=True)
