"""`fastconv tune`: which algorithm of each convolution is fastest on this machine, measured and kept in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fastconv.cli import inputs, output
from fastconv.cli.output import Column
from fastconv.cold import layers_with_choice, tune
from fastconv.errors import ModelError
from fastconv.isa import resolve_isa
from fastconv.paths import target_path
from fastconv.saved import SavedModel
from fastconv.selection import Selection, Shape, choice_name
from fastconv.tuning import Tuning


def row(shape: Shape, selection: Selection, tuning: Tuning, fresh: bool) -> dict[str, Any]:
    """What was measured for a layer, beside the default choice and what that was expected to take."""
    names = {choice_name(c, shape.R, shape.S): 1e6 * s for c, s in tuning.seconds(shape, selection.isa).items()}
    default = selection.choose(shape)
    batch = f"{shape.N}x" if shape.N > 1 else ""
    return {
        "layer": f"{batch}{shape.H}x{shape.W} {shape.C} to {shape.K}, {shape.R}x{shape.S}",
        "shape": shape._asdict(),
        "fastest": min(names, key=lambda n: names[n]),
        "default": choice_name(default.choice, shape.R, shape.S),
        "expected_us": 1e6 * default.seconds,
        "measured": fresh,
        "microseconds": names,
    }


def run(path: str, out: str, shapes: Sequence[str], seconds: float, winograd: int, as_json: bool) -> int:
    """Measure what `out` does not know yet of the model's convolutions, and write the file."""
    model = inputs.load(path, inputs.How(1, None, winograd))
    if isinstance(model, SavedModel):
        raise ModelError(f"{path}: a saved plan keeps the algorithms that it was made with")
    sizes = inputs.concrete(model, shapes)
    target_path(out)  # an error now, not after minutes
    tuning = Tuning.load(out) if os.path.exists(out) else Tuning()
    isa = resolve_isa(model.isa)
    selection = Selection(isa, winograd=winograd)
    graphs = model.tuned_graphs(selection, *sizes.values())
    rows: list[dict[str, Any]] = []
    try:
        with output.progress(sum(len(layers_with_choice(g, selection)) for g in graphs), "measuring") as tick:
            for graph in graphs:
                for shape, fresh in tune(graph, selection, tuning, seconds):
                    rows.append(row(shape, selection, tuning, fresh))
                    tick(rows[-1]["layer"])
    except KeyboardInterrupt:
        if rows:
            tuning.save(out)  # what was measured until then
        raise
    tuning.save(out)
    if as_json:
        output.dump_json({"model": path, "tuning": out, "cpu": tuning.cpu, "isa": isa.name, "layers": rows})
        return 0
    columns = [
        Column("layer", style="cyan"), Column("fastest", style="green"), Column("us", right=True),
        Column("default", drop=1), Column("us", right=True, drop=1), Column("expected", right=True, drop=2),
    ]  # fmt: skip
    output.table(
        columns,
        [
            (r["layer"], r["fastest"], f"{r['microseconds'][r['fastest']]:.1f}", r["default"],
             f"{r['microseconds'][r['default']]:.1f}", f"{r['expected_us']:.1f}")
            for r in rows
        ],
    )  # fmt: skip
    gain = sum(r["microseconds"][r["default"]] - r["microseconds"][r["fastest"]] for r in rows)
    fresh_count = sum(r["measured"] for r in rows)
    layers = "1 layer" if len(rows) == 1 else f"{len(rows)} layers"
    output.print_line(
        f"{layers}, {fresh_count} measured now, {gain / 1e3:.3f} ms less than by default; {out} written",
        style="bold",
    )
    return 0
