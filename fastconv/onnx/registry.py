"""Which function handles an operator of which operator set, and how its attributes reach it.

`@operator` registers a function under its own name; `Slice_10` is Slice from opset 10 on. Positional parameters are the
inputs (None where an optional one is absent), keyword-only parameters the attributes, and their annotations say which
attribute type the file must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastconv.errors import ModelError, UnsupportedOpError
from fastconv.graph import Value
from fastconv.onnx.branches import Branch

if TYPE_CHECKING:
    from fastconv.onnx.scan import NodeProto

MIN_OPSET: Final = 1
OLD_OPSET: Final = 6  # below it only the operators in OLD
OLD: Final = frozenset(
    ("Not", "Constant", "Shape", "Size", "Transpose", "Identity", "Flatten", "Squeeze", "Unsqueeze", "Softmax",
     "LogSoftmax", "Softplus", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
     "LRN", "MatMul", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
)  # fmt: skip
MAX_OPSET: Final = 28

_QUANTISED: Final = ("Quantize", "Dequantize", "DynamicQuantize", "QLinear", "QAttention", "QGemm")

Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]
OnnxBranch: TypeAlias = Branch
Handler: TypeAlias = "Callable[..., Value | list[Value]]"

# Annotation -> AttributeProto.type
_TYPES: Final = {"float": 1, "int": 2, "str": 3, "OnnxTensor": 4, "OnnxBranch": 5, "Floats": 6, "Ints": 7}
_TYPE_NAMES: Final = {
    0: "nothing", 1: "float", 2: "int", 3: "string", 4: "tensor", 5: "graph", 6: "floats", 7: "ints", 8: "strings",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operator:
    """One registered function."""

    name: str
    since: int
    fn: Handler
    required: int  # inputs that must be there
    most: int | None  # inputs it takes at most, None for any number
    attributes: dict[str, int]  # name -> AttributeProto.type
    needed: frozenset[str]  # attributes without a default


_OPERATORS: Final[dict[str, list[Operator]]] = {}


def operator(fn: Handler) -> Handler:
    """Register a function (see the module's text)."""
    name, _, since = fn.__name__.partition("_")
    code = fn.__code__
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    variadic = bool(code.co_flags & 0x04)
    inputs = code.co_argcount - 1  # the first one is the builder
    op = Operator(
        name=name,
        since=int(since or 1),
        fn=fn,
        required=1 if variadic and not inputs else inputs - len(fn.__defaults__ or ()),
        most=None if variadic else inputs,
        attributes={k: _TYPES[str(fn.__annotations__[k]).split("|")[0].strip()] for k in keywords},
        needed=frozenset(keywords) - set(fn.__kwdefaults__ or {}),
    )
    _OPERATORS.setdefault(name, []).append(op)
    return fn


def lookup(node: NodeProto) -> Operator:
    """The newest registered form that the node's operator set has; UnsupportedOpError if there is none."""
    if node.domain in ("", "ai.onnx"):
        if node.opset < OLD_OPSET and node.op_type not in OLD:
            raise UnsupportedOpError(f"{node.label}: this operator of opset {node.opset} is not supported")
        forms = [op for op in _OPERATORS.get(node.op_type, ()) if op.since <= node.opset]
        if forms:
            return max(forms, key=lambda op: op.since)
        if node.op_type in _OPERATORS:
            raise UnsupportedOpError(f"{node.label}: this operator is not in opset {node.opset}")
    if node.op_type.startswith(_QUANTISED) or node.op_type.endswith("Integer"):
        raise UnsupportedOpError(
            f"{node.label}: this operator is not supported. The model is quantised; fastconv computes in float32 and "
            "needs the model from before its quantisation"
        )
    raise UnsupportedOpError(f"{node.label}: this operator is not supported")


def supported() -> list[str]:
    """Names of all operators, sorted."""
    return sorted(_OPERATORS)


def bind_inputs(op: Operator, node: NodeProto) -> None:
    """Check how many inputs the node has and that the required ones are named."""
    inputs = node.inputs
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    if len(inputs) < op.required or any(not name for name in inputs[: op.required]):
        raise ModelError(f"{node.label}: expected {op.required} inputs, got {list(node.inputs)}")
    if op.most is None and any(not name for name in inputs):
        raise ModelError(f"{node.label}: an input has no name: {list(node.inputs)}")
    if op.most is not None and len(inputs) > op.most:
        raise ModelError(f"{node.label}: expected at most {op.most} inputs, got {len(inputs)}")
    node.inputs = inputs


def bind_attributes(op: Operator, node: NodeProto) -> dict[str, Any]:
    """The node's attributes as keyword arguments, with their types checked."""
    out: dict[str, Any] = {}
    for name, (kind, value, ref) in node.attributes.items():
        if name not in op.attributes:
            raise UnsupportedOpError(f"{node.label}: attribute {name!r} is not supported")
        if ref:
            raise ModelError(f"{node.label}: attribute {name!r} refers to {ref!r}, but the node is in no function")
        want = op.attributes[name]
        if kind == 0 and want >= 6:  # an empty list leaves no trace in files that do not state types
            out[name] = ()
            continue
        if kind != want:
            got = _TYPE_NAMES.get(kind, f"type {kind}")
            raise ModelError(f"{node.label}: attribute {name!r} is {got}, expected {_TYPE_NAMES[want]}")
        if want == 3:
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise ModelError(f"{node.label}: attribute {name!r} is not valid UTF-8") from None
        out[name] = value
    for name in sorted(op.needed - out.keys()):
        raise ModelError(f"{node.label}: attribute {name!r} is missing")
    return out
