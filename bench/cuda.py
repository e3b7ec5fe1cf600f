"""The GPU beside PyTorch and onnxruntime; bench/cuda_all.sh calls it.

    python -m bench.cuda accuracy --json FILE     error of whole networks in each precision, beside torch's
    python -m bench.cuda time --seconds N --json FILE
    python -m bench.cuda tiles --seconds N --json FILE    every tile and number of slices, for the rules of choice
    python -m bench.cuda table FOLDER             the short table of both
--smoke: small ones, so that tests/cuda's emulator can stand in for a card (its times say nothing).

Times are of the device: events around replays of a CUDA graph, inputs and outputs on the device, the caches as the
replays leave them. "call" is the wall clock of one call that returns when its result is there. torch runs in
channels_last with cudnn.benchmark. Networks are those of bench.quick, with the same random weights everywhere.
Errors are of the largest output of the same network in float32 on the CPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from bench import quick
from bench.cuda_table import table
from bench.cuda_torch import Torch, made, repeat, torch_or_none
from fastconv import _core
from fastconv.cuda.target import Target
from tests import cases

PRECISIONS = ("fp16", "tf32", "fp32", "bf16")
BATCHES = (32, 1, 8)
SCALAR = _core.Isa.scalar
LAYERS = [("resnet50", c) for c in cases.RESNET50] + [("vgg16", c) for c in cases.VGG16]
SMOKE = [("smoke", cases.ConvCase("3x3", 1, 7, 7, 16, 24, 3, 3, pads=(1, 1, 1, 1)))]


# -- fastconv -------------------------------------------------------------------------------------------------------
class Layer:
    """One convolution with bias and relu; a stem's channels are rounded up as in a network. Its data go to the device
    once, whatever plans are timed on them."""

    def __init__(self, target: Target, case: cases.ConvCase, batch: int) -> None:
        self._target, self._case, self._batch = target, case, batch
        self._store, self._executor = target.store(), target.executor(1)
        self._C = -(-case.C // target.channel_unit) * target.channel_unit
        rng = np.random.default_rng(0)
        self._w = np.zeros((case.K, self._C // case.groups, case.R, case.S), np.float32)
        size = (case.K, case.C, case.R, case.S)
        self._w[:, : case.C] = rng.standard_normal(size, np.float32) / np.float32(np.sqrt(case.C * case.R * case.S))
        self._bias = self._store.put(rng.standard_normal(case.K, np.float32))
        some = rng.standard_normal(1 << 20, np.float32)  # again and again: drawing all of them takes seconds
        self._x = np.resize(some, batch * case.H * case.W * self._C)
        self._packed: dict[bool, Any] = {}
        self._buffers: Any = None

    def ms(self, winograd: bool = False) -> float:
        """Milliseconds of a replay."""
        plan = self._plan(winograd)
        if self._buffers is None:
            y = np.zeros(self._batch * self._case.P * self._case.Q * self._case.K, np.float32)
            self._executor.run(plan, [self._x, y])  # real numbers, not whatever the memory held
            if not np.isfinite(y).all():
                raise ValueError(f"{self._case.name}: the output is not finite")
            self._buffers = plan.buffers
        plan.buffers = self._buffers
        return replay_ms(self._executor, plan)

    def _plan(self, winograd: bool) -> Any:
        case, C, store = self._case, self._C, self._store
        H, W, P, Q = case.H, case.W, case.P, case.Q
        sizes = dict(
            N=self._batch, H=H, W=W, C=C, K=case.K, P=P, Q=Q, pad_t=case.pads[0], pad_l=case.pads[1],
            x_image=H * W * C, x_row=W * C, x_ld=C, y_ld=case.K,
            act=_core.Activation(func=_core.Func.clip, alpha=0.0, beta=float("inf")),
        )  # fmt: skip
        desc: Any = _core.Winograd(m=4, r=3, **sizes) if winograd else _core.Conv2d(
            R=case.R, S=case.S, groups=1, stride_h=case.strides[0], stride_w=case.strides[1], dilation_h=1,
            dilation_w=1, algorithm=_core.ConvAlgorithm.implicit, **sizes,
        )  # fmt: skip
        if winograd not in self._packed:
            self._packed[winograd] = (
                store.pack_winograd(self._w, None, 4, SCALAR)
                if winograd
                else store.pack_conv2d(self._w, None, 1, SCALAR)
            )
        plan = self._target.plan(SCALAR, store)
        inputs = [plan.external(0, 0, self._x.size), plan.weight(self._packed[winograd]), plan.weight(self._bias)]
        size = self._batch * P * Q * case.K
        (plan.winograd_conv2d if winograd else plan.conv2d)(desc, inputs, plan.external(1, 0, size))
        return plan


def transforms(case: cases.ConvCase) -> bool:
    """Whether Winograd's kernels can."""
    return (case.R, case.S, case.strides, case.C % 4) == (3, 3, (1, 1), 0)


