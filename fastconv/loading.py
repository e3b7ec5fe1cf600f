"""load: a Model of a file, whichever kind the file is of."""

from __future__ import annotations

import os
from typing import Any

from .errors import ModelError
from .model import Model
from .saved import SavedModel, is_plan
from .selection import DEFAULT_WINOGRAD, check_winograd
from .tuning import Tuning


def load(
    model: str | os.PathLike[str] | bytes | Any,
    *,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    winograd: int = DEFAULT_WINOGRAD,
    tuning: str | os.PathLike[str] | Tuning | None = None,
    _isa: str | None = None,
) -> Model:
    """Load a CNN in ONNX form or a saved plan: a path, the file's bytes, or an onnx.ModelProto.

    threads: processors to use, None for all that this process may use. device: "cpu", or "cuda" (docs/cuda.md).
    precision: "fp32", or "strict", which allows no algorithm with a larger rounding error than direct summation; on a
    GPU also "tf32", "fp16" or "bf16". winograd: the largest m of Winograd's F(m x m, 3 x 3) that may be chosen, 4, or
    6, whose rounding error is 8 to 10 times that of direct summation; a GPU uses none of them. tuning: a file that
    `fastconv tune` wrote on this machine: convolutions that it knows take what was fastest there. Without one the
    algorithms depend on shapes and instruction set alone. A saved plan keeps the algorithms that it was made with: it
    takes neither, and "strict" only if it was made so. Weights are read when first needed.

    Raises ModelError for a file that is broken, UnsupportedOpError for one that needs an operator which fastconv lacks,
    DeviceError for a device, precision or m that is not there, a tuning for a GPU or a plan for other CPUs, TuningError
    for a tuning that is broken or of another CPU, OSError for a file that cannot be opened.
    """
    if is_plan(model):
        if tuning is not None or check_winograd(winograd) != DEFAULT_WINOGRAD:
            raise ModelError("tuning, winograd: a saved plan keeps the algorithms that it was made with")
        return SavedModel(model, threads=threads, device=device, precision=precision, _isa=_isa)
    return Model(
        model, threads=threads, device=device, precision=precision, winograd=winograd, tuning=tuning, _isa=_isa
    )  # fmt: skip
