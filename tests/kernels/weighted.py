"""Runs the kernels that have packed weights: conv2d, depthwise_conv2d and linear.

As in guard.py: arrays end or start at memory that may not be touched, gaps hold NaN, outputs start as NaN, and every
run is repeated in single chunks, last one first. How such a kernel is cut into chunks follows from its shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core
from tests import cases, reference

from .guard import F32, dense, extent, guarded, view

IDENTITY = ("identity", 0.0, 0.0)
ACTIVATIONS: dict[str, tuple[str, float, float]] = {
    "identity": IDENTITY,
    "relu": ("clip", 0.0, np.inf),
    "relu6": ("clip", 0.0, 6.0),
    "leaky_relu": ("leaky_relu", 0.1, 0.0),
    "elu": ("elu", 0.7, 0.0),
    "selu": ("selu", 1.6732632, 1.0507010),
    "sigmoid": ("sigmoid", 0.0, 0.0),
    "hard_sigmoid": ("hard_sigmoid", 0.2, 0.5),
    **{
        name: (name, 0.0, 0.0)
        for name in ("hard_swish", "swish", "tanh", "gelu", "gelu_tanh", "softplus", "mish", "exp", "log", "sqrt",
                     "reciprocal", "erf", "neg", "abs", "floor", "ceil")
    },
}  # fmt: skip


def activation(name: str) -> Any:
    func, alpha, beta = ACTIVATIONS[name]
    return _core.Activation(func=getattr(_core.Func, func), alpha=alpha, beta=beta)


def contents(isa: Any, store: Any, weight: Any) -> F32:
    """The floats of a packed weight."""
    return weight.numpy().copy()


def pack_conv2d(isa: Any, w: F32, scale: F32 | None = None, groups: int = 1) -> F32:
    store = _core.WeightStore()
    return contents(isa, store, store.pack_conv2d(w, scale, groups, isa))


def pack_depthwise(isa: Any, w: F32, scale: F32 | None = None) -> F32:
    store = _core.WeightStore()
    return contents(isa, store, store.pack_depthwise_conv2d(w, scale, isa))


def pack_linear(isa: Any, w: F32, scale: F32 | None = None, trans_b: bool = True, *, rows: int = 4) -> F32:
    """For so many rows of x."""
    store = _core.WeightStore()
    C, K = w.shape[::-1] if trans_b else w.shape
    panel = _core.linear_panel(rows, C, K, isa)
    return contents(isa, store, store.pack_linear(w, scale, trans_b, panel, isa))


def run(
    isa: Any,
    desc: Any,
    inputs: Sequence[tuple[npt.NDArray[Any], Sequence[int]] | None],
    shape: Sequence[int],
    strides: Sequence[int],
    op: Any = None,
) -> F32:
    """The output as an array of `shape`; inputs are (array, element strides), None where absent. Computed in one call,
    chunk by chunk and in three parts, from the last to the first: the same bits."""
    want_in, want_out = _core.extent(desc, isa, op)
    assert want_out == extent(shape, strides)
    _core.prepare(desc, isa, op)
    results = []
    for side, step in (("end", desc.chunks), ("start", 1), ("end", desc.chunks // 3 + 1)):
        if len(results) == 2 and desc.chunks < 3:
            break
        flats: list[F32 | None] = []
        for i, given in enumerate(inputs):
            if given is None:
                flats.append(None)
                continue
            array, in_strides = given
            assert want_in[i] == extent(array.shape, in_strides), (i, want_in)
            flat = guarded(want_in[i], side)
            if flat.size:
                view(flat, array.shape, in_strides)[...] = array
            flats.append(flat)
        given_before = [None if f is None else f.copy() for f in flats]
        out = guarded(want_out, side)
        for i in reversed(range(0, desc.chunks, max(1, step))):
            part = out if step == 1 else guarded(want_out, side)
            before = part.view(np.int32).copy()
            _core.run_kernel(isa, desc, flats, part, chunks=(i, min(desc.chunks, i + step)), op=op)
            if part is not out:
                written = part.view(np.int32) != before
                assert (out.view(np.int32) == before)[written].all(), "computes chunks of another part"
                out[written] = part[written]
        for old, new in zip(given_before, flats, strict=True):
            if old is not None and new is not None:
                np.testing.assert_array_equal(new.view(np.int32), old.view(np.int32), "an input changed")
        result = view(out, shape, strides).copy() if out.size else np.empty(tuple(shape), np.float32)
        if out.size:
            view(out, shape, strides)[...] = np.nan
            assert np.isnan(out).all(), "wrote between the rows of the output"
        results.append(result)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].view(np.int32), other.view(np.int32), "chunks change the result")
    return results[0]


def _vector(x: F32 | None) -> tuple[F32, tuple[int, ...]] | None:
    return None if x is None else (x, (1,))


def conv2d(
    isa: Any,
    case: cases.ConvCase,
    x: F32,
    w: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    *,
    act: str = "identity",
    gaps: tuple[int, int, int] = (0, 0, 0),
    algorithm: str = "implicit",
) -> F32:
    """y [N, P, Q, K] of x [N, H, W, C] and w [K, C/groups, R, S]; gaps: behind the pixels of x, y and the residual.

    algorithm: "gemm", "implicit", "row_run" (x gets its padding here), "grouped" or "depthwise".
    """
    shape, K = (case.N, case.P, case.Q, case.K), case.K
    pads = case.pads
    if algorithm == "row_run":
        x = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
        pads = (0, 0, 0, 0)
    N, H, W, C = x.shape
    x_strides = dense(x.shape, C + gaps[0])
    y_strides, res_strides = dense(shape, K + gaps[1]), dense(shape, K + gaps[2])
    geometry = dict(
        N=N, H=H, W=W, C=C, K=K, P=case.P, Q=case.Q, R=case.R, S=case.S, stride_h=case.strides[0],
        stride_w=case.strides[1], dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_t=pads[0],
        pad_l=pads[1], x_image=x_strides[0], x_row=x_strides[1], x_ld=x_strides[2], y_ld=y_strides[2],
        res_ld=res_strides[2] if residual is not None else 0, act=activation(act),
    )  # fmt: skip
    if algorithm == "depthwise":
        desc = _core.DepthwiseConv2d(multiplier=K // C, **geometry)
        packed = pack_depthwise(isa, w)
    else:
        desc = _core.Conv2d(groups=case.groups, algorithm=getattr(_core.ConvAlgorithm, algorithm), **geometry)
        packed = pack_conv2d(isa, w, None, case.groups)
    res = None if residual is None else (residual, res_strides)
    return run(isa, desc, [(x, x_strides), _vector(packed), _vector(bias), res], shape, y_strides)


def linear(
    isa: Any,
    x: F32,
    w: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    *,
    act: str = "identity",
    gaps: tuple[int, int, int] = (0, 0, 0),
    trans_b: bool = True,
) -> F32:
    """y [M, K] of x [M, C] and w [K, C] (trans_b) or [C, K]."""
    (M, C), K = x.shape, w.shape[0 if trans_b else 1]
    desc = dense_desc(M, C, K, x_ld=C + gaps[0], y_ld=K + gaps[1], res_ld=K + gaps[2] if residual is not None else 0,
                      act=activation(act))  # fmt: skip
    packed = pack_linear(isa, w, None, trans_b, rows=M)
    res = None if residual is None else (residual, dense((M, K), K + gaps[2]))
    inputs = [(x, dense((M, C), C + gaps[0])), _vector(packed), _vector(bias), res]
    return run(isa, desc, inputs, (M, K), dense((M, K), K + gaps[1]))


def dense_desc(M: int, C: int, K: int, x_ld: int, **rest: Any) -> Any:
    """What computes M rows: Linear, or Conv2d (see gemm in fastconv/lowering.py)."""
    if M <= _core.LINEAR_ROWS:
        return _core.Linear(M=M, C=C, K=K, x_ld=x_ld, **rest)
    return _core.Conv2d(
        N=1, H=1, W=M, C=C, K=K, P=1, Q=M, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
        x_ld=x_ld, x_row=M * x_ld, x_image=M * x_ld, algorithm=_core.ConvAlgorithm.gemm, **rest,
    )  # fmt: skip


def expected(case: cases.ConvCase, x: F32, w: F32, bias: F32 | None, residual: F32 | None, act: str) -> reference.Array:
    return reference.conv2d(
        x, w, bias, residual, strides=case.strides, dilations=case.dilations, pads=case.pads, groups=case.groups,
        act=reference.activation(*ACTIVATIONS[act]),
    )  # fmt: skip
