"""InferenceSession with onnxruntime's call signatures, so that changing one import line moves a script over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from .errors import DeviceError, ShapeError
from .inputs import FloatArray, TensorInfo
from .loading import load


class SessionOptions:
    """onnxruntime's options. `intra_op_num_threads` counts (0: all processors); the others are accepted and have no
    meaning here: operations run one after the other, and every optimisation is always on."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.inter_op_num_threads = 0
        self.execution_mode: Any = None
        self.graph_optimization_level: Any = None
        self.log_severity_level = 2
        self.enable_profiling = False
        self.enable_mem_pattern = True
        self.enable_cpu_mem_arena = True

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Accepted for compatibility."""


class NodeArg:
    """An input or output as onnxruntime describes it: name, shape, type."""

    def __init__(self, info: TensorInfo) -> None:
        self.name = info.name
        self.shape = list(info.shape)
        self.type = "tensor(float)" if info.dtype == "float32" else f"tensor({info.dtype})"

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape!r})"


class InferenceSession:
    """A model behind onnxruntime.InferenceSession's methods.

    path_or_bytes: as for `load`. providers: CPUExecutionProvider must be among them if given; else DeviceError.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        names = [p if isinstance(p, str) else p[0] for p in providers or ()]
        if names and "CPUExecutionProvider" not in names:
            raise DeviceError(f"providers={names!r}: this build has CPUExecutionProvider")
        threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        self._model = load(path_or_bytes, threads=threads)

    def get_inputs(self) -> list[NodeArg]:
        return [NodeArg(i) for i in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [NodeArg(o) for o in self._model.outputs]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, npt.ArrayLike],
        run_options: Any = None,
    ) -> list[FloatArray]:
        """The named outputs (None or empty: all) for inputs given by name. Raises ShapeError for what does not fit."""
        if not isinstance(input_feed, Mapping):
            raise ShapeError(f"input_feed: expected a mapping from names to arrays, got {type(input_feed).__name__}")
        return self._model.run(output_names or None, input_feed)
