"""fastconv: CNNs on hand-written CPU kernels, from an ONNX file to the answer, without a framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import ops
from ._version import __version__
from .config import show_config
from .errors import DeviceError, FastconvError, ModelError, ShapeError, UnsupportedOpError
from .model import Model, load
from .session import InferenceSession, SessionOptions

if TYPE_CHECKING:
    from .finetune import fine_tune


def __getattr__(name: str) -> Any:
    """What only training needs is loaded when it is asked for."""
    if name == "fine_tune":
        from .finetune import fine_tune

        return fine_tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DeviceError",
    "FastconvError",
    "InferenceSession",
    "Model",
    "ModelError",
    "SessionOptions",
    "ShapeError",
    "UnsupportedOpError",
    "__version__",
    "fine_tune",
    "load",
    "ops",
    "show_config",
]
