"""grouped_conv2d, of groups of few channels: merged groups, vectors and their tails, borders, bands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import fastconv
from fastconv import _core
from tests import reference
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


BY_GROUPS = (case(41, 4, 4, 7, 7, N=2), case(13, 8, 8, 7, 7, N=2), case(7, 24, 24, 7, 7))  # their chunks are


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
    yield case(9, 4, 4, 7, 7, N=2)
    yield from BY_GROUPS
    yield case(6, 16, 16, 30, 30, N=3)


def is_grouped(isa: Any, of: ConvCase) -> bool:
    shape = _core.ConvShape(
        N=of.N, H=of.H, W=of.W, C=of.C, K=of.K, P=of.P, Q=of.Q, R=of.R, S=of.S, groups=of.groups,
        strides=of.strides, dilations=of.dilations, pads=of.pads,
    )  # fmt: skip
    return ("grouped", 0) in _core.conv2d_candidates(shape, isa, 4)


@isas
@pytest.mark.parametrize("act", ("identity", "relu6", "tanh"))
def test_forward(isa: Any, act: str) -> None:
    """With gaps, bias and residual or without."""
    for shape in shapes():
        assert is_grouped(isa, shape), shape
        rng = np.random.default_rng(17)
        x, w = (
            random(rng, shape.N, shape.H, shape.W, shape.C),
            random(rng, shape.K, shape.C // shape.groups, shape.R, 3),
        )
        bias, residual = random(rng, shape.K), random(rng, shape.N, shape.P, shape.Q, shape.K)
        depth = shape.C // shape.groups * shape.R * 3
        for b, r, gaps in ((None, None, (0, 0, 0)), (bias, residual, (3, 5, 2)), (bias, None, (0, 1, 0))):
            got = conv2d(isa, shape, x, w, b, r, act=act, gaps=gaps, algorithm="grouped")
            close(got, expected(shape, x, w, b, r, act), terms=depth, scale=np.sqrt(depth) + 1, note=shape)


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


GOOD = dict(N=1, H=9, W=9, C=16, K=16, P=9, Q=9, R=3, S=3, groups=2, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            pad_t=1, pad_l=1, x_image=1296, x_row=144, x_ld=16, y_ld=16)  # fmt: skip


def descriptor(algorithm: str = "grouped", **fields: int) -> _core.Conv2d:
    return _core.Conv2d(**{**GOOD, "algorithm": getattr(_core.ConvAlgorithm, algorithm), **fields})


@pytest.mark.parametrize(
    "wrong",
    (
        dict(N=0), dict(P=0), dict(Q=6), dict(Q=0), dict(R=1025), dict(S=4), dict(stride_w=3), dict(dilation_w=2),
        dict(dilation_h=2), dict(groups=1), dict(groups=16), dict(C=66, x_ld=66), dict(K=66, y_ld=66),
    ),
    ids=str,
)  # fmt: skip
def test_rejects(wrong: dict[str, int]) -> None:
    """What the kernel does not know must not reach it; a plan file may hold anything."""
    _core.prepare(descriptor(), LEVELS[0])
    for call in (_core.prepare, _core.extent):
        with pytest.raises(ValueError, match=r"grouped_conv2d|conv2d"):
            call(descriptor(**wrong), LEVELS[0])


def test_of_one_operation_alone() -> None:
    for algorithm, other in (("grouped", _core.Op.conv2d), ("implicit", _core.Op.grouped_conv2d)):
        _core.extent(descriptor(algorithm), LEVELS[0])
        for call in (_core.prepare, _core.extent):
            with pytest.raises(ValueError, match="another operation"):
                call(descriptor(algorithm), LEVELS[0], other)


@isas
def test_chunks_of_groups(isa: Any) -> None:
    for few in BY_GROUPS:
        d = descriptor(
            N=few.N, H=few.H, W=few.W, C=few.C, K=few.K, P=few.P, Q=few.Q, groups=few.groups, x_ld=few.C, y_ld=few.K,
            x_row=few.W * few.C, x_image=few.H * few.W * few.C,
        )  # fmt: skip
        _core.prepare(d, isa)
        assert d.panel_chunks > 1 and d.chunks == d.panel_chunks * few.N, few


def test_a_model(tmp_path: Path) -> None:
    """Chosen, saved, and the same numbers on any number of threads."""
    rng, source = np.random.default_rng(19), tmp_path / "grouped.onnx"
    w = rng.standard_normal((96, 8, 3, 3), np.float32)
    x = rng.standard_normal((2, 96, 28, 28), np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["c"], group=12, pads=[1] * 4, strides=[2, 2])
    nodes = [conv, helper.make_node("Relu", ["c"], ["y"])]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", x.shape), ("y", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    model = fastconv.load(source, threads=1)
    assert [op.algorithm for op in model.inspect() if op.op == "Conv"] == ["grouped"]
    y = model(x)
    want = reference.conv2d(x.transpose(0, 2, 3, 1), w, strides=(2, 2), pads=(1, 1, 1, 1), groups=12)
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1), np.maximum(want, 0), rtol=1e-4, atol=1e-4)
    model.save(tmp_path / "grouped.fcplan", shape=x.shape)
    saved = fastconv.load(tmp_path / "grouped.fcplan", threads=2)
    np.testing.assert_array_equal(saved(x), y)
    for threads in (2, 4):
        np.testing.assert_array_equal(fastconv.load(source, threads=threads)(x), y)
