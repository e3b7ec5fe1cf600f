"""Time single layers with cold weights: GFLOP/s, GB/s, and shares of what this core reaches, per instruction set.

    python -m bench.kernels [--networks resnet50,vgg16] [--isa avx512,avx2] [--match 3x3] [--json OUT]

A plan holds one layer many times, each with weights of its own, and runs them in turn: between two uses of a weight at
least three times the last-level cache is read (a large array between rounds where the copies alone do not reach that).
Weights lie in huge pages, where the system has any. Activations are as warm and lie as in a network: one tensor in, one
out, one after the other. Layers are lowered as in a model, with bias and ReLU, so the algorithm is what models get.
GFLOP/s count multiplications of direct convolution, so that Winograd may exceed the peak; GB/s count input, weights and
output once. The peak of a level is measured in this process beside each layer: medians of layers are held against its
median, for the clock moves by 2%.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import models, timing
from bench.shapes import LAYERS, DenseCase, Layer
from fastconv import cold
from fastconv.cold import ColdPlan


def nbytes(layer: Layer) -> tuple[int, int, int]:
    """Bytes of input, weights and output."""
    if isinstance(layer, DenseCase):
        return 4 * layer.M * layer.C, 4 * layer.C * layer.K, 4 * layer.M * layer.K
    weights = layer.K * (layer.C // layer.groups) * layer.R * layer.S
    pixels = layer.N * layer.P * layer.Q
    return 4 * layer.N * layer.H * layer.W * layer.C, 4 * weights, 4 * pixels * layer.K


def build(layer: Layer, copies: int) -> Any:
    """A physical graph (N H W C) with the layer `copies` times on one tensor."""
    from fastconv.graph import Graph, Weight

    g, rng = Graph(layer.name), np.random.default_rng(0)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    if isinstance(layer, DenseCase):
        x = cold.tensor_inside(g, (layer.M, layer.C))
        shape: tuple[int, ...] = (layer.M, layer.K)
        op, w, attrs = "Gemm", normal(layer.K, layer.C), dict[str, Any](trans_b=True)
    else:
        x = cold.tensor_inside(g, (layer.N, layer.H, layer.W, layer.C))
        shape = (layer.N, layer.P, layer.Q, layer.K)
        op, w = "Conv", normal(layer.K, layer.C // layer.groups, layer.R, layer.S)
        attrs = dict(strides=layer.strides, dilations=layer.dilations, pads=layer.pads, group=layer.groups)
    w *= np.float32(math.sqrt(2.0 / w[0].size))
    bias = g.constant(normal(layer.K))
    for _ in range(copies):
        # a Weight of its own for each: equal arrays with another key are packed again
        weight = g.constant(Weight(w.shape, w.dtype, lambda: w))
        y = g.add(op, [x, weight, bias], shape, activation=("Relu", 0.0, 0.0), **attrs)
    g.outputs = [y]
    return g


class ColdLayer(ColdPlan):
    """A layer on one instruction set, ready to be timed. `algorithm` is what the library chose."""

    def __init__(self, layer: Layer, isa: Any, factor: float = 3.0) -> None:
        from fastconv.selection import Selection

        reach = factor * cold.last_level_cache()
        super().__init__(lambda copies: build(layer, copies), nbytes(layer)[1], layer.flops, Selection(isa), reach)


def measure(network: str, layer: Layer, isa_name: str, seconds: float, bandwidth: float) -> dict[str, Any]:
    """A row: medians over all copies of at least three rounds and `seconds` of kernel time."""
    from fastconv.isa import resolve_isa

    cold = ColdLayer(layer, resolve_isa(isa_name))
    cold.round()
    samples: list[float] = []
    rounds = 0
    while rounds < 3 or (sum(samples) < seconds and rounds < 200):
        samples += cold.round()
        rounds += 1
    s = timing.quantile(samples, 0.5)
    gflops, gbs = layer.flops / s / 1e9, sum(nbytes(layer)) / s / 1e9
    return {
        "network": network, "layer": layer.name, "times": layer.times, "isa": isa_name, "algorithm": cold.algorithm,
        "us": s * 1e6, "us_p10": timing.quantile(samples, 0.1) * 1e6, "us_p90": timing.quantile(samples, 0.9) * 1e6,
        "samples": len(samples), "copies": cold.copies, "flops": layer.flops, "bytes": sum(nbytes(layer)),
        "gflops": gflops, "gbs": gbs, "share_bandwidth": gbs / bandwidth,
    }  # fmt: skip


def table(rows: list[dict[str, Any]], title: str) -> Any:
    from rich.table import Table

    out = Table(title=title, title_justify="left")
    for column in ("network", "layer", "isa", "algorithm"):
        out.add_column(column, no_wrap=True)
    for column in ("us", "GFLOP/s", "of peak", "GB/s", "of stream"):
        out.add_column(column, justify="right", no_wrap=True)
    before = None
    for r in rows:
        if before not in (None, r["network"]):
            out.add_section()
        before = r["network"]
        figures = (f"{r['us']:.1f}", f"{r['gflops']:.1f}", f"{r['share']:.0%}", f"{r['gbs']:.1f}")
        out.add_row(
            r["network"], r["layer"], r["isa"], r["algorithm"], *figures, f"{r['share_bandwidth']:.0%}"
        )  # fmt: skip
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", default=",".join(LAYERS), help="comma-separated")
    parser.add_argument("--match", default="", help="only layers whose name contains this")
    parser.add_argument("--isa", default="", help="comma-separated levels (default: all of this CPU but scalar)")
    parser.add_argument("--seconds", type=float, default=0.05, help="kernel time per layer at least")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args(argv)

    from rich.console import Console

    from fastconv.isa import isa_levels

    networks = [n for n in args.networks.split(",") if n]
    levels = [n for n in args.isa.split(",") if n] or [n for n in reversed(isa_levels()) if n != "scalar"] or ["scalar"]
    if any(n not in LAYERS for n in networks) or any(n not in isa_levels() for n in levels):
        parser.error(f"networks are {', '.join(LAYERS)}; levels of this machine {', '.join(isa_levels())}")
    jobs = [(n, layer) for n in networks for layer in LAYERS[n] if args.match in layer.name]
    if not jobs:
        parser.error(f"no layer of {', '.join(networks)} contains {args.match!r}")

    machine = timing.system()
    bandwidth = timing.read_bandwidth()
    seen: dict[str, list[float]] = {name: [] for name in levels}
    rows: list[dict[str, Any]] = []
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for network, layer in jobs:
        for name in levels:
            # the peak beside each layer: clocks differ between levels and change with heat
            seen[name].append(timing.peak_gflops(name))
            rows.append(measure(network, layer, name, args.seconds, bandwidth))
        peaks = {name: timing.quantile(s, 0.5) for name, s in seen.items()}
        for row in rows:
            row["share"] = row["gflops"] / peaks[row["isa"]]
        if args.json:
            head = {"kind": "kernels", "system": machine, "peaks_gflops": peaks, "bandwidth_gbs": bandwidth}
            models.dump(args.json, head | {"rows": rows})
    tops = ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items())
    console.print(table(rows, f"{machine['cpu']}: {tops}, reads {bandwidth:.1f} GB/s; weights cold, one thread"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
