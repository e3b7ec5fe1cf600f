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
    """The seed of the next Variable."""
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
    return _scaled(np.random.default_rng(seed).random(shape, dtype=np.float32), limit)


def _scaled(a: Array, limit: float) -> Array:
    """Numbers from 0 to 1 become -limit to limit, in place."""
    a -= np.float32(0.5)
    a *= np.float32(2 * limit)
    return a


def _uniform_part(out: Array, first: int, seed: int, limit: float) -> None:
    """What `_uniform` has from its first-th number on. The generator makes two float32 of each 64 bits."""
    rng = np.random.default_rng(seed)
    rng.bit_generator.advance(first // 2)  # type: ignore[attr-defined]
    rng.random(first % 2, dtype=np.float32)
    rng.random(out=out, dtype=np.float32)
    _scaled(out, limit)


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


def _glorot_limit(shape: Sequence[int], layout: str) -> float:
    fan_in, fan_out = fans(shape, layout)
    return math.sqrt(6 / (fan_in + fan_out))


def _he_limit(shape: Sequence[int], layout: str) -> float:
    return math.sqrt(6 / fans(shape, layout)[0])


def glorot_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Uniform, variance 2 / (fan in + fan out): Glorot and Bengio 2010, equation 16."""
    return _uniform(shape, seed, _glorot_limit(shape, layout))


def glorot_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Normal, cut at two deviations, variance 2 / (fan in + fan out): Glorot and Bengio 2010, equation 12."""
    fan_in, fan_out = fans(shape, layout)
    return _normal(shape, seed, math.sqrt(2 / (fan_in + fan_out)))


def he_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Uniform, variance 2 / fan in: He et al. 2015, for layers in front of ReLU."""
    return _uniform(shape, seed, _he_limit(shape, layout))


def he_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Normal, cut at two deviations, variance 2 / fan in: He et al. 2015, equation 10."""
    return _normal(shape, seed, math.sqrt(2 / fans(shape, layout)[0]))


def lecun_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Normal, cut at two deviations, variance 1 / fan in: LeCun et al. 1998, "Efficient BackProp", equation 16."""
    return _normal(shape, seed, math.sqrt(1 / fans(shape, layout)[0]))


def random_normal(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Normal, cut at two deviations, with a deviation of 0.05."""
    return _normal(shape, seed, 0.05)


def random_uniform(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """Uniform from -0.05 to 0.05."""
    return _uniform(shape, seed, 0.05)


def zeros(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """All 0, as biases begin."""
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...], seed: int, layout: str) -> Array:
    """All 1, as the factors of normalisations begin."""
    return np.ones(shape, np.float32)


_LIMITS: dict[Initializer, Callable[[Sequence[int], str], float]] = {
    glorot_uniform: _glorot_limit,
    he_uniform: _he_limit,
    random_uniform: lambda shape, layout: 0.05,
}


def part_of(
    initializer: Initializer, shape: tuple[int, ...], seed: int, layout: str
) -> Callable[[int, Array], None] | None:
    """f(first, out) that fills `out` with the initial values from the first-th on; None where there is no such way."""
    limit = _LIMITS.get(initializer)
    if limit is None:
        return None
    return lambda first, out: _uniform_part(out, first, seed, limit(shape, layout))


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
