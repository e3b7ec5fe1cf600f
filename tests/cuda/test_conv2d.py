"""The implicit product: every tile and precision, sliced and whole, against reference.py."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from fastconv.cuda.library import device
from tests import cases, reference
from tests.kernels.guard import F32, dense
from tests.kernels.weighted import ACTIVATIONS, activation

from . import single
from .single import PRECISIONS, SCALAR, close, constant, force, random, run, target

BY_NAME = {c.name: c for c in cases.small_convs(8)}


@pytest.fixture(autouse=True)
def usual_choice() -> Iterator[None]:
    yield
    force(-1)


def conv2d(
    precision: str,
    case: cases.ConvCase,
    *,
    gaps: tuple[int, int, int] = (0, 0, 0),
    bias: bool = True,
    residual: bool = False,
    act: str = "identity",
) -> None:
    rng = np.random.default_rng(3)
    x = random(rng, precision, case.N, case.H, case.W, case.C)
    w = random(rng, precision, case.K, case.C // case.groups, case.R, case.S)
    b = rng.standard_normal(case.K, np.float32) if bias else None
    shape = (case.N, case.P, case.Q, case.K)
    res = random(rng, precision, *shape) if residual else None
    xs, ys, rs = dense(x.shape, case.C + gaps[0]), dense(shape, case.K + gaps[1]), dense(shape, case.K + gaps[2])
    desc = _core.Conv2d(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, groups=case.groups,
        stride_h=case.strides[0], stride_w=case.strides[1], dilation_h=case.dilations[0], dilation_w=case.dilations[1],
        pad_t=case.pads[0], pad_l=case.pads[1], x_image=xs[0], x_row=xs[1], x_ld=xs[2], y_ld=ys[2], res_ld=rs[2],
        algorithm=_core.ConvAlgorithm.implicit, act=activation(act),
    )  # fmt: skip
    packed = target(precision).store().pack_conv2d(w, None, case.groups, SCALAR)
    inputs: list[Any] = [(x, xs), packed, None if b is None else constant(precision, b)]
    inputs.append(None if res is None else (res, rs))
    got = run(precision, "conv2d", desc, inputs, shape, ys)
    want = reference.conv2d(
        x, w, b, res, strides=case.strides, dilations=case.dilations, pads=case.pads, groups=case.groups,
        act=reference.activation(*ACTIVATIONS[act]),
    )  # fmt: skip
    terms = case.C // case.groups * case.R * case.S
    close(got, want, precision, terms=terms, scale=float(np.sqrt(terms)), note=(precision, case.name, gaps))


@pytest.mark.parametrize("name", BY_NAME)
def test_shapes(name: str) -> None:
    for precision in PRECISIONS:
        conv2d(precision, BY_NAME[name])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tile", range(4))
def test_tiles(precision: str, tile: int) -> None:
    """More than one block in each direction, in the first and the last rows of a tile, whole and in slices."""
    V = 8
    for case in (
        cases.ConvCase("1x1", 2, 9, 8, 5 * V, 136, 1, 1),
        cases.ConvCase("3x3", 1, 13, 11, 2 * V, 70, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("odd", 1, 7, 9, 13, 33, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1)),
        # sums of the second group lie on no multiple of 16 bytes, though the groups together do
        cases.ConvCase("groups", 1, 7, 9, 8 * V, 12, 3, 3, pads=(1, 1, 1, 1), groups=2),
        cases.ConvCase("groups", 1, 7, 9, 8 * V, 20, 3, 3, pads=(1, 1, 1, 1), groups=2),
    ):
        for slices in (1, 3):
            force(tile, slices)
            conv2d(precision, case, residual=slices == 3, act="relu", gaps=(8, 16, 0))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_deep(precision: str) -> None:
    """Many more steps than stages, and the choice's own slices."""
    conv2d(precision, cases.ConvCase("deep", 1, 4, 4, 200, 40, 3, 3, pads=(1, 1, 1, 1)))
    conv2d(precision, cases.ConvCase("deep-groups", 1, 3, 5, 128, 16, 3, 3, pads=(1, 1, 1, 1), groups=2), residual=True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("gaps", [(8, 8, 8), (1, 3, 5), (0, 0, 8), (0, 4, 1)])
def test_strides(precision: str, gaps: tuple[int, int, int]) -> None:
    """Slices of concatenations, aligned to 16 bytes or not, with and without bias and residual."""
    case = cases.ConvCase("3x3", 1, 5, 6, 16, 24, 3, 3, pads=(1, 0, 1, 1))
    conv2d(precision, case, gaps=gaps, residual=True)
    conv2d(precision, case, gaps=gaps, bias=False)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act: str) -> None:
    conv2d("fp32", cases.ConvCase("1x1", 1, 3, 3, 8, 9, 1, 1), act=act, bias=act not in ("log", "sqrt", "reciprocal"))


