"""The operations of training, by the very tests of the CPU's kernels: what runs is the device's kernel instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import UnsupportedOpError, _core
from fastconv.cuda.target import Target
from tests import cases
from tests.kernels import (
    backward,
    guard,
    test_affine_sample,
    test_batch_norm,
    test_conv2d_backward,
    test_optimizer,
    test_pool2d_backward,
    test_unary_backward,
)

from .single import SCALAR, force, random, rounded, run, run_many, target


class Core:
    """_core with the device's sizes of packed weights and of the sums of weight gradients."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(_core, name)

    def extent(self, desc: Any, isa: Any, op: Any = None) -> Any:
        if op is None:
            op = next(o for n, o in _core.Op.__members__.items() if n == "conv2d_backward_weight")
        return self._target.extent(desc, isa, op)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, "run", lambda isa, *arguments: run_many("fp32", *arguments))


@pytest.fixture(params=("fp32", "tf32"))
def convolutions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Operands are rounded to tf32 where the tensor cores do it: what is compared is the arithmetic alone."""
    precision: str = request.param
    monkeypatch.setattr(backward, "run", lambda isa, *arguments: run_many(precision, *arguments))
    monkeypatch.setattr(test_conv2d_backward, "_core", Core(target(precision)))

    def operands(rng: np.random.Generator, *shape: int) -> Any:
        return rounded(rng.standard_normal(shape, np.float32), precision, multiplied=True)

    monkeypatch.setattr(test_conv2d_backward, "random", operands)
    return precision


# -- element by element ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", test_unary_backward.FUNCTIONS)
def test_unary(on_device: None, name: str) -> None:
    test_unary_backward.test_unary(SCALAR, name)


@pytest.mark.parametrize("log", (False, True))
def test_softmax(on_device: None, log: bool) -> None:
    test_unary_backward.test_softmax(SCALAR, log)


@pytest.mark.parametrize("momentum", (0, 1))
def test_optimizers(on_device: None, momentum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_optimizer, "SIZES", (0, 1, 3, 1000))
    for nesterov in (0.0, 1.0):
        test_optimizer.test_sgd(SCALAR, momentum, nesterov, 1 - momentum)
    test_optimizer.test_adam(SCALAR, momentum)
    for centered in (0, 1):
        test_optimizer.test_rmsprop(SCALAR, momentum, centered)


def test_averages_and_norms(on_device: None) -> None:
    test_optimizer.test_moving_average_and_norm(SCALAR)


def test_dropout_is_the_cpus(on_device: None) -> None:
    test_optimizer.test_dropout(SCALAR)
    x, seed = np.ones((7, 100), np.float32), np.array([7.0], np.float32)
    desc = _core.Dropout(rows=7, n=100, x_ld=100, y_ld=100, rate=0.4)
    y = np.empty((7, 100), np.float32)
    _core.run_kernel(SCALAR, desc, [x, seed], y)
    (got,) = run_many("fp32", "dropout", desc, [x, seed], backward.packed(7, 100))
    np.testing.assert_array_equal(got, y)


# -- rows and images ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gap", (0, 3))
def test_batch_norms(on_device: None, gap: int) -> None:
    test_batch_norm.test_batch_norm(SCALAR, gap)
    test_batch_norm.test_batch_norm_backward(SCALAR, gap)


@pytest.mark.parametrize("with_scale", (False, True))
def test_normalize(on_device: None, with_scale: bool) -> None:
    test_batch_norm.test_normalize_backward(SCALAR, with_scale)


def test_lrn(on_device: None) -> None:
    test_batch_norm.test_lrn_backward(SCALAR)


@pytest.mark.parametrize("gap", (0, 3))
def test_pools(on_device: None, gap: int) -> None:
    test_pool2d_backward.test_max(SCALAR, gap)
    test_pool2d_backward.test_average(SCALAR, gap)


@pytest.mark.parametrize("one_hot", (True, False))
def test_cross_entropy(on_device: None, one_hot: bool) -> None:
    for smoothing in (0.0, 0.1):
        test_unary_backward.test_cross_entropy(SCALAR, smoothing, one_hot)


@pytest.mark.parametrize("fill", test_affine_sample.FILLS)
def test_augmentation(fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_it(isa: Any, *arguments: Any) -> Any:
        return run("fp32", "affine_sample", *arguments)

    monkeypatch.setattr(test_affine_sample, "run", run_it)
    for bilinear in (True, False):
        test_affine_sample.test_affine_sample(SCALAR, fill, bilinear)
    test_affine_sample.test_no_matrix_leads_outside(SCALAR, fill)


# -- convolutions ------------------------------------------------------------------------------------------------------
def test_small(convolutions: str) -> None:
    for case in cases.small_convs(8):
        test_conv2d_backward.check(SCALAR, case)


def test_gaps(convolutions: str) -> None:
    for case in cases.small_convs(4):
        test_conv2d_backward.check(SCALAR, case, 3)
        test_conv2d_backward.check(SCALAR, case, 4)


def test_depthwise(convolutions: str) -> None:
    for case in cases.small_depthwise(8):
        test_conv2d_backward.check(SCALAR, case, 5)


@pytest.mark.parametrize(
    "case",
    (
        cases.ConvCase("parts", 2, 20, 17, 20, 70, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("stem", 2, 31, 29, 3, 32, 7, 7, strides=(2, 2), pads=(3, 3, 3, 3)),
        cases.ConvCase("deep", 2, 7, 7, 200, 130, 1, 1),
        cases.ConvCase("stride2", 2, 15, 14, 36, 68, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1)),
        cases.ConvCase("downsample", 2, 14, 14, 32, 48, 1, 1, strides=(2, 2)),
        cases.ConvCase("stride3", 1, 20, 23, 8, 8, 5, 4, strides=(3, 4), pads=(0, 2, 3, 1), dilations=(2, 1)),
        cases.ConvCase("groups", 2, 9, 9, 24, 36, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1), groups=3),
        cases.ConvCase("dw", 2, 20, 20, 100, 100, 3, 3, pads=(1, 1, 1, 1), groups=100),
        cases.ConvCase("multiplied", 1, 9, 8, 10, 20, 3, 3, pads=(1, 1, 1, 1), groups=10),
    ),
    ids=lambda c: c.name,
)
def test_large(convolutions: str, case: cases.ConvCase) -> None:
    test_conv2d_backward.check(SCALAR, case)


@pytest.mark.parametrize("convolutions", ("tf32",), indirect=True)
@pytest.mark.parametrize("tile", (4, 6))
def test_input_gradients_on_hopper(convolutions: str, tile: int) -> None:
    """With stride 1 and dense rows the kernel of sm_90a makes them; with others it must leave them alone."""

    def launches() -> int:
        return target("tf32").owner.library.hopper_launches()

    if launches() < 0:
        pytest.skip("this card is no Hopper")  # the emulator stands in for one, and never skips
    try:
        force(tile, 2)
        for gap in (0, 4):
            before = launches()
            case = cases.ConvCase("3x3", 2, 7, 9, 10, 40, 3, 3, pads=(1, 0, 1, 2))
            test_conv2d_backward.check(SCALAR, case, gap)
            assert launches() == before + 2  # without a residual and with one
        before = launches()
        case = cases.ConvCase("stride", 2, 7, 9, 10, 40, 3, 3, strides=(2, 1), pads=(1, 0, 1, 2))
        test_conv2d_backward.check(SCALAR, case)
        assert launches() == before
    finally:
        force(-1)


def test_no_pixels(convolutions: str) -> None:
    test_conv2d_backward.test_no_pixels(SCALAR)


@pytest.mark.parametrize("precision", ("fp32", "tf32"))
@pytest.mark.parametrize("trans_b", (True, False))
def test_dense_weight(trans_b: bool, precision: str) -> None:
    """A dense layer is a convolution of one pixel; there are always parts to join, also where the CPU has none."""
    rng = np.random.default_rng(32)
    for M, C, K in ((1, 3, 5), (16, 50, 64), (33, 130, 70), (600, 17, 129)):
        x, g = random(rng, precision, M, C), random(rng, precision, M, K)
        desc = _core.Conv2dBackwardWeight(
            N=1, H=1, W=M, C=C, K=K, P=1, Q=M, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            x_image=M * C, x_row=M * C, x_ld=C, g_ld=K, dw_k=C if trans_b else 1, dw_c=1 if trans_b else K, dw_tap=1,
        )  # fmt: skip
        size = target(precision).extent(desc, SCALAR, _core.Op.conv2d_backward_weight)[1]
        (sums,) = run_many(precision, "conv2d_backward_weight", desc, [x, g], backward.packed(size))
        out = backward.Out((K, C), (desc.dw_k, desc.dw_c))
        (dw,) = run_many(precision, "conv2d_backward_weight_sum", desc, [sums], out)
        want = g.astype(np.float64).T @ x.astype(np.float64)
        guard.close(dw, want, terms=M, scale=np.sqrt(M), note=(M, C, K))


@pytest.mark.parametrize("precision", ("fp32", "tf32"))
def test_packing_is_that_of_constants(precision: str) -> None:
    """What is packed in a run equals what is packed once."""
    rng, t = np.random.default_rng(4), target(precision)
    store = t.store()

    def check(want: Any, w: Any, **fields: Any) -> None:
        desc = _core.PackWeights(**fields)
        size = t.extent(desc, SCALAR, _core.Op.pack_weights)[1]
        (got,) = run_many(precision, "pack_weights", desc, [w.reshape(-1)], backward.packed(size))
        assert want._array is not None
        np.testing.assert_array_equal(got, want._array.reshape(-1))

    for K, C, R, S, groups in ((5, 3, 3, 3, 1), (40, 33, 1, 1, 1), (12, 8, 3, 2, 4), (64, 64, 1, 1, 1)):
        w = rng.standard_normal((K, C // groups, R, S), np.float32)
        taps, depth = R * S, C // groups
        check(store.pack_conv2d(w, None, groups, SCALAR), w, K=K, C=C, taps=taps, groups=groups, w_k=depth * taps,
              w_c=taps, w_tap=1, w_group=K // groups * depth * taps, layout=_core.PanelLayout.conv2d)  # fmt: skip
    for trans_b in (True, False):
        w = rng.standard_normal((37, 70) if trans_b else (70, 37), np.float32)
        strides = (70, 1) if trans_b else (1, 37)
        check(store.pack_linear(w, None, trans_b, SCALAR), w, K=37, C=70, taps=1, groups=1, w_k=strides[0],
              w_c=strides[1], w_tap=1, layout=_core.PanelLayout.conv2d)  # fmt: skip
    w = rng.standard_normal((35, 1, 3, 3), np.float32)
    check(store.pack_depthwise_conv2d(w, None, SCALAR), w, K=35, C=1, taps=9, groups=1, w_k=9, w_c=1, w_tap=1,
          layout=_core.PanelLayout.depthwise)  # fmt: skip


def test_halves_do_not_train() -> None:
    for op, desc in (
        ("sgd", _core.Optimizer(n=4)),
        ("unary_backward", _core.UnaryBackward(rows=1, n=4, g_ld=4, v_ld=4, y_ld=4)),
    ):
        t = target("fp16")
        plan = t.plan(SCALAR, t.store())
        x = plan.external(0, 0, 5)
        with pytest.raises(UnsupportedOpError, match=f"{op}: training on the GPU computes in fp32 or tf32"):
            getattr(plan, op)(desc, [x, x], plan.external(1, 0, 4))
