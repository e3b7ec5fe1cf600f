"""Inlines model-local functions: a call becomes the function's nodes, with unique names and attributes filled in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.onnx.branches import GRAPH
from fastconv.onnx.scan import Attr, FunctionProto, NodeProto, ScannedModel, with_opset

MAX_DEPTH: Final = 16
MAX_NODES: Final = 20_000

_Key = tuple[str, str, str]


def inline(model: ScannedModel, opset: int) -> list[NodeProto]:
    """The model's nodes without calls of its own functions, each with the opset that holds for it."""
    nodes = with_opset(model.nodes, opset)
    if not model.functions:
        return nodes
    functions: dict[_Key, FunctionProto] = {}
    for f in model.functions:
        key = (_domain(f.domain), f.name, f.overload)
        if key in functions:
            raise ModelError(f"function {f.name!r} of domain {f.domain!r} is defined twice")
        functions[key] = f
    out: list[NodeProto] = []
    _expand(nodes, functions, out, 0, [0])
    return out


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _expand(
    nodes: Iterable[NodeProto], functions: dict[_Key, FunctionProto], out: list[NodeProto], depth: int, calls: list[int]
) -> None:
    for node in nodes:
        f = functions.get((_domain(node.domain), node.op_type, node.overload))
        if f is None:
            out.append(node)
            if len(out) > MAX_NODES:
                raise ModelError(f"{node.label}: the model's functions make more than {MAX_NODES} nodes")
            continue
        if depth >= MAX_DEPTH:
            raise ModelError(f"{node.label}: functions call each other more than {MAX_DEPTH} levels deep")
        calls[0] += 1
        if calls[0] > MAX_NODES:
            raise ModelError(f"{node.label}: the model's functions make more than {MAX_NODES} calls")
        _expand(_body(node, f, calls[0]), functions, out, depth + 1, calls)


def _body(call: NodeProto, f: FunctionProto, serial: int) -> list[NodeProto]:
    if len(call.inputs) > len(f.inputs) or len(call.outputs) > len(f.outputs):
        raise ModelError(
            f"{call.label}: {len(call.inputs)} inputs and {len(call.outputs)} outputs, but the function has "
            f"{len(f.inputs)} and {len(f.outputs)}"
        )
    opset = f.opsets.get("", call.opset)
    names = {"": ""}
    names.update(zip(f.inputs, [*call.inputs, *[""] * (len(f.inputs) - len(call.inputs))], strict=True))
    made = {o for n in f.nodes for o in n.outputs if o}
    identities: list[NodeProto] = []
    for inner, outer in zip(f.outputs, call.outputs, strict=False):
        if not outer:
            continue
        if inner in made and inner not in names:
            names[inner] = outer
        else:  # an output that is an input, or is listed twice
            identities.append(NodeProto("Identity", "", "", call.name, (inner,), (outer,), {}, opset))

    def rename(name: str) -> str:
        if name not in names:
            names[name] = f"{name}//call{serial}"
        return names[name]

    values: dict[str, Attr] = {**f.defaults, **call.attributes}
    prefix = f"{call.name or call.op_type}/"
    body = []
    for n in f.nodes:
        attributes: dict[str, Attr] = {}
        for name, (kind, value, ref) in n.attributes.items():
            if kind == GRAPH:
                raise UnsupportedOpError(f"{call.label}: function {f.name!r} has a node with a graph, {n.label}")
            if not ref:
                attributes[name] = (kind, value, ref)
            elif ref in values:
                attributes[name] = values[ref]
            elif ref not in f.attributes:
                raise ModelError(f"{call.label}: attribute {ref!r} of function {f.name!r} is not declared")
        body.append(
            NodeProto(
                n.op_type, n.domain, n.overload, prefix + (n.name or n.op_type),
                tuple(map(rename, n.inputs)), tuple(map(rename, n.outputs)), attributes, opset,
            )
        )  # fmt: skip
    for n in identities:
        n.inputs = tuple(map(rename, n.inputs))
    return body + identities