def test_choice_follows_the_sizes() -> None:
    """Large products take large tiles, small deep ones are sliced; every choice covers the depth."""

    def choose(M: int, K: int, steps: int) -> tuple[int, int, int]:
        out = (ctypes.c_int32 * 3)()
        device(0).call("choose", M, K, 1, steps, 132, out)
        return out[0], out[1], out[2]

    assert choose(32 * 56 * 56, 256, 4)[:2] == (0, 1)
    assert choose(49, 512, 72)[1] > 1
    for M in (1, 49, 196, 3136, 100352):
        for K in (16, 64, 512, 2048):
            for steps in (1, 4, 9, 72):
                tile, slices, per = choose(M, K, steps)
                assert 0 <= tile < 4 and (slices - 1) * per < steps <= slices * per


@pytest.mark.parametrize("later", [(2, 3), (5, 3)])
def test_a_plan_keeps_its_choice(later: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test forces is of plans made later: the workspace of this one has no room for more slices."""
    monkeypatch.setattr(single, "_targets", {})  # a workspace that no other plan made larger
    t, launches, rng = target("fp16"), device(0).library.hopper_launches(), np.random.default_rng(5)
    x, w = random(rng, "fp16", 144, 256), random(rng, "fp16", 136, 256)
    desc = _core.Conv2d(
        N=1, H=12, W=12, C=256, K=136, P=12, Q=12, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1,
        dilation_w=1, x_image=144 * 256, x_row=12 * 256, x_ld=256, y_ld=136, algorithm=_core.ConvAlgorithm.implicit,
    )  # fmt: skip
    force(1)
    store = t.store()
    plan = t.plan(SCALAR, store)
    weight = plan.weight(store.pack_conv2d(w.reshape(136, 256, 1, 1), None, 1, SCALAR))
    plan.conv2d(desc, [plan.external(0, 0, x.size), weight], plan.external(1, 0, 144 * 136))
    assert device(0).library.workspace(plan.handle) == 0
    force(*later)
    for _ in range(2):  # at once, and captured
        y = np.zeros(144 * 136, np.float32)
        t.executor(1).run(plan, [x.reshape(-1), y])
        close(y.reshape(144, 136), x @ w.T, "fp16", terms=256, scale=16.0)
    assert device(0).library.hopper_launches() == launches


def test_empty_batch() -> None:
    desc = _core.Conv2d(
        N=0, H=4, W=4, C=8, K=8, P=4, Q=4, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
        x_image=128, x_row=32, x_ld=8, y_ld=8, algorithm=_core.ConvAlgorithm.implicit,
    )  # fmt: skip
    w = target("fp16").store().pack_conv2d(np.ones((8, 8, 1, 1), np.float32), None, 1, SCALAR)
    x: F32 = np.empty((0, 4, 4, 8), np.float32)
    assert run("fp16", "conv2d", desc, [(x, dense(x.shape)), w], (0, 4, 4, 8)).shape == (0, 4, 4, 8)


# M, K, steps of layers of ResNet50 and VGG16 -> Hopper's tile that was the fastest on an H200, and numbers of slices
# beside the fastest one.
FASTEST = {
    (100352, 64, 1): (6, (1,)),  # fp16, batch 32
    (100352, 256, 1): (5, (1,)),
    (25088, 512, 2): (5, (1,)),
    (25088, 128, 18): (5, (1,)),
    (6272, 512, 72): (4, (1,)),
    (1568, 512, 72): (6, (1,)),
    (100352, 256, 36): (4, (1,)),
    (3136, 64, 9): (6, (1,)),  # batch 1
    (784, 128, 18): (6, (1,)),
    (196, 256, 36): (6, (4, 6)),
    (49, 512, 72): (6, (6, 7, 8, 9)),
    (25088, 512, 144): (4, (1,)),  # tf32, batch 32
    (25088, 128, 36): (5, (1,)),
}


def test_choice_on_a_known_card() -> None:
    """The rule of csrc/cuda/conv2d.cu finds what was measured to be the fastest."""
    out = (ctypes.c_int32 * 3)()
    for (M, K, steps), (tile, slices) in FASTEST.items():
        device(0).call("choose_hopper", M, K, steps, 132, out)
        assert out[0] == tile and out[1] in slices, (M, K, steps, tuple(out))
