"""sm_90a's own convolution: the copy engine's geometry, the pipeline and the products, under the emulator's clocks.

tf32's gradients of the input, which take it too, are in test_training.py.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import numpy as np
import pytest

import fastconv
from fastconv import _core
from fastconv.cuda import library, weights
from fastconv.cuda.library import device
from tests import cases, reference
from tests.kernels.guard import dense
from tests.models import nets

from . import single
from .single import SCALAR, close, force, run, target
from .test_conv2d import conv2d

PRECISIONS = ("fp16", "bf16", "tf32")
TILES = (4, 5, 6)  # 128 x 256, 128, 64


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    """Every test here must have run the kernel that it is about."""
    before = device(0).library.hopper_launches()
    if os.environ.get("FASTCONV_TEST_CUDA") and before < 0:
        pytest.skip("this card is no Hopper")  # the emulator stands in for one, and never skips
    yield
    force(-1)
    assert device(0).library.hopper_launches() > before


SHAPES = (
    cases.ConvCase("1x1", 2, 9, 8, 72, 136, 1, 1),
    cases.ConvCase("3x3", 3, 7, 6, 64, 40, 3, 3, pads=(1, 1, 1, 1)),  # several images in a block, a tail of rows
    cases.ConvCase("few-channels", 1, 5, 7, 8, 9, 3, 3, pads=(1, 1, 1, 1)),
    cases.ConvCase("chunks", 1, 6, 5, 136, 33, 3, 2, pads=(1, 0, 1, 1)),
    cases.ConvCase("stride2", 2, 15, 14, 24, 70, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1)),
    cases.ConvCase("stride32", 1, 20, 21, 16, 16, 5, 4, strides=(3, 2), pads=(0, 2, 3, 1)),
    cases.ConvCase("dilated", 1, 17, 15, 16, 24, 3, 3, dilations=(3, 2), pads=(3, 2, 3, 2)),
    cases.ConvCase("left-over", 1, 8, 9, 16, 8, 2, 2, strides=(3, 3)),  # pixels that no window reaches
    cases.ConvCase("all-padding", 1, 2, 2, 8, 8, 3, 3, pads=(3, 3, 3, 3)),
    cases.ConvCase("one-pixel", 5, 1, 1, 200, 72, 1, 1),
    cases.ConvCase("many-rows", 1, 23, 17, 64, 16, 1, 1),
)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_shapes(case: cases.ConvCase, precision: str) -> None:
    for tile in TILES:
        force(tile)
        conv2d(precision, case)


@pytest.mark.parametrize("precision", ("fp16", "tf32"))
@pytest.mark.parametrize("tile", TILES)
def test_more_tiles_than_one(tile: int, precision: str) -> None:
    """Blocks in both directions, more steps than stages, slices of the depth, residual and activation."""
    channels = 128 if precision == "fp16" else 68  # tf32: a tail of 16 bytes
    case = cases.ConvCase("deep", 2, 11, 9, channels, 264, 3, 3, pads=(1, 1, 1, 1))
    force(tile)
    conv2d(precision, case, act="relu")
    force(tile, 3)
    conv2d(precision, case, residual=True, act="hard_swish")


def test_tf32_rounds_on_the_way() -> None:
    """x comes unrounded: the copy engine rounds it to nearest, so that no product cuts its lower bits off."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((1, 6, 7, 36), np.float32), rng.standard_normal((10, 36, 3, 3), np.float32)
    desc = _core.Conv2d(
        N=1, H=6, W=7, C=36, K=10, P=6, Q=7, R=3, S=3, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
        pad_t=1, pad_l=1, x_image=6 * 7 * 36, x_row=7 * 36, x_ld=36, y_ld=10,
        algorithm=_core.ConvAlgorithm.implicit,
    )  # fmt: skip
    packed = target("tf32").store().pack_conv2d(w, None, 1, SCALAR)
    force(6)
    got = run("tf32", "conv2d", desc, [(x, dense(x.shape)), packed], (1, 6, 7, 10))
    pads = (1, 1, 1, 1)
    want = reference.conv2d(weights.to_tf32(x), weights.to_tf32(w), None, None, pads=pads)
    close(got, want, "tf32", terms=36 * 9, scale=18.0)
    cut = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    apart = np.abs(reference.conv2d(cut, weights.to_tf32(w), None, None, pads=pads) - want).max()
    assert np.abs(got - want).max() < apart / 8  # the tensor cores' own sums are cut off, too


@pytest.mark.parametrize("gaps", [(8, 8, 8), (16, 3, 5), (0, 4, 1)])
def test_strides(gaps: tuple[int, int, int]) -> None:
    """x between other channels; y and residual aligned to 16 bytes or not."""
    force(5)
    case = cases.ConvCase("3x3", 1, 5, 6, 16, 24, 3, 3, pads=(1, 0, 1, 1))
    conv2d("bf16", case, gaps=gaps, residual=True)
    conv2d("fp16", case, gaps=gaps, bias=False)


