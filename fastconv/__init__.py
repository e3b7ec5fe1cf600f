"""fastconv: CNNs on hand-written CPU kernels, from an ONNX file to the answer, without a framework."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from . import ops
from ._version import __version__
from .config import show_config
from .errors import DeviceError, FastconvError, ModelError, ShapeError, TuningError, UnsupportedOpError
from .model import Model, load
from .session import InferenceSession, SessionOptions
from .tuning import Tuning

_LAZY = ("applications", "backend", "layers", "models", "onnx", "preprocessing", "weights")  # imported when asked for


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DeviceError",
    "FastconvError",
    "InferenceSession",
    "Model",
    "ModelError",
    "SessionOptions",
    "ShapeError",
    "Tuning",
    "TuningError",
    "UnsupportedOpError",
    "__version__",
    "load",
    "ops",
    "show_config",
]
