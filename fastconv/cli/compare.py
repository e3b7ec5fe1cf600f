"""`fastconv compare`: the same input through fastconv and onnxruntime; where they differ, the first node to blame.

To find it the model is cut: for a value V, the nodes that V depends on with V as the only output. fastconv compiles the
cut model as it would any other (so fusion inside the cut stays on) and its V is held against onnxruntime's.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.cli import inputs, output
from fastconv.cli.output import Column
from fastconv.errors import FastconvError, ModelError
from fastconv.saved import is_plan

if TYPE_CHECKING:
    import onnx

Feed = dict[str, npt.NDArray[Any]]


@dataclass
class Difference:
    """How far one array is from onnxruntime's."""

    name: str
    shape: tuple[int, ...]
    largest: float  # of onnxruntime's magnitudes
    error: float  # largest absolute difference; infinity where only one of the two is finite, or shapes differ

    @property
    def relative(self) -> float:
        return self.error / self.largest if self.largest > 0 else self.error


def need(name: str) -> Any:
    """Import an optional package. Raises FastconvError saying how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise FastconvError(f"compare needs {name}: pip install {name}") from None


def difference(name: str, ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Difference:
    """Compare two arrays; NaN and infinity must stand in the same places."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    finite = np.isfinite(b)
    largest = float(np.abs(b[finite]).max(initial=0.0))
    if a.shape != b.shape:
        return Difference(name, np.shape(ours), largest, float("inf"))
    same_rest = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    error = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) if same_rest else float("inf")
    return Difference(name, b.shape, largest, float("inf") if np.isnan(error) else error)


class Reference:
    """onnxruntime with all of its graph optimisations off, and the ONNX model that it runs."""

    def __init__(self, path: str) -> None:
        self.ort = need("onnxruntime")
        self.path = path
        self.model: onnx.ModelProto | None = None

    def session(self, model: str | bytes) -> Any:
        options = self.ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self.ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # its own exception types differ from version to version
            raise FastconvError(f"onnxruntime cannot load the model: {e}") from e

    def run(self, session: Any, names: Sequence[str], feed: Feed) -> list[npt.NDArray[Any]]:
        try:
            return list(session.run(list(names), feed))
        except Exception as e:
            raise FastconvError(f"onnxruntime cannot run the model: {e}") from e

    def load(self) -> onnx.ModelProto:
        if self.model is None:
            package = need("onnx")
            try:
                self.model = package.load(self.path)
            except Exception as e:
                raise ModelError(f"{self.path}: the onnx package cannot read it: {e}") from e
        return self.model

    def every_value(self, feed: Feed) -> Feed:
        """What every node makes, by name. All of it is in memory at once."""
        onnx = need("onnx")
        model = onnx.ModelProto()
        model.CopyFrom(self.load())
        known = {o.name for o in model.graph.output}
        for node in model.graph.node:
            for name in node.output:
                if name and name not in known:
                    known.add(name)
                    model.graph.output.append(onnx.ValueInfoProto(name=name))
        session = self.session(_serialize(model))
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, self.run(session, names, feed), strict=True))


def _serialize(model: Any) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as e:  # protobuf: more than 2 GiB
        raise FastconvError(f"the model is too large to be cut in memory: {e}") from e


def _names_below(node: Any) -> set[str]:
    """What a node reads, the bodies of If and Loop included."""
    names = {n for n in node.input if n}
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            for inner in graph.node:
                names |= _names_below(inner)
    return names


class Cutter:
    """Makes, from a model, the part that computes one value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [_names_below(node) for node in self.nodes]

    def makers(self, index: int) -> list[int]:
        """The nodes that make what this node reads."""
        return sorted({self.maker[name] for name in self.reads[index] if name in self.maker})

    def needed(self, index: int) -> list[int]:
        todo, seen = [index], {index}
        while todo:
            for i in self.makers(todo.pop()):
                if i not in seen:
                    seen.add(i)
                    todo.append(i)
        return sorted(seen)

    def cut(self, index: int, name: str, array: npt.NDArray[Any]) -> tuple[bytes, set[str]]:
        """The model that ends at output `name` of node `index`, and the inputs that it has left."""
        from onnx import ModelProto, helper

        keep = self.needed(index)
        reads = set().union(*(self.reads[i] for i in keep))
        model = ModelProto()
        for field in ("ir_version", "domain"):
            setattr(model, field, getattr(self.model, field))
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph, whole = model.graph, self.model.graph
        graph.name = whole.name or "cut"
        graph.node.extend(self.nodes[i] for i in keep)
        graph.initializer.extend(t for t in whole.initializer if t.name in reads)
        graph.input.extend(v for v in whole.input if v.name in reads)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.output.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
        return _serialize(model), {v.name for v in graph.input}


class Bisection:
    """Looks for a node whose own result is wrong while everything that it reads is right."""

    def __init__(self, reference: Reference, feed: Feed, tolerance: float, tick: output.Tick) -> None:
        self.feed, self.tolerance, self.tick = feed, tolerance, tick
        self.values = reference.every_value(feed)
        self.cutter = Cutter(reference.load())
        self.seen: dict[int, Difference | None] = {}
        self.problem: dict[int, str] = {}

    def at(self, index: int) -> Difference | None:
        """The worst difference of the node's outputs; None where it makes nothing that can be compared."""
        if index not in self.seen:
            found = [self.measure(index, n) for n in self.cutter.nodes[index].output if n in self.values]
            self.seen[index] = max((d for d in found if d is not None), key=lambda d: d.relative, default=None)
            self.tick()
        return self.seen[index]

    def measure(self, index: int, name: str) -> Difference | None:
        import fastconv

        theirs = self.values[name]
        if not isinstance(theirs, np.ndarray) or theirs.dtype.kind not in "fiub":
            return None
        data, left = self.cutter.cut(index, name, theirs)
        if not left & self.feed.keys():
            return None  # a constant: its reader will show whether it is wrong
        try:
            ours = fastconv.load(data).run([name], {k: v for k, v in self.feed.items() if k in left})[0]
        except FastconvError as e:
            self.problem[index] = str(e)
            return Difference(name, theirs.shape, 0.0, float("inf"))
        return difference(name, ours, theirs)

    def bad(self, index: int) -> bool:
        found = self.at(index)
        return found is not None and found.relative > self.tolerance

    def search(self, last: int) -> int:
        """Bisects the nodes that `last` (known to be bad) needs, then climbs to a node whose inputs are all right."""
        chain = self.cutter.needed(last)
        low, high = -1, len(chain) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.bad(chain[middle]):
                high = middle
            else:
                low = middle
        index = chain[high]
        while True:
            worse = next((i for i in self.cutter.makers(index) if self.bad(i)), None)
            if worse is None:
                return index
            index = worse


