"""Model: a network of layers that fastconv runs, with Keras' names and arguments.

Inputs and outputs are channels-last. A model is compiled for each input shape at the first call; weights that change
(assigned, loaded, trained) make a new runtime at the next call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.callbacks import Callback, CallbackList
from fastconv.errors import ShapeError
from fastconv.forks import hold_at_fork
from fastconv.graph import Graph, Value
from fastconv.layers.base import Call, Dims, Layer, Scope, Tensor
from fastconv.layers.imported import Imported
from fastconv.layers.input import InputLayer
from fastconv.layers.variable import last_change
from fastconv.layers.windows import whole
from fastconv.model import Model as Runtime
from fastconv.models.batches import not_learnt, refuse_endless
from fastconv.models.order import find_layer, layer_order, sorted_calls, tensors
from fastconv.models.source import LayerSource
from fastconv.models.training import Training
from fastconv.preprocessing.dataset import Dataset
from fastconv.source import distinct
from fastconv.summary import model_summary
from fastconv.target import target

FloatArray = npt.NDArray[np.float32]
Preprocess = Callable[..., FloatArray]


class Model(Layer, Training):
    """A network from symbolic inputs to symbolic outputs: `Model(inputs=base.input, outputs=predictions)`.

    It is a layer as well: called on a symbolic tensor it becomes a part of another model, and shares its weights.
    `model(x)` and `model.predict(x)` run it on arrays. `threads` (None: all processors) may be set at any time.
    Raises ValueError for outputs that do not follow from the inputs, and for two layers of one name.
    """

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, *, trainable: bool = True
    ) -> None:
        super().__init__(name=name, trainable=trainable)
        self._prepare()
        if inputs is None or outputs is None:
            raise ValueError("Model: expected inputs and outputs")
        self._connect(tensors(inputs, "inputs"), tensors(outputs, "outputs"))

    def _prepare(self) -> None:
        self.threads: int | None = None
        self._placed = ("cpu", "fp32")  # device and precision of runs
        self.preprocess_input: Preprocess | None = None
        self.metadata: dict[str, str] = {}  # what `save` writes into an ONNX file beside the network
        self._lock = threading.Lock()
        hold_at_fork(self)
        self._runtime: Runtime | None = None
        self._runtime_key: object = None
        self._checked: object = None  # when the key was last compared

    def __reduce__(self) -> tuple[Any, ...]:
        number: dict[Tensor, int] = {}
        starts = []
        for t in self.inputs:
            number[t] = len(number)
            first = t.call is not None and isinstance(t.call.layer, InputLayer)
            starts.append(t.call.layer if first and t.call is not None else (t.shape, t.name))
        steps = []
        for call in self._calls:
            if not isinstance(call.layer, InputLayer):
                steps.append((call.layer, [number[t] for t in call.inputs], call.training))
                number.update(zip(call.outputs, range(len(number), len(number) + len(call.outputs)), strict=True))
        ends = [number[t] for t in self.outputs]
        made = (self.name, self._trainable, starts, steps, ends)
        return _rebuild, (*made, self.threads, self.preprocess_input, self.metadata, self._copied_precision())

    def _copied_precision(self) -> str:
        """That of a pickled copy, which is on the CPU: the other ones are a GPU's."""
        return "strict" if self.precision == "strict" else "fp32"

    def _connect(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._calls = sorted_calls(inputs, outputs)
        self._layers = layer_order(inputs, outputs, self._calls)
        names: dict[str, Layer] = {}
        for layer in self._layers:
            if names.setdefault(layer.name, layer) is not layer:
                raise ValueError(f"two layers are called {layer.name!r}: the names in a model must be different")
        self.built = True
        self._runtime = self._trainer = self._chosen = None

    # -- as a layer -------------------------------------------------------------------------------------------
    @property
    def layers(self) -> list[Layer]:
        """The layers from input to output, in Keras' order; a part made from a file shows the layers in it."""
        found: list[Layer] = []
        for layer in self._layers:
            found.extend(layer.parts if isinstance(layer, Imported) else [layer])
        return found

    def sublayers(self) -> Sequence[Layer]:
        return self._layers

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that position. Raises ValueError."""
        return find_layer(self.layers, name, index)

    @property
    def input(self) -> Any:
        return self.inputs[0] if len(self.inputs) == 1 else list(self.inputs)

    @property
    def output(self) -> Any:
        return self.outputs[0] if len(self.outputs) == 1 else list(self.outputs)

    @property
    def input_shape(self) -> Any:
        return self.inputs[0].shape if len(self.inputs) == 1 else [t.shape for t in self.inputs]

    @property
    def output_shape(self) -> Any:
        return self.outputs[0].shape if len(self.outputs) == 1 else [t.shape for t in self.outputs]

    @property
    def output_names(self) -> list[str]:
        return distinct(t.name for t in self.outputs)

    def make_outputs(self, call: Call) -> tuple[Tensor, ...]:
        if len(call.inputs) != len(self.inputs):
            raise ValueError(f"model {self.name!r} takes {len(self.inputs)} inputs, got {len(call.inputs)}")
        shapes: dict[Tensor, Dims] = {}
        for want, got in zip(self.inputs, call.inputs, strict=True):
            if len(want.shape) != len(got.shape) or any(
                w not in (None, g) for w, g in zip(want.shape, got.shape, strict=True) if g is not None
            ):
                raise ValueError(f"model {self.name!r}: expected an input of shape {want.shape}, got {got.shape}")
            shapes[want] = got.shape
        for inner in self._calls:
            if inner.outputs[0] in shapes:
                continue
            given = [Tensor(shapes[t], t.name) for t in inner.inputs]
            probe = Call(inner.layer, given)
            for tensor, made in zip(inner.outputs, inner.layer.make_outputs(probe), strict=True):
                shapes[tensor] = made.shape
        return tuple(Tensor(shapes[t], self.name, call) for t in self.outputs)

    def emit(self, scope: Scope, *inputs: Value) -> list[Value]:
        """Append the nodes of all layers for these inputs (images N C H W); the outputs likewise."""
        values: dict[Tensor, Value] = dict(zip(self.inputs, inputs, strict=True))
        for call in self._calls:
            if isinstance(call.layer, InputLayer):
                continue
            scope.name = call.layer.name
            with scope.mode(call.training):
                made = call.layer.emit(scope, *(values[t] for t in call.inputs))
            outs = made if isinstance(made, list) else [made]
            if len(outs) == 1 and not isinstance(call.layer, Model) and outs[0].name.startswith(f"{scope.name}//"):
                outs[0].name = scope.name if call is call.layer.calls[0] else outs[0].name
            values.update(zip(call.outputs, outs, strict=True))
        return [values[t] for t in self.outputs]

    def __call__(self, inputs: Any, *, training: bool | None = None) -> Any:
        """Symbolic tensors give symbolic tensors; arrays are run as one batch and give arrays."""
        first = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
        if isinstance(first, Tensor):
            return super().__call__(inputs, training=training)
        return self.predict_on_batch(inputs)

    # -- running ----------------------------------------------------------------------------------------------
    def place(self, device: str, precision: str) -> None:
        """Run on this device from now on, as for `fastconv.load`; `compile` does it, too. Raises DeviceError."""
        target(device, precision)
        self._placed = (device, precision)

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""
        return self._placed[0]

    @property
    def precision(self) -> str:
        """In which it runs, as for `fastconv.load`."""
        return self._placed[1]

    def runtime(self) -> Runtime:
        """The fastconv.Model that runs this network: inspect, profile and compile it there. Inputs are N H W C."""
        now = (last_change(), self.threads, self._placed)
        with self._lock:
            if self._runtime is not None and self._checked == now:
                return self._runtime
            key = (tuple((v.serial, v.version) for v in self.weights), self.threads, self._placed)
            if self._runtime is None or self._runtime_key != key:
                device, precision = self._placed
                runtime = Runtime(LayerSource(self), threads=self.threads, device=device, precision=precision)
                caches = [] if self._trainer is None else [self._trainer.cache]
                caches += [] if self._runtime is None else [self._runtime._cache]
                for cache in caches:
                    if cache.target.shares(runtime._target):
                        runtime._cache.before = {**runtime._cache.before, **cache.packed}
                self._runtime = runtime
                self._runtime_key = key
            self._checked = now
            return self._runtime

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: str | int = "auto", steps: int | None = None,
        callbacks: Iterable[Callback] | Callback | None = None,
    ) -> Any:  # fmt: skip
        """Outputs for x, N images [N, H, W, C] of numbers (lists for several inputs), computed in batches.

        Returns a float32 array, a list of them for several outputs. batch_size: 32 where None. x may also be a dict
        of arrays by the inputs' names, or an iterable of batches; steps: how many of them, None: all, of a generator
        until it ends. `verbose` is accepted; nothing is printed.
        Raises ShapeError (a ValueError) for inputs that do not fit.
        """
        size = 32 if batch_size is None else whole(batch_size, "batch_size")
        steps = None if steps is None else whole(steps, "steps")
        whole_arrays = isinstance(x, (np.ndarray, list, tuple, Mapping)) or hasattr(x, "__array__")
        if isinstance(x, Iterable) and not whole_arrays:
            refuse_endless(x, steps)
            batches = islice(not_learnt(x), steps)
            if isinstance(x, Dataset):
                x.epoch, x.start = x.epoch + 1, 0  # as for each iteration
            return self._predicted((part[0] if isinstance(part, tuple) else part for part in batches), callbacks)
        arrays = self._arrays(x)
        n = len(arrays[0])
        if any(len(a) != n for a in arrays):
            raise ShapeError(f"inputs of different lengths: {[len(a) for a in arrays]}")
        stop = n if steps is None else min(n, steps * size)
        starts = range(0, max(stop, 1), size)
        return self._predicted(([a[i : min(i + size, stop)] for a in arrays] for i in starts), callbacks)

    def _predicted(self, batches: Iterable[Any], callbacks: Iterable[Callback] | Callback | None) -> Any:
        if callbacks is None:  # the usual case, in a hurry
            return _joined(list(map(self._batch, batches)))
        reports = CallbackList(callbacks)
        reports.set_model(self)
        found = []
        with closing(reports):
            reports.on_predict_begin({})
            for i, batch in enumerate(batches):
                reports.on_predict_batch_begin(i, {})
                found.append(self._batch(batch))
                reports.on_predict_batch_end(i, {})
            reports.on_predict_end({})
        return _joined(found)

    def predict_on_batch(self, x: Any) -> Any:
        """Outputs for one batch, run at once."""
        return _joined([self._batch(x)])

    def _arrays(self, x: Any) -> list[Any]:
        if isinstance(x, Mapping):
            names = [t.name for t in self.inputs]
            if set(x) != set(names):
                raise ShapeError(f"model {self.name!r} has the inputs {names}, got {list(x)}")
            x = [x[name] for name in names]
            x = x if len(names) > 1 else x[0]
        arrays = list(x) if isinstance(x, (list, tuple)) and len(self.inputs) > 1 else [x]
        if len(arrays) != len(self.inputs):
            raise ShapeError(f"model {self.name!r} takes {len(self.inputs)} inputs, got {len(arrays)}")
        out = []
        for tensor, value in zip(self.inputs, arrays, strict=True):
            try:
                a = np.asarray(value)
            except ValueError:  # a list of different things
                raise ShapeError(f"input {tensor.name!r}: expected an array, got {type(value).__name__}") from None
            if a.dtype.kind not in "fiub":
                raise ShapeError(f"input {tensor.name!r}: expected an array of numbers, got {a.dtype}")
            if a.ndim != tensor.rank:
                wanted = f"rank {tensor.rank} [{', '.join('N' if d is None else str(d) for d in tensor.shape)}]"
                raise ShapeError(f"input {tensor.name!r}: expected {wanted}, got rank {a.ndim} {list(a.shape)}")
            out.append(a)
        return out

    def _batch(self, x: Any) -> list[FloatArray]:
        x = x[0] if isinstance(x, (list, tuple)) and len(self.inputs) == 1 and len(x) == 1 else x
        arrays = [a.astype(np.float32, copy=False) for a in self._arrays(x)]
        y = self.runtime()(*arrays)
        return y if isinstance(y, list) else [y]

    # -- looking ----------------------------------------------------------------------------------------------
    def summary(
        self,
        line_length: int | None = None,
        print_fn: Callable[[str], Any] | None = None,
        *,
        expand_nested: bool = False,
        show_trainable: bool = False,
    ) -> None:
        """Print one line per layer: name and class, output shape, learnable numbers; then the sums.

        line_length: the table is at least so wide. print_fn: gets the whole text instead of `print`. expand_nested:
        layers of inner models get lines, too. show_trainable: a column says which layers are trained.
        """
        text = model_summary(self, line_length, expand_nested=expand_nested, show_trainable=show_trainable)
        (print_fn or print)(text)

    def graph(self, *shapes: Sequence[int]) -> Graph:
        """The Graph for input shapes as users see them (none: the model's own, a free batch taken as 1)."""
        source = LayerSource(self)
        if not shapes:
            if any(d is None for t in self.inputs for d in t.shape[1:]):
                raise ShapeError(f"model {self.name!r} has free sizes {[t.shape for t in self.inputs]}: give a shape")
            shapes = tuple(tuple(d or 1 for d in t.shape) for t in self.inputs)
        return source.build({i.name: tuple(s) for i, s in zip(source.inputs, shapes, strict=True)})

    # -- files ------------------------------------------------------------------------------------------------
    def load_weights(self, path: str | os.PathLike[str], *, by_name: bool = False) -> None:
        """Read weights of this architecture: .safetensors, .ckpt or a torch file. by_name: only layers that are there.

        A .ckpt of a model that was compiled brings the optimiser's slots and number of steps back, too, where this one
        is compiled with an optimiser of the same class. Rate, momentum and all other arguments stay as they were given
        to `compile`: `fit(initial_epoch=...)` goes on bit for bit where they are the same. With another optimiser or
        other trainable weights a UserWarning says that only the weights were read.
        Raises ModelError naming the first layer that differs; nothing is changed then.
        """
        from fastconv.training_state import load_training
        from fastconv.weights import load_into

        if os.fspath(path).lower().endswith(".ckpt"):
            if by_name:
                raise ValueError(
                    f"{os.fspath(path)}: by_name=True is for weights with names; a .ckpt has the whole model"
                )
            load_training(self, path, other_optimizer="warn", keep_rate=True)
        else:
            load_into(self, path, by_name=by_name)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write all weights to a .safetensors file. Raises ModelError for another ending, OSError."""
        from fastconv.weights import save_safetensors

        save_safetensors(self, path)

    def save(self, path: str | os.PathLike[str], *, shape: Sequence[int] | None = None) -> None:
        """Write x.onnx (the network; sizes that are free need `shape`, N H W C), x.safetensors (its weights) or x.ckpt
        (weights and optimiser).

        Files are written beside their place and moved there when they are whole.
        """
        from fastconv.weights import save_model

        save_model(self, path, shape=shape)


def _rebuild(
    name: str, trainable: bool, starts: Sequence[Any], steps: Sequence[Any], ends: Sequence[int],
    threads: int | None, preprocess_input: Preprocess | None, metadata: dict[str, str], precision: str,
) -> Model:  # fmt: skip
    """A model from its pickled parts: the layers are called anew, in the same order."""
    found = [s.output if isinstance(s, InputLayer) else Tensor(*s) for s in starts]
    for layer, inputs, training in steps:
        made = layer([found[i] for i in inputs], training=training)
        found.extend(made if isinstance(made, list) else [made])
    model = Model(found[: len(starts)], [found[i] for i in ends], name, trainable=trainable)
    model.threads, model.preprocess_input, model.metadata = threads, preprocess_input, metadata
    model.place("cpu", precision)
    return model


def _joined(batches: list[list[FloatArray]]) -> Any:
    """Batches of outputs one after the other; one output comes as an array."""
    if not batches:
        raise ShapeError("predict: there is no batch")
    parts = [
        column[0] if len(column) == 1 else np.concatenate(column) for column in map(list, zip(*batches, strict=True))
    ]
    return parts[0] if len(parts) == 1 else parts
