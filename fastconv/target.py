"""What the compiler and the model ask of the device that a plan is for; these are the CPU's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core
from .graph import Array
from .packing import Packer
from .selection import Selection


class HostMemory:
    """Makes the states of a training: memory that its plans change, `numpy()` of which is a view."""

    def __init__(self) -> None:
        self.store = _core.WeightStore()

    def holds(self, state: Any) -> bool:
        """Whether this memory is such that plans of this target can use it."""
        return isinstance(state, _core.PackedWeight)

    def put(self, array: Array) -> Any:
        return self.store.put(array)


class Target:
    """The CPU. fastconv.cuda.Target is a GPU."""

    channel_unit = 1  # a stem's channels are rounded up to this
    predicts = True  # the cost model knows it, and tunings are for it
    splits_winograd = True  # Winograd may be two operations, and take a pool behind it into itself (see prepare.py)
    takes_gates = True  # a 1x1 convolution may take a gate of its input channels (see prepare.py)
    gathers_means = True  # a depthwise convolution may take the mean over its pixels into itself (see prepare.py)
    groups_pixels = True  # neighbouring outputs of few channels share a vector (stems.py)
    packs_early = True  # the order of packing decides which weights lie in huge pages (see Compiler._pack_early)
    pixels_of_rows = True  # many rows of a dense layer are the pixels of a 1x1 convolution
    repeats = True  # its executor repeats a plan along a batch (batches.py)
    direct_gradients = True  # a weight gradient of one part is written where it belongs (Conv2dBackwardWeight.direct)

    def stem_unit(self, constant: bool) -> int:
        """What a stem's channels are rounded up to; those of weights that are packed at run time stay as they are."""
        return self.channel_unit if constant else 1

    def linear_panel(self, M: int, C: int, K: int, isa: _core.Isa) -> int:
        """See csrc/cpu/select.h."""
        return _core.linear_panel(M, C, K, isa)

    def executor(self, threads: int) -> Any:
        return _core.Executor(threads)

    def store(self) -> Any:
        return _core.WeightStore()

    def shares(self, other: Target) -> bool:
        """Whether packed weights of one serve the other."""
        return type(self) is type(other)

    def packer(self, store: Any, isa: _core.Isa) -> Any:
        return Packer(store, isa)

    def plan(self, isa: _core.Isa, store: Any) -> Any:
        return _core.Plan(isa, store)

    def memory(self) -> Any:
        """What makes the states of a training. Raises DeviceError where it cannot train."""
        return HostMemory()

    def extent(self, desc: Any, isa: _core.Isa, op: _core.Op) -> tuple[Sequence[int], int]:
        """Elements that an operation reads and writes."""
        return _core.extent(desc, isa, op)

    def extent_more(self, desc: Any, isa: _core.Isa, op: _core.Op) -> Sequence[int]:
        """Elements of its further outputs."""
        return _core.extent_more(desc, isa, op)

    def selection(self, asked: Selection, *, states: bool = False) -> Selection:
        """What decides the algorithms of convolutions where the user has asked for this; states: of a plan with memory
        that training changes."""
        return asked

    def level(self, isa: _core.Isa) -> str:
        return isa.name

    def peak(self, isa: _core.Isa, seconds: float) -> float:
        """GFLOP/s of one core."""
        return _core.measure_peak(isa, seconds)

    def borrow(self, value: Any, where: str) -> Any:
        """An input that already lies on the device, or None."""
        return None

    def empty(self, shape: tuple[int, ...], inputs: Any) -> Any:
        """Memory for an output of a run with these inputs."""
        return np.empty(shape, np.float32)


CPU = Target()


def trained_in(device: str) -> tuple[str, ...]:
    """The precisions in which training computes there."""
    return ("fp32", "strict") if device == "cpu" else ("fp32", "strict", "tf32")


def training_precision(device: str, precision: str | None, model: Any) -> str:
    """The precision that was asked for; None: the model's, where this device trains in it, else "fp32"."""
    own = str(getattr(model, "precision", "fp32"))
    return precision or (own if own in trained_in(device) else "fp32")


def training_target(device: str, precision: str) -> Target:
    """The device of a training. Raises DeviceError for one that is not there or does not train in this precision,
    ValueError for what is no precision."""
    from .errors import DeviceError

    trains = trained_in(device)
    if precision not in trains:
        known = precision in ("tf32", "fp16", "bf16")
        message = f"precision={precision!r}: on {device!r} training computes in one of {trains}"
        raise DeviceError(message) if known else ValueError(message)
    return target(device, precision)


def target(device: str, precision: str) -> Target:
    """Raises DeviceError for a device or a precision that is not there."""
    from .errors import DeviceError

    if device == "cpu":
        if precision not in ("fp32", "strict"):
            raise DeviceError(f'precision={precision!r}: the CPU computes in "fp32" or "strict"')
        return CPU
    if device.split(":")[0] != "cuda":
        raise DeviceError(f'device={device!r}: expected "cpu", "cuda" or "cuda:N"')
    from .cuda import Target as Cuda

    return Cuda(device, precision)