def _describe(search: Bisection, index: int) -> dict[str, Any]:
    node, found = search.cutter.nodes[index], search.at(index)
    attributes = {a.name: _attribute(a) for a in node.attribute}
    return {
        "node": node.name,
        "op": node.op_type,
        "index": index,
        "output": found.name if found else "",
        "shape": list(found.shape) if found else [],
        "relative_error": found.relative if found else None,
        "attributes": attributes,
        "inputs": {n: list(np.shape(search.values[n])) for n in node.input if n in search.values},
        "problem": search.problem.get(index),
    }


def _attribute(attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, (int, float, str)) else list(value) if hasattr(value, "append") else "..."


def run(path: str, shapes: Sequence[str], seed: int, tolerance: float, how: inputs.How, as_json: bool) -> int:
    """Compare; returns 1 where any output differs by more than `tolerance` of onnxruntime's largest magnitude."""
    if is_plan(path):
        raise ModelError(f"{path}: a saved plan; compare the ONNX file that it was made of")
    reference = Reference(path)
    model = inputs.load(path, how)
    sizes = inputs.concrete(model, shapes)
    feed = inputs.random_feed(model, sizes, seed)
    names = [o.name for o in model.outputs]
    ours = model.run(names, feed)
    theirs = reference.run(reference.session(path), names, feed)
    found = [difference(n, a, b) for n, a, b in zip(names, ours, theirs, strict=True)]
    wrong = [d for d in found if d.relative > tolerance]
    culprit = None
    if wrong:
        with output.progress(len(reference.load().graph.node).bit_length() + 1, "bisecting") as tick:
            search = Bisection(reference, feed, tolerance, tick)
            if wrong[0].name in search.cutter.maker:
                culprit = _describe(search, search.search(search.cutter.maker[wrong[0].name]))
    if as_json:
        rows = [
            {"name": d.name, "shape": list(d.shape), "largest": d.largest, "error": d.error, "relative": d.relative}
            for d in found
        ]
        shapes_used = {k: list(v) for k, v in sizes.items()}
        output.dump_json(
            {
                "model": path,
                "inputs": shapes_used,
                "seed": seed,
                "tolerance": tolerance,
                "same": not wrong,
                "outputs": rows,
                "first_diverging": culprit,
            }
        )
    else:
        _show(found, tolerance, culprit, reference)
    return 1 if wrong else 0


def _show(found: list[Difference], tolerance: float, culprit: dict[str, Any] | None, reference: Reference) -> None:
    columns = [
        Column("output", flexible=True, style="cyan"),
        Column("shape"),
        Column("largest", right=True),
        Column("error", right=True),
        Column("relative", right=True),
        Column("verdict"),
    ]
    output.table(
        columns,
        [
            (
                d.name,
                output.dims(d.shape),
                f"{d.largest:.4g}",
                f"{d.error:.2e}",
                f"{d.relative:.2e}",
                "same" if d.relative <= tolerance else "DIFFERS",
            )
            for d in found
        ],
    )
    version = getattr(reference.ort, "__version__", "?")
    if culprit is None:
        good = all(d.relative <= tolerance for d in found)
        verdict = (
            f"agrees with onnxruntime {version} to {tolerance:g}" if good else f"differs from onnxruntime {version}"
        )
        output.print_line(verdict, style="green" if good else "red")
        return
    title = f"first node that differs: {culprit['node'] or '(no name)'} ({culprit['op']}, number {culprit['index']})"
    output.print_line(title, style="bold red")
    output.print_line(
        f"  output {culprit['output']} {culprit['shape']}, relative error {culprit['relative_error']:.2e}"
    )
    for name, shape in culprit["inputs"].items():
        output.print_line(f"  reads {name} {shape}")
    for name, value in culprit["attributes"].items():
        output.print_line(f"  {name} = {value}")
    if culprit["problem"]:
        output.print_line(f"  fastconv: {culprit['problem']}")
