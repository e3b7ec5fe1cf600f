"""Runs one operation on the device: every tensor is an allocation of its own exact size, gaps between rows hold NaN and
must stay so in the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core
from fastconv.cuda import weights
from fastconv.cuda.library import device
from fastconv.cuda.target import Target
from tests.kernels.backward import Out
from tests.kernels.guard import EPS, F32, dense, extent, view

PRECISIONS = weights.PRECISIONS
SCALAR = _core.Isa.scalar
UNIT = {"fp32": 0.0, "tf32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8}  # of rounding a result to the storage type
_targets: dict[str, Target] = {}


def target(precision: str) -> Target:
    found = _targets.get(precision)
    if found is None:
        found = _targets[precision] = Target("cuda", precision)
    return found


def force(tile: int, slices: int = 1) -> None:
    """Of plans that are made from now on."""
    device(0).call("force", tile, slices)


def rounded(x: npt.NDArray[Any], precision: str, *, multiplied: bool = False) -> F32:
    """x as the device holds it, so that what a test compares is the arithmetic alone; multiplied: by tensor cores."""
    x = np.asarray(x, np.float32)
    if precision == "fp16":
        return x.astype(np.float16).astype(np.float32)
    if precision == "bf16":
        return (weights.to_bfloat16(x).astype(np.uint32) << 16).view(np.float32)
    return weights.to_tf32(x) if precision == "tf32" and multiplied else x


def random(rng: np.random.Generator, precision: str, *shape: int) -> F32:
    return rounded(rng.standard_normal(shape, np.float32), precision, multiplied=True)


def run(
    precision: str,
    name: str,
    desc: Any,
    inputs: Sequence[Any],
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
) -> F32:
    """The output as an array of `shape`. inputs: (array, element strides), or packed weights, or None."""
    t = target(precision)
    plan = t.plan(SCALAR, t.store())
    strides = dense(shape) if strides is None else strides
    flats: list[F32] = []
    numbers: list[int] = []
    for given in inputs:
        if given is None:
            numbers.append(-1)
        elif isinstance(given, weights.DeviceWeight):
            numbers.append(plan.weight(given))
        else:
            array, in_strides = given
            flat = np.full(extent(array.shape, in_strides), np.nan, np.float32)
            if flat.size:
                view(flat, array.shape, in_strides)[...] = array
            numbers.append(plan.external(len(flats), 0, flat.size))
            flats.append(flat)
    out = np.zeros(extent(shape, strides), np.float32)
    number = plan.external(len(flats), 0, out.size)
    getattr(plan, name)(desc, numbers, number)
    t.executor(1).run(plan, [*flats, out])
    if out.size == 0:
        return np.empty(tuple(shape), np.float32)
    result = view(out, shape, strides).copy()
    view(out, shape, strides)[...] = np.nan
    assert np.isnan(out).all(), "wrote between the rows of the output"
    return result


def run_many(
    precision: str, op: str, desc: Any, inputs: Sequence[tuple[Any, Sequence[int]] | Any | None], *outs: Out
) -> list[F32]:
    """All outputs of an operation; what tests.kernels.backward.run is for the CPU. Outputs are states: they may hold
    something before, and start as NaN otherwise."""
    t = target(precision)
    plan = t.plan(SCALAR, t.store())
    flats, numbers, states, written = [], [], [], []
    for given in inputs:
        if given is None:
            numbers.append(-1)
            continue
        array, strides = given if isinstance(given, tuple) else (given, dense(given.shape))
        flat = np.full(extent(array.shape, strides), np.nan, np.float32)
        if flat.size:
            view(flat, array.shape, strides)[...] = array
        numbers.append(plan.external(len(flats), 0, flat.size))
        flats.append(flat)
    for o in outs:
        flat = np.full(extent(o.shape, o.strides), np.nan, np.float32)
        if o.before is not None and flat.size:
            view(flat, o.shape, o.strides)[...] = o.before
        states.append(t.memory().put(flat))
        written.append(plan.state(states[-1], 0, flat.size))
    getattr(plan, op)(desc, numbers, written[0], written[1:])
    t.executor(1).run(plan, flats)
    results = []
    for o, state in zip(outs, states, strict=True):
        flat = state.numpy()
        results.append(view(flat, o.shape, o.strides).copy() if flat.size else np.empty(o.shape, np.float32))
        if flat.size:
            view(flat, o.shape, o.strides)[...] = np.nan
            assert np.isnan(flat).all(), "wrote between the rows of an output"
    return results


def constant(precision: str, x: F32) -> Any:
    return target(precision).store().put(x)


def close(
    got: F32, want: npt.NDArray[Any], precision: str, *, terms: int = 1, scale: float = 0.0, note: object = ""
) -> None:
    """|got - want| within the rounding of the result and of float32 sums of `terms` numbers of size `scale`."""
    assert got.shape == want.shape
    with np.errstate(invalid="ignore"):
        bound = (
            UNIT[precision] * np.abs(want) + 8 * EPS * np.sqrt(terms) * np.maximum(np.abs(want), scale) + 1e-7 * scale
        )
        tiny = {"fp16": 2.0**-24}.get(precision, 1e-37)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        if precision == "fp16":
            same |= np.isinf(got) & (np.abs(want) > 65500)
        bad = ~same & ~(np.abs(got - want) <= bound + tiny)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(f"{note}: {bad.sum()} of {bad.size} differ, first at {at}: {got[at]!r} for {want[at]!r}")
