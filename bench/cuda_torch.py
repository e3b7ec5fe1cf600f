"""PyTorch on the GPU, for bench.cuda: single layers and whole networks, as CUDA graphs and eagerly."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import quick
from tests import cases


def repeat(run: Callable[[int], float], seconds: float = 0.03) -> float:
    """Median milliseconds of one of n runs, five times; n so that they take about `seconds` together."""
    first = run(3) / 3
    n = int(min(max(seconds * 1e3 / max(first, 1e-4) / 5, 3), 1000))
    return float(np.median([run(n) / n for _ in range(5)]))


@functools.cache
def made(name: str) -> Any:
    """The ONNX model of a network of bench.quick: made once, VGG16's weights take seconds."""
    return quick.MAKERS[name]()


# ONNX operators of bench.quick's networks: (torch.nn.functional, inputs, attributes) -> output.
OPERATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "Conv": lambda f, x, a: f.conv2d(*x, stride=a.get("strides", (1, 1)), padding=a.get("pads", (0, 0))[:2]),
    "Identity": lambda f, x, a: x[0],
    "Relu": lambda f, x, a: f.relu(x[0]),
    "Add": lambda f, x, a: x[0] + x[1],
    "MaxPool": lambda f, x, a: f.max_pool2d(x[0], a["kernel_shape"], a["strides"], a.get("pads", (0, 0))[:2]),
    "GlobalAveragePool": lambda f, x, a: x[0].mean((2, 3), keepdim=True),
    "Flatten": lambda f, x, a: x[0].flatten(1),
    "Gemm": lambda f, x, a: f.linear(x[0], x[1] if a.get("transB") else x[1].T, *x[2:]),
}


class Torch:
    """torch on the GPU, in channels_last. Raises ImportError or RuntimeError where it is not there."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self.torch: Any = torch
        torch.backends.cudnn.benchmark = True
        self._made: tuple[Any, Any] = (None, None)  # the latest network, by name and precision
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
        gc.collect()  # nobody's memory is freed while torch captures: that would break the capture
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
        dtype = self.precise(precision)  # the flags are of this moment
        if self._made[0] != (name, precision):
            self._made = ((name, precision), self._network(name, dtype))
        run: Callable[[Any], Any] = self._made[1]
        return run

    def _network(self, name: str, dtype: Any) -> Callable[[Any], Any]:
        import onnx

        t, graph = self.torch, made(name).graph
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
                values[n.output[0]] = OPERATIONS[n.op_type](t.nn.functional, [values[k] for k in n.input if k], a)
            return values[result]

        return run

    def autocast(self, name: str, precision: str, x: Any) -> Callable[[], Any]:
        """A call of the network in float32 that casts on the way, as `torch.autocast` does it."""
        t, run, given = self.torch, self.network(name, "fp32"), self.input(x, "fp32")
        dtype = {"fp16": t.float16, "bf16": t.bfloat16}[precision]

        def call() -> Any:
            with t.no_grad(), t.autocast(given.device.type, dtype=dtype):
                y = run(given)
            if given.is_cuda:
                t.cuda.synchronize()
            return y

        return call

    def input(self, x: Any, precision: str) -> Any:
        t = self.torch
        return t.tensor(x).cuda().to(self.precise(precision)).to(memory_format=t.channels_last)


def torch_or_none(report: dict[str, Any]) -> Torch | None:
    try:
        found = Torch()
        report["torch"] = found.version
        return found
    except (ImportError, OSError, RuntimeError) as error:
        report["torch"] = f"absent: {error}"
        return None
