"""Whole networks with device="cuda": all operations together, on one arena, replayed as a graph."""

from __future__ import annotations

import numpy as np
import pytest

import fastconv
from fastconv.tuning import Tuning
from tests.models import nets, nets_exports, nets_formats
from tests.test_stems import slice_of_three

assert nets_exports and nets_formats  # importing them fills NETS
TOLERANCE = {"fp32": 1e-5, "tf32": 4e-3, "fp16": 4e-3, "bf16": 4e-2}  # of the largest magnitude


def compare(name: str, precision: str, batch: int) -> None:
    data, feed = nets.serialized(name), nets.inputs(nets.NETS[name](), batch)
    want = fastconv.load(data, precision="strict").run(None, feed)
    model = fastconv.load(data, device="cuda", precision=precision)
    first = model.run(None, feed)
    for a, b in zip(first, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        error = np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()
        assert error < TOLERANCE[precision], (name, precision, error)
    for _ in range(2):  # the second is captured, the third a replay
        again = model.run(None, feed)
        for a, b in zip(again, first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", nets.NETS)
def test_float32(name: str) -> None:
    compare(name, "fp32", 1)


@pytest.mark.parametrize("precision", ("tf32", "fp16", "bf16"))
@pytest.mark.parametrize("name", ("resnet", "vgg", "googlenet", "shufflenet", "efficientnet", "keras_unet", "alexnet"))
def test_reduced(name: str, precision: str) -> None:
    compare(name, precision, 2)


def test_stem_gets_whole_vectors() -> None:
    """Three channels are rounded up to sixteen bytes on the way in, so that the copies of the product are aligned."""
    model = fastconv.load(nets.serialized("resnet"), device="cuda", precision="fp16")
    ops = model.inspect()
    assert [op.algorithm for op in ops[:2]] == ["border", "row_run"]
    assert all(op.isa == "cuda fp16" for op in ops)
    assert not any(op.algorithm.startswith("F(") for op in ops)


def test_stem_in_a_concatenation() -> None:
    """Its three channels lie among four, as many as a stem is rounded up to; but the fourth is another's."""
    data, _ = slice_of_three()
    x = np.random.default_rng(6).standard_normal((2, 5, 9, 11), np.float32)
    want = fastconv.load(data, precision="strict")(x)
    for got, expected in zip(fastconv.load(data, device="cuda")(x), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_nothing_is_expected_or_measured() -> None:
    """The cost model and tunings are the CPU's: its times are not shown for a GPU, and a tuning is refused."""
    data = nets.serialized("resnet")
    model = fastconv.load(data, device="cuda", winograd=6)
    assert not any(op.expected_ms or op.chosen_by or op.algorithm.startswith("F(") for op in model.inspect())
    with pytest.raises(fastconv.DeviceError, match=r"device='cuda': a tuning is for the CPU"):
        model.tune()
    with pytest.raises(fastconv.DeviceError, match=r"device='cuda': a tuning is for the CPU"):
        fastconv.load(data, device="cuda", tuning=Tuning())
