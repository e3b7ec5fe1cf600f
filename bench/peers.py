"""The engines that are compared, behind one interface. Each is set up for its best single-precision latency.

`load` converts where an engine has its own format (conversion is not timed anywhere), `run` takes and returns numpy
arrays in ONNX order. An engine that is not installed or cannot run a model raises; the benchmarks show it as failed.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]


def input_shapes(path: str | Path, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's inputs, with `batch` for a symbolic first dimension.

    ValueError where another dimension is symbolic or a fixed batch is not `batch`.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    for value in graph.input:
        if value.name in constants:
            continue
        dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        if dims and dims[0] is None:
            dims[0] = batch
        if any(d is None for d in dims) or (dims and dims[0] != batch):
            raise ValueError(f"{path}: input {value.name!r} has shape {dims}, which cannot have batch {batch}")
        shapes[value.name] = tuple(d for d in dims if d is not None)
    return shapes


class Engine(ABC):
    """One engine with one model. `package` is the distribution whose version is reported, `settings` what readers of a
    figure must know of how the engine was set up."""

    name: ClassVar[str]
    package: ClassVar[str]
    settings: ClassVar[str] = ""

    @property
    def version(self) -> str:
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "not installed"

    @abstractmethod
    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        """Read an ONNX model for exactly these input shapes and this number of threads."""

    @abstractmethod
    def run(self, x: Mapping[str, Array]) -> list[Array]:
        """All outputs, in the model's order."""


class Fastconv(Engine):
    name = package = "fastconv"
    settings = 'fastconv.load(path, threads=T), precision "fp32"'

    @property
    def version(self) -> str:
        try:
            import fastconv
        except ImportError:
            return "not installed"
        return str(getattr(fastconv, "__version__", super().version))

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import fastconv

        self._model = fastconv.load(str(path), threads=threads)

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        return list(self._model.run(None, dict(x)))


class OnnxRuntime(Engine):
    """All optimisations, sequential execution, default spinning; the batch dimension, which bench.export calls N, is
    pinned, and other symbolic dimensions stay symbolic (finding them would mean parsing the file: see bench.load)."""

    name = package = "onnxruntime"
    settings = "CPU provider, all graph optimisations, sequential, T intra-op threads, spinning; batch dimension pinned"

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name("N", next(iter(shapes.values()))[0])
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        return list(self._session.run(None, dict(x)))


class OpenVino(Engine):
    """Latency hint, one stream; f32 is asked for because the default is bf16 on CPUs that have it."""

    name = package = "openvino"
    settings = "f32 inference precision (checked), latency hint, one stream, T threads, static shape"

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(model, "CPU", config)
        precision = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        if precision != "f32" and "float32" not in precision:  # it silently computes in bf16 where the CPU has that
            raise RuntimeError(f"openvino took inference precision {precision}, not f32")
        self._count = len(compiled.outputs)
        self._request = compiled.create_infer_request()

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        result = self._request.infer(dict(x), share_inputs=True, share_outputs=True)
        return [np.asarray(result[i]) for i in range(self._count)]


class Torch(Engine):
    """The torchvision module that the file was exported from, rebuilt by name (seed in FASTCONV_BENCH_SEED, default 0),
    channels last, traced, frozen and optimised for inference. Other files than bench.export's are refused."""

    name = package = "torch"
    settings = "channels last, traced, frozen, optimize_for_inference, inference mode, T threads"

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import warnings

        import torch

        from bench import export

        name = Path(path).stem
        if name not in export.MODELS:
            raise ValueError(f"torch runs the models of bench.export, and {name!r} is none of them")
        torch.set_num_threads(threads)
        self._threads = threads
        net, _ = export.build(name, int(os.environ.get("FASTCONV_BENCH_SEED", "0")))
        (shape,) = shapes.values()
        x = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing is deprecated, and still the fastest of torch's own CPU paths
            traced = torch.jit.trace(net.to(memory_format=torch.channels_last), x)
            self._net = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        (array,) = x.values()
        with torch.inference_mode():
            y = self._net(torch.from_numpy(array).contiguous(memory_format=torch.channels_last))
        return [y.numpy()]


