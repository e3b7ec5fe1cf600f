"""Window geometry of convolution and pooling: padding, and how many windows fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.onnx.builder import MAX_WINDOW, Builder
from fastconv.onnx.checks import MAX_INT


@dataclass(frozen=True, slots=True)
class Windows:
    """A sliding window per spatial axis. pads are (before..., after...), so (top, left, bottom, right) in 2-D."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    output: tuple[int, ...]

    def as_2d(self) -> Windows:
        """1-D windows as a 2-D one with a height of 1."""
        if len(self.kernel) == 2:
            return self
        return Windows(
            (1, *self.kernel),
            (1, *self.strides),
            (1, *self.dilations),
            (0, self.pads[0], 0, self.pads[1]),
            (1, *self.output),
        )


def windows(
    b: Builder,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    *,
    ceil_mode: bool = False,
    pool: bool = False,
) -> Windows:
    """Resolve padding and count windows (ONNX Conv, MaxPool, AveragePool).

    ceil_mode adds a last window that runs past the padded input, unless it would start in the padding behind the input.
    """
    n = len(size)
    kernel = b.positive(kernel, n, 1, "kernel_shape")
    strides = b.positive(strides, n, 1, "strides")
    dilations = b.positive(dilations, n, 1, "dilations")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""):
        b.fail(f"auto_pad {auto_pad!r} is unknown")
    pads = tuple(pads) if pads is not None and auto_pad in ("NOTSET", "") else (0,) * (2 * n)
    if len(pads) != 2 * n:
        b.fail(f"pads {pads} has {len(pads)} numbers, expected {2 * n}")
    if not all(0 <= p <= MAX_INT for p in pads):
        b.fail(f"pads {pads}: expected numbers from 0 to {MAX_INT}")
    before, after, out = list(pads[:n]), list(pads[n:]), []
    for i, length in enumerate(size):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if auto_pad.startswith("SAME"):
            total = max(0, (-(-length // strides[i]) - 1) * strides[i] + reach - length)
            small, large = total // 2, total - total // 2
            before[i], after[i] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        if pool and max(before[i], after[i]) >= reach:
            b.fail(f"pads {pads} are not smaller than the window of {reach}: some windows would see padding only")
        room = length + before[i] + after[i] - reach
        if length < 1 or room < 0:
            b.fail(
                f"the window of {reach} (kernel {kernel[i]}, dilation {dilations[i]}) is larger than its padded input "
                f"of {length + before[i] + after[i]} on spatial axis {i}"
            )
        count = room // strides[i] + 1
        if ceil_mode and room % strides[i] and count * strides[i] < length + before[i]:
            count += 1
        out.append(count)
    if pool:
        # One window takes no step, and one position has no distance: any number means the same.
        strides = tuple(min(s, MAX_WINDOW) if c == 1 else s for s, c in zip(strides, out, strict=True))
        dilations = tuple(min(d, MAX_WINDOW) if k == 1 else d for d, k in zip(dilations, kernel, strict=True))
        if max(*kernel, *strides, *dilations) > MAX_WINDOW:
            b.unsupported(
                f"kernel {kernel}, strides {strides} and dilations {dilations}: expected at most {MAX_WINDOW} each"
            )
    return Windows(kernel, strides, dilations, (*before, *after), tuple(out))
