"""ONNX operators that change the size of images: Resize, Upsample, ConvTranspose, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastconv.graph import MAX_EXACT, Array, Value
from fastconv.onnx.builder import MAX_TABLE, MAX_WINDOW, Builder
from fastconv.onnx.checks import MAX_INT
from fastconv.onnx.ops_nn import as_4d, channel_vector, filters
from fastconv.onnx.registry import Floats, Ints, operator
from fastconv.onnx.resize import COORDINATES, NEAREST, Axis, table

_MAX_PHASES = 4096  # strides of ConvTranspose, multiplied


# -- Resize ---------------------------------------------------------------------------------------------------------
def _floats(b: Builder, v: Value, what: str) -> list[float]:
    v = b.constant(v, what)
    if v.dtype.kind != "f" or v.rank != 1 or v.size > 32:
        b.fail(f"{what} ({v.name!r}) is {v.dtype} {v.shape}, expected a short list of float numbers")
    return [float(x) for x in b.array(v)]


def _resize(
    b: Builder,
    x: Value,
    axes: dict[int, Axis],
    mode: str,
    coordinates: str,
    nearest_mode: str = "simple",
    a: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool = False,
    beyond: float = 0.0,
) -> Value:
    for what, value, known in (("mode", mode, ("nearest", "linear", "cubic")),
                               ("coordinate_transformation_mode", coordinates, COORDINATES),
                               ("nearest_mode", nearest_mode, NEAREST)):  # fmt: skip
        if value not in known:
            b.fail(f"{what} {value!r} is unknown")
    b.runtime(x)
    if mode != "nearest" and x.dtype != np.float32:
        b.unsupported(f"mode {mode!r} of {x.dtype}")
    # Those that shrink come first: the others then have less to do.
    for i, axis in sorted(axes.items(), key=lambda item: item[1].output / max(item[1].size, 1)):
        where = f"axis {i} of input {x.name!r}"
        if not (math.isfinite(axis.scale) and axis.scale > 0) or axis.size < 1 or axis.output < 1:
            b.fail(f"{where}: {axis.size} elements to {axis.output}, scale {axis.scale}")
        b.shape([*x.shape[:i], axis.output, *x.shape[i + 1 :]])
        if axis.output == axis.size and axis.scale == 1.0 and coordinates != "tf_crop_and_resize":
            continue
        taps = 4 / min(axis.scale, 1.0) if antialias else 4
        if axis.output * taps > MAX_TABLE or max(axis.size, axis.output) > MAX_EXACT:
            b.unsupported(f"{where}: {axis.size} elements to {axis.output}")
        t = table(axis, mode, coordinates, nearest_mode, a, antialias=antialias, exclude_outside=exclude_outside)
        shape = (*x.shape[:i], axis.output, *x.shape[i + 1 :])
        tables = [b.const(np.ascontiguousarray(t.index.reshape(-1)))]
        if t.weight is not None:
            tables.append(b.const(np.ascontiguousarray(t.weight.reshape(-1))))
        x = b.emit("Resample", [x, *tables, *[None] * (2 - len(tables))], shape, axis=i, taps=t.index.shape[1])
        if t.outside is not None and t.outside.any():
            mask = t.outside.reshape([-1 if k == i else 1 for k in range(x.rank)])
            x = b.emit("Where", [b.const(mask), b.const(np.full((), beyond, x.dtype)), x], shape)
    return x


def _scaled(b: Builder, x: Value, scales: Sequence[float], roi: Sequence[float] | None = None) -> dict[int, Axis]:
    """All axes by their scales, as Resize before opset 18 and Upsample have them."""
    if len(scales) != x.rank:
        b.fail(f"{len(scales)} scales for input {x.name!r} of shape {x.shape}")
    return {i: _axis(b, d, scale) for i, (d, scale) in enumerate(zip(x.shape, scales, strict=True))}


def _axis(b: Builder, size: int, scale: float, start: float = 0.0, end: float = 1.0, *, crop: bool = False) -> Axis:
    if not (math.isfinite(scale) and 0 < scale <= MAX_INT):
        b.fail(f"scale {scale}: expected a positive number")
    part = end - start if crop else 1.0
    if not math.isfinite(part) or abs(part) > MAX_INT:
        b.fail(f"roi from {start} to {end}: expected numbers")
    # In float32, as other runtimes do: 10 by 0.7 is 7, though 0.7 in float32 is a little less.
    output = math.floor(np.float32(size) * np.float32(part) * np.float32(scale))
    return Axis(size, output, scale, start, end)


@operator
def Upsample(b: Builder, x: Value, *, scales: Floats, mode: str = "nearest") -> Value:
    return _resize(b, x, _scaled(b, x, scales), mode, "asymmetric")


@operator
def Upsample_9(b: Builder, x: Value, scales: Value, *, mode: str = "nearest") -> Value:
    return _resize(b, x, _scaled(b, x, _floats(b, scales, "scales")), mode, "asymmetric")


@operator
def Resize_10(b: Builder, x: Value, scales: Value, *, mode: str = "nearest") -> Value:
    return _resize(b, x, _scaled(b, x, _floats(b, scales, "scales")), mode, "asymmetric")


@operator
def Resize_11(
    b: Builder,
    x: Value,
    roi: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Value:
    chosen = tuple(range(x.rank)) if axes is None else tuple(b.axis(a, x.rank) for a in axes)
    if len(set(chosen)) != len(chosen):
        b.fail(f"axes {axes} repeat an axis")
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    parts = [0.0] * len(chosen) + [1.0] * len(chosen)
    if crop:
        parts = [] if roi is None else _floats(b, roi, "roi")
        if len(parts) != 2 * len(chosen):
            b.fail(f"roi has {len(parts)} numbers, expected {2 * len(chosen)}")
    if scales is not None and scales.size == 0:  # absent, as exporters before opset 13 write it
        scales = None
    if (scales is None) == (sizes is None):
        b.fail("expected either scales or sizes")
    out: dict[int, Axis] = {}
    if sizes is None:
        assert scales is not None
        numbers = _floats(b, scales, "scales")
        if len(numbers) != len(chosen):
            b.fail(f"{len(numbers)} scales for {len(chosen)} axes of input {x.name!r} of shape {x.shape}")
        for k, a in enumerate(chosen):
            out[a] = _axis(b, x.shape[a], numbers[k], parts[k], parts[k + len(chosen)], crop=crop)
    else:
        out = _sized(b, x, chosen, b.ints(sizes, "sizes"), parts, keep_aspect_ratio_policy)
    return _resize(
        b, x, out, mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(antialias),
        bool(exclude_outside), extrapolation_value,
    )  # fmt: skip


def _sized(
    b: Builder, x: Value, axes: tuple[int, ...], sizes: Ints, parts: Sequence[float], policy: str
) -> dict[int, Axis]:
    if len(sizes) != len(axes) or any(s < 0 for s in sizes) or any(x.shape[a] < 1 for a in axes):
        b.fail(f"sizes {sizes} do not fit axes {axes} of input {x.name!r} of shape {x.shape}")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        b.fail(f"keep_aspect_ratio_policy {policy!r} is unknown")
    scales = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
    if policy != "stretch":
        one = min(scales) if policy == "not_larger" else max(scales)
        scales = [one] * len(axes)
        sizes = tuple(math.floor(one * x.shape[a] + 0.5) for a in axes)
    n = len(axes)
    return {a: Axis(x.shape[a], sizes[k], scales[k], parts[k], parts[k + n]) for k, a in enumerate(axes)}


# -- space and depth ------------------------------------------------------------------------------------------------
def _block(b: Builder, x: Value, blocksize: int) -> tuple[int, int, int, int]:
    if x.rank != 4:
        b.fail(f"input {x.name!r} has shape {x.shape}, expected N, C, H and W")
    if not 1 <= blocksize <= MAX_INT:
        b.fail(f"blocksize {blocksize} is not positive")
    n, c, h, w = x.shape
    return n, c, h, w


@operator
def DepthToSpace(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    n, c, h, w = _block(b, x, blocksize)
    s = blocksize
    if c % (s * s):
        b.fail(f"{c} channels do not divide into blocks of {s} x {s}")
    if mode not in ("DCR", "CRD"):
        b.fail(f"mode {mode!r} is unknown")
    k = c // (s * s)
    if mode == "DCR":
        y = b.transpose(b.reshape(x, (n, s, s, k, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = b.transpose(b.reshape(x, (n, k, s, s, h, w)), (0, 1, 4, 2, 5, 3))
    return b.reshape(y, (n, k, h * s, w * s))


@operator
def SpaceToDepth(b: Builder, x: Value, *, blocksize: int) -> Value:
    n, c, h, w = _block(b, x, blocksize)
    s = blocksize
    if h % s or w % s:
        b.fail(f"{h} x {w} pixels do not divide into blocks of {s} x {s}")
    y = b.transpose(b.reshape(x, (n, c, h // s, s, w // s, s)), (0, 3, 5, 1, 2, 4))
    return b.reshape(y, (n, c * s * s, h // s, w // s))


# -- ConvTranspose --------------------------------------------------------------------------------------------------
@operator
def ConvTranspose(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """Output positions of one phase (position modulo stride) are an ordinary convolution with every stride-th tap of
    the flipped filter. So one convolution makes all phases as channels, and they are interleaved like DepthToSpace."""
    w = filters(b, x, w, kernel_shape)
    n, c, *size = x.shape
    c_in, per_group, *kernel = w.shape
    if not 1 <= group <= MAX_INT or c < 1 or c != c_in or c % group or per_group < 1:
        b.fail(f"input {x.name!r} has {c} channels, weight {w.name!r} shape {w.shape}, and group is {group}")
    if min(size) < 1 or min(kernel) < 1:
        b.fail(f"input {x.name!r} of shape {x.shape} and weight {w.name!r} of shape {w.shape}: nothing to convolve")
    d = len(size)
    s = b.positive(strides, d, 1, "strides")
    dil = b.positive(dilations, d, 1, "dilations")
    begin, out = _extent(b, size, kernel, s, dil, pads, auto_pad, output_padding, output_shape)
    if math.prod(s) > _MAX_PHASES or math.prod((k - 1) * e + s_ for k, e, s_ in zip(kernel, dil, s, strict=True)) > (
        MAX_WINDOW
    ):
        b.unsupported(f"kernel {tuple(kernel)}, strides {s} and dilations {dil}")
    k = per_group * group
    if d == 1:
        one = (1,)
        x, w = as_4d(b, x), b.reshape(w, (c, per_group, 1, kernel[0]))
        kernel, size, s, dil = [1, *kernel], [1, *size], one + s, one + dil
        begin, out = [0, *begin], [1, *out]
    taps = [-(-((r - 1) * e + 1) // t) for r, e, t in zip(kernel, dil, s, strict=True)]
    first = [p // t for p, t in zip(begin, s, strict=True)]  # rows of phases that are needed
    last = [(p + o - 1) // t for p, o, t in zip(begin, out, s, strict=True)]
    before = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    after = [l - (h - 1) for l, h in zip(last, size, strict=True)]
    cut = [h + min(lo, 0) + min(hi, 0) for h, lo, hi in zip(size, before, after, strict=True)]
    if min(cut) < 1 or max(map(abs, (*before, *after))) > MAX_INT:
        b.unsupported(f"pads that cut away all of input {x.name!r} of shape {x.shape}")
    x = b.slice(x, [0, 0, *(max(-lo, 0) for lo in before)], [1] * 4, (n, c, *cut))
    weight = _phases(b, w, group, tuple(taps), s, dil)
    inputs: list[Value | None] = [x, weight]
    if bias is not None:
        v = channel_vector(b, bias, k, "the bias")
        rows = b.expand(b.reshape(v, (group, 1, per_group)), (group, s[0] * s[1], per_group))
        inputs.append(b.reshape(rows, (k * s[0] * s[1],)))
    p, q = (l - f + 1 for l, f in zip(last, first, strict=True))
    pads4 = (max(before[0], 0), max(before[1], 0), max(after[0], 0), max(after[1], 0))
    y = b.emit("Conv", inputs, (n, k * s[0] * s[1], p, q), strides=(1, 1), dilations=(1, 1), group=group, pads=pads4)
    if s != (1, 1):
        y = b.reshape(y, (n, group, s[0], s[1], per_group, p, q))
        y = b.reshape(b.transpose(y, (0, 1, 4, 5, 2, 6, 3)), (n, k, p * s[0], q * s[1]))
    starts = [f0 - f * t for f0, f, t in zip(begin, first, s, strict=True)]
    y = b.slice(y, [0, 0, *starts], [1] * 4, (n, k, *out))
    return b.reshape(y, (n, k, *out[-d:]))


def _extent(
    b: Builder, size: Sequence[int], kernel: Sequence[int], strides: Ints, dilations: Ints, pads: Ints | None,
    auto_pad: str, output_padding: Ints | None, output_shape: Ints | None,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Per axis: how much of the full result is cut off in front, and the output's size."""
    d = len(size)
    extra = (0,) * d if output_padding is None else output_padding
    if len(extra) != d or any(not 0 <= e <= MAX_INT for e in extra):
        b.fail(f"output_padding {extra}: expected {d} numbers that are not negative")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""):
        b.fail(f"auto_pad {auto_pad!r} is unknown")
    given = tuple(pads) if pads is not None and auto_pad in ("NOTSET", "") else (0,) * (2 * d)
    if len(given) != 2 * d or any(not 0 <= p <= MAX_INT for p in given):
        b.fail(f"pads {given}: expected {2 * d} numbers from 0 to {MAX_INT}")
    if output_shape is not None:
        output_shape = output_shape[-d:]  # some exporters put N and C before
        if len(output_shape) != d or any(not 1 <= o <= MAX_INT for o in output_shape):
            b.fail(f"output_shape {output_shape}: expected {d} positive numbers")
    begin, out = [], []
    for i, length in enumerate(size):
        full = (length - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        same = auto_pad.startswith("SAME")
        if output_shape is None and not same:
            begin.append(given[i])
            out.append(full - given[i] - given[i + d])
        else:
            wanted = length * strides[i] if output_shape is None else output_shape[i]
            total = max(full - wanted, 0)
            begin.append(total - total // 2 if auto_pad == "SAME_LOWER" else total // 2)
            out.append(wanted)
        if out[-1] < 1:
            b.fail(f"pads {given} leave {out[-1]} elements of spatial axis {i}")
    return begin, out


def _phases(b: Builder, w: Value, group: int, taps: tuple[int, ...], strides: Ints, dilations: Ints) -> Value:
    """w[C, K/group, R, S] as the weight [(group, phase, K/group), C/group, taps...] of one convolution."""
    c, kg, r, s = w.shape
    (sh, sw), (th, tw), (dh, dw) = strides, taps, dilations

    def arrange(a: Array) -> Array:
        full = np.zeros((c, kg, th * sh, tw * sw), np.float32)
        full[:, :, : (r - 1) * dh + 1 : dh, : (s - 1) * dw + 1 : dw] = a
        split = full.reshape(group, c // group, kg, th, sh, tw, sw)[:, :, :, ::-1, :, ::-1, :]
        return np.ascontiguousarray(split.transpose(0, 4, 6, 2, 1, 3, 5)).reshape(shape)

    shape = (group * sh * sw * kg, c // group, th, tw)
    return b.fold(("transposed", group, taps, strides, dilations), [w], shape, np.float32, arrange)
