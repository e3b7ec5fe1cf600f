"""Where networks are not smooth: on which side of a ReLU's kink, and at which place of a maximum, their numbers lie.

A number that rounding pushes to the other side of a kink changes gradients by about 1 / sqrt(numbers in the layer), in
torch's float32 too, and that is no error of a gradient: it is the gradient of the neighbouring piece. So gradients are
compared in two ways: where all numbers keep away from kinks, which `settle` and torch alone see to; and, with
any numbers, with torch's float64 on the piece that the other engine took. Needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SIX = 6.0


class Kink:
    """One call of a piecewise linear function: its input, and for a maximum its arguments."""

    def __init__(self, kind: str, x: Any, window: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})) -> None:
        self.kind, self.x, self.window = kind, x.detach().clone(), window

    def piece(self, x: Any) -> Any:
        """The piece on which the input x lies: a place for each maximum, else 0, 1 or 2 (between, below, above)."""
        if self.kind == "max_pool2d":
            return functional.max_pool2d_with_indices(x, *self.window[0], **self.window[1])[1]
        below = (x <= 0).to(torch.int64)
        return below + 2 * (x >= SIX) if self.kind == "hardtanh" else below

    def apply(self, x: Any, piece: Any) -> Any:
        """The function continued linearly from a piece."""
        if self.kind == "max_pool2d":
            return x.flatten(2).gather(2, piece.flatten(2)).view(piece.shape)
        return x * (piece == 0) + SIX * (piece == 2)

    def gap(self) -> float:
        """How far the nearest number is from a kink."""
        if self.kind == "max_pool2d":
            best, second = self._two()
            # Maxima of zeros, behind a ReLU, have no gradient; equal numbers are copies of one, from a pool before.
            gaps = torch.where((best > 0) & (best > second), best - second, torch.inf)
        else:
            gaps = self.x.abs()
            if self.kind == "hardtanh":
                gaps = torch.minimum(gaps, (self.x - SIX).abs())
        return float(gaps.min())

    def _two(self) -> tuple[Any, Any]:
        """The largest and the second largest number of each window."""
        y, places = functional.max_pool2d_with_indices(self.x, *self.window[0], **self.window[1])
        found = torch.full_like(y, -torch.inf)
        flat = self.x.flatten(2)
        size, stride, pad = (self._pair(i, n) for i, n in ((0, "kernel_size"), (1, "stride"), (2, "padding")))
        h, w = self.x.shape[2:]
        rows = torch.arange(y.shape[2])[:, None] * stride[0] - pad[0]
        columns = torch.arange(y.shape[3])[None, :] * stride[1] - pad[1]
        for r in range(size[0]):
            for s in range(size[1]):
                p, q = rows + r, columns + s
                inside = (p >= 0) & (p < h) & (q >= 0) & (q < w)
                at = (p.clamp(0, h - 1) * w + q.clamp(0, w - 1)).expand(y.shape)
                values = flat.gather(2, at.flatten(2)).view(y.shape)
                found = torch.maximum(found, torch.where(inside & (at != places), values, -torch.inf))
        return y, found

    def _pair(self, i: int, name: str) -> tuple[int, int]:
        args, kwargs = self.window
        value = args[i] if i < len(args) else kwargs.get(name)
        if value is None:
            value = 0 if name == "padding" else self._pair(0, "kernel_size")
        return (value, value) if isinstance(value, int) else (value[0], value[1])


class Watch(TorchFunctionMode):
    """Inside, `seen` collects the kinks in order. pieces: which ones to take instead of those that the inputs say."""

    def __init__(self, pieces: Sequence[Any] | None = None) -> None:
        super().__init__()
        self.seen: list[Kink] = []
        self._pieces = None if pieces is None else iter(pieces)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind, kwargs = getattr(func, "__name__", "").rstrip("_"), dict(kwargs or {})
        if kind not in ("relu", "hardtanh", "max_pool2d"):
            return func(*args, **kwargs)
        kwargs.pop("return_indices", None)
        kink = Kink(kind, args[0], (args[1:], kwargs) if kind == "max_pool2d" else ((), {}))
        self.seen.append(kink)
        return kink.apply(args[0], kink.piece(args[0]) if self._pieces is None else next(self._pieces))


def clearance(net: Any, x: Any) -> float:
    """How many times its layer's rounding error the number that is nearest to a kink is away from it, for images x.

    Distances are torch's float64's, rounding errors torch's float32's against it, in root mean squares.
    """
    seen = []
    for twin, images in ((copy.deepcopy(net).double(), x.double()), (copy.deepcopy(net).float(), x)):
        with torch.no_grad(), Watch() as watch:
            twin(images)
        seen.append(watch.seen)
    found = [np.inf]
    for exact, rounded in zip(*seen, strict=True):
        error = float((exact.x - rounded.x).square().mean().sqrt())
        found.append(exact.gap() / max(error, 1e-30))
    return min(found)


def pieces_of(net: Any, x: np.ndarray, found: Sequence[np.ndarray], near: float = 1e-4) -> tuple[list[Any], int]:
    """The pieces on which another engine's kinks lie, and how many numbers lie on another one than in torch's float64.

    x: images, channels last. found: the engine's outputs of ReLUs and inputs of maxima, in order. What lies elsewhere
    must be within `near` of the kink, as a share of the root mean square of its layer: else AssertionError.
    """
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).double()
    with torch.no_grad(), Watch() as watch:
        copy.deepcopy(net).double()(images)
    assert len(watch.seen) == len(found), (len(watch.seen), len(found))
    made, crossed = [], 0
    for kink, array in zip(watch.seen, found, strict=True):
        piece, own = kink.piece(torch.from_numpy(array).double()), kink.piece(kink.x)
        if kink.kind == "max_pool2d":
            far = kink.apply(kink.x, own) - kink.apply(kink.x, piece)
            other = far != 0  # equal numbers are copies of one, from a pool before
        else:
            far = torch.minimum(kink.x.abs(), (kink.x - SIX).abs()) if kink.kind == "hardtanh" else kink.x.abs()
            other = piece != own
        crossed += int(other.sum())
        assert not other.any() or float(far[other].max()) <= near * float(kink.x.square().mean().sqrt()), kink.kind
        made.append(piece)
    return made, crossed


class _Settle(TorchFunctionMode):
    """Moves the biases in front of each ReLU so that no number lies near its kinks."""

    def __init__(self) -> None:
        super().__init__()
        self.bias: Any = None  # of the layer that ran last

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").rstrip("_") not in ("relu", "hardtanh"):
            return func(*args, **(kwargs or {}))
        x, kinks = args[0], (0.0, SIX) if "hardtanh" in func.__name__ else (0.0,)
        limit = 0.05 * float(x.std())
        for c in range(x.shape[1]):
            column = x[:, c].flatten()
            move = _hole(torch.cat([column - k for k in kinks]), limit)
            x[:, c] -= move
            self.bias[c] -= move
        return func(x, *args[1:], **(kwargs or {}))


def _hole(numbers: Any, limit: float) -> float:
    """The middle of the widest gap between numbers from -limit to limit."""
    ends = torch.tensor([-limit, limit], dtype=numbers.dtype)
    inside = torch.cat([numbers[numbers.abs() < limit], ends]).sort()[0]
    widest = int(inside.diff().argmax())
    return float(inside[widest] + inside[widest + 1]) / 2


def settle(net: Any, x: Any) -> None:
    """Move the network's biases, each by at most a twentieth of the standard deviation of what it is added to, so that
    for the images x no number lies near a kink of ReLU."""
    twin = copy.deepcopy(net).double()
    mode = _Settle()

    def remember(module: Any, _inputs: Any, _output: Any) -> None:
        if getattr(module, "bias", None) is not None:
            mode.bias = module.bias

    for module in twin.modules():
        if not list(module.children()):
            module.register_forward_hook(remember)
    with torch.no_grad(), mode:
        twin(x.double())
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            mine.copy_(theirs)
