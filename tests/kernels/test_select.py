"""The choice of algorithms: candidates by shape, and the cost model against recorded times."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bench import fit_cost
from fastconv import _core
from fastconv.errors import DeviceError
from fastconv.selection import Choice, Selection, Shape, check_winograd, choice_name, expected

ALL = [_core.Isa.scalar, _core.Isa.avx2, _core.Isa.avx512]  # the model needs no CPU that has them
isas = pytest.mark.parametrize("isa", ALL, ids=lambda i: i.name)
RECORDED = json.loads(fit_cost.RECORDED.read_text())


def shape(H: int, C: int, K: int, R: int = 3, S: int | None = None, stride: int = 1, **kw: Any) -> Shape:
    S = R if S is None else S
    P = (H - 1) // stride + 1
    sizes: dict[str, Any] = dict(N=1, H=H, W=H, C=C, K=K, P=P, Q=P, R=R, S=S, groups=1, strides=(stride, stride),
                                 dilations=(1, 1), pads=(R // 2, S // 2, R // 2, S // 2))  # fmt: skip
    return Shape(**{**sizes, **kw})


@isas
def test_candidates(isa: Any) -> None:
    def names(s: Shape, **kw: Any) -> list[str]:
        return [choice_name(c, s.R, s.S) for c in Selection(isa, **kw).candidates(s)]

    winograd = ["F(2x2,3x3)", "F(3x3,3x3)", "F(4x4,3x3)"]
    assert names(shape(28, 64, 64)) == ["implicit", *winograd]
    assert names(shape(28, 64, 64), strict=True) == ["implicit"]
    assert names(shape(28, 64, 64), winograd=6) == ["implicit", *winograd, "F(6x6,3x3)"]
    assert names(shape(17, 64, 64, 1, 7)) == ["implicit", "F(1x3,1x7)"]
    assert names(shape(17, 64, 64, 7, 1)) == ["implicit", "F(3x1,7x1)"]
    assert names(shape(8, 64, 64, 3, 1)) == ["implicit", "F(2x1,3x1)", "F(3x1,3x1)", "F(4x1,3x1)"]
    assert (
        names(shape(17, 64, 64, 1, 5)) == names(shape(17, 64, 64, 3, 5)) == names(shape(17, 64, 64, 7)) == ["implicit"]
    )
    assert names(shape(7, 64, 64)) == ["implicit", "F(2x2,3x3)", "F(3x3,3x3)"]  # four tiles are too few
    assert names(shape(28, 64, 64, 5)) == ["implicit", "F(2x2,5x5)"]
    assert names(shape(28, 31, 64)) == ["implicit"]  # too few channels for its rounding error
    assert names(shape(28, 64, 64, 1)) == ["gemm"]
    assert names(shape(28, 64, 64, 1, pads=(0, 0, 0, 1))) == ["implicit"]
    assert names(shape(28, 64, 64, 1, stride=2)) == ["implicit"]
    assert names(shape(28, 64, 64, stride=2)) == ["implicit"]
    assert names(shape(28, 64, 64, dilations=(2, 2), pads=(2, 2, 2, 2))) == ["implicit"]
    assert names(shape(28, 64, 64, groups=4)) == ["implicit", "grouped"]
    assert names(shape(28, 128, 128, groups=2)) == ["implicit"]
    assert names(shape(28, 64, 128, groups=64)) == ["depthwise"]
    assert names(shape(28, 3, 64)) == ["row_run", "implicit"]
    assert names(shape(28, 3, 64, dilations=(1, 2))) == ["implicit"]
    assert names(shape(28, 3, 64, pads=(9000, 9000, 1, 1), P=9026, Q=9026)) == ["implicit"]


@isas
def test_choice(isa: Any) -> None:
    """What each kind of layer gets, far from where two candidates take the same time."""

    def choose(s: Shape, **kw: Any) -> str:
        return choice_name(Selection(isa, **kw).choose(s).choice, s.R, s.S)

    assert choose(shape(224, 3, 64, 7, stride=2)) == "row_run"
    assert choose(shape(56, 128, 128)) == "F(4x4,3x3)"
    assert choose(shape(56, 128, 128), strict=True) == "implicit"
    assert choose(shape(27, 64, 192, 5)) == "F(2x2,5x5)"
    assert choose(shape(17, 192, 192, 1, 7)) == "F(1x3,1x7)"
    for wide, channels, groups in ((56, 128, 32), (28, 256, 32), (14, 512, 32), (14, 208, 26), (28, 96, 4)):
        assert choose(shape(wide, channels, channels, groups=groups)) == "grouped"  # ResNeXt, RegNet
        assert choose(shape(wide, channels, channels, groups=groups, stride=2)) == "grouped"
    if isa != _core.Isa.scalar:  # 4 to 14% faster there (AVX2, Zen 3)
        assert choose(shape(7, 1024, 1024, groups=32)) == "implicit"
    assert choose(shape(2, 512, 512)) == "implicit"  # four times the weights for one tile
    empty = shape(56, 128, 128, N=0)
    assert choose(empty) == "implicit" and Selection(isa).choose(empty).seconds == 0.0


@isas
def test_weights_that_are_packed_at_run_time(isa: Any) -> None:
    """They have the forms of pack_winograd_weights alone: r x r, m up to 4."""
    selection = Selection(isa, winograd=6)
    for s in (shape(28, 64, 64), shape(27, 64, 64, 5), shape(17, 64, 64, 1, 7), shape(8, 64, 64, 3, 1)):
        square = s.R == s.S
        want = [c for c in selection.candidates(s) if c.m <= 4 and (square or c.m == 0)]
        assert selection.candidates(s, constant=False) == want
        assert selection.choose(s, constant=False).choice in want


def test_few_tiles_do_not_pay_for_their_weights() -> None:
    """Loading transforms weights, and threads share the memory that they come from: a choice that gains less than that
    is refused (ResNet50's last layers, 0.08 ms for 7 MB)."""
    wide, isa = shape(7, 512, 512), _core.Isa.avx512
    gain = expected(wide, Choice("implicit"), isa) - expected(wide, Choice("winograd", 2), isa)
    more = 4 * 512 * 512 * (16 - 9)
    assert (Selection(isa).choose(wide).choice.algorithm == "winograd") == (gain > _core.weight_price(more))


def test_sizes_that_cannot_be_counted() -> None:
    huge = shape(1 << 30, 1 << 20, 1 << 20)
    assert Selection(_core.Isa.avx2).candidates(huge) == [Choice("implicit")]
    assert _core.choose_conv2d(huge.core, _core.Isa.avx2) == ("implicit", 0)
    for wrong in (huge, shape(8, 64, 64, N=0), shape(8, 64, 64, strides=(0, 1))):
        with pytest.raises(ValueError, match="sizes"):
            _core.conv2d_seconds(wrong.core, "implicit", 0, _core.Isa.avx2)


@pytest.mark.parametrize("wrong", [("winograd", 5), ("winograd", 0), ("gemm", 0), ("implicit", 2), ("fft", 0)], ids=str)
def test_no_cost_of_what_is_no_candidate(wrong: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=wrong[0]):
        _core.conv2d_seconds(shape(28, 64, 64).core, *wrong, _core.Isa.avx2)


@pytest.mark.parametrize("wrong", (0, 3, 5, 8, -4, "4", True, None))
def test_wrong_m(wrong: Any) -> None:
    with pytest.raises(DeviceError, match="winograd="):
        check_winograd(wrong)


# -- the model ------------------------------------------------------------------------------------------------------
@isas
def test_recorded_choices(isa: Any) -> None:
    """On nine tenths of the shapes of nine networks (scalar: 85%) the choice is within 5% of the fastest that was
    measured; on average less than 2.5% are lost."""
    found = fit_cost.losses(RECORDED, isa.name)
    assert len(found) >= 30
    bad = [f for f in found if f[0] > 0.05]
    assert len(bad) <= (0.15 if isa.name == "scalar" else 0.1) * len(found), bad
    assert sum(f[0] for f in found) / len(found) < 0.025


@isas
def test_recorded_times(isa: Any) -> None:
    """Half of all expected times are within 8% of what was measured, nine tenths within a third."""
    errors = []
    for row in RECORDED["rows"]:
        if row["isa"] != isa.name or "shape" not in row:
            continue
        s = fit_cost.shape_of_row(row)
        for c in Selection(isa, winograd=6).candidates(s):
            us = row["us"].get(choice_name(c, s.R, s.S))
            if us is not None:
                errors.append(abs(expected(s, c, isa) * 1e6 / us - 1))
    errors.sort()
    assert errors[len(errors) // 2] < 0.08 and errors[len(errors) * 9 // 10] < 0.34


def test_recorded_shapes_are_those_of_the_networks() -> None:
    rows = {tuple(fit_cost.shape_of_row(r)) for r in RECORDED["rows"] if r["isa"] == "avx512" and "shape" in r}
    assert {tuple(s) for s in fit_cost.mobilenet_v2()} <= rows
    assert {tuple(s) for s in fit_cost.convolutions("LeNet5")} <= rows
    assert {m for r in RECORDED["rows"] for m in r.get("models", ())} == {*fit_cost.APPLICATIONS, "MobileNetV2"}


@isas
def test_more_work_takes_longer(isa: Any) -> None:
    for row in RECORDED["rows"]:
        if row["isa"] != isa.name or "shape" not in row:
            continue
        s = fit_cost.shape_of_row(row)
        deeper = {"groups": 2 * s.groups, "C": 2 * s.C, "K": 2 * s.K} if s.groups > 1 else {"C": 2 * s.C}
        for c in Selection(isa).candidates(s):
            least = expected(s, c, isa)
            assert least > 0
            for more in ({"N": 2 * s.N}, {"K": 2 * s.K}, {"H": 2 * s.H, "P": 2 * s.P}, deeper):
                larger = s._replace(**more)
                if c in Selection(isa).candidates(larger):
                    assert expected(larger, c, isa) > least, (s, c, more)


@isas
def test_every_count_is_finite_and_not_negative(isa: Any) -> None:
    for s in (shape(1, 32, 32), shape(2, 33, 1), shape(224, 3, 64, 7), shape(5, 64, 64, N=8), shape(7, 512, 512)):
        for c in Selection(isa).candidates(s):
            terms = _core.conv2d_terms(s.core, *c, isa)
            assert all(v >= 0 and math.isfinite(v) for v in terms.values()), (s, c, terms)
            assert terms["operation"] >= 1 and terms["fma"] + terms["tap"] > 0


def test_nnls_finds_known_coefficients() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    counts, x = rng.random((50, 4)), np.array([2.0, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(fit_cost.nnls(counts, counts @ x), x, atol=1e-9)
    b = counts @ np.array([1.0, -1.0, 0.0, 3.0])
    got = fit_cost.nnls(counts, b)
    assert (got >= 0).all() and (counts.T @ (counts @ got - b) >= -1e-6).all()  # the optimum: no descent is allowed
    ns = counts @ x
    ns[::10] *= 3  # bad rows
    np.testing.assert_allclose(fit_cost.solve(counts, ns), x, atol=0.1)