def _convert(command: list[str], made: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=made.parent, check=False)
    if done.returncode or not made.exists():
        tail = " ".join((done.stdout + done.stderr).split())[-300:]
        raise RuntimeError(f"conversion failed (exit code {done.returncode}): {tail}")


class Ncnn(Engine):
    """Converted by pnnx; 32-bit storage and arithmetic. ncnn has no batch axis: images run one after the other."""

    name = package = "ncnn"
    settings = "converted by pnnx with fp16=0; fp16 and bf16 off, no Vulkan, T threads; images one by one"

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import ncnn
        import pnnx

        (shape,) = shapes.values()
        one = ",".join(str(d) for d in (1, *shape[1:]))
        self._net = net = ncnn.Net()
        opt = net.opt
        opt.num_threads = threads
        opt.use_vulkan_compute = False
        for flag in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            if hasattr(opt, f"use_{flag}"):
                setattr(opt, f"use_{flag}", False)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "model.onnx")
            _single_file(Path(path), source)
            made = Path(folder, "model.ncnn.bin")
            _convert([pnnx.EXEC_PATH, str(source), f"inputshape=[{one}]f32", "fp16=0"], made)
            if net.load_param(str(made.with_suffix(".param"))) or net.load_model(str(made)):
                raise RuntimeError("ncnn cannot load what pnnx made")
        self._inputs, self._outputs = list(net.input_names()), list(net.output_names())

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        import ncnn

        (batch,) = x.values()
        outputs: list[list[Array]] = [[] for _ in self._outputs]
        for image in batch:
            extractor = self._net.create_extractor()
            extractor.input(self._inputs[0], ncnn.Mat(image))
            for slot, name in zip(outputs, self._outputs, strict=True):
                code, mat = extractor.extract(name)
                if code:
                    raise RuntimeError(f"ncnn failed to compute {name!r}: code {code}")
                slot.append(np.array(mat))
        return [np.stack(slot) for slot in outputs]


class Mnn(Engine):
    """Converted by MNN's converter; precision "high" is its 32-bit mode. The converter is called as a library, since
    its command line installs a telemetry package and reports each conversion."""

    name, package = "mnn", "MNN"
    settings = "converted by its converter; CPU backend, precision high, T threads, fixed shapes"

    def load(self, path: str | Path, shapes: Shapes, threads: int) -> None:
        import MNN.expr as expr
        import MNN.nn as nn
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        names = [v.name for v in graph.output]
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "model.mnn")
            arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(Path(path).resolve()), "--MNNModel", str(made)]
            _convert([sys.executable, "-c", f"import _tools; _tools.mnnconvert({arguments!r})"], made)
            runtime = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
            self._runtime = runtime  # the module does not keep it alive
            self._module = nn.load_module_from_file(
                str(made), list(shapes), names, runtime_manager=runtime, shape_mutable=False
            )
        self._expr = expr

    def run(self, x: Mapping[str, Array]) -> list[Array]:
        expr = self._expr
        outputs = self._module.forward([expr.const(a, list(a.shape), expr.NCHW) for a in x.values()])
        plain = (y if y.data_format == expr.NCHW else expr.convert(y, expr.NCHW) for y in outputs)
        return [np.array(y.read()) for y in plain]


def _single_file(source: Path, target: Path) -> None:
    """Put a model into another folder, where converters may litter, as one file: they refuse links to external data."""
    if not source.with_name(source.name + ".data").exists():
        target.symlink_to(source.resolve())
        return
    import onnx

    onnx.save(onnx.load(str(source)), str(target))


ENGINES: dict[str, type[Engine]] = {e.name: e for e in (Fastconv, OnnxRuntime, OpenVino, Torch, Ncnn, Mnn)}


def create(name: str) -> Engine:
    """A fresh engine: a name of ENGINES, or module:Class for one of your own. KeyError with the known names for
    another."""
    module, colon, cls = name.partition(":")
    if colon:
        engine = getattr(importlib.import_module(module), cls)()
        if not isinstance(engine, Engine):
            raise TypeError(f"{name} is no bench.peers.Engine")
        return engine
    if name not in ENGINES:
        raise KeyError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}, module:Class")
    return ENGINES[name]()
