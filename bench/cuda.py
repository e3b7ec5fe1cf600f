"""The GPU beside PyTorch and onnxruntime; bench/cuda_all.sh calls it.

    python -m bench.cuda accuracy --json FILE     error of whole networks in each precision, beside torch's
    python -m bench.cuda time --seconds N --json FILE [--smoke]
    python -m bench.cuda table FOLDER             the short table of both

Times are of the device: events around replays of a CUDA graph, inputs and outputs on the device, the caches as the
replays leave them. "call" is the wall clock of one call that returns when its result is there. torch runs in
channels_last with cudnn.benchmark. Networks are those of bench.quick, with the same random weights everywhere.
Errors are of the largest output of the same network in float32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from bench import quick
from fastconv import _core
from fastconv.cuda.target import Target
from tests import cases

PRECISIONS = ("fp16", "tf32", "bf16", "fp32")
BATCHES = (32, 1, 8)
LAYERS = [("resnet50", c) for c in cases.RESNET50] + [("vgg16", c) for c in cases.VGG16]
SMOKE = [("smoke", cases.ConvCase("3x3", 1, 7, 7, 16, 24, 3, 3, pads=(1, 1, 1, 1)))]


# -- fastconv -------------------------------------------------------------------------------------------------------
def layer(target: Target, case: cases.ConvCase, batch: int) -> float:
    """Milliseconds of one convolution with bias and relu; a stem's channels are rounded up as in a network."""
    unit = target.channel_unit
    C = -(-case.C // unit) * unit
    store = target.store()
    plan = target.plan(_core.Isa.scalar, store)
    rng = np.random.default_rng(0)
    w = np.zeros((case.K, C // case.groups, case.R, case.S), np.float32)
    w[:, : case.C] = rng.standard_normal((case.K, case.C, case.R, case.S)) / np.sqrt(case.C * case.R * case.S)
    H, W, P, Q = case.H, case.W, case.P, case.Q
    desc = _core.Conv2d(
        N=batch, H=H, W=W, C=C, K=case.K, P=P, Q=Q, R=case.R, S=case.S, groups=1, stride_h=case.strides[0],
        stride_w=case.strides[1], dilation_h=1, dilation_w=1, pad_t=case.pads[0], pad_l=case.pads[1], x_image=H * W * C,
        x_row=W * C, x_ld=C, y_ld=case.K, algorithm=_core.ConvAlgorithm.implicit,
        act=_core.Activation(func=_core.Func.clip, alpha=0.0, beta=float("inf")),
    )  # fmt: skip
    x = rng.standard_normal(batch * H * W * C, np.float32)
    y = np.zeros(batch * P * Q * case.K, np.float32)
    inputs = [plan.external(0, 0, x.size), plan.weight(store.pack_conv2d(w, None, 1, _core.Isa.scalar)),
              plan.weight(store.put(rng.standard_normal(case.K, np.float32)))]  # fmt: skip
    plan.conv2d(desc, inputs, plan.external(1, 0, y.size))
    executor = target.executor(1)
    executor.run(plan, [x, y])  # real numbers, not whatever the memory held
    if not np.isfinite(y).all():
        raise ValueError(f"{case.name}: the output is not finite")
    return replay_ms(executor, plan)


def replay_ms(executor: Any, plan: Any) -> float:
    """Milliseconds of one replay of a plan's graph."""
    return repeat(lambda n: float(executor.time(plan, n)) * n * 1e-6)


def repeat(run: Callable[[int], float], seconds: float = 0.03) -> float:
    """Median milliseconds of one of n runs, five times; n so that they take about `seconds` together."""
    first = run(3) / 3
    n = int(min(max(seconds * 1e3 / max(first, 1e-4) / 5, 3), 1000))
    return float(np.median([run(n) / n for _ in range(5)]))


def call_ms(run: Callable[[], object], turns: int = 30) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


# -- torch ----------------------------------------------------------------------------------------------------------
class Torch:
    """torch on the GPU, in channels_last. Raises ImportError or RuntimeError where it is not there."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self.torch: Any = torch
        torch.backends.cudnn.benchmark = True
        self.version = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"

    def precise(self, precision: str) -> Any:
        """The dtype; tf32 is float32 with the flags set."""
        t = self.torch
        t.backends.cudnn.allow_tf32 = t.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        return {"fp16": t.float16, "bf16": t.bfloat16}.get(precision, t.float32)

    def graph(self, run: Callable[[], Any]) -> Any:
        t = self.torch
        stream = t.cuda.Stream()
        stream.wait_stream(t.cuda.current_stream())
        with t.cuda.stream(stream), t.no_grad():
            for _ in range(3):
                run()
        t.cuda.current_stream().wait_stream(stream)
        graph = t.cuda.CUDAGraph()
        with t.cuda.graph(graph), t.no_grad():
            run()
        return graph

    def time(self, run: Callable[[], Any]) -> float:
        """Milliseconds of a replay."""
        t = self.torch
        graph = self.graph(run)

        def times(n: int) -> float:
            begin, end = t.cuda.Event(enable_timing=True), t.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(n):
                graph.replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end))

        return repeat(times)

    def layer(self, case: cases.ConvCase, batch: int, precision: str) -> float:
        t, dtype = self.torch, self.precise(precision)
        x = t.randn(batch, case.C, case.H, case.W, device="cuda", dtype=dtype).to(memory_format=t.channels_last)
        w = t.randn(case.K, case.C, case.R, case.S, device="cuda", dtype=dtype).to(memory_format=t.channels_last)
        b = t.randn(case.K, device="cuda", dtype=dtype)
        pads = case.pads[:2]
        return self.time(lambda: t.relu_(t.nn.functional.conv2d(x, w, b, stride=case.strides, padding=pads)))

    def network(self, name: str, precision: str) -> Callable[[Any], Any]:
        """The network of bench.quick as torch functions, with its weights."""
        import onnx

        t, dtype, graph = self.torch, self.precise(precision), quick.MAKERS[name]().graph
        f = t.nn.functional
        weights = {i.name: t.tensor(onnx.numpy_helper.to_array(i)).cuda() for i in graph.initializer}
        for key, v in weights.items():
            if v.is_floating_point():
                v = v.to(dtype)
                weights[key] = v.to(memory_format=t.channels_last) if v.ndim == 4 else v
        nodes = [(n, {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}) for n in graph.node]
        source, result = graph.input[0].name, graph.output[0].name

        def run(x: Any) -> Any:
            values = {**weights, source: x}
            for n, a in nodes:
                i = [values[k] for k in n.input if k]
                if n.op_type == "Conv":
                    y = f.conv2d(*i, stride=a.get("strides", (1, 1)), padding=a.get("pads", (0, 0))[:2])
                elif n.op_type == "Relu":
                    y = t.relu(i[0])
                elif n.op_type == "Add":
                    y = i[0] + i[1]
                elif n.op_type == "MaxPool":
                    y = f.max_pool2d(i[0], a["kernel_shape"], a["strides"], a.get("pads", (0, 0))[:2])
                elif n.op_type == "GlobalAveragePool":
                    y = i[0].mean((2, 3), keepdim=True)
                elif n.op_type == "Flatten":
                    y = i[0].flatten(1)
                elif n.op_type == "Gemm":
                    y = f.linear(i[0], i[1] if a.get("transB") else i[1].T, i[2] if len(i) > 2 else None)
                else:
                    raise ValueError(f"{n.op_type} in {name}")
                values[n.output[0]] = y
            return values[result]

        return run

    def input(self, x: Any, precision: str) -> Any:
        t = self.torch
        return t.tensor(x).cuda().to(self.precise(precision)).to(memory_format=t.channels_last)


def torch_or_none(report: dict[str, Any]) -> Torch | None:
    try:
        found = Torch()
        report["torch"] = found.version
        return found
    except (ImportError, RuntimeError) as error:
        report["torch"] = f"absent: {error}"
        return None


def attempt(row: dict[str, Any], key: str, run: Callable[..., float], *arguments: Any) -> None:
    """A figure, or why there is none: one failure must not end the whole."""
    try:
        row[key] = run(*arguments)
    except Exception as error:
        row[f"{key}_error"] = f"{type(error).__name__}: {error}"[:300]


# -- what is measured -----------------------------------------------------------------------------------------------
def images(batch: int) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)


def accuracy(report: dict[str, Any]) -> None:
    torch, x = torch_or_none(report), images(2)
    for name, make in quick.MAKERS.items():
        data = make().SerializeToString()
        want = fastconv.load(data, precision="strict")(x)
        size = float(np.abs(want).max())
        for precision in PRECISIONS:
            row: dict[str, Any] = {"model": name, "precision": precision}

            def mine(precision: str = precision, data: bytes = data, want: Any = want, size: float = size) -> float:
                got = fastconv.load(data, device="cuda", precision=precision)(x)
                return float(np.abs(got - want).max()) / size

            def theirs(precision: str = precision, name: str = name, want: Any = want, size: float = size) -> float:
                assert torch is not None
                with torch.torch.no_grad():
                    got = torch.network(name, precision)(torch.input(x, precision)).float().cpu().numpy()
                return float(np.abs(got - want).max()) / size

            attempt(row, "fastconv", mine)
            if torch:
                attempt(row, "torch", theirs)
            report["rows"].append(row)
            print(row, flush=True)


def models(report: dict[str, Any], torch: Torch | None, left: Callable[[], float]) -> None:
    for name, make in quick.MAKERS.items():
        data = make().SerializeToString()
        for precision in PRECISIONS:
            model = fastconv.load(data, device="cuda", precision=precision)
            for batch in BATCHES:
                if left() < 0:
                    report["left_out"].append(f"{name} {precision} batch {batch}")
                    continue
                x = images(batch)
                row: dict[str, Any] = {"model": name, "precision": precision, "batch": batch}
                plan = model.compile(x.shape).plan
                model(x)
                attempt(row, "fastconv", replay_ms, model._executor, plan)
                device_x = upload(model, x)
                attempt(row, "fastconv_call", call_ms, partial(model, device_x))
                attempt(row, "fastconv_numpy", call_ms, partial(model, x))
                if torch:
                    run, given = torch.network(name, precision), torch.input(x, precision)

                    def eager(run: Any = run, given: Any = given) -> None:
                        with torch.torch.no_grad():
                            run(given)
                        torch.torch.cuda.synchronize()

                    attempt(row, "torch_graph", torch.time, partial(run, given))
                    attempt(row, "torch_eager_call", call_ms, eager)
                if precision in ("fp32", "tf32"):
                    attempt(row, "onnxruntime_numpy", onnxruntime_ms, data, x, precision)
                report["models"].append(row)
                print(row, flush=True)


def upload(model: Any, x: Any) -> Any:
    from ctypes import c_void_p

    from fastconv.cuda import DeviceArray

    array = DeviceArray(model._target.owner, x.shape)
    array.owner.call("upload", c_void_p(array.memory.address), c_void_p(x.ctypes.data), x.nbytes)
    return array


def onnxruntime_ms(data: bytes, x: Any, precision: str) -> float:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("no CUDA provider")
    options = {"use_tf32": "1" if precision == "tf32" else "0"}
    session = onnxruntime.InferenceSession(data, providers=[("CUDAExecutionProvider", options)])
    name = session.get_inputs()[0].name
    return call_ms(lambda: session.run(None, {name: x}))


def layers(report: dict[str, Any], torch: Torch | None, left: Callable[[], float], smoke: bool) -> None:
    plans: Iterator[tuple[int, str]] = ((b, p) for p in PRECISIONS for b in ((1,) if smoke else BATCHES))
    for batch, precision in plans:
        target = Target("cuda", precision)
        for network, case in SMOKE if smoke else LAYERS:
            label = f"{network} {case.name} {precision} batch {batch}"
            if left() < 0:
                report["left_out"].append(label)
                continue
            flops = case.flops / case.N * batch
            row: dict[str, Any] = {"network": network, "layer": case.name, "precision": precision, "batch": batch,
                                   "times": case.times, "R": case.R, "flops": flops}  # fmt: skip
            attempt(row, "fastconv", layer, target, case, batch)
            if torch:
                attempt(row, "torch", torch.layer, case, batch, precision)
            report["layers"].append(row)
            print(row, flush=True)


def tiles(report: dict[str, Any], left: Callable[[], float], smoke: bool) -> None:
    """Every tile and number of slices, for the choice in csrc/cuda/conv2d.cu to be corrected by."""
    for batch, precision in ((32, "fp16"), (1, "fp16"), (1, "fp32")):
        target = Target("cuda", precision)
        for network, case in SMOKE if smoke else LAYERS[: len(cases.RESNET50)]:
            for tile in range(4):
                for slices in (1, 2, 4, 8):
                    if left() < 0:
                        report["left_out"].append(f"tile {tile} x{slices} {network} {case.name} batch {batch}")
                        continue
                    row: dict[str, Any] = {"layer": case.name, "precision": precision, "batch": batch, "tile": tile,
                                           "slices": slices}  # fmt: skip
                    target.owner.call("force", tile, slices)
                    attempt(row, "fastconv", layer, target, case, batch)
                    target.owner.call("force", -1, 1)
                    report["tiles"].append(row)


# -- the table ------------------------------------------------------------------------------------------------------
def ratio(row: dict[str, Any], mine: str, theirs: str) -> str:
    return f"{row[mine] / row[theirs]:.2f}" if row.get(mine) and row.get(theirs) else "-"


def ms(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f}" if key in row else ("error" if f"{key}_error" in row else "-")


def table(folder: Path) -> int:
    """Prints the table; 1 where a figure of ours is missing or a limit of the acceptance is missed."""
    bad: list[str] = []
    card = folder / "card.txt"
    print(card.read_text().strip() if card.exists() else "card unknown")
    files = {name: folder / f"{name}.json" for name in ("accuracy", "times")}
    for name, path in files.items():
        if not path.exists():
            print(f"{name}: no results")
            return 1
    report = json.loads(files["accuracy"].read_text())
    print(f"\nlargest error, of the largest output         ({report['torch']})")
    print(f"{'model':10} {'precision':9} {'fastconv':>9} {'torch':>9}")
    for row in report["rows"]:
        shown = [f"{row[k]:.1e}" if k in row else "-" for k in ("fastconv", "torch")]
        print(f"{row['model']:10} {row['precision']:9} {shown[0]:>9} {shown[1]:>9}")
        bound = 1e-4 if row["precision"] == "fp32" else 1.5 * row.get("torch", float("inf"))
        if not row.get("fastconv", float("inf")) <= bound:
            bad.append(f"accuracy {row['model']} {row['precision']}: {row.get('fastconv_error', shown[0])}")
    report = json.loads(files["times"].read_text())
    print("\nwhole models, ms (device: replays of a graph; call: wall clock, tensors on the device)")
    print("model      prec  batch  fastconv     torch  ratio |     call    eager  ratio")
    for row in report["models"]:
        r, e = ratio(row, "fastconv", "torch_graph"), ratio(row, "fastconv_call", "torch_eager_call")
        name = f"{row['model']:10} {row['precision']:5} {row['batch']:5}"
        print(name, f"{ms(row, 'fastconv'):>9} {ms(row, 'torch_graph'):>9} {r:>6} |", end="")
        print(f" {ms(row, 'fastconv_call'):>8} {ms(row, 'torch_eager_call'):>8} {e:>6}")
        if row["model"] == "resnet50" and row["precision"] == "fp16":
            limits = {1: ((r, 1.0), (e, 0.6)), 32: ((r, 1.25),)}.get(row["batch"], ())
            bad += [
                f"resnet50 fp16 batch {row['batch']}: {x}, limit {y}" for x, y in limits if x == "-" or float(x) > y
            ]
    slow = []
    total: dict[tuple[str, str, int], list[float]] = {}
    for row in report["layers"]:
        if "fastconv" not in row:
            bad.append(f"layer {row['layer']} {row['precision']} batch {row['batch']}: {row['fastconv_error']}")
            continue
        sums = total.setdefault((row["network"], row["precision"], row["batch"]), [0.0, 0.0, 0.0])
        sums[0] += row["times"] * row["fastconv"]
        sums[1] += row["times"] * row.get("torch", float("nan"))
        sums[2] += row["times"] * row["flops"]
        judged = row["precision"] == "fp16" and row["batch"] == 32 and row["R"] == 3 and "torch" in row
        if judged and row["fastconv"] > 1.2 * row["torch"]:
            slow.append(f"{row['layer']} {row['fastconv'] / row['torch']:.2f}")
    print("\nall convolutions of a network, ms and TFLOP/s")
    for (network, precision, batch), (a, b, flops) in total.items():
        rate = flops / max(a, 1e-9) * 1e-9
        print(f"{network:10} {precision:5} {batch:5} {a:9.3f} {b:9.3f} {a / b:6.2f} {rate:8.1f}")
    bad += [f"3x3 layers above 1.2 of cuDNN: {', '.join(slow)}"] if slow else []
    if report["left_out"]:
        print(f"\nleft out for time: {len(report['left_out'])} figures, first {report['left_out'][0]}")
    print("\n" + ("all limits hold" if not bad else "NOT within the limits:\n  " + "\n  ".join(bad)))
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.cuda", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "time", "table"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/cuda-results"))
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="one small layer: a trial of this program")
    args = parser.parse_args(argv)
    if args.what == "table":
        return table(args.folder)
    report: dict[str, Any] = {"rows": [], "layers": [], "models": [], "tiles": [], "left_out": []}
    started = time.monotonic()
    try:
        if args.what == "accuracy":
            accuracy(report)
        else:
            torch = torch_or_none(report)
            share = args.seconds
            if not args.smoke:
                models(report, torch, lambda: started + 0.4 * share - time.monotonic())
            layers(report, torch, lambda: started + 0.85 * share - time.monotonic(), args.smoke)
            tiles(report, lambda: started + share - time.monotonic(), args.smoke)
    finally:
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
