"""`fastconv compile`, which writes saved plans, and `fastconv info` of one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastconv import _core
from fastconv.cli import inputs, output
from fastconv.cli.output import Column
from fastconv.data import imagenet_labels, load_labels
from fastconv.errors import DeviceError, FastconvError, ModelError
from fastconv.saved import LEVELS, SavedModel, check_labels, is_plan, names_plan, parse_levels, plan_file, save_plan


def compile_model(
    path: str, target: str, shapes: Sequence[str], isa: str | None, labels: str | None, strict: bool
) -> int:
    """Write `target`. isa: names between commas, None for the best of this CPU."""
    if not names_plan(target):
        raise FastconvError(f"{target}: expected a name that ends with .fcplan")
    model = inputs.load(path, inputs.How(threads=1))
    if isinstance(model, SavedModel):
        raise ModelError(f"{path}: is a saved plan already")
    levels = parse_levels([model.isa] if isa is None else [name.strip() for name in isa.split(",")])
    sizes = inputs.concrete(model, shapes)
    names: Sequence[str] = model.class_names or ()
    if labels is None and not names and [o.shape[-1:] for o in model.outputs] == [(1000,)]:  # as predict takes it
        names = imagenet_labels()
    elif labels is not None:
        names = load_labels(labels)
        check_labels(names, model.outputs, f"--labels {labels}")
    save_plan(model._onnx, target, tuple(sizes.values()), levels, strict=strict, labels=names)
    output.print_line(f"{target}: {', '.join(levels)}, {output.size(os.path.getsize(target))}")
    return 0


def info(path: str, as_json: bool, kernels: bool) -> int:
    """What each variant of a plan file holds; the sums of the weights are checked."""
    if kernels and os.path.isfile(path) and not is_plan(path):
        raise ModelError(f"{path}: is not a saved plan, which --kernels needs: fastconv compile makes one")
    file = plan_file(path)
    try:
        levels = file.levels
        variants = [file.read(getattr(_core.Isa, name), verify=True, look=True) for name in levels]
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    if not variants:
        raise DeviceError(f"{path}: for instruction sets that this version does not know; it knows {', '.join(LEVELS)}")
    first = variants[0]
    used = sorted({o[0] for v in variants for o in v.operations})
    if kernels:
        print(";".join(used))
        return 0

    def tensors(given: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": n, "dtype": d, "shape": list(s)} for n, d, s, _ in given]

    document: dict[str, Any] = {
        "plan": path,
        "name": first.model,
        "format": _core.PLAN_VERSION,
        "file_bytes": os.path.getsize(path),
        "inputs": tensors(first.inputs),
        "outputs": tensors(first.outputs),
        "labels": len(first.labels),
        "metadata": first.metadata,
        "variants": [
            {
                "isa": v.isa.name,
                "weight_bytes": v.weight_bytes,
                "arena_bytes": v.plan.arena_bytes,
                "scratch_bytes_per_thread": v.plan.scratch_bytes,
                "operations": len(v.operations),
            }
            for v in variants
        ],
        "kernels": dict(sorted(Counter(o[0] for o in first.operations).items())),
    }
    if as_json:
        output.dump_json(document)
        return 0
    facts = [("plan", path), ("name", first.model or "-"), ("format", str(_core.PLAN_VERSION))]
    facts += [("file", output.size(document["file_bytes"])), ("labels", str(len(first.labels)))]
    for kind in ("inputs", "outputs"):
        facts += [(kind[:-1], f"{t['name']}  {t['dtype']} {t['shape']}") for t in document[kind]]
    facts += [("metadata", f"{key}: {value}") for key, value in document["metadata"].items()]
    for label, value in facts:
        output.print_line(f"{label:<10}", value)
    output.print_line()
    titles = ("isa", "weights, bytes", "arena, bytes", "scratch, bytes a thread", "operations")
    rows = [tuple(f"{x:,}" if isinstance(x, int) else x for x in v.values()) for v in document["variants"]]
    output.table([Column(t, right=t != "isa") for t in titles], rows)
    output.print_line()
    counts = [(name, n) for name, n in document["kernels"].items()]
    output.table([Column("kernel", style="cyan"), Column("operations", right=True)], counts)
    return 0
