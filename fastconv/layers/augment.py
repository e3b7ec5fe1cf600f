"""Layers that change images at random while a model is trained, and do nothing otherwise; Keras' names and geometry.

Each image of a batch gets numbers of its own, drawn by the trainer from its seed and the number of the step, so that a
run that was interrupted goes on with the same ones. `seed`: None for the one that `fit` is given.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv.graph import Array, Value
from fastconv.layers.base import Dims, Layer, Scope
from fastconv.layers.conv import check_format, image_shape

Factor = float | Sequence[float]
FILL_MODES = ("reflect", "wrap", "constant", "nearest")
INTERPOLATIONS = ("bilinear", "nearest")


def factors(value: Factor, name: str, least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """A factor f as (-f, f), a pair as it is. Raises ValueError for what is out of range."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else (-abs(float(value)), abs(float(value)))  # type: ignore[arg-type]
    if len(pair) != 2 or not all(isinstance(f, (int, float)) and math.isfinite(f) for f in pair):
        raise ValueError(f"{name}={value!r}: expected a number or two")
    low, high = float(pair[0]), float(pair[1])
    if not least <= low <= high <= most:
        raise ValueError(f"{name}={value!r}: expected {least} <= lower <= upper <= {most}")
    return low, high


class _Random(Layer):
    """Base: `change` appends the nodes of training."""

    def __init__(self, seed: int | None = None, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_format(data_format)
        self.seed = seed

    def output_shape_of(self, *shapes: Dims) -> Dims:
        image_shape(self, shapes[0])
        return shapes[0]

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        return self.change(scope, inputs[0]) if scope.training else inputs[0]

    @abstractmethod
    def change(self, scope: Scope, x: Value) -> Value:
        """The image x, changed."""


class _Geometric(_Random):
    """Base of layers that move pixels: `matrices` gives a matrix for each image, output to input, columns first."""

    def __init__(
        self,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed, **kwargs)
        if fill_mode not in FILL_MODES:
            raise ValueError(f"fill_mode={fill_mode!r}: expected one of {', '.join(FILL_MODES)}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation!r}: expected one of {', '.join(INTERPOLATIONS)}")
        self.fill_mode, self.interpolation, self.fill_value = fill_mode, interpolation, float(fill_value)

    @abstractmethod
    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        """float32[n, 6]: (a, b, t, d, e, u) of each image, see `sample`."""

    def change(self, scope: Scope, x: Value) -> Value:
        n, _, h, w = x.shape
        return sample(
            scope, x, lambda rng: self.matrices(rng, n, h, w), (h, w), self.fill_mode, self.interpolation,
            self.fill_value, self.seed,
        )  # fmt: skip


def sample(
    scope: Scope, x: Value, draw: Callable[[np.random.Generator], Array], size: tuple[int, int], fill_mode: str,
    interpolation: str, fill_value: float = 0.0, seed: int | None = None,
) -> Value:  # fmt: skip
    """Pixel (row p, column q) of the output is that of x at column a q + b p + t and row d q + e p + u."""
    matrix = scope.feed((x.shape[0], 6), draw, seed)
    attrs = dict(fill_mode=fill_mode, interpolation=interpolation, fill_value=fill_value)
    return scope.add("AffineSample", [x, matrix], (*x.shape[:2], *size), **attrs)


def _rows(n: int, *columns: Any) -> Array:
    """float32[n, len(columns)] of numbers and vectors."""
    return np.stack([np.broadcast_to(np.asarray(c, np.float64), (n,)) for c in columns], 1).astype(np.float32)


class RandomFlip(_Random):
    """Each image is mirrored with a probability of one half, along each of the axes that `mode` names."""

    def __init__(self, mode: str = "horizontal_and_vertical", seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        if mode not in ("horizontal", "vertical", "horizontal_and_vertical"):
            raise ValueError(f"mode={mode!r}: expected horizontal, vertical or horizontal_and_vertical")
        self.mode = mode

    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        across, upside = rng.integers(0, 2, (2, n))
        across, upside = across * ("horizontal" in self.mode), upside * ("vertical" in self.mode)
        return _rows(n, 1 - 2 * across, 0, across * (width - 1), 0, 1 - 2 * upside, upside * (height - 1))

    def change(self, scope: Scope, x: Value) -> Value:
        n, _, h, w = x.shape
        return sample(scope, x, lambda rng: self.matrices(rng, n, h, w), (h, w), "nearest", "nearest", seed=self.seed)


class RandomRotation(_Geometric):
    """Rotations about the centre. factor: of a full turn, f stands for (-f, f); positive is counter-clockwise."""

    def __init__(self, factor: Factor, fill_mode: str = "reflect", interpolation: str = "bilinear", **kw: Any) -> None:
        super().__init__(fill_mode, interpolation, **kw)
        self.factor = factors(factor, "factor", -1, 1)

    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        angle = 2 * np.pi * rng.uniform(*self.factor, n)
        c, s, x, y = np.cos(angle), np.sin(angle), (width - 1) / 2, (height - 1) / 2
        return _rows(n, c, -s, x - c * x + s * y, s, c, y - s * x - c * y)


class RandomTranslation(_Geometric):
    """Shifts by fractions of height and width, f stands for (-f, f); positive is down and to the right."""

    def __init__(
        self, height_factor: Factor, width_factor: Factor, fill_mode: str = "reflect", interpolation: str = "bilinear",
        **kw: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, **kw)
        self.height_factor = factors(height_factor, "height_factor", -1, 1)
        self.width_factor = factors(width_factor, "width_factor", -1, 1)

    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        down, right = rng.uniform(*self.height_factor, n) * height, rng.uniform(*self.width_factor, n) * width
        return _rows(n, 1, 0, -right, 0, 1, -down)


class RandomZoom(_Geometric):
    """Zooms about the centre: 0.2 shows 20% more of the image, -0.2 20% less; f stands for (-f, f).

    Without width_factor the aspect ratio is kept.
    """

    def __init__(
        self, height_factor: Factor, width_factor: Factor | None = None, fill_mode: str = "reflect",
        interpolation: str = "bilinear", **kw: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, **kw)
        self.height_factor = factors(height_factor, "height_factor", -1, 1)
        self.width_factor = None if width_factor is None else factors(width_factor, "width_factor", -1, 1)

    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        tall = 1 + rng.uniform(*self.height_factor, n)
        wide = tall if self.width_factor is None else 1 + rng.uniform(*self.width_factor, n)
        return _rows(n, wide, 0, (width - 1) / 2 * (1 - wide), 0, tall, (height - 1) / 2 * (1 - tall))


class RandomCrop(_Random):
    """A window of height x width, anywhere in training and in the centre otherwise.

    Each image has its own place (Keras: one for the batch). Raises ValueError for images that are smaller than it.
    """

    def __init__(self, height: int, width: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.height, self.width = int(height), int(width)
        if self.height < 1 or self.width < 1:
            raise ValueError(f"height={height!r}, width={width!r}: expected positive ints")

    def output_shape_of(self, *shapes: Dims) -> Dims:
        h, w, c = image_shape(self, shapes[0])
        if (h is not None and h < self.height) or (w is not None and w < self.width):
            raise ValueError(f"layer {self.name!r}: no window of {self.height}x{self.width} in shape {shapes[0]}")
        return (shapes[0][0], self.height, self.width, c)

    def emit(self, scope: Scope, *inputs: Value) -> Value:
        n, c, h, w = inputs[0].shape
        self.output_shape_of((n, h, w, c))
        if scope.training:
            return self.change(scope, inputs[0])
        starts = (0, 0, (h - self.height) // 2, (w - self.width) // 2)
        return scope.add("Slice", inputs, (n, c, self.height, self.width), starts=starts, steps=(1, 1, 1, 1))

    def matrices(self, rng: np.random.Generator, n: int, height: int, width: int) -> Array:
        right, down = rng.integers(0, width - self.width + 1, n), rng.integers(0, height - self.height + 1, n)
        return _rows(n, 1, 0, right, 0, 1, down)

    def change(self, scope: Scope, x: Value) -> Value:
        n, _, h, w = x.shape
        size = (self.height, self.width)
        return sample(scope, x, lambda rng: self.matrices(rng, n, h, w), size, "nearest", "nearest", seed=self.seed)


class _Colour(_Random):
    """Base of layers that change values: `value_range` is that of the images, and results are cut to it."""

    def __init__(self, value_range: Sequence[float] = (0, 255), seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"value_range={value_range!r}: expected two ascending numbers")
        self.value_range = (float(value_range[0]), float(value_range[1]))

    def clipped(self, scope: Scope, x: Value) -> Value:
        return scope.add("Clip", [x], x.shape, min=self.value_range[0], max=self.value_range[1])


class RandomContrast(_Colour):
    """(x - mean) * c + mean with each channel's mean and c from 1 - lower to 1 + upper; factor: f or (lower, upper)."""

    def __init__(self, factor: Factor, value_range: Sequence[float] = (0, 255), **kwargs: Any) -> None:
        super().__init__(value_range, **kwargs)
        pair = tuple(factor) if isinstance(factor, (list, tuple)) else (factor, factor)
        if len(pair) != 2 or not all(isinstance(f, (int, float)) and 0 <= f <= 1 for f in pair):
            raise ValueError(f"factor={factor!r}: expected a number from 0 to 1, or two")
        self.factor = (float(pair[0]), float(pair[1]))

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(1 - self.factor[0], 1 + self.factor[1], (n, 1, 1, 1)).astype(np.float32)

    def change(self, scope: Scope, x: Value) -> Value:
        n, c, _, _ = x.shape
        factor = scope.feed((n, 1, 1, 1), lambda rng: self.draw(rng, n), self.seed)
        mean = scope.add("ReduceMean", [x], (n, c, 1, 1), axes=(2, 3), keepdims=1)
        apart = scope.add("Mul", [scope.add("Sub", [x, mean], x.shape), factor], x.shape)
        return self.clipped(scope, scope.add("Add", [apart, mean], x.shape))


class RandomBrightness(_Colour):
    """x + delta, with delta a fraction of the range of values from lower to upper; factor f stands for (-f, f)."""

    def __init__(self, factor: Factor, value_range: Sequence[float] = (0, 255), **kwargs: Any) -> None:
        super().__init__(value_range, **kwargs)
        self.factor = factors(factor, "factor", -1, 1)

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        low, high = self.value_range
        return (rng.uniform(*self.factor, (n, 1, 1, 1)) * (high - low)).astype(np.float32)

    def change(self, scope: Scope, x: Value) -> Value:
        n = x.shape[0]
        delta = scope.feed((n, 1, 1, 1), lambda rng: self.draw(rng, n), self.seed)
        return self.clipped(scope, scope.add("Add", [x, delta], x.shape))
