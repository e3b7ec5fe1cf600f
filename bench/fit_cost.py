"""Fit the cost model of convolutions (csrc/cpu/cost.cpp) to measurements with cold weights.

    python -m bench.fit_cost measure --isa avx512 [--budget 50] [--json tests/kernels/cost.json]
    python -m bench.fit_cost fit [--json ...] [--table csrc/cpu/cost_table.h]
    python -m bench.fit_cost report [--json ...]

`measure` times every candidate of every distinct convolution of the nine models, and dense layers, and adds what the
file does not have yet; after `budget` seconds it stops, and goes on when it is called again. `fit` solves for the
coefficients of each level (non-negative least squares of relative errors, those beyond the median weighted down) and
writes them as C++. `report` holds the model's choices against the measured ones. Rebuild after `fit`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import timing
from tests.cases import NETWORKS

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "tests" / "kernels" / "cost.json"
TABLE = ROOT / "csrc" / "cpu" / "cost_table.h"
APPLICATIONS = ("VGG16", "ResNet50", "GoogLeNet", "InceptionV3", "AlexNet", "Xception", "EfficientNetB0", "LeNet5")
LEVELS = ("scalar", "avx2", "avx512", "neon")
DENSE = [(1, 25088, 4096), (1, 4096, 1000), (1, 2048, 1000), (1, 400, 120)]
SCALAR_FLOPS = 3e8  # larger layers are not timed on the scalar level: they take minutes
HEADER = """// Nanoseconds for one of each term of cost.h, by Isa. Written by bench/fit_cost.py.
// From tests/kernels/cost.json: {cpu}, {peaks}.
#pragma once
#include "cpu/cost.h"

namespace fastconv {{

// clang-format off
// {terms}
constexpr double COST_NANOSECONDS[4][COST_TERMS] = {{
{rows}
}};
// clang-format on

}}  // namespace fastconv
"""
Matrix = npt.NDArray[np.float64]


def convolutions(application: str) -> Iterator[Any]:
    """The shapes of an application's convolutions at batch 1, in order and as often as they occur."""
    from fastconv import applications
    from fastconv.models.source import LayerSource
    from fastconv.passes import optimize
    from fastconv.selection import shape_of

    source = LayerSource(getattr(applications, application)(weights=None, seed=0))
    sizes = {i.name: tuple(d if isinstance(d, int) else 1 for d in i.shape) for i in source.inputs}
    for node in optimize(source.build(sizes)).nodes:
        if node.op == "Conv":
            yield shape_of(node)


def mobilenet_v2() -> Iterator[Any]:
    from fastconv.selection import Shape

    for c in NETWORKS["mobilenet_v2"]:
        yield Shape(c.N, c.H, c.W, c.C, c.K, c.P, c.Q, c.R, c.S, c.groups, c.strides, c.dilations, c.pads)


def all_shapes() -> dict[str, dict[Any, int]]:
    """For each of the nine models its distinct shapes, and how often each occurs."""
    found: dict[str, dict[Any, int]] = {}
    for name in (*APPLICATIONS, "MobileNetV2"):
        counts: dict[Any, int] = {}
        for shape in mobilenet_v2() if name == "MobileNetV2" else convolutions(name):
            counts[shape] = counts.get(shape, 0) + 1
        found[name] = counts
    return found


# -- measuring ----------------------------------------------------------------------------------------------------
def row_key(row: Any) -> tuple[str, str]:
    return row["isa"], json.dumps(row.get("shape") or row["dense"])


def complete(row: dict[str, Any]) -> bool:
    """Whether every candidate of today was timed."""
    from fastconv import _core
    from fastconv.selection import Selection, choice_name

    if "dense" in row:
        return True
    shape = shape_of_row(row)
    candidates = Selection(getattr(_core.Isa, row["isa"]), winograd=6).candidates(shape)
    return {choice_name(c, shape.R, shape.S) for c in candidates} <= set(row["us"])


