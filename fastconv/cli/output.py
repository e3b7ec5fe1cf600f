"""Text, tables, JSON, progress and errors. Colour, and shortening to the width, only on a terminal.

Names in models and files are untrusted: control characters never reach the terminal.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Column:
    """A table's column. If narrow, flexible ones shrink to 20 characters, then the highest `drop` goes first."""

    title: str
    right: bool = False
    flexible: bool = False
    drop: int = 0
    style: str = ""


class Tick(Protocol):
    """What `progress` hands out: call it after each step."""

    def __call__(self, text: str = "") -> None: ...


def console() -> Console:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1 here, as if something had failed

    return Plain(highlight=False, markup=False, emoji=False, soft_wrap=True)


def clean(value: object) -> str:
    """The text of a value with everything that is not printable replaced."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def error(message: object) -> None:
    """One line on stderr."""
    text = " ".join(str(message).split())
    print(f"fastconv: error: {clean(text)}", file=sys.stderr)


def warning(message: object) -> None:
    """One line on stderr about what does not end the program."""
    text = " ".join(str(message).split())
    print(f"fastconv: warning: {clean(text)}", file=sys.stderr)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Inside, UserWarnings are such lines, each of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: warning(message)
        yield


def dump_json(document: Any) -> None:
    """One JSON document on stdout; numbers that JSON lacks become null."""
    json.dump(_finite(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def print_line(*parts: object, style: str = "") -> None:
    """A line of text, cleaned, in a style that only a terminal shows."""
    from rich.text import Text

    console().print(Text(" ".join(clean(p) for p in parts), style=style))


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], indent: int = 0) -> None:
    """Aligned columns. Piped, every name is whole and every row is one line."""
    from rich.text import Text

    out = console()
    cells = [[clean(c) for c in row] for row in rows]
    shown, widths = list(range(len(columns))), _widths(columns, cells)
    if out.is_terminal:
        room = out.width - indent
        if _excess(shown, widths, room) > 0:
            cells = [
                [_shortened(c) if column.flexible else c for c, column in zip(row, columns, strict=True)]
                for row in cells
            ]
            widths = _widths(columns, cells)
        shown = _fit(columns, widths, room)
    for number, row in enumerate([[c.title for c in columns], *cells]):
        line = Text(" " * indent)
        for place, i in enumerate(shown):
            column, width, cell = columns[i], widths[i], row[i]
            if len(cell) > width:
                cell = "\u2026" + cell[len(cell) - width + 1 :]  # the end of a node's name tells most
            last = place == len(shown) - 1
            padded = cell.rjust(width) if column.right else cell if last else cell.ljust(width)
            line.append(padded, style="bold" if number == 0 else column.style)
            line.append("" if last else "  ")
        out.print(line)
    if len(shown) < len(columns):
        missing = ", ".join(columns[i].title for i in range(len(columns)) if i not in shown)
        print_line(f"(in a wider terminal, or piped: {missing})", style="dim")


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(column.title), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]


def _excess(shown: Sequence[int], widths: Sequence[int], room: int) -> int:
    """Characters that a line of these columns has too many; negative where there is room."""
    return sum(widths[i] for i in shown) + 2 * (len(shown) - 1) - room


def _shortened(name: str) -> str:
    """Without the parts of a path that the next one repeats: torch names a node /layer1/layer1.0/conv1/Conv."""
    parts = name.split("/")
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    return "/".join(kept)


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """Which columns fit the room: all whose others leave 20 characters to each flexible one, which get what is left.

    Shrinks the flexible ones' widths in place.
    """
    shown = list(range(len(columns)))
    least = [min(width, 20) if column.flexible else width for column, width in zip(columns, widths, strict=True)]
    while _excess(shown, least, room) > 0:
        droppable = [i for i in shown if columns[i].drop]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda i: columns[i].drop))
    for i in sorted((i for i in shown if columns[i].flexible), key=lambda i: -widths[i]):
        widths[i] = max(min(widths[i], 8), widths[i] - max(_excess(shown, widths, room), 0))
    return shown


def count(value: float) -> str:
    """A count with three digits and a decimal prefix: 1.82 G, 12.3 M, 0."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" if value < 999.5 * factor else f"{value / factor:.0f} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with a binary prefix: 1.5 MiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def dims(shape: Sequence[object]) -> str:
    """1x3x224x224; an unknown dimension is a question mark, a scalar the word."""
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


@contextmanager
def progress(total: int, what: str, least: int = 1) -> Iterator[Tick]:
    """A progress bar on stderr while it is a terminal and there are at least `least` steps."""
    from fastconv.callbacks.progress import task

    with task(what, total, total >= least) as update:
        steps = itertools.count(1)
        yield lambda text="": update(next(steps), clean(text))
