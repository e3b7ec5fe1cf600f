"""Saved plans, .fcplan: written from a model for one input shape and some instruction sets, loaded without a graph.

The format is described in csrc/plan_file.h, what to do with such files in docs/embedded.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from . import _core
from .compiled import Compiled, OpInfo
from .compiler import WeightCache, compile_graph
from .cut import Part
from .data import CLASS_NAMES, names_from_metadata
from .errors import DeviceError, ModelError, ShapeError
from .graph import Graph, Shape
from .inputs import TensorInfo
from .isa import resolve_isa
from .model import Model
from .onnx.reader import InputInfo, OutputInfo
from .paths import target_path
from .runner import Runner
from .selection import DEFAULT_WINOGRAD
from .source import Source
from .target import CPU
from .threads import thread_count
from .tuning import Tuning

LEVELS = ("scalar", "avx2", "avx512", "neon")
ENDING = ".fcplan"
PRECISION = "fastconv.precision"  # key of a plan's metadata: "strict" where it was made so
DTYPES = ("float32", "float16", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


def names_plan(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is to be a plan."""
    return os.path.splitext(os.fspath(path))[1].lower() == ENDING


def is_plan(model: Any) -> bool:
    """Whether `model`, a path or bytes, is a saved plan; by its first bytes, or by its name where it cannot be read."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return bytes(model[: len(_core.PLAN_MAGIC)]) == _core.PLAN_MAGIC
    if not isinstance(model, (str, os.PathLike)):
        return False
    if not os.path.isfile(model):  # opening a pipe would wait for somebody to write
        return names_plan(model)
    try:
        with open(model, "rb") as file:
            return file.read(len(_core.PLAN_MAGIC)) == _core.PLAN_MAGIC or names_plan(model)
    except OSError:
        return names_plan(model)


def plan_file(given: str | bytes) -> _core.PlanFile:
    """A saved plan, a path or bytes, with its head checked. Raises ModelError where it is broken, OSError."""
    if isinstance(given, str) and os.path.exists(given) and not os.path.isfile(given):
        raise ModelError(f"{given}: is no regular file")  # opening a pipe would wait for somebody to write
    try:
        return _core.PlanFile(given)
    except ValueError as error:
        raise ModelError(f"{given if isinstance(given, str) else 'plan'}: {error}") from None


def parse_levels(names: str | Sequence[str]) -> list[str]:
    """Known names of instruction sets, or one such name, each once. Raises DeviceError for another one."""
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in LEVELS:
            raise DeviceError(f"isa {name!r}: expected some of {', '.join(LEVELS)}")
    if not names:
        raise DeviceError(f"isa: expected some of {', '.join(LEVELS)}")
    return list(dict.fromkeys(names))


def save_plan(
    source: Source,
    path: str | os.PathLike[str],
    shapes: Sequence[Shape],
    isa: str | Sequence[str],
    *,
    strict: bool = False,
    winograd: int = DEFAULT_WINOGRAD,
    tuning: Tuning | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Compile `source` for these input shapes and each instruction set, and write one file; options as for Selection.

    labels: class names, those in the source's metadata if not given. The metadata's other entries of one line and at
    most 4000 bytes, such as the preset that `predict` takes, are stored too. Raises ModelError and UnsupportedOpError
    as compiling does, DeviceError for an unknown instruction set, OSError.
    """
    target_path(path)
    metadata: Mapping[str, str] = getattr(source, "metadata", {})
    labels = labels or names_from_metadata(metadata) or ()
    told = {k: v for k, v in _for_input(source, metadata, shapes).items() if k not in (CLASS_NAMES, PRECISION)}
    entries = [(k, v) for k, v in told.items() if _storable(k) and _storable(v or "-")]
    entries += [(PRECISION, "strict")] if strict else []
    feed = {i.name: tuple(s) for i, s in zip(source.inputs, shapes, strict=True)}
    variants = []
    for level in parse_levels(isa):
        compiled = compile_graph(
            source.build(feed),
            getattr(_core.Isa, level),
            WeightCache(),
            strict=strict,
            winograd=winograd,
            tuning=tuning,
        )
        for name, shape in (*compiled.inputs, *compiled.outputs):
            if not all(shape):
                raise ModelError(f"{name!r} has no elements, shape {list(shape)}: there is no plan to save")
        inputs = [
            (i.name, str(i.dtype), list(s), False) for i, (_, s) in zip(source.inputs, compiled.inputs, strict=True)
        ]
        outputs = [
            (o.name, str(o.dtype), list(s), k in compiled.ragged)
            for k, (o, (_, s)) in enumerate(zip(source.outputs, compiled.outputs, strict=True))
        ]
        ops = [(_text(o.name), o.op, o.algorithm, o.flops, o.bytes, list(o.shape)[:8]) for o in compiled.ops]
        variants.append((compiled.plan, inputs, outputs, ops))
    try:
        _core.write_plan(os.fspath(path), _text(source.name), [_text(s) for s in labels], entries, variants)
    except ValueError as error:
        raise ModelError(f"{os.fspath(path)}: {error}") from None


