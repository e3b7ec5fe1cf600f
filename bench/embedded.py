"""The figures of docs/embedded.md: sizes of a program and of arenas, and how soon a saved plan gives its first answer.

    python -m bench.embedded [--size] [--arena] [--first] [--runs 9]

Without options all of them. The networks are those of fastconv.applications with random weights, the instruction set is
this machine's best; plans, library and programs are kept in build/embedded. Exit code 1 where a figure misses its aim.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import embedded

LARGEST = 600_000  # bytes of a stripped program with MobileNetV2's kernels, without weights
LENET = 48_000  # bytes of LeNet-5's arena
OPEN_MS, FIRST = 5.0, 1.1  # of VGG16's plan: to open it, and its first answer in warm runs
TIMES = re.compile(r"load ([\d.]+) ms, first answer after ([\d.]+) ms, median of \d+ runs ([\d.]+) ms")


def mobilenet_v2() -> bytes:
    """MobileNetV2 of 224x224 pixels in ONNX form, random weights: fastconv.applications has none."""
    from tests.models.builder import Builder

    b = Builder(1, (3, 224, 224))

    def conv(x: str, channels: int, size: int, stride: int, group: int = 1) -> str:
        return b.clip(b.bn(b.conv(x, channels, size, stride, group=group)), 0.0, 6.0)

    x, channels = conv(b.x, 32, 3, 2), 32
    for expand, out, blocks, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            wide, stride = channels * expand, 1 if block else first
            y = conv(x, wide, 1, 1) if expand > 1 else x
            y = b.bn(b.conv(conv(y, wide, 3, stride, wide), out, 1, 1))
            x, channels = b.op("Add", x, y) if block else y, out
    data: bytes = b.model((b.head(conv(x, 1280, 1, 1), 1000), (1000,))).SerializeToString()
    return data


def network(name: str) -> Any:
    """A runtime Model."""
    from fastconv import applications, load
    from fastconv.model import Model
    from fastconv.models import LayerSource

    if name == "MobileNetV2":
        return load(mobilenet_v2())
    return Model(LayerSource(getattr(applications, name)(weights=None)))


def plan(name: str, isa: Sequence[str] | None = None) -> Path:
    """The network's plan, written anew: it is in the page cache then. isa: this machine's best if None."""
    path = embedded.ROOT / "build" / "embedded" / f"{name}.fcplan"
    path.parent.mkdir(parents=True, exist_ok=True)
    network(name).save(path, isa=isa)
    return path


def arena(net: Any, path: Path) -> tuple[int, int, int]:
    """Save `net` there. Bytes of its arena, of the scratch memory of one thread, and of what lives at once at most."""
    from fastconv import _core
    from fastconv.compiler import Compiler, WeightCache
    from fastconv.passes import optimize
    from fastconv.passes.arena import peak_bytes
    from fastconv.selection import Selection

    net.save(path)
    saved = _core.PlanFile(str(path)).read()
    source = net._onnx
    graph = source.build({i.name: tuple(s) for i, (_, _, s, _) in zip(source.inputs, saved.inputs, strict=True)})
    live = peak_bytes(Compiler(optimize(graph), WeightCache(), Selection(saved.isa)).memory.regions)
    return saved.plan.arena_bytes, saved.plan.scratch_bytes, live


def show(what: str, value: str, right: bool) -> bool:
    print(f"{what:<66} {value}{'' if right else '  MISSED'}", flush=True)
    return right


def program_bytes(runtime: bool, to: embedded.Target | None = None) -> int:
    """Of examples/embedded, stripped, with the kernels of MobileNetV2's plan; with the C++ runtime linked in or not.

    to: has one level; this machine's best if None.
    """
    to = to or embedded.target()
    file = plan("MobileNetV2", to.levels)
    kernels = embedded.call(sys.executable, "-m", "fastconv.cli", "info", file, "--kernels").strip()
    prefix = embedded.build_library(to, kernels, to.folder.with_name(f"{to.levels[-1]}-figures"))
    option = "ON" if runtime else "OFF"
    program = embedded.build_example(to, prefix, f"runtime_{option}", f"-DCLASSIFY_STATIC_RUNTIME={option}")
    embedded.call(f"{to.tools}strip", program)
    return program.stat().st_size


def sizes() -> bool:
    """A stripped program with the kernels of one plan."""
    right = True
    for what, runtime in (("the system's C++ runtime", False), ("the C++ runtime linked in", True)):
        n = program_bytes(runtime)
        text = f"program for MobileNetV2, {embedded.target().name}, {what}"
        right &= show(text, f"{n:,} bytes (aim {LARGEST:,})", n <= LARGEST)
    return right


def arenas() -> bool:
    """Arenas beside what lives at once."""
    right, path = True, embedded.ROOT / "build" / "embedded" / "arena.fcplan"
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in ("LeNet5", "AlexNet", "VGG16", "GoogLeNet", "ResNet50", "MobileNetV2", "EfficientNetB0", "InceptionV3"):
        got, scratch, live = arena(network(name), path)
        text = f"{got:,} bytes, {got / live:.3f} of the peak (aim 1.1); scratch {scratch:,} a thread"
        right &= show(f"arena of {name}", text, got <= 1.1 * live)
        if name == "LeNet5":
            right &= show("LeNet-5's arena with scratch memory", f"{got + scratch:,} bytes (aim {LENET:,})",
                          got + scratch < LENET)  # fmt: skip
    path.unlink()
    return right


def first(runs: int) -> bool:
    """The first answer of VGG16's plan, in a fresh process each time, beside warm runs of the same process."""
    to = embedded.target()
    program = embedded.build_example(to, embedded.build_library(to), "static")
    file = plan("VGG16")
    image = file.with_name("noise.ppm")
    embedded.write_ppm(image, np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    samples = []
    for _ in range(runs):
        found = TIMES.search(embedded.call(program, file, image, "--trust", "--runs", 15))
        assert found is not None
        samples.append(tuple(map(float, found.groups())))
    opened, soonest, warm = zip(*samples, strict=True)
    ratios = [a / b for a, b in zip(soonest, warm, strict=True)]
    print(f"VGG16, {to.name}, one thread, {file.stat().st_size:,} bytes, {runs} processes: median, least and most")
    right = show("plan opened", f"{spread(opened)} ms (aim {OPEN_MS})", statistics.median(opened) <= OPEN_MS)
    show("first answer after", f"{spread(soonest)} ms", True)
    show("warm run", f"{spread(warm)} ms", True)
    return show("ratio", f"{spread(ratios)} (aim {FIRST})", statistics.median(ratios) <= FIRST) and right


def spread(values: Any) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.embedded", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", action="store_true", help="of a program")
    parser.add_argument("--arena", action="store_true", help="of eight networks")
    parser.add_argument("--first", action="store_true", help="answer of VGG16's plan")
    parser.add_argument("--runs", type=int, default=9, help="processes for --first")
    args = parser.parse_args(argv)
    everything = not (args.size or args.arena or args.first)
    right = True
    if args.size or everything:
        right &= sizes()
    if args.arena or everything:
        right &= arenas()
    if args.first or everything:
        right &= first(args.runs)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
