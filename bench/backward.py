"""Gradients of single convolutions: milliseconds, GFLOP/s and the share of one core's peak, batch 16.

    python -m bench.backward [--network resnet50] [--batch 16] [--threads 1] [--match 3x3]

Tensors lie in the arena of a plan, as in training: huge pages where the system has them. `input` is what the compiler
picks for dx: a forward convolution with turned weights at stride 1, else the kernel of its own. Weights are packed
before; `pack` says what that costs.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from fastconv import _core
from fastconv.compiler import WeightCache, compile_graph
from fastconv.graph import Graph
from tests import cases


def resnet18() -> list[cases.ConvCase]:
    """Its convolutions, once each."""
    same = (1, 1, 1, 1)
    found = [cases.ConvCase("stem", 1, 224, 224, 3, 64, 7, 7, (2, 2), (3, 3, 3, 3))]
    found.append(cases.ConvCase("56-64-64-3x3", 1, 56, 56, 64, 64, 3, 3, pads=same, times=4))
    for size, c in ((56, 64), (28, 128), (14, 256)):
        k, half = 2 * c, size // 2
        found.append(cases.ConvCase(f"{size}-{c}-{k}-3x3-s2", 1, size, size, c, k, 3, 3, (2, 2), same))
        found.append(cases.ConvCase(f"{size}-{c}-{k}-s2", 1, size, size, c, k, 1, 1, (2, 2)))
        found.append(cases.ConvCase(f"{half}-{k}-{k}-3x3", 1, half, half, k, k, 3, 3, pads=same, times=3))
    return found


NETWORKS = {**cases.NETWORKS, "resnet18": resnet18()}


def plan_of(case: cases.ConvCase, batch: int, isa: Any) -> Any:
    """A plan of both gradients, on tensors of an arena."""
    g = Graph("backward")
    at = {"strides": case.strides, "dilations": case.dilations, "pads": case.pads, "group": case.groups}
    number = g.constant(np.zeros((1, 1, 1, 1), np.float32))
    x_shape, y_shape = (batch, case.C, case.H, case.W), (batch, case.K, case.P, case.Q)
    w = g.add_state("w", (case.K, case.C // case.groups, case.R, case.S))
    x, dy = g.add("Expand", [number], x_shape), g.add("Expand", [number], y_shape)
    dx = g.add("ConvBackwardInput", [dy, w], x_shape, **at)
    dw = g.add("ConvBackwardWeight", [x, dy], w.shape, **at)
    used = [g.add("ReduceSum", [v], (1,) * 4, axes=(0, 1, 2, 3), keepdims=1) for v in (dx, dw)]
    g.outputs = used
    cache = WeightCache()
    memory = {"w": cache.store.put(np.full(w.shape, 0.01, np.float32))}
    return compile_graph(g, isa, cache, states=memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--match", default="")
    parser.add_argument("--isa", default=_core.isa_levels()[-1])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    isa = getattr(_core.Isa, args.isa)
    peak = _core.measure_peak(isa, 0.1) * args.threads
    executor = _core.Executor(args.threads)
    print(f"{args.network}, batch {args.batch}, {args.isa}, {args.threads} threads, peak {peak:.0f} GFLOP/s")
    print(f"{'layer':24} {'weight ms':>10} {'share':>6} {'sum ms':>7} {'input ms':>9} {'share':>6} {'pack ms':>8}  how")
    sums = np.zeros(2)
    for case in NETWORKS[args.network]:
        if args.match not in case.name:
            continue
        compiled = plan_of(case, args.batch, isa)
        outputs = [np.zeros(shape, np.float32) for _, shape in compiled.outputs]
        times = executor.profile(compiled.plan, outputs, args.runs + 1)[1:].min(axis=0) * 1e-6
        flops, ms, how = 1e-6 * case.flops * args.batch, dict.fromkeys(("weight", "sum", "input", "pack"), 0.0), ""
        for op, t in zip(compiled.ops, times, strict=True):
            if op.op == "ConvBackwardWeight":
                ms["sum" if op.algorithm == "sum" else "weight"] += t
            elif op.op in ("Conv", "ConvBackwardInput"):
                ms["pack" if op.algorithm == "pack" else "input"] += t
                how = op.algorithm
        share = {k: flops / ms[k] / peak if ms[k] else 0.0 for k in ("weight", "input")}
        print(
            f"{case.name:24} {ms['weight']:10.2f} {share['weight']:6.0%} {ms['sum']:7.2f} {ms['input']:9.2f} "
            f"{share['input']:6.0%} {ms['pack']:8.2f}  {how}",
            flush=True,
        )
        sums += case.times * np.array([ms["weight"] + ms["sum"], ms["input"] + ms["pack"]])
    print(f"{'all':24} {sums[0]:10.2f} {sums[1]:32.2f}")


if __name__ == "__main__":
    main()
