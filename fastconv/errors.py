"""The errors that fastconv raises. Each message names the node, the input, what was expected and what came."""

from __future__ import annotations


class FastconvError(Exception):
    """Base of every error that fastconv raises on purpose."""


class ModelError(FastconvError, ValueError):
    """A model file that is broken, contradicts itself or asks for something impossible."""


class UnsupportedOpError(ModelError):
    """A valid model that needs an operator, an attribute or a type which fastconv does not have."""


class ShapeError(FastconvError, ValueError):
    """An input array whose name, rank, dimensions or dtype do not fit the model or the operation."""


class DeviceError(FastconvError, RuntimeError):
    """A device, an instruction set or a precision that is not available here."""


class TuningError(FastconvError, ValueError):
    """A file of tuning that is broken, of another version, or without measurements of this CPU."""


class DownloadError(FastconvError, OSError):
    """Published weights that cannot be fetched; the message says what to do instead."""
