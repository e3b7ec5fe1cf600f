"""fastconv: CNNs on hand-written CPU kernels, from an ONNX file to the answer, without a framework."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from . import _core as _core
except ImportError as _error:
    from importlib.util import find_spec

    if find_spec(f"{__name__}._core") is not None:
        raise  # it is there and cannot be loaded
    raise ImportError(
        f"{__path__[0]} is fastconv's source and lacks the compiled module for this Python. It hides an installed "
        "fastconv while Python runs in the folder above it: run it in another folder, or build the module here, by "
        "`make` (then run .venv/bin/python) or `pip install -e .`"
    ) from _error

from . import ops
from ._version import __version__
from .config import show_config
from .errors import DeviceError, FastconvError, ModelError, ShapeError, TuningError, UnsupportedOpError
from .loading import load
from .model import Model
from .session import InferenceSession, SessionOptions
from .tuning import Tuning

if TYPE_CHECKING:
    from .finetune import fine_tune

_LAZY = (
    "applications", "backend", "callbacks", "layers", "losses", "metrics", "models", "onnx", "optimizers",
    "preprocessing", "utils", "weights",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Modules, and what only training needs, are loaded when they are asked for."""
    if name == "fine_tune":
        from .finetune import fine_tune

        return fine_tune
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
    "fine_tune",
    "load",
    "ops",
    "show_config",
]
