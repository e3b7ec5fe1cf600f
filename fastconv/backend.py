"""fastconv as a backend of the onnx package (onnx.backend.base.Backend), which this module needs.

    import fastconv.backend as backend
    outputs = backend.run_model(onnx.load("model.onnx"), [x])

Backends get every operand as an input, also those that decide shapes or that fastconv packs as weights. Such inputs
are bound to their values when `run` is called: a plan is made for them and kept for the next call with the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from .errors import DeviceError, ShapeError, UnsupportedOpError
from .model import Model
from .onnx.builder import NeedsConstant
from .onnx.reader import OnnxModel, read

Array = npt.NDArray[Any]
MAX_BOUND = 8  # sets of bound values that a representation keeps plans for

__all__ = ["FastconvBackend", "FastconvRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


class FastconvRep(BackendRep):
    """A model ready to run. `inputs` are the arrays of the graph's inputs, in order or by name."""

    def __init__(self, model: OnnxModel, threads: int | None = None) -> None:
        self._onnx = model
        self._threads = threads
        self._names = [i.name for i in model.inputs]
        self._bound: set[str] = set()  # inputs that must be known
        self._models: dict[tuple[tuple[str, str, tuple[int, ...], bytes], ...], Model] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the graph's order, as a tuple that has their names.

        Raises ShapeError for inputs that do not fit the model, UnsupportedOpError for what fastconv lacks.
        """
        feed = self._feed(inputs)
        while True:
            try:
                outputs = self._model(feed).run(None, {n: a for n, a in feed.items() if n not in self._bound})
                break
            except NeedsConstant as error:
                if self._bound.issuperset(error.inputs):
                    raise
                self._bound.update(error.inputs)
        names = [o.name for o in self._onnx.outputs]
        result: tuple[Any, ...] = namedtupledict("Outputs", names)(*outputs)
        return result

    def _feed(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(values) != len(self._names):
                raise ShapeError(f"expected {len(self._names)} inputs {self._names}, got {len(values)}")
            given = dict(zip(self._names, values, strict=True))
        missing = [n for n in self._names if n not in given]
        if missing:
            raise ShapeError(f"input {missing[0]!r} is missing")
        return {n: np.asarray(a) for n, a in given.items()}

    def _model(self, feed: Mapping[str, Array]) -> Model:
        constants = {n: feed[n] for n in self._names if n in self._bound}
        key = tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in constants.items())
        if key not in self._models:
            while len(self._models) >= MAX_BOUND:
                self._models.pop(next(iter(self._models)))
            self._models[key] = Model(self._onnx.bind(constants), threads=self._threads)
        return self._models[key]


class FastconvBackend(Backend):
    """See onnx.backend.base.Backend; the only device is the CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether all operators of the model are known; shapes and attributes are judged when it runs."""
        try:
            read(model)
        except UnsupportedOpError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> FastconvRep:
        """Read a model. Option: threads. Raises ModelError and its kin (see fastconv.load) and DeviceError."""
        _require(device)
        return FastconvRep(read(model), kwargs.get("threads"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """prepare(model).run(inputs)"""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node of the newest operator set that fastconv knows, or of `opset_version`."""
        _require(device)
        names = [n for n in node.input if n]
        if not isinstance(inputs, Mapping) and len(inputs) != len(names):
            raise ShapeError(f"expected {len(names)} inputs {names}, got {len(inputs)}")
        arrays = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        opset = min(int(kwargs.get("opset_version", onnx.defs.onnx_opset_version())), onnx.defs.onnx_opset_version())
        model = _node_model(node, {n: np.asarray(a) for n, a in arrays.items()}, outputs_info, opset)
        return cls.prepare(model, device, threads=kwargs.get("threads")).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for "CPU"."""
        try:
            return bool(Device(device).type == DeviceType.CPU)
        except (AttributeError, ValueError):  # what onnx does not know
            return False


def _require(device: str) -> None:
    if not FastconvBackend.supports_device(device):
        raise DeviceError(f'device={device!r}: this backend runs on "CPU"')


def _node_model(
    node: onnx.NodeProto,
    arrays: Mapping[str, Array],
    outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None,
    opset: int,
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()
    ]
    names = [o for o in node.output if o]
    outputs = [helper.make_empty_tensor_value_info(o) for o in names]
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(helper.make_graph([node], "node", inputs, outputs), opset_imports=imports)
    if outputs_info is not None:
        types = [helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t, _ in outputs_info]
    else:
        try:
            inferred = onnx.shape_inference.infer_shapes(model)
        except onnx.shape_inference.InferenceError as error:
            raise UnsupportedOpError(f"node {node.name!r} ({node.op_type}): {error}") from None
        types = [o.type.tensor_type.elem_type or onnx.TensorProto.FLOAT for o in inferred.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(o, t, None) for o, t in zip(names, types, strict=True))
    return model


is_compatible = FastconvBackend.is_compatible
prepare = FastconvBackend.prepare
run_model = FastconvBackend.run_model
run_node = FastconvBackend.run_node
supports_device = FastconvBackend.supports_device
