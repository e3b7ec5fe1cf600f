"""fastconv: CNNs on hand-written CPU kernels, from an ONNX file to the answer, without a framework."""

from __future__ import annotations

from . import ops
from ._version import __version__
from .config import show_config
from .errors import DeviceError, FastconvError, ModelError, ShapeError, TuningError, UnsupportedOpError
from .model import Model, load
from .session import InferenceSession, SessionOptions
from .tuning import Tuning

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
