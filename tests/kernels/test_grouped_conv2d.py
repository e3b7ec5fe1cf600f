"""grouped_conv2d, of groups of few channels: merged groups, vectors and their tails, borders, bands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests.cases import ConvCase

from .guard import LEVELS, close, random
from .weighted import conv2d, expected

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def case(
    groups: int, inputs: int, outputs: int, H: int, W: int, *, R: int = 3, stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1), N: int = 1,
) -> ConvCase:  # fmt: skip
    name = f"{groups}x{inputs}-{outputs}-{N}x{H}x{W}-r{R}-s{stride[0]}{stride[1]}-p{pads}"
    C, K = groups * inputs, groups * outputs
    return ConvCase(name, N, H, W, C, K, R, 3, strides=stride, pads=pads, groups=groups)


def shapes() -> Iterator[ConvCase]:
    """Widths below, at and above every vector's length; groups that do not fill the last vector; every border."""
    for width in (2, 3, 4, 5, 8, 12, 16, 20, 24, 32):
        yield case(3, width, width, 6, 11)
        yield case(5, width, width, 9, 18, stride=(2, 2))
    for inputs, outputs in ((2, 8), (8, 4), (4, 32), (32, 5)):
        yield case(2, inputs, outputs, 5, 9)
    for Q in range(7, 32):
        for stride in (1, 2):
            yield case(3, 4, 4, 4, Q * stride, stride=(stride, stride))
            yield case(2, 16, 16, 3, Q * stride + 1, stride=(1, stride), pads=(0, 0, 2, 1))
    yield case(2, 8, 8, 5, 7, pads=(3, 4, 3, 5))
    yield case(2, 4, 4, 5, 7, pads=(2, 9, 4, 0), stride=(3, 2))
    yield case(2, 8, 8, 7, 9, R=1, pads=(0, 1, 0, 1))
    yield case(2, 8, 8, 2, 1, pads=(1, 4, 1, 4))
    yield case(2, 8, 8, 9, 9, R=5, pads=(2, 1, 2, 1))
    yield case(4, 8, 8, 2, 7, R=5, pads=(4, 1, 4, 1))
    yield case(3, 8, 8, 60, 58)  # several bands
    yield case(9, 4, 4, 40, 60, stride=(2, 2), N=2)
    yield case(9, 4, 4, 7, 7, N=2)  # chunks of groups
    yield case(6, 16, 16, 30, 30, N=3)


def is_grouped(isa: Any, case: ConvCase) -> bool:
    shape = _core.ConvShape(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, groups=case.groups,
        strides=case.strides, dilations=case.dilations, pads=case.pads,
    )  # fmt: skip
    return ("grouped", 0) in _core.conv2d_candidates(shape, isa, 4)


@isas
@pytest.mark.parametrize("act", ("identity", "relu6", "tanh"))
def test_forward(isa: Any, act: str) -> None:
    """With gaps, bias and residual or without."""
    for case in shapes():
        assert is_grouped(isa, case), case
        rng = np.random.default_rng(17)
        x, w = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C // case.groups, case.R, 3)
        bias, residual = random(rng, case.K), random(rng, case.N, case.P, case.Q, case.K)
        depth = case.C // case.groups * case.R * 3
        for b, r, gaps in ((None, None, (0, 0, 0)), (bias, residual, (3, 5, 2)), (bias, None, (0, 1, 0))):
            got = conv2d(isa, case, x, w, b, r, act=act, gaps=gaps, algorithm="grouped")
            close(got, expected(case, x, w, b, r, act), terms=depth, scale=np.sqrt(depth) + 1, note=case)


@isas
def test_an_image_alone(isa: Any) -> None:
    """A batch's images are cut otherwise than one alone; the numbers are the same."""
    rng = np.random.default_rng(18)
    for width in (4, 8, 16):
        one = case(7, width, width, 20, 23)
        x, w = random(rng, 5, one.H, one.W, one.C), random(rng, one.K, width, 3, 3)
        got = conv2d(isa, one._replace(N=5), x, w, act="relu", algorithm="grouped")
        alone = [conv2d(isa, one, x[i : i + 1], w, act="relu", algorithm="grouped") for i in range(5)]
        np.testing.assert_array_equal(got, np.concatenate(alone))


@isas
@pytest.mark.parametrize(
    "other",
    (
        case(2, 33, 8, 6, 9), case(2, 8, 33, 6, 9), case(8, 1, 1, 6, 9), case(1, 8, 8, 6, 9), case(2, 8, 8, 9, 6),
        case(2, 8, 8, 9, 30, stride=(1, 3)), case(2, 32, 32, 5, 4000),
        case(2, 8, 8, 6, 9)._replace(S=4), case(2, 8, 8, 12, 12)._replace(dilations=(1, 2)),
        case(2, 8, 8, 12, 12)._replace(dilations=(2, 1)),
    ),
    ids=str,
)  # fmt: skip
def test_what_is_left_to_products(isa: Any, other: ConvCase) -> None:
    assert not is_grouped(isa, other)
