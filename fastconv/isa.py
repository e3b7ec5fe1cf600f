"""Which instruction set level kernels use: the best that the CPU has, or what FASTCONV_ISA asks for."""

from __future__ import annotations

import os

from . import _core
from .errors import DeviceError


def isa_levels() -> list[str]:
    """Names of the levels of this CPU and this build, slowest first: scalar, avx2, avx512 (neon on aarch64)."""
    return _core.isa_levels()


def resolve_isa(name: str | None = None) -> _core.Isa:
    """The level called `name`, else that of the environment variable FASTCONV_ISA, else the best.

    Raises DeviceError for a level that is unknown or that this CPU lacks.
    """
    levels = isa_levels()
    source = "isa"
    if name is None and os.environ.get("FASTCONV_ISA"):
        name, source = os.environ["FASTCONV_ISA"], "FASTCONV_ISA"
    if name is None:
        name = levels[-1]
    if name not in levels:
        raise DeviceError(f"{source}={name!r}: this machine has {', '.join(levels)}")
    return getattr(_core.Isa, name)  # type: ignore[no-any-return]
