"""Random geometry of Resize and ConvTranspose: both accept and agree, or fastconv gives a typed answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv.onnx.resize import Axis, positions, table
from tests.onnx.cases import K, array
from tests.onnx.helpers import run_ort
from tests.onnx.test_ops import single

COMMON = settings(deadline=None, max_examples=120, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def pairs(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=2, max_size=2)


def agree(operands: list[Any], op: str, opset: int, tolerance: float = 1e-4, **attrs: Any) -> None:
    model, feeds = single(op, operands, opset, **attrs)
    (want,) = run_ort(model, feeds)
    (got,) = fastconv.load(model, threads=1).run(None, feeds)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@COMMON
@given(
    size=pairs(1, 7), kernel=pairs(1, 5), strides=pairs(1, 4), dilations=pairs(1, 3), group=st.integers(1, 3),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4), extra=pairs(0, 3), n=st.integers(1, 2),
    auto_pad=st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)  # fmt: skip
def test_conv_transpose(
    size: list[int], kernel: list[int], strides: list[int], dilations: list[int], group: int, pads: list[int],
    extra: list[int], n: int, auto_pad: str,
) -> None:  # fmt: skip
    attrs: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group, "auto_pad": auto_pad}
    if auto_pad == "NOTSET":
        attrs["pads"] = pads
    # onnxruntime wants output_padding below the stride; and resolves SAME for windows at least as wide as steps.
    extra = [min(e, s - 1) for e, s in zip(extra, strides, strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto_pad.startswith("SAME"):
        assume(all(r >= s for r, s in zip(reach, strides, strict=True)))
        extra = [0, 0]
    attrs["output_padding"] = extra
    sizes = [(h - 1) * s + r + e for h, s, r, e in zip(size, strides, reach, extra, strict=True)]
    if auto_pad == "NOTSET":
        assume(all(o - lo - hi >= 1 for o, lo, hi in zip(sizes, pads[:2], pads[2:], strict=True)))
    x, w = array(n, 2 * group, *size), array(2 * group, 3, *kernel)
    agree([x, K(w), K(array(3 * group))], "ConvTranspose", 11, **attrs)


@COMMON
@given(
    size=pairs(1, 9), output=pairs(1, 14), mode=st.sampled_from(["nearest", "linear", "cubic"]),
    coordinates=st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    nearest=st.sampled_from(["round_prefer_floor", "floor", "ceil"]), by_scales=st.booleans(),
)  # fmt: skip
def test_resize(size: list[int], output: list[int], mode: str, coordinates: str, nearest: str, by_scales: bool) -> None:
    if mode == "nearest":  # a position in the middle between two pixels: rounding decides, and differs
        for n, m in zip(size, output, strict=True):
            x = positions(Axis(n, m, m / n), coordinates)
            ties = np.abs(x - np.floor(x) - (0.5 if nearest == "round_prefer_floor" else 0.0))
            assume(np.minimum(ties, 1 - ties).min() > 1e-4 or (m / n).is_integer() or (n / m).is_integer())
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attrs["nearest_mode"] = nearest
    if by_scales:
        assume(coordinates != "align_corners")  # see resize.py: ONNX's cases and onnxruntime differ there
        scales = np.array([1, 1, *(m / n for n, m in zip(size, output, strict=True))], np.float32)
        agree([array(2, 3, *size), None, K(scales)], "Resize", 13, **attrs)
    else:
        agree([array(2, 3, *size), None, None, K([2, 3, *output])], "Resize", 13, **attrs)


@COMMON
@given(
    size=st.integers(1, 40), output=st.integers(1, 60), mode=st.sampled_from(["linear", "cubic"]), anti=st.booleans()
)
def test_tables_reproduce_constants_and_stay_inside(size: int, output: int, mode: str, anti: bool) -> None:
    t = table(
        Axis(size, output, output / size), mode, "half_pixel", "floor", -0.75, antialias=anti, exclude_outside=False
    )
    assert t.weight is not None
    np.testing.assert_allclose(t.weight.sum(axis=1), 1.0, rtol=1e-5)
    assert t.index.min() >= 0 and t.index.max() <= size - 1