def test_whole_network() -> None:
    """Where the kernel cannot (stems, groups), the other one runs."""
    data, feed = nets.serialized("resnet"), nets.inputs(nets.NETS["resnet"](), 2)
    want = fastconv.load(data, precision="strict").run(None, feed)
    force(5)
    for precision, most in (("fp16", 4e-3), ("tf32", 2e-3)):
        got = fastconv.load(data, device="cuda", precision=precision).run(None, feed)
        for a, b in zip(got, want, strict=True):
            assert np.abs(a - b).max() < most * np.abs(b).max()


@pytest.mark.skipif(bool(os.environ.get("FASTCONV_TEST_CUDA")), reason="the emulator's variables")
def test_a_hopper_takes_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its steps are mostly channels; with an H100's multiprocessors the depth is cut into slices."""
    monkeypatch.setattr(library, "_devices", {})
    monkeypatch.setattr(single, "_targets", {})
    monkeypatch.setenv("SIMT_MAJOR", "9")
    monkeypatch.setenv("SIMT_MULTIPROCESSORS", "132")
    force(-1)
    launches = [device(0).library.hopper_launches()]
    for case in (SHAPES[1], SHAPES[2]):  # 64 channels, 8 channels
        conv2d("fp16", case)
        launches.append(device(0).library.hopper_launches())
    assert device(0).info.multiprocessors == 132
    assert [n - launches[0] for n in launches] == [0, 1, 1]


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """FASTCONV_CUDA_HOPPER=0: for comparisons, and for a card on which it fails."""
    force(5)
    conv2d("fp16", SHAPES[0])
    before = device(0).library.hopper_launches()
    monkeypatch.setenv("FASTCONV_CUDA_HOPPER", "0")
    assert device(0).library.hopper_launches() == -1
    conv2d("fp16", SHAPES[0])
    monkeypatch.delenv("FASTCONV_CUDA_HOPPER")
    assert device(0).library.hopper_launches() == before


def test_workspace_is_for_the_card() -> None:
    """Partial sums of sm_90a's choice are reserved where that kernel runs, and not on other cards."""
    size, multiprocessors, planned = 14 * 14 * 256, 132, {}
    store, owner, out = target("tf32").store(), device(0), (ctypes.c_int32 * 3)()
    packed = store.pack_conv2d(np.zeros((256, 512, 3, 3), np.float32), None, 1, SCALAR)
    desc = _core.Conv2d(
        N=1, H=14, W=14, C=512, K=256, P=14, Q=14, R=3, S=3, groups=1, stride_h=1, stride_w=1, dilation_h=1,
        dilation_w=1, pad_t=1, pad_l=1, x_image=2 * size, x_row=14 * 512, x_ld=512, y_ld=256,
        algorithm=_core.ConvAlgorithm.implicit,
    )  # fmt: skip
    for capability in (80, 90):
        plan = target("tf32").plan(SCALAR, store)
        owner.destroy("plan", plan.handle)
        stream = target("tf32").executor(1).stream
        owner.call("plan", 1, multiprocessors, capability, stream, ctypes.byref(plan.handle))
        plan.conv2d(desc, [plan.external(0, 0, 2 * size), plan.weight(packed)], plan.external(1, 0, size))
        planned[capability] = owner.library.workspace(plan.handle) // (4 * size)
    owner.call("choose", 196, 256, 1, 144, multiprocessors, out)
    usual = out[1]
    owner.call("choose_hopper", 196, 256, 144, multiprocessors, out)
    assert 1 < usual < out[1] and planned == {80: usual, 90: out[1]}
    force(5)  # the fixture wants a launch
    conv2d("tf32", SHAPES[0])


def test_choice() -> None:
    """Wide tiles for large products, slices for small deep ones; every choice covers the depth."""
    launches = device(0).library.hopper_launches()

    def choose(M: int, K: int, steps: int) -> tuple[int, int, int]:
        out = (ctypes.c_int32 * 3)()
        device(0).call("choose_hopper", M, K, steps, 132, out)
        return out[0], out[1], out[2]

    assert choose(32 * 56 * 56, 256, 9)[:2] == (4, 1)
    assert choose(49, 512, 72)[1] > 1
    for M in (49, 196, 3136, 100352):
        for K in (16, 64, 512, 2048):
            for steps in (1, 4, 9, 72):
                tile, slices, per = choose(M, K, steps)
                assert 4 <= tile < 7 and (slices - 1) * per < steps <= slices * per
    assert device(0).library.hopper_launches() == launches
    force(5)
    conv2d("fp16", SHAPES[0])