def measure(path: Path, level: str, budget: float, seconds: float) -> int:
    """Add rows of a level to the file until `budget` seconds have passed; returns how many are missing."""
    from fastconv.cold import time_candidates
    from fastconv.isa import resolve_isa
    from fastconv.selection import Selection, choice_name

    fresh: dict[str, Any] = {"cpu": timing.cpu_name(), "peaks": {}, "rows": []}
    document = json.loads(path.read_text()) if path.exists() else fresh
    isa, began = resolve_isa(level), time.monotonic()
    known = {row_key(r) for r in document["rows"] if complete(r)}
    names: dict[Any, list[str]] = {}
    for model, counts in all_shapes().items():
        for shape in counts:
            names.setdefault(shape, []).append(model)
    # those with a choice first: they decide
    shapes = sorted(names, key=lambda s: -len(Selection(isa, winograd=6).candidates(s)))
    most = SCALAR_FLOPS if level == "scalar" else math.inf
    shapes = [s for s in shapes if 2 * s.N * s.P * s.Q * s.K * (s.C // s.groups) * s.R * s.S <= most]
    todo: list[dict[str, Any]] = [{"isa": level, "shape": list(s), "models": names[s]} for s in shapes]
    todo += [{"isa": level, "dense": list(d)} for d in DENSE]
    todo = [r for r in todo if row_key(r) not in known]
    left = len(todo)
    for row in todo:
        if time.monotonic() - began > budget:
            break
        document["peaks"][level] = max(document["peaks"].get(level, 0.0), timing.peak_gflops(level))
        if "dense" in row:
            row["us"] = {"linear": measure_dense(row["dense"], isa, seconds)}
        else:
            shape = shape_of_row(row)
            times = time_candidates(shape, Selection(isa, winograd=6), seconds)
            row["us"] = {choice_name(c, shape.R, shape.S): round(s * 1e6, 2) for c, s in times.items()}
        document["rows"] = [r for r in document["rows"] if row_key(r) != row_key(row)] + [row]
        left -= 1
    write(path, document)
    return left


def write(path: Path, document: dict[str, Any]) -> None:
    rows = ",\n".join(json.dumps(r, separators=(",", ":")) for r in document["rows"])
    head = json.dumps({k: v for k, v in document.items() if k != "rows"})
    path.write_text(f'{head[:-1]}, "rows": [\n{rows}\n]}}\n')


def measure_dense(sizes: list[int], isa: Any, seconds: float) -> float:
    from bench.kernels import ColdLayer
    from bench.shapes import DenseCase
    from fastconv.cold import time_cold

    M, C, K = sizes
    return round(time_cold([ColdLayer(DenseCase("dense", M, C, K), isa)], seconds)[0] * 1e6, 2)


def shape_of_row(row: dict[str, Any]) -> Any:
    from fastconv.selection import Shape

    values: list[Any] = [tuple(v) if isinstance(v, list) else v for v in row["shape"]]
    return Shape(*values)


# -- fitting ------------------------------------------------------------------------------------------------------
def nnls(a: Matrix, b: Matrix) -> Matrix:
    """x >= 0 that minimises |a x - b|, by coordinate descent on the normal equations."""
    q, p, x = a.T @ a, a.T @ b, np.zeros(a.shape[1])
    for _ in range(20000):
        before = x.copy()
        for j in range(len(x)):
            if q[j, j] > 0:
                x[j] = max(0.0, x[j] + (p[j] - q[j] @ x) / q[j, j])
        if np.abs(x - before).max() <= 1e-12 * max(np.abs(x).max(), 1e-300):
            break
    return x


def term_names() -> list[str]:
    """In the order of csrc/cpu/cost.h."""
    return re.findall(r"^  COST_(\w+),", (ROOT / "csrc" / "cpu" / "cost.h").read_text().lower(), re.M | re.I)


def observations(document: dict[str, Any], level: str) -> tuple[list[str], Matrix, Matrix]:
    """Names of the terms, their counts and the measured nanoseconds, one row for each candidate that was timed."""
    from fastconv import _core
    from fastconv.selection import Selection, choice_name

    isa = getattr(_core.Isa, level)
    terms, ns = [], []
    for row in document["rows"]:
        if row["isa"] != level:
            continue
        if "dense" in row:
            M, C, K = row["dense"]
            terms.append(_core.linear_terms(M, C, K, isa))
            ns.append(row["us"]["linear"] * 1e3)
            continue
        shape = shape_of_row(row)
        for choice in Selection(isa, winograd=6).candidates(shape):
            us = row["us"].get(choice_name(choice, shape.R, shape.S))
            if us is not None:
                terms.append(_core.conv2d_terms(shape.core, *choice, isa))
                ns.append(us * 1e3)
    names = term_names()
    return names, np.array([[t[n] for n in names] for t in terms]), np.array(ns)


def solve(counts: Matrix, ns: Matrix) -> Matrix:
    """Coefficients in nanoseconds, by relative error, robust against a tenth of bad rows."""
    scale = counts.max(axis=0)
    scale[scale == 0] = 1.0
    weights = np.ones(len(ns))
    for _ in range(10):
        a = counts / scale / ns[:, None] * weights[:, None]
        x = nnls(a, weights.copy())
        error = np.abs(counts / scale @ x / ns - 1)
        weights = np.sqrt(1 / np.maximum(error / max(np.quantile(error, 0.5), 1e-3), 1.0))
    solution: Matrix = x / scale
    return solution


def fit(path: Path, table: Path) -> int:
    """Write the table of all levels; one that was not measured gets the row of the level below, scaled by nothing."""
    document = json.loads(path.read_text())
    rows: dict[str, tuple[list[str], Matrix]] = {}
    for level in LEVELS:
        names, counts, ns = observations(document, level)
        if len(ns) == 0:
            continue
        x = solve(counts, ns)
        error = counts @ x / ns - 1
        rows[level] = names, x
        print(f"{level}: {len(ns)} times, median error {np.median(np.abs(error)):.1%}, "
              f"nine tenths within {np.quantile(np.abs(error), 0.9):.1%}, mean {error.mean():+.1%}")  # fmt: skip
        print("  " + ", ".join(f"{n} {v:.3g}" for n, v in zip(names, x, strict=True)))
    lines, names = [], term_names()
    for level in LEVELS:
        source = level if level in rows else "avx2" if level == "neon" and "avx2" in rows else next(iter(rows))
        note = level if source == level else f"{level}: not measured, as {source}"
        cells = ", ".join(f"{v:.4g}" for v in rows[source][1])
        lines.append(f"    // {note}\n    {{{cells}}},")
    peaks = ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in document["peaks"].items())
    table.write_text(HEADER.format(cpu=document["cpu"], peaks=peaks, terms=", ".join(names), rows="\n".join(lines)))
    return 0


# -- reporting ----------------------------------------------------------------------------------------------------
def losses(
    document: dict[str, Any], level: str, winograd: int = 4
) -> list[tuple[float, Any, str, str, dict[str, float]]]:
    """For each shape that had a choice: the time of the model's choice over the best one's, less 1; the shape; what was
    chosen; what was best; all times in microseconds."""
    from fastconv import _core
    from fastconv.selection import Selection, choice_name

    selection, found = Selection(getattr(_core.Isa, level), winograd=winograd), []
    for row in document["rows"]:
        if row["isa"] != level or "shape" not in row:
            continue
        shape = shape_of_row(row)
        names = [choice_name(c, shape.R, shape.S) for c in selection.candidates(shape)]
        times = {n: row["us"][n] for n in names if n in row["us"]}
        chosen = choice_name(selection.choose(shape).choice, shape.R, shape.S)
        if len(times) > 1:
            best = min(times, key=lambda n: times[n])
            found.append((times[chosen] / times[best] - 1, shape, chosen, best, times))
    return found


def report(path: Path) -> int:
    document = json.loads(path.read_text())
    for level in LEVELS:
        found = sorted(losses(document, level), key=lambda f: -f[0])
        if not found:
            continue
        good = sum(loss <= 0.05 for loss, *_ in found)
        print(f"{level}: {good} of {len(found)} choices within 5% of the fastest; mean loss "
              f"{sum(f[0] for f in found) / len(found):.1%}")  # fmt: skip
        for loss, shape, chosen, best, times in found:
            if loss > 0.03:
                what = f"{shape.H}x{shape.W} {shape.C}->{shape.K} {shape.R}x{shape.S} s{shape.strides[0]}"
                print(f"  {loss:6.1%} {what}: {chosen}, best {best}; {times}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.fit_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=("measure", "fit", "report"))
    parser.add_argument("--isa", default="avx512", help="level to measure")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which measuring stops")
    parser.add_argument("--seconds", type=float, default=0.04, help="kernel time of the slowest candidate at least")
    parser.add_argument("--json", type=Path, default=RECORDED)
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    if args.do == "measure":
        left = measure(args.json, args.isa, args.budget, args.seconds)
        print(f"{left} layers left")
        return 0
    return fit(args.json, args.table) if args.do == "fit" else report(args.json)


if __name__ == "__main__":
    sys.exit(main())
