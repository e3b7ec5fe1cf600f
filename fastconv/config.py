"""What this installation found and uses."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import IO

from . import _core
from ._version import __version__
from .isa import isa_levels, resolve_isa


def show_config(file: IO[str] | None = None) -> None:
    """Print version, instruction set levels found and used, threads, how far two cores are apart, huge pages, whether
    the CUDA plugin is there.

    file: where to print, standard output if None. Raises DeviceError where FASTCONV_ISA names a level that is absent.
    """
    pages = {"always": "yes", "madvise": "yes, on request", "never": "no", "unknown": "unknown"}[_core.huge_pages()]
    apart = _core.measure_round_trip()
    rows = [
        ("fastconv", __version__),
        ("python", sys.version.split()[0]),
        ("isa found", " ".join(isa_levels())),
        ("isa used", resolve_isa().name),
        ("threads", str(_core.usable_cpus())),
        ("round trip", f"{apart:.0f} ns between two cores" if apart else "one core"),
        ("huge pages", pages),
        ("cuda plugin", "present" if find_spec("fastconv._cuda") else "absent"),
    ]
    for name, value in rows:
        print(f"{name:12} {value}", file=file)
