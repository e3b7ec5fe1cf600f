"""Tables of ONNX Resize: for each output position of one axis, which input positions count and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
_F64 = npt.NDArray[np.float64]
_F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a Resize: sizes, the scale, and the part of the input (tf_crop_and_resize)."""

    size: int
    output: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class Table:
    """index and weight [output, taps] (weight None: each position is one of the input), and what lies outside."""

    index: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None
    outside: npt.NDArray[np.bool_] | None


def positions(axis: Axis, coordinates: str) -> _F32:
    """Where each output position lies in the input, in float32 arithmetic as other runtimes compute it."""
    x: _F32 = np.asarray(_positions(axis, coordinates), np.float32)
    return x


def _positions(axis: Axis, coordinates: str) -> Any:
    f = np.float32
    i, scale = np.arange(axis.output, dtype=np.float32), f(axis.scale)
    half, one = f(0.5), f(1.0)
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (i + half) / scale
    if coordinates == "align_corners":
        # ONNX's own cases divide by the size that scale asks for, fractions and all; onnxruntime by the whole one.
        wanted = axis.scale * axis.size
        length = f(axis.output if abs(wanted - axis.output) < 1e-3 else wanted)
        return np.zeros_like(i) if axis.output == 1 else i * f(axis.size - 1) / (length - one)
    if coordinates == "tf_crop_and_resize":
        start, end, last = f(axis.start), f(axis.end), f(axis.size - 1)
        if axis.output == 1:
            return np.full_like(i, half * (start + end) * last)
        return start * last + i * ((end - start) * last / f(axis.output - 1))
    if coordinates == "pytorch_half_pixel" and axis.output == 1:
        return np.zeros_like(i)
    x = (i + half) / scale - half
    if coordinates == "half_pixel_symmetric":
        adjustment = f(axis.output) / (scale * f(axis.size))
        x = f(axis.size) * half * (one - adjustment) + x
    return x


def nearest(x: _F32, mode: str) -> Any:
    """The input position next to each x."""
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    return np.ceil(x - 0.5) if mode == "round_prefer_floor" else np.floor(x + 0.5)


def _triangle(d: _F64) -> _F64:
    return np.maximum(0.0, 1.0 - np.abs(d))


def _cubic(d: _F64, a: float) -> _F64:
    """Keys, Cubic convolution interpolation for digital image processing, 1981, equation 15 with free a."""
    t = np.abs(d)
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = a * (((t - 5.0) * t + 8.0) * t - 4.0)
    return np.where(t <= 1.0, near, np.where(t < 2.0, far, 0.0))


def table(
    axis: Axis, mode: str, coordinates: str, nearest_mode: str, a: float, *, antialias: bool, exclude_outside: bool
) -> Table:
    """The table of one axis; positions beyond its ends count as the end."""
    x = positions(axis, coordinates)
    last = axis.size - 1
    outside = (x < 0) | (x > last) if coordinates == "tf_crop_and_resize" else None
    if mode == "nearest":
        if nearest_mode == "simple":  # of Resize-10, where ONNX says nothing: as onnxruntime has it
            nearest_mode = "ceil" if axis.scale < 1 else "floor"
        index = np.clip(nearest(x, nearest_mode), 0, last)
        return Table(index.astype(np.float32)[:, None], None, outside)
    at64 = x.astype(np.float64)
    if mode == "linear" and not antialias:
        at64 = np.clip(at64, 0, last)
    radius = 1.0 if mode == "linear" else 2.0
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    low = math.floor(-radius / shrink) + 1
    taps = np.arange(low, 2 - low if antialias else low + 2 * int(radius))
    base = np.floor(at64)[:, None]
    distance = (base + taps - at64[:, None]) * shrink
    weight = _triangle(distance) if mode == "linear" else _cubic(distance, a)
    at = base + taps
    if exclude_outside:
        weight = np.where((at < 0) | (at > last), 0.0, weight)
    if antialias or exclude_outside:
        weight = weight / weight.sum(axis=1, keepdims=True)
    return Table(np.clip(at, 0, last).astype(np.float32), weight.astype(np.float32), outside)