def replay_ms(executor: Any, plan: Any) -> float:
    """Milliseconds of one replay of a plan's graph."""
    return repeat(lambda n: float(executor.time(plan, n)) * n * 1e-6)


def call_ms(run: Callable[[], object], turns: int = 30) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def attempt(row: dict[str, Any], key: str, run: Callable[..., float], *arguments: Any) -> None:
    """A figure, or why there is none: one failure must not end the whole."""
    try:
        row[key] = run(*arguments)
    except Exception as error:
        row[f"{key}_error"] = f"{type(error).__name__}: {error}"[:300]


# -- what is measured -----------------------------------------------------------------------------------------------
class Report(dict[str, Any]):
    """Results, written after every row: a kernel that hangs leaves nothing but what is there by then."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(rows=[], layers=[], models=[], tiles=[], left_out=[])
        self._path = path

    def add(self, kind: str, row: dict[str, Any]) -> None:
        self[kind].append(row)
        self.write()

    def write(self) -> None:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self, indent=1))
            part.replace(self._path)


Network = tuple[str, bytes, tuple[int, ...]]  # name, ONNX file, shape of an image


def networks(smoke: bool) -> list[Network]:
    if not smoke:
        return [(name, made(name).SerializeToString(), (3, 224, 224)) for name in quick.MAKERS]
    from tests.models import nets

    model = nets.NETS["resnet"]()
    return [("resnet50", model.SerializeToString(), next(iter(nets.inputs(model, 1).values())).shape[1:])]


def images(batch: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)


def accuracy(report: Report, torch: Torch | None, smoke: bool) -> None:
    for name, data, shape in networks(smoke):
        x = images(2, shape)
        want = fastconv.load(data, precision="strict")(x)
        size = float(np.abs(want).max())
        for precision in PRECISIONS:
            row: dict[str, Any] = {"model": name, "precision": precision}

            def mine(
                precision: str = precision, data: bytes = data, want: Any = want, size: float = size, x: Any = x
            ) -> float:
                got = fastconv.load(data, device="cuda", precision=precision)(x)
                return float(np.abs(got - want).max()) / size

            def theirs(
                precision: str = precision, name: str = name, want: Any = want, size: float = size, x: Any = x
            ) -> float:
                assert torch is not None
                with torch.torch.no_grad():
                    got = torch.network(name, precision)(torch.input(x, precision)).float().cpu().numpy()
                return float(np.abs(got - want).max()) / size

            attempt(row, "fastconv", mine)
            if torch:
                attempt(row, "torch", theirs)
            report.add("rows", row)
            print(row, flush=True)


def models(report: Report, torch: Torch | None, left: Callable[[], float], smoke: bool) -> None:
    for name, data, shape in networks(smoke):
        for precision in PRECISIONS:
            for batch in BATCHES[1:2] if smoke else BATCHES:
                if left() < 0 and report["models"]:  # one row there always is
                    report["left_out"].append(f"{name} {precision} batch {batch}")
                    continue
                row: dict[str, Any] = {"model": name, "precision": precision, "batch": batch}
                x = images(batch, shape)
                attempt(row, "fastconv", one_model, row, data, precision, x)
                if torch:
                    attempt(row, "torch_graph", torch_model, row, torch, name, precision, x)
                if precision in ("fp32", "tf32") and not smoke:
                    attempt(row, "onnxruntime_numpy", onnxruntime_ms, data, x, precision)
                report.add("models", row)
                print(row, flush=True)


@functools.lru_cache(maxsize=1)
def loaded(data: bytes, precision: str) -> fastconv.Model:
    return fastconv.load(data, device="cuda", precision=precision)


def one_model(row: dict[str, Any], data: bytes, precision: str, x: Any) -> float:
    """Milliseconds of a replay; those of calls go to the row."""
    model = loaded(data, precision)
    plan = model.compile(x.shape).plan
    model(x)
    device_x = upload(model, x)
    attempt(row, "fastconv_call", call_ms, functools.partial(model, device_x))
    attempt(row, "fastconv_numpy", call_ms, functools.partial(model, x))
    return replay_ms(model._executor, plan)


def torch_model(row: dict[str, Any], torch: Torch, name: str, precision: str, x: Any) -> float:
    run, given = torch.network(name, precision), torch.input(x, precision)

    def eager() -> None:
        with torch.torch.no_grad():
            run(given)
        torch.torch.cuda.synchronize()

    attempt(row, "torch_eager_call", call_ms, eager)
    graph = torch.time(functools.partial(run, given))
    if precision in ("fp16", "bf16"):
        attempt(row, "torch_autocast_call", lambda: call_ms(torch.autocast(name, precision, x)))
    return graph


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


def layers(report: Report, torch: Torch | None, left: Callable[[], float], smoke: bool) -> None:
    plans: Iterator[tuple[int, str]] = ((b, p) for p in PRECISIONS for b in ((1,) if smoke else BATCHES))
    for batch, precision in plans:
        target = Target("cuda", precision)
        for network, case in SMOKE if smoke else LAYERS:
            label = f"{network} {case.name} {precision} batch {batch}"
            if left() < 0 and report["layers"]:  # one row there always is
                report["left_out"].append(label)
                continue
            flops = case.flops / case.N * batch
            row: dict[str, Any] = {"network": network, "layer": case.name, "precision": precision, "batch": batch,
                                   "times": case.times, "R": case.R, "flops": flops}  # fmt: skip
            made = Layer(target, case, batch)
            attempt(row, "fastconv", made.ms)
            if precision == "fp32" and transforms(case):
                attempt(row, "winograd", made.ms, True)
                sizes = (batch, case.P, case.Q, case.C, case.K, target.owner.info.multiprocessors)
                row["winograd_chosen"] = target.owner.library.choose_winograd(*sizes)
            if torch:
                attempt(row, "torch", torch.layer, case, batch, precision)
            report.add("layers", row)
            print(row, flush=True)


TILES, HOPPER_TILES = 4, 3  # csrc/cuda/conv_choice.h
SWEPT = ((1, "fp32"), (32, "fp32"), (32, "fp16"), (1, "fp16"), (8, "fp16"), (32, "tf32"), (1, "tf32"))
SLICES = (1, 2, 3, 4, 6, 8, 12, 16)


def tiles(report: Report, left: Callable[[], float], smoke: bool) -> None:
    """Every tile, and numbers of slices while they gain, for the choice in csrc/cuda/conv2d.cu to be corrected by."""
    for batch, precision in SWEPT:
        target = Target("cuda", precision)
        hopper = precision != "fp32" and target.owner.library.hopper_launches() >= 0
        for network, case in SMOKE if smoke else LAYERS:
            if left() < 0 and report["tiles"]:  # one row there always is
                report["left_out"].append(f"tiles of {network} {case.name} {precision} batch {batch}")
                continue
            made = Layer(target, case, batch)
            able = hopper and case.C * (4 if precision == "tf32" else 2) >= 96
            for tile in range(TILES, TILES + HOPPER_TILES) if able else range(TILES):
                best = float("inf")
                for slices in SLICES:
                    row: dict[str, Any] = {"network": network, "layer": case.name, "precision": precision,
                                           "batch": batch, "tile": tile, "slices": slices}  # fmt: skip
                    target.owner.call("force", tile, slices)
                    attempt(row, "fastconv", made.ms)
                    target.owner.call("force", -1, 1)
                    report.add("tiles", row)
                    took = row.get("fastconv", float("inf"))
                    if took > 1.1 * best:
                        break
                    best = min(best, took)


def blocks(report: Report, left: Callable[[], float], smoke: bool) -> None:
    """Winograd's tiles in blocks whose planes fit a cache or do not, for the bound in csrc/cuda/winograd.cu."""
    target = Target("cuda", "fp32")
    for network, case in SMOKE if smoke else LAYERS:
        if not transforms(case) or case.C < 128:
            continue
        if left() < 0:
            report["left_out"].append(f"blocks of tiles of {network} {case.name}")
            continue
        made = Layer(target, case, 32)
        for most in (256, 1024, 4096):
            row: dict[str, Any] = {"layer": case.name, "precision": "fp32", "batch": 32, "block": most}
            target.owner.call("force_winograd", -1, most)
            attempt(row, "fastconv", made.ms, True)
            target.owner.call("force_winograd", -1, 0)
            report.add("tiles", row)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.cuda", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "time", "tiles", "table"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/cuda-results"))
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--smoke", action="store_true", help="a small network and layer, no torch: a trial of this program"
    )
    args = parser.parse_args(argv)
    if args.what == "table":
        return table(args.folder)
    report = Report(args.json)
    started, share, smoke = time.monotonic(), args.seconds, args.smoke
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(124))  # of timeout: what was measured is written
    try:
        torch = None if smoke else torch_or_none(report)
        report.setdefault("torch", "left out")
        if args.what == "accuracy":
            accuracy(report, torch, smoke)
        elif args.what == "tiles":
            tiles(report, lambda: started + share - time.monotonic(), smoke)
        else:
            models(report, torch, lambda: started + 0.5 * share - time.monotonic(), smoke)
            layers(report, torch, lambda: started + 0.87 * share - time.monotonic(), smoke)
            blocks(report, lambda: started + 0.9 * share - time.monotonic(), smoke)
            tiles(report, lambda: started + share - time.monotonic(), smoke)
            report["hopper_launches"] = Target("cuda", "fp16").owner.library.hopper_launches()
    finally:
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