def check_labels(names: Sequence[str], outputs: Sequence[Any], what: str) -> None:
    """Raises ShapeError where no output has as many classes as there are names; sizes that are no numbers always fit.

    The classes are the last axis; of rank 4 also the second, since maps are N C H W in most files.
    """
    classes = [n for o in outputs for n in (o.shape[1::2] if len(o.shape) == 4 else o.shape[-1:] or (0,))]
    if len(names) not in classes and all(isinstance(n, int) for n in classes):
        raise ShapeError(f"{what}: {len(names)} names, but the outputs have {classes} classes")


def image_layout(shape: Sequence[Any]) -> str:
    """NHWC where three channels come last and only there, else NCHW."""
    return "NHWC" if len(shape) == 4 and shape[3] == 3 and shape[1] != 3 else "NCHW"


def _channels_last(source: Source) -> bool:
    """Whether images are N H W C whatever their sizes: those of networks of layers."""
    from .models.source import LayerSource

    while isinstance(source, Part):
        source = source.base
    return isinstance(source, LayerSource)


def _for_input(source: Source, metadata: Mapping[str, str], shapes: Sequence[Shape]) -> Mapping[str, str]:
    """The metadata, whose preset has the layout of the first input where the source or its shape says it."""
    from .preprocessing.presets import METADATA

    try:
        told = json.loads(metadata.get(METADATA, "null"))
    except (ValueError, RecursionError):
        return metadata
    if not isinstance(told, dict) or "layout" not in told or not shapes:
        return metadata
    shape = tuple(shapes[0])
    if _channels_last(source):
        layout = "NHWC"
    elif len(shape) == 4 and (shape[1] == 3) != (shape[3] == 3):
        layout = image_layout(shape)
    else:
        return metadata
    return {**metadata, METADATA: json.dumps({**told, "layout": layout})}


def _text(name: str) -> str:
    """Names that a plan may hold: no control characters, at most a few thousand bytes."""
    return "".join(c if c.isprintable() else "?" for c in name)[:1000]


def _storable(text: str) -> bool:
    return text.isprintable() and 0 < len(text.encode(errors="replace")) <= 4000


