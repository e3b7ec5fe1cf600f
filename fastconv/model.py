"""Model: what users hold. Compiles a plan for each input shape, and tells of the network and its parts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _core
from .batches import share_of
from .cold import tune
from .compiled import Compiled, OpInfo
from .compiler import WeightCache, compile_graph
from .cut import Part, probe_shapes
from .data import names_from_metadata
from .errors import DeviceError, ModelError, ShapeError
from .forks import hold_at_fork
from .graph import Graph, Shape
from .inputs import FloatArray, TensorInfo, check_shape, show
from .isa import resolve_isa
from .onnx.reader import OnnxModel, read
from .passes import optimize
from .prepare import prepare
from .profile import Profile, measure
from .runner import Runner
from .selection import DEFAULT_WINOGRAD, Selection, check_winograd
from .source import Source
from .summary import network_summary
from .target import target
from .taught import missing, only_runs
from .threads import thread_count
from .tuning import Tuning

if TYPE_CHECKING:
    from .layers.base import Layer
    from .layers.imported import Imported
    from .models.model import Model as LayersModel

MAX_PLANS = 16  # compiled shapes that a model keeps


class Model(Runner):
    """A network ready to run. Safe to use from several threads and after fork; pickles as its source.

    `model(x)` takes and returns numpy arrays in the order of the ONNX file (N C H W), of the types that it declares:
    float32, float16 (computed as float32), or integers and bools, which must lie within 2^24 and else are a ShapeError.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | Any,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        winograd: int = DEFAULT_WINOGRAD,
        tuning: str | os.PathLike[str] | Tuning | None = None,
        _isa: str | None = None,
    ) -> None:
        on = target(device, precision)
        self.device, self.precision = device, precision
        self._threads_arg, count = threads, thread_count(threads)
        self._isa = resolve_isa(_isa)
        self.winograd = check_winograd(winograd)
        if tuning is not None and not isinstance(tuning, Tuning):
            tuning = Tuning.load(tuning, isa=self._isa)
        if tuning is not None and not on.predicts:
            raise DeviceError(f"device={device!r}: a tuning is for the CPU")
        self.tuning = tuning
        # an OnnxModel, or another source of Graphs such as a network of layers
        given: Any = source
        self._onnx: Source = given if hasattr(source, "build") and hasattr(source, "inputs") else read(given)
        self.name = self._onnx.name
        self.metadata: dict[str, str] = dict(getattr(self._onnx, "metadata", {}))
        self.inputs = tuple(TensorInfo(i.name, i.shape, str(i.dtype)) for i in self._onnx.inputs)
        self._cache = WeightCache(on, count)
        self._lock = threading.Lock()
        hold_at_fork(self)
        self._graph: Graph | None = None
        self._parts: Imported | None = None
        default = self._default_shapes()
        if default is not None:  # a contradiction in the file is found now, not at the first call
            self._graph = self._onnx.build(default)
        outputs = (
            TensorInfo(o.name, self._output_shape(i) if o.shape is None else o.shape, str(o.dtype))
            for i, o in enumerate(self._onnx.outputs)
        )
        super().__init__(self.inputs, tuple(outputs), on, count)

    def _output_shape(self, index: int) -> tuple[int | str | None, ...]:
        if self._graph is None:
            return ()
        free = any(not isinstance(d, int) for i in self.inputs for d in i.shape)
        shape = self._graph.outputs[index].shape
        return (None, *shape[1:]) if free and shape else shape

    def _run(self, inputs: list[FloatArray]) -> list[npt.NDArray[Any]]:
        if any(x.size == 0 for x in inputs):
            graph = self._build([x.shape for x in inputs])
            if all(v.size == 0 for v in graph.outputs):
                return [np.empty(v.shape, o.dtype) for v, o in zip(graph.outputs, self.outputs, strict=True)]
        return super()._run(inputs)

    # -- compiling ----------------------------------------------------------------------------------------------
    def _feed_shapes(self, shapes: Sequence[Shape]) -> dict[str, Shape]:
        return {i.name: tuple(s) for i, s in zip(self.inputs, shapes, strict=True)}

    def _default_shapes(self) -> dict[str, Shape] | None:
        """Input shapes with a free first axis taken as 1; None where another axis is free."""
        if any(not isinstance(d, int) for i in self.inputs for d in i.shape[1:]):
            return None
        return {i.name: tuple(d if isinstance(d, int) else 1 for d in i.shape) for i in self.inputs}

    def _compiled(self, key: tuple[Shape, ...]) -> Compiled:
        compiled = self._plans.get(key)
        if compiled is None:
            with self._lock:
                compiled = self._plans.get(key)
                if compiled is None:
                    compiled = self._compile(key)
                    while len(self._plans) >= MAX_PLANS:
                        self._plans.pop(next(iter(self._plans)))
                    self._plans[key] = compiled
        return compiled

    def _compile(self, key: tuple[Shape, ...]) -> Compiled:
        graph = self._graph_at(key)
        share = share_of(graph, self._build) if self._target.repeats else None
        compiled = compile_graph(
            graph if share is None else share, self._isa, self._cache, strict=self.precision == "strict",
            winograd=self.winograd, tuning=self.tuning,
        )  # fmt: skip
        return compiled if share is None else compiled.times(key[0][0] // share.inputs[0].shape[0], self.threads)

    def _build(self, shapes: Sequence[Shape]) -> Graph:
        return self._onnx.build(self._feed_shapes(shapes))

    def _graph_at(self, key: tuple[Shape, ...]) -> Graph:
        """The graph for these shapes: of a file, whose weights do not change, that which was made to check it."""
        graph = self._graph
        if graph is None or tuple(v.shape for v in graph.inputs) != key or not isinstance(self._onnx, OnnxModel):
            graph = self._build(key)
        return graph

    def compile(self, *shapes: Sequence[int], **training: Any) -> Compiled:
        """The plan for these input shapes (none: the model's own, a free batch taken as 1), compiled if need be."""
        if training or any(isinstance(s, str) or not hasattr(s, "__iter__") for s in shapes):
            raise TypeError(f"compile: expected input shapes; {only_runs(self)}")
        return self._compiled(self._key(shapes))

    def _key(self, shapes: Sequence[Sequence[int]]) -> tuple[Shape, ...]:
        if shapes:
            if len(shapes) != len(self.inputs):
                raise ShapeError(f"model {self.name!r} takes {len(self.inputs)} inputs, got {len(shapes)} shapes")
            for i, shape in enumerate(shapes):
                check_shape(i, self.inputs[i], tuple(shape))
            return tuple(tuple(int(d) for d in s) for s in shapes)
        default = self._default_shapes()
        if default is None:
            raise ShapeError(f"model {self.name!r} has free dimensions {[i.shape for i in self.inputs]}: give a shape")
        return tuple(default[i.name] for i in self.inputs)

    # -- looking ------------------------------------------------------------------------------------------------
    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the classes are called, where the file's metadata say it (fine_tune writes them)."""
        return names_from_metadata(self.metadata)

    @property
    def isa(self) -> str:
        return self._isa.name

    @property
    def graph(self) -> Graph:
        """The model's graph in ONNX axis order, for a free batch of 1."""
        if self._graph is None:
            self._graph = self._build(self._key(()))
        return self._graph

    # -- parts ------------------------------------------------------------------------------------------------
    def _imported(self) -> Imported:
        if self._parts is None:
            from .layers.imported import Imported

            network = Imported(self._onnx, inputs_last=True, fixed=True)
            network.ensure_built(*probe_shapes(self._onnx).values())
            self._parts = network
        return self._parts

    @property
    def layers(self) -> list[Layer]:
        """The operations in order, each with name, `weights`, `get_weights()`, `count_params()` and `output_shape`.

        Weights keep the file's layout, [K, C / group, R, S] for convolutions, and cannot be changed.
        """
        return list(self._imported().parts)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name or at that position. Raises ValueError."""
        from .models.order import find_layer

        return find_layer(self.layers, name, index)

    def count_params(self) -> int:
        """Learnable numbers, without moving statistics. Exporters may have folded batch normalisation away."""
        return self._imported().count_params()

    def without_top(self, pooling: str | None = None) -> Model:
        """The network up to the last feature maps [N, C, H, W]; pooling "avg" or "max" gives [N, C] instead.

        Of a network that has come from here nothing more is cut: it stays as it is, or its maps are pooled as asked.
        Raises ModelError where no classifier is found: name a layer in `features` then.
        """
        source = self._onnx
        if isinstance(source, Part) and source.layers is None:
            return self._part(source if pooling is None else Part(source.base, None, pooling))
        return self._part(Part(source, None, pooling))

    def features(self, *layers: str | Layer, pooling: str | None = None) -> Model:
        """The network that ends at the named layers, whose outputs it gives in this order, in the file's axis order.

        pooling as for `without_top`, of each output. Raises ModelError for an unknown name.
        """
        names: list[Any] = [getattr(layer, "name", layer) for layer in layers]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"features: expected at least one layer or name, each an argument, got {layers}")
        return self._part(Part(self._onnx, names, pooling))

    def add_head(
        self,
        classes: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "softmax",
        *,
        name: str | None = None,
        trainable: bool = False,
    ) -> LayersModel:
        """A model of layers, to be trained: this network under dense layers that are new.

        hidden: their units, with relu and then a Dropout of `dropout`; then `classes` units under `activation`. Feature
        maps are flattened: `without_top(pooling="avg")` averages them. Images go in channels-last, as among all layers.
        The network's layers are frozen unless trainable: `model.layers[-n:]` are the last ones. A batch normalisation
        that an exporter has folded into a convolution stays a part of that convolution's weights. A batch that the file
        fixes is open, unless one of its nodes needs it.
        """
        from .models.heads import with_head

        return with_head(self, classes, hidden, dropout, activation, name, trainable)

    def as_layers(self, name: str | None = None) -> LayersModel:
        """The network as a model of layers with `compile` and `fit`; images go in and come out channels-last."""
        from .models.heads import as_layers

        return as_layers(self, name)

    def _part(self, part: Part) -> Model:
        return Model(part, _isa=self.isa, **self._options())

    def _options(self) -> dict[str, Any]:
        return dict(
            threads=self._threads_arg, device=self.device, precision=self.precision, winograd=self.winograd,
            tuning=self.tuning,
        )  # fmt: skip

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        shape: Sequence[int] | None = None,
        isa: str | Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Write x.onnx (the network; sizes that are free need `shape`), x.safetensors (its weights) or x.fcplan.

        A saved plan is for one input shape and runs without Python: docs/embedded.md. isa: the instruction sets to pack
        weights for, None for this model's own; labels: names of the classes to store in it, None for the model's own.
        Other files take neither: ModelError. Labels that fit no output are a ShapeError. Files are written beside their
        place and moved there when they are whole.
        """
        from .saved import check_labels, names_plan, save_plan

        if names_plan(path):
            shapes = self._key(() if shape is None else (shape,))
            levels = [self.isa] if isa is None else isa
            if labels:
                check_labels(labels, self.outputs, "labels")
            save_plan(
                self._onnx, path, shapes, levels, strict=self.precision == "strict", winograd=self.winograd,
                tuning=self.tuning, labels=(self.class_names or ()) if labels is None else labels,
            )  # fmt: skip
            return
        if isa is not None or labels is not None:
            raise ModelError(f"{os.fspath(path)}: isa and labels are for saved plans, whose names end with .fcplan")
        from .weights.save import save_source

        save_source(self._onnx, path, shape)

    def summary(self, line_length: int | None = None, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print one line per node: name and operator, output shape, learnable numbers; then the sums.

        Shapes are those for one image, of 299 pixels where the file leaves the size open. line_length: the table is at
        least so wide. print_fn: gets the whole text instead of `print`.
        """
        text = network_summary(self.name, self._imported(), probe_shapes(self._onnx), line_length)
        (print_fn or print)(text)

    def inspect(self, *shapes: Sequence[int]) -> list[OpInfo]:
        """The operations of the plan for these input shapes."""
        return list(self.compile(*shapes).ops)

    def tune(self, *shapes: Sequence[int], tuning: Tuning | None = None, seconds: float = 0.05) -> Tuning:
        """Measure the algorithms of all convolutions for these input shapes, on one thread, and keep what is not known
        in `tuning` (None: a new one), which `load(tuning=...)` takes and `save(path)` writes."""
        if not self._target.predicts:
            raise DeviceError(f"device={self.device!r}: a tuning is for the CPU")
        known = Tuning() if tuning is None else tuning
        selection = Selection(self._isa, self.precision == "strict", self.winograd)
        for graph in self.tuned_graphs(selection, *shapes):
            for _ in tune(graph, selection, known, seconds):
                pass
        return known

    def tuned_graphs(self, selection: Selection, *shapes: Sequence[int]) -> list[Graph]:
        """The graphs whose convolutions a tuning for these input shapes knows: what runs here, and of a batch that runs
        in shares also the whole, which a saved plan computes."""
        compiled = self.compile(*shapes)
        if compiled.repeats == 1:
            return [compiled.graph]
        whole = optimize(self._graph_at(self._key(shapes)))
        return [compiled.graph, prepare(whole, selection, self._target)]

    def profile(self, *args: npt.ArrayLike, runs: int = 20) -> Profile:
        """Run `runs` times after one warm-up and give each operation's median time, GFLOP/s and share of peak."""
        if runs < 1:
            raise ValueError(f"runs={runs!r}: expected a positive int")
        inputs = self._check_all(args)
        compiled = self._compiled(tuple(x.shape for x in inputs))
        return measure(self._executor, compiled, inputs, partial(self._target.peak, self._isa), self.threads, runs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._onnx, self._options(), self._isa.name)

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

    def __repr__(self) -> str:
        ins = ", ".join(f"{i.name}{show(i.shape)}" for i in self.inputs)
        return f"<fastconv.Model {self.name!r} ({ins}), {self.threads} threads, {self._target.level(self._isa)}>"


def _rebuild(source: Source, options: dict[str, Any], isa: str) -> Model:
    return Model(source, _isa=isa if isa in _core.isa_levels() else None, **options)


__all__ = ["Compiled", "Model", "ModelError", "OpInfo", "Profile", "TensorInfo"]
