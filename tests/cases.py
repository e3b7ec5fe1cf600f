"""Shapes that tests and benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class ConvCase(NamedTuple):
    """A convolution: channels C -> K, pads (top, left, bottom, right), `times` times in its network."""

    name: str
    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    times: int = 1

    @property
    def P(self) -> int:
        return (self.H + self.pads[0] + self.pads[2] - (self.R - 1) * self.dilations[0] - 1) // self.strides[0] + 1

    @property
    def Q(self) -> int:
        return (self.W + self.pads[1] + self.pads[3] - (self.S - 1) * self.dilations[1] - 1) // self.strides[1] + 1

    @property
    def flops(self) -> int:
        return 2 * self.N * self.P * self.Q * self.K * (self.C // self.groups) * self.R * self.S


class PoolCase(NamedTuple):
    """A pooling; ceil_mode decides the output size."""

    name: str
    N: int
    H: int
    W: int
    C: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil_mode: bool = False


def channels(V: int) -> list[int]:
    """Channel counts around the vector length V: below, at and above it, and two vectors with a tail."""
    return sorted({1, 3, V - 1, V, V + 1, 2 * V + 3})


def _same(r: int) -> tuple[int, int, int, int]:
    return (r // 2, r // 2, r // 2, r // 2)


def small_convs(V: int) -> Iterator[ConvCase]:
    """Small convolutions that reach every branch: tails, odd sizes, strides, dilations, groups, asymmetric pads."""
    for c in channels(V):
        yield ConvCase(f"1x1-c{c}", 1, 5, 7, c, 2 * V + 3, 1, 1)
        yield ConvCase(f"1x1-k{c}", 2, 3, 5, V + 1, c, 1, 1)
        yield ConvCase(f"3x3-c{c}", 1, 7, 6, c, c, 3, 3, pads=_same(3))
    yield ConvCase("1x1-s2", 1, 9, 8, V, V, 1, 1, strides=(2, 2))
    yield ConvCase("1x1-padded", 1, 4, 5, 5, 7, 1, 1, pads=(1, 0, 2, 3))
    yield ConvCase("3x3-s2-asymmetric", 1, 8, 9, V + 1, V - 1, 3, 3, strides=(2, 2), pads=(0, 0, 1, 1))
    yield ConvCase("3x3-s21", 1, 9, 9, 3, 5, 3, 3, strides=(2, 1), pads=(1, 2, 0, 1))
    yield ConvCase("3x3-d2", 1, 9, 11, 5, 6, 3, 3, pads=(2, 2, 2, 2), dilations=(2, 2))
    yield ConvCase("3x2-d13", 2, 8, 9, 4, 3, 3, 2, pads=(1, 3, 0, 0), dilations=(1, 3))
    yield ConvCase("5x5", 1, 6, 6, V, 7, 5, 5, pads=_same(5))
    yield ConvCase("1x7", 1, 5, 9, 6, 6, 1, 7, pads=(0, 3, 0, 3))
    yield ConvCase("7x1", 1, 9, 5, 6, 6, 7, 1, pads=(3, 0, 3, 0))
    yield ConvCase("7x7-stem", 1, 19, 21, 3, V + 2, 7, 7, strides=(2, 2), pads=_same(7))
    yield ConvCase("11x11-stem", 1, 27, 23, 3, 5, 11, 11, strides=(4, 4), pads=(2, 2, 2, 2))
    yield ConvCase("window-is-image", 1, 4, 3, 9, 10, 4, 3)
    yield ConvCase("window-in-padding", 1, 2, 2, 3, 4, 3, 3, pads=(3, 3, 3, 3))
    yield ConvCase("groups2", 1, 6, 7, 2 * V + 2, 6, 3, 3, pads=_same(3), groups=2)
    yield ConvCase("groups3-s2", 2, 7, 5, 9, 12, 3, 3, strides=(2, 2), pads=(1, 1, 0, 0), groups=3)
    yield ConvCase("groups-1x1", 1, 5, 5, 4 * V, 2 * V, 1, 1, groups=4)


def small_depthwise(V: int) -> Iterator[ConvCase]:
    """Depthwise convolutions; K = C * multiplier."""
    for c in channels(V):
        yield ConvCase(f"dw3x3-c{c}", 1, 9, 17, c, c, 3, 3, pads=_same(3), groups=c)
        yield ConvCase(f"dw3x3-s2-c{c}", 2, 8, 9, c, c, 3, 3, strides=(2, 2), pads=(0, 0, 1, 1), groups=c)
        yield ConvCase(f"dw-x2-c{c}", 1, 6, 5, c, 2 * c, 3, 3, pads=_same(3), groups=c)
    yield ConvCase("dw5x5", 1, 11, 10, V + 1, V + 1, 5, 5, pads=_same(5), groups=V + 1)
    yield ConvCase("dw5x5-s2", 1, 11, 10, V, V, 5, 5, strides=(2, 2), pads=(1, 2, 2, 1), groups=V)
    yield ConvCase("dw3x3-d2", 1, 11, 9, 5, 5, 3, 3, pads=(2, 2, 2, 2), dilations=(2, 2), groups=5)
    yield ConvCase("dw1x3", 1, 3, 9, V, V, 1, 3, pads=(0, 1, 0, 1), groups=V)
    yield ConvCase("dw7x7", 1, 9, 9, 3, 3, 7, 7, pads=_same(7), groups=3)


def small_pools(V: int) -> Iterator[PoolCase]:
    for c in channels(V):
        yield PoolCase(f"2x2-s2-c{c}", 2, 6, 8, c, (2, 2), (2, 2))
        yield PoolCase(f"3x3-s2-c{c}", 1, 9, 11, c, (3, 3), (2, 2), (1, 1, 1, 1))
        yield PoolCase(f"3x3-s1-c{c}", 1, 5, 7, c, (3, 3), (1, 1), (1, 1, 1, 1))
    wide = 5 * V + 1  # four vectors at once, one vector, a tail
    yield PoolCase("wide-5x3", 1, 7, 6, wide, (5, 3), (2, 1), (2, 1, 2, 1))
    yield PoolCase("2x2-odd", 1, 7, 5, V + 1, (2, 2), (2, 2))
    yield PoolCase("2x2-ceil", 1, 7, 5, V + 1, (2, 2), (2, 2), ceil_mode=True)
    yield PoolCase("3x3-s2-ceil", 1, 8, 9, 3, (3, 3), (2, 2), ceil_mode=True)
    yield PoolCase("3x3-s2-ceil-padded", 1, 8, 6, V, (3, 3), (2, 2), (1, 1, 1, 1), ceil_mode=True)
    yield PoolCase("3x3-asymmetric", 1, 6, 7, V - 1, (3, 3), (2, 2), (0, 1, 2, 0))
    yield PoolCase("2x2-asymmetric", 2, 5, 5, V, (2, 2), (1, 2), (1, 0, 0, 1))
    yield PoolCase("3x3-d2", 1, 9, 8, V + 1, (3, 3), (1, 2), (2, 2, 2, 2), (2, 2))
    yield PoolCase("2x3-d31", 1, 8, 7, 3, (2, 3), (2, 1), (1, 2, 0, 0), (3, 1))
    yield PoolCase("padding-wider-than-image", 1, 2, 1, 4, (3, 3), (1, 1), (2, 2, 2, 2))
    yield PoolCase("window-wholly-outside", 1, 2, 2, V, (2, 2), (1, 1), (3, 3, 3, 3))
    yield PoolCase("global", 1, 7, 7, 2 * V + 3, (7, 7))
    yield PoolCase("1x1-s2", 1, 5, 6, V, (1, 1), (2, 2))


# -- layers of known networks, batch 1 ----------------------------------------------------------------------------
RESNET50 = [
    ConvCase("stem", 1, 224, 224, 3, 64, 7, 7, (2, 2), _same(7)),
    ConvCase("56-64-64", 1, 56, 56, 64, 64, 1, 1),
    ConvCase("56-64-64-3x3", 1, 56, 56, 64, 64, 3, 3, pads=_same(3), times=3),
    ConvCase("56-64-256", 1, 56, 56, 64, 256, 1, 1, times=4),
    ConvCase("56-256-64", 1, 56, 56, 256, 64, 1, 1, times=2),
    ConvCase("56-256-128", 1, 56, 56, 256, 128, 1, 1),
    ConvCase("56-128-128-3x3-s2", 1, 56, 56, 128, 128, 3, 3, (2, 2), _same(3)),
    ConvCase("28-128-512", 1, 28, 28, 128, 512, 1, 1, times=4),
    ConvCase("56-256-512-s2", 1, 56, 56, 256, 512, 1, 1, (2, 2)),
    ConvCase("28-512-128", 1, 28, 28, 512, 128, 1, 1, times=3),
    ConvCase("28-128-128-3x3", 1, 28, 28, 128, 128, 3, 3, pads=_same(3), times=3),
    ConvCase("28-512-256", 1, 28, 28, 512, 256, 1, 1),
    ConvCase("28-256-256-3x3-s2", 1, 28, 28, 256, 256, 3, 3, (2, 2), _same(3)),
    ConvCase("14-256-1024", 1, 14, 14, 256, 1024, 1, 1, times=6),
    ConvCase("28-512-1024-s2", 1, 28, 28, 512, 1024, 1, 1, (2, 2)),
    ConvCase("14-1024-256", 1, 14, 14, 1024, 256, 1, 1, times=5),
    ConvCase("14-256-256-3x3", 1, 14, 14, 256, 256, 3, 3, pads=_same(3), times=5),
    ConvCase("14-1024-512", 1, 14, 14, 1024, 512, 1, 1),
    ConvCase("14-512-512-3x3-s2", 1, 14, 14, 512, 512, 3, 3, (2, 2), _same(3)),
    ConvCase("7-512-2048", 1, 7, 7, 512, 2048, 1, 1, times=3),
    ConvCase("14-1024-2048-s2", 1, 14, 14, 1024, 2048, 1, 1, (2, 2)),
    ConvCase("7-2048-512", 1, 7, 7, 2048, 512, 1, 1, times=2),
    ConvCase("7-512-512-3x3", 1, 7, 7, 512, 512, 3, 3, pads=_same(3), times=2),
]

VGG16 = [
    ConvCase("224-3-64", 1, 224, 224, 3, 64, 3, 3, pads=_same(3)),
    ConvCase("224-64-64", 1, 224, 224, 64, 64, 3, 3, pads=_same(3)),
    ConvCase("112-64-128", 1, 112, 112, 64, 128, 3, 3, pads=_same(3)),
    ConvCase("112-128-128", 1, 112, 112, 128, 128, 3, 3, pads=_same(3)),
    ConvCase("56-128-256", 1, 56, 56, 128, 256, 3, 3, pads=_same(3)),
    ConvCase("56-256-256", 1, 56, 56, 256, 256, 3, 3, pads=_same(3), times=2),
    ConvCase("28-256-512", 1, 28, 28, 256, 512, 3, 3, pads=_same(3)),
    ConvCase("28-512-512", 1, 28, 28, 512, 512, 3, 3, pads=_same(3), times=2),
    ConvCase("14-512-512", 1, 14, 14, 512, 512, 3, 3, pads=_same(3), times=3),
]


def _mobilenet_v2() -> list[ConvCase]:
    """Stem, inverted residual blocks (expansion, channels, repeats, stride) and head of MobileNetV2."""
    layers = [ConvCase("stem", 1, 224, 224, 3, 32, 3, 3, (2, 2), _same(3))]
    size, c = 112, 32
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for t, k, repeats, first in blocks:
        for i in range(repeats):
            stride, wide = (first if i == 0 else 1), c * t
            if t > 1:
                layers.append(ConvCase(f"{size}-{c}-{wide}", 1, size, size, c, wide, 1, 1))
            dw = f"{size}-dw{wide}-s{stride}"
            layers.append(ConvCase(dw, 1, size, size, wide, wide, 3, 3, (stride, stride), _same(3), groups=wide))
            size //= stride
            layers.append(ConvCase(f"{size}-{wide}-{k}", 1, size, size, wide, k, 1, 1))
            c = k
    layers.append(ConvCase("head", 1, 7, 7, 320, 1280, 1, 1))
    return layers


MOBILENET_V2 = _mobilenet_v2()
NETWORKS = {"resnet50": RESNET50, "vgg16": VGG16, "mobilenet_v2": MOBILENET_V2}

NETWORK_POOLS = [
    PoolCase("resnet50-112", 1, 112, 112, 64, (3, 3), (2, 2), (1, 1, 1, 1)),
    PoolCase("vgg16-224", 1, 224, 224, 64, (2, 2), (2, 2)),
    PoolCase("vgg16-28", 1, 28, 28, 512, (2, 2), (2, 2)),
    PoolCase("googlenet-28-s1", 1, 28, 28, 256, (3, 3), (1, 1), (1, 1, 1, 1)),
]
