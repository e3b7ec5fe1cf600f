"""The branches of If: at load their names are made unique; when a graph is built the one taken becomes part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.onnx.scan import NodeProto

if TYPE_CHECKING:
    from fastconv._core import OnnxTensor

GRAPH: Final = 5  # AttributeProto.GRAPH


@dataclass(slots=True)
class Branch:
    """Nodes whose own names nobody else has; `captured` are the names from outside that they read."""

    nodes: list[NodeProto]
    initializers: dict[str, OnnxTensor]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]


def settle(nodes: list[NodeProto]) -> list[NodeProto]:
    """The same nodes; an If reads, beside its condition, all that its branches capture."""
    serial = iter(range(1 << 62))
    return [_settle(n, serial) for n in nodes]


def _settle(node: NodeProto, serial: Iterator[int]) -> NodeProto:
    graphs = {k: a for k, a in node.attributes.items() if a[0] == GRAPH}
    if not graphs:
        return node
    if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
        raise UnsupportedOpError(f"{node.label}: this operator is not supported")
    attributes = dict(node.attributes)
    captured: dict[str, None] = {}
    for key, (kind, raw, ref) in graphs.items():
        if ref or raw is None:
            raise UnsupportedOpError(f"{node.label}: attribute {key!r} is no graph of its own")
        branch = _branch(node, raw, serial)
        attributes[key] = (kind, branch, ref)
        captured.update(dict.fromkeys(branch.captured))
    inputs = (*node.inputs, *captured)
    return NodeProto(node.op_type, node.domain, node.overload, node.name, inputs, node.outputs, attributes, node.opset)


def _branch(node: NodeProto, raw: dict[str, Any], serial: Iterator[int]) -> Branch:
    if raw["inputs"]:
        raise ModelError(f"{node.label}: a branch has inputs {list(raw['inputs'])}, expected none")
    inner = [NodeProto(*n) for n in raw["nodes"]]
    tensors = {t.name: t for t in raw["initializers"]}
    own = {o for n in inner for o in n.outputs if o} | tensors.keys()
    suffix = f"//branch{next(serial)}"

    def rename(name: str) -> str:
        return name + suffix if name in own else name

    nodes: list[NodeProto] = []
    for n in inner:
        settled = _settle(_with(n, node.opset), serial)
        nodes.append(_renamed(settled, rename))
    read = [name for n in nodes for name in n.inputs] + list(map(rename, raw["outputs"]))
    mine = {o for n in nodes for o in n.outputs} | {rename(t) for t in tensors}
    captured = tuple(dict.fromkeys(name for name in read if name and name not in mine))
    return Branch(nodes, {rename(k): t for k, t in tensors.items()}, tuple(map(rename, raw["outputs"])), captured)


def _with(node: NodeProto, opset: int) -> NodeProto:
    node.opset = opset
    return node


def _renamed(node: NodeProto, rename: Callable[[str], str]) -> NodeProto:
    """Also in the branches that the node has itself: they capture names of this level."""
    attributes = {}
    for key, (kind, value, ref) in node.attributes.items():
        if isinstance(value, Branch):
            value = Branch(
                [_renamed(n, rename) for n in value.nodes], value.initializers, tuple(map(rename, value.outputs)),
                tuple(map(rename, value.captured)),
            )  # fmt: skip
        attributes[key] = (kind, value, ref)
    return NodeProto(
        node.op_type, node.domain, node.overload, node.name, tuple(map(rename, node.inputs)),
        tuple(map(rename, node.outputs)), attributes, node.opset,
    )  # fmt: skip
