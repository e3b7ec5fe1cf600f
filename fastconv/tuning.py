"""Measured times of convolution algorithms on one CPU: what `fastconv tune` writes and `load(tuning=...)` reads.

The file is JSON: {"format": "fastconv-tuning", "version": 1, "records": [{"cpu": ..., "isa": ..., "shape": {...},
"microseconds": {"implicit": 412.0, "F(4x4,3x3)": 141.5}}, ...]}. It holds times, not choices: each model takes the
fastest of the algorithms that its own options allow. Records of other CPUs may stand beside; they are not used. Files
are untrusted: sizes, names and numbers are checked; a time for an algorithm that cannot compute its shape is an error.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _core
from .errors import TuningError
from .paths import open_file, replacing
from .selection import LARGEST_WINOGRAD, Choice, Selection, Shape, choice_name

FORMAT, VERSION = "fastconv-tuning", 1
MAX_BYTES = 16 << 20
MAX_SIZE = 1 << 31  # of a dimension
MAX_MICROSECONDS = 1e10
_INTS = ("N", "H", "W", "C", "K", "P", "Q", "R", "S", "groups")
_LISTS = {"strides": 2, "dilations": 2, "pads": 4}

Times = dict[Choice, float]  # seconds
Key = tuple[Shape, str]  # shape, name of the instruction set


class Tuning:
    """Seconds of algorithms by shape and instruction set, measured on the CPU named `cpu`."""

    def __init__(self, times: Mapping[Key, Times] | None = None, cpu: str | None = None) -> None:
        self.cpu = cpu or cpu_name()
        self.times: dict[Key, Times] = {k: dict(v) for k, v in (times or {}).items()}
        self.others: list[dict[str, Any]] = []  # records of other CPUs, as they stand in the file

    def seconds(self, shape: Shape, isa: _core.Isa) -> Times:
        """What was measured for a shape; empty where nothing was."""
        return self.times.get((shape, isa.name), {})

    def add(self, shape: Shape, isa: _core.Isa, times: Times) -> None:
        """Put measurements in place of older ones."""
        self.times[(shape, isa.name)] = dict(times)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tuning, (self.times, self.cpu)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tuning) and (self.cpu, self.times) == (other.cpu, other.times)

    def __repr__(self) -> str:
        return f"<fastconv.Tuning of {len(self.times)} shapes on {self.cpu!r}>"

    # -- files ----------------------------------------------------------------------------------------------------
    @staticmethod
    def load(path: str | os.PathLike[str], *, isa: _core.Isa | None = None, cpu: str | None = None) -> Tuning:
        """Read a file. isa: it must have a record of this level and this CPU.

        Raises TuningError for a file that is broken, of another version or without such a record, OSError for one that
        cannot be opened.
        """
        where = os.fspath(path)
        with open_file(where) as f:
            data = f.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise TuningError(f"{where}: larger than {MAX_BYTES >> 20} MiB: no tuning file")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise TuningError(f"{where}: no JSON: {e}") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise TuningError(f'{where}: no tuning file: expected "format": "{FORMAT}"')
        if document.get("version") != VERSION:
            raise TuningError(f"{where}: version {document.get('version')!r}, this fastconv reads version {VERSION}")
        records = document.get("records")
        if not isinstance(records, list):
            raise TuningError(f"{where}: records: expected a list")
        tuning = Tuning(cpu=cpu)
        seen: set[str] = set()
        for i, record in enumerate(records):
            try:
                key, times, machine = _parse(record)
            except (TypeError, ValueError) as e:
                raise TuningError(f"{where}: record {i}: {e}") from None
            seen.add(f"{machine} ({key[1]})")
            if machine == tuning.cpu:
                tuning.times[key] = times
            else:
                tuning.others.append(record)
        if isa is not None and not any(level == isa.name for _, level in tuning.times):
            found = ", ".join(sorted(seen)[:4]) or "nothing"
            raise TuningError(f"{where}: measured on {found}, not on {tuning.cpu} ({isa.name}): run fastconv tune here")
        return tuning

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it appears when it is whole. Raises OSError."""
        records = [*self.others, *(_record(self.cpu, key, times) for key, times in self.times.items())]
        lines = ",\n  ".join(json.dumps(r, allow_nan=False) for r in records)
        text = f'{{"format": "{FORMAT}", "version": {VERSION}, "records": [\n  {lines}\n]}}\n'
        with replacing(path) as partial:
            partial.write_text(text)


def _record(cpu: str, key: Key, times: Times) -> dict[str, Any]:
    shape, isa = key
    names = {choice_name(c, shape.R, shape.S): round(s * 1e6, 3) for c, s in times.items()}
    return {"cpu": cpu, "isa": isa, "shape": shape._asdict(), "microseconds": names}


def _parse(record: Any) -> tuple[Key, Times, str]:
    """Shape and level, seconds of algorithms, and CPU of a record. Raises ValueError or TypeError."""
    if not isinstance(record, dict):
        raise ValueError("expected an object")
    cpu, isa, sizes, times = (record.get(k) for k in ("cpu", "isa", "shape", "microseconds"))
    if not isinstance(cpu, str) or not 0 < len(cpu) <= 256:
        raise ValueError("cpu: expected a name")
    level = next((v for k, v in _core.Isa.__members__.items() if k == isa), None)
    if level is None:
        raise ValueError(f"isa {isa!r}: expected one of {', '.join(_core.Isa.__members__)}")
    if not isinstance(sizes, dict) or set(sizes) != {*_INTS, *_LISTS}:
        raise ValueError(f"shape: expected {', '.join([*_INTS, *_LISTS])}")
    for name in _INTS:
        _size(name, sizes[name], 1)
    for name, length in _LISTS.items():
        if not isinstance(sizes[name], list) or len(sizes[name]) != length:
            raise ValueError(f"shape: {name}: expected {length} numbers")
        for v in sizes[name]:
            _size(name, v, 0 if name == "pads" else 1)
    shape = Shape(*(sizes[n] for n in _INTS), *(tuple(sizes[n]) for n in _LISTS))
    if not isinstance(times, dict) or not times:
        raise ValueError("microseconds: expected times of algorithms")
    known = {choice_name(c, shape.R, shape.S): c for c in Selection(level, winograd=LARGEST_WINOGRAD).candidates(shape)}
    seconds: Times = {}
    for name, us in times.items():
        if name not in known:
            raise ValueError(f"no algorithm {name!r} for this shape; there are {', '.join(known)}")
        if isinstance(us, bool) or not isinstance(us, (int, float)) or not 0 < us < MAX_MICROSECONDS:
            raise ValueError(f"microseconds of {name}: expected a positive number, got {us!r}")
        seconds[known[name]] = us / 1e6
    return (shape, level.name), seconds, cpu


def _size(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < MAX_SIZE:
        raise ValueError(f"shape: {name}: expected a size, got {value!r}")


def cpu_name() -> str:
    """The processor as its system names it, with family, model and stepping, for names alone may cover several."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text.split("\n\n")[0], re.M))
    parts = [found[k] for k in ("cpu family", "model", "stepping") if k in found]
    if "CPU part" in found:
        parts = [found.get(k, "") for k in ("CPU implementer", "CPU part", "CPU variant", "CPU revision")]
    return f"{found.get('model name', platform.machine())} [{' '.join(parts)}]"[:256]


__all__ = ["Tuning", "TuningError", "cpu_name"]
