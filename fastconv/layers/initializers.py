"""First values of weights, by Keras' names, as functions of shape and seed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from fastconv.graph import Array

Initializer = Callable[[tuple[int, ...], int, str], Array]  # (shape in the Graph's layout, seed, layout)

_lock = threading.Lock()
_random = np.random.default_rng()
_local = threading.local()


def set_random_seed(seed: int) -> None:
    """Make the first values of all layers made from now on reproducible."""
    global _random
    with _lock:
        _random = np.random.default_rng(seed)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Layers made inside, by this thread, have first values that follow from `seed` (None: from the global state)."""
    before = getattr(_local, "random", None)
    _local.random = before if seed is None else np.random.default_rng(seed)
    try:
        yield
    finally:
        _local.random = before


def next_seed() -> int:
    own = getattr(_local, "random", None)
    if own is not None:
        return int(own.integers(1 << 62))
    with _lock:
        return int(_random.integers(1 << 62))


def fans(shape: Sequence[int], layout: str) -> tuple[float, float]:
    """(fan in, fan out): how many numbers each output sums, and how many outputs each input reaches."""
    if layout == "conv":
        k, c, r, s = shape
        return c * r * s, k * r * s
    if layout.startswith("depthwise"):  # Keras counts the channels too
        multiplier = int(layout.split()[1])
        k, _, r, s = shape
        return k // multiplier * r * s, multiplier * r * s
    if len(shape) == 2:
        return shape[0], shape[1]
    return math.prod(shape), math.prod(shape)


def _uniform(shape: tuple[int, ...], seed: int, limit: float) -> Array:
    a = np.random.default_rng(seed).random(shape, dtype=np.float32)
    a -= np.float32(0.5)
    a *= np.float32(2 * limit)
    return a


def _normal(shape: tuple[int, ...], seed: int, std: float) -> Array:
    """Normal numbers cut at two deviations (drawn anew), with `std` after the cut."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape, dtype=np.float32)
    while True:
        far = np.abs(a) > 2
        count = int(far.sum())
        if not count:
            break
        a[far] = rng.standard_normal(count, dtype=np.float32)
    a *= np.float32(std / 0.87962566103423978)
    return a


def glorot_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Glorot and Bengio 2010, equation 16."""
    fan_in, fan_out = fans(shape, layout)
    return _uniform(shape, seed, math.sqrt(6 / (fan_in + fan_out)))


def glorot_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    fan_in, fan_out = fans(shape, layout)
    return _normal(shape, seed, math.sqrt(2 / (fan_in + fan_out)))


def he_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return _uniform(shape, seed, math.sqrt(6 / fans(shape, layout)[0]))


def he_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """He et al. 2015, equation 10: for layers in front of ReLU."""
    return _normal(shape, seed, math.sqrt(2 / fans(shape, layout)[0]))


def lecun_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return _normal(shape, seed, math.sqrt(1 / fans(shape, layout)[0]))


def random_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return _normal(shape, seed, 0.05)


def random_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return _uniform(shape, seed, 0.05)


def zeros(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    return np.ones(shape, np.float32)


INITIALIZERS: dict[str, Initializer] = {
    f.__name__: f
    for f in (
        glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_normal, random_normal, random_uniform, zeros, ones
    )
}  # fmt: skip


def initializer(name: str | Initializer) -> Initializer:
    """The initializer of that name, or a function of (shape, seed, layout) as it is. Raises ValueError."""
    if callable(name):
        return name
    if name not in INITIALIZERS:
        raise ValueError(f"initializer {name!r}: expected one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]