class _NoGraph:
    """The source of a saved plan, which has none."""

    def __init__(self, name: str, inputs: tuple[InputInfo, ...], outputs: tuple[OutputInfo, ...]) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs

    def build(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        raise ModelError(f"saved plan {self.name!r} has no graph: load the model that it was made of")


class SavedModel(Model):
    """A saved plan, ready to run; its weights are used where the file is mapped, and shared with other processes.

    It takes the one input shape that it was made for. `graph`, `layers`, `summary`, `features` and `save` need the
    model itself and raise ModelError.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | Any,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        verify: bool = False,
        _isa: str | None = None,
    ) -> None:
        if device != "cpu":
            raise DeviceError(f'device={device!r}: a saved plan runs on "cpu"')
        if precision not in ("fp32", "strict"):
            raise DeviceError(f"precision={precision!r}: what a saved plan computes in was chosen when it was made")
        self.device, self._threads_arg, count = device, threads, thread_count(threads)
        raw = isinstance(source, (bytes, bytearray, memoryview))
        self._given: str | bytes = bytes(source) if raw else os.fspath(source)  # type: ignore[arg-type]
        where = "plan" if isinstance(self._given, bytes) else self._given
        wanted = resolve_isa(_isa) if _isa is not None or os.environ.get("FASTCONV_ISA") else None
        file = plan_file(self._given)
        try:
            plan = file.read(wanted, verify=verify)
        except ValueError as error:
            raise ModelError(f"{where}: {error}") from None
        except RuntimeError as error:
            raise DeviceError(f"{where}: {error}") from None
        self._isa = plan.isa
        self.name, self.labels, self.weight_bytes = plan.model, tuple(plan.labels), plan.weight_bytes
        self.metadata, self.winograd, self.tuning = plan.metadata, DEFAULT_WINOGRAD, None
        self.precision = "strict" if self.metadata.pop(PRECISION, "") == "strict" else "fp32"
        if precision == "strict" != self.precision:
            raise ModelError(f'{where}: precision="strict": the plan was made without (fastconv compile --strict)')
        self.kernels = tuple(dict.fromkeys(o[0] for o in plan.operations))
        inputs = tuple(TensorInfo(n, tuple(s), d) for n, d, s, _ in plan.inputs)
        outputs = tuple(TensorInfo(n, (None, *s[1:]) if r else tuple(s), d) for n, d, s, r in plan.outputs)
        Runner.__init__(self, inputs, outputs, CPU, count)
        for info in (*self.inputs, *self.outputs):
            if info.dtype not in DTYPES:
                raise ModelError(f"{where}: {info.name!r} has the unknown dtype {info.dtype!r}")
        self._onnx = _NoGraph(
            self.name,
            tuple(InputInfo(i.name, i.shape, np.dtype(i.dtype)) for i in self.inputs),
            tuple(OutputInfo(o.name, o.shape, np.dtype(o.dtype)) for o in self.outputs),
        )
        ops = tuple(OpInfo(n, o, a, self.isa, tuple(s), f, b, "") for _, n, o, a, f, b, s in plan.operations)
        compiled = Compiled(
            plan.plan,
            tuple((n, tuple(s)) for n, _, s, _ in plan.inputs),
            tuple((n, tuple(s)) for n, _, s, _ in plan.outputs),
            ops,
            Graph(self.name),
            plan.plan.arena_bytes,
            tuple(i for i, o in enumerate(plan.outputs) if o[3]),
        )
        self._plans[tuple(s for _, s in compiled.inputs)] = compiled
        self._graph, self._parts = None, None  # no _cache and no _lock: nothing is compiled here

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The labels that were stored in the plan, None where there are none."""
        return self.labels or None

    @property
    def arena_bytes(self) -> int:
        """Of the activations of one run."""
        return next(iter(self._plans.values())).arena_bytes

    def _compiled(self, key: tuple[Shape, ...]) -> Compiled:
        compiled = self._plans.get(key)
        if compiled is None:
            (made_for,) = self._plans
            raise ShapeError(f"saved plan {self.name!r} is for input shapes {list(made_for)}, got {list(key)}")
        return compiled

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """A saved plan has no graph to save: raises ModelError."""
        raise ModelError(f"saved plan {self.name!r}: copy the file, or save the model that it was made of")

    def tune(self, *shapes: Sequence[int], **options: Any) -> NoReturn:
        """The algorithms of a saved plan are chosen already: raises ModelError."""
        raise ModelError(f"saved plan {self.name!r}: tune the model that it was made of, then compile that")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._given, self._threads_arg, self.precision, self.isa)


def _rebuild(source: str | bytes, threads: int | None, precision: str, isa: str) -> SavedModel:
    return SavedModel(source, threads=threads, precision=precision, _isa=isa if isa in _core.isa_levels() else None)
