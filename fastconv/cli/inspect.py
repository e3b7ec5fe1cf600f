"""`fastconv info`, `inspect`, `profile` and `config`: what a model is, how it will run, and where the time goes."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastconv.cli import inputs, output
from fastconv.cli.output import Column
from fastconv.compiled import Compiled

# TensorProto.DataType in the ONNX specification
_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip


def info(path: str, as_json: bool) -> int:
    """What the file says of itself. Needs no kernels: a model with unsupported operators is described too."""
    from fastconv.onnx.scan import scan

    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a folder: expected an ONNX file", path)
    model = scan(path)
    weights = {t.name: _elements(t.dims) for t in model.initializers}
    operators = Counter(
        f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type for n in model.nodes
    )

    def tensors(values: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": _TYPES.get(kind, f"type {kind}"), "shape": None if shape is None else list(shape)}
            for name, kind, shape in values
            if name not in weights
        ]

    document: dict[str, Any] = {
        "model": path,
        "name": model.name,
        "producer": model.producer,
        "ir_version": model.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in model.opsets.items()},
        "file_bytes": os.path.getsize(path),
        "parameters": sum(weights.values()),
        "inputs": tensors(model.inputs),
        "outputs": tensors(model.outputs),
        "nodes": len(model.nodes),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
    }
    if as_json:
        output.dump_json(document)
        return 0
    opsets = ", ".join(f"{domain} {version}" for domain, version in document["opsets"].items())
    facts = [
        ("model", path),
        ("name", model.name or "-"),
        ("producer", model.producer or "-"),
        ("opset", f"{opsets} (IR version {model.ir_version})"),
        ("file", output.size(document["file_bytes"])),
        ("parameters", f"{document['parameters']:,}"),
    ]
    for kind in ("inputs", "outputs"):
        for t in document[kind]:
            shape = (
                "unknown shape"
                if t["shape"] is None
                else f"[{', '.join('?' if d is None else str(d) for d in t['shape'])}]"
            )
            facts.append((kind[:-1], f"{t['name']}  {t['dtype']} {shape}"))
    for label, value in facts:
        output.print_line(f"{label:<10}", value)
    output.print_line()
    rows = [(op, n) for op, n in document["operators"].items()]
    output.table([Column("operator", style="cyan"), Column("nodes", right=True)], [*rows, ("total", len(model.nodes))])
    return 0


def _elements(dims: Sequence[int]) -> int:
    total = 1
    for d in dims:
        total *= d
    return total


def inspect(path: str, shapes: Sequence[str], how: inputs.How, as_json: bool) -> int:
    """The plan, operation by operation."""
    model = inputs.load(path, how)
    sizes = inputs.concrete(model, shapes)
    compiled = model.compile(*sizes.values())
    ops = compiled.ops
    if as_json:
        keys = ("name", "op", "algorithm", "chosen_by", "isa", "shape", "flops", "bytes", "expected_ms", "buffer")
        rows = [{k: getattr(o, k) for k in keys} for o in ops]
        given = {k: list(v) for k, v in sizes.items()}
        output.dump_json({"model": path, "inputs": given, "parts": compiled.repeats, "operations": rows})
        return 0
    levels = sorted({o.isa for o in ops})
    columns = [
        Column("name", flexible=True, style="cyan"),
        Column("op", drop=1),
        Column("algorithm"),
        Column("chosen by", drop=5),
        Column("output"),
        Column("FLOPs", right=True),
        Column("bytes", right=True, drop=2),
        Column("expected ms", right=True, drop=3),
        Column("buffer", drop=4),
    ]
    output.table(
        columns,
        [
            (
                o.name,
                o.op,
                o.algorithm,
                o.chosen_by or "-",
                output.dims(o.shape),
                output.count(o.flops),
                output.size(o.bytes),
                f"{o.expected_ms:.3f}" if o.expected_ms else "-",
                o.buffer,
            )
            for o in ops
        ],
    )
    flops, moved, ms = sum(o.flops for o in ops), sum(o.bytes for o in ops), sum(o.expected_ms for o in ops)
    expected = f", {ms:.3f} ms expected" if ms else ""
    output.print_line(
        f"{len(ops)} operations on {', '.join(levels) or 'no kernels'}, {output.count(flops)}FLOP, "
        f"{output.size(moved)} moved{expected}",
        style="bold",
    )
    _tell_parts(compiled)
    return 0


def _tell_parts(compiled: Compiled) -> None:
    if compiled.repeats > 1:
        images = compiled.inputs[0][1][0] // compiled.repeats
        output.print_line(f"the batch runs as {compiled.repeats} parts of {images} image{'s' if images > 1 else ''}")


def profile(path: str, shapes: Sequence[str], runs: int, how: inputs.How, as_json: bool) -> int:
    """The time of each operation, median of `runs`."""
    model = inputs.load(path, how)
    sizes = inputs.concrete(model, shapes)
    feed = inputs.random_feed(model, sizes)
    result = model.profile(*feed.values(), runs=runs)
    keys = ("name", "op", "algorithm", "shape", "ms", "expected_ms", "gflops", "share")
    if as_json:
        output.dump_json(
            {
                "model": path,
                "inputs": {k: list(v) for k, v in sizes.items()},
                "runs": runs,
                "total_ms": result.total_ms,
                "peak_gflops": result.peak_gflops,
                "threads": result.threads,
                "parts": model.compile(*sizes.values()).repeats,
                "operations": [{k: getattr(r, k) for k in keys} for r in result.rows],
            }
        )
        return 0
    columns = [
        Column("name", flexible=True, style="cyan"),
        Column("op", drop=1),
        Column("algorithm"),
        Column("output", drop=2),
        Column("ms", right=True, style="green"),
        Column("expected", right=True, drop=3),
        Column("time", right=True),
        Column("GFLOP/s", right=True),
        Column("peak", right=True),
    ]
    total = result.total_ms or 1.0
    output.table(
        columns,
        [
            (
                r.name,
                r.op,
                r.algorithm,
                output.dims(r.shape),
                f"{r.ms:.3f}",
                f"{r.expected_ms:.3f}" if r.expected_ms else "-",
                f"{100 * r.ms / total:.1f}%",
                f"{r.gflops:.1f}" if r.gflops else "-",
                f"{100 * r.share:.0f}%" if r.gflops else "-",
            )
            for r in result.rows
        ],
    )
    expected = sum(r.expected_ms for r in result.rows)  # 0 of a saved plan, which does not know it
    output.print_line(
        f"{result.total_ms:.3f} ms, median of {runs} runs; "
        + (f"one thread is expected to take {expected:.3f}; " if expected else "")
        + f"measured peak {result.peak_gflops:.0f} GFLOP/s a core"
        + (f", times {result.threads} threads" if result.threads > 1 else ""),
        style="bold",
    )
    _tell_parts(model.compile(*sizes.values()))
    return 0


def config() -> int:
    """fastconv.show_config on stdout."""
    import fastconv

    fastconv.show_config(file=sys.stdout)
    return 0
