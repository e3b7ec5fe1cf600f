"""The display of a training on the terminal: a bar for the epoch that runs, one line for each that is done.

Not on a terminal there is no bar, only the lines: what a log file should hold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastconv.callbacks.base import Callback, Logs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_NAMES = {"categorical_accuracy": "accuracy", "sparse_categorical_accuracy": "accuracy"}


def number(value: float) -> str:
    """Four digits: 0.1234, 12.35, 1.2e-05."""
    if value != value or abs(value) in (float("inf"), 0.0):
        return f"{value:.0f}" if value == 0 else str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """42 s, 3:05, 2:03:00; below ten seconds with a digit behind the point."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def measures(logs: Logs, prefix: str = "") -> str:
    """loss 0.1234  accuracy 0.9876; those that begin with `prefix`, without it."""
    shown = []
    for name, value in logs.items():
        if name == "learning_rate" or name.startswith("val_") != bool(prefix):
            continue
        plain = name.removeprefix(prefix)
        shown.append(f"{_NAMES.get(plain, plain)} {number(value)}")
    return "  ".join(shown)


@contextmanager
def task(what: str, total: int, shown: bool = True, stream: Any = None) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal for work that is no training; stream: stderr where None.

    Call what it yields with the number of things done and what the last one was.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
    if not shown or not console.is_terminal:
        yield lambda done, text: None
        return
    parts = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn()]
    # Redirecting keeps printed lines above the bar, but would send a piped stdout to the terminal.
    both = sys.stdout.isatty()
    with Bar(*parts, TimeRemainingColumn(), console=console, transient=True, redirect_stdout=both) as bar:
        number = bar.add_task(what, total=total)
        yield lambda done, text: bar.update(number, completed=done, description=text or what)


class Progress(Callback):
    """Epoch, loss and metrics, images per second and the time that is left; what `fit(verbose=1)` shows.

    verbose: 0 nothing, 1 a bar on a terminal and a line per epoch, 2 only the lines. title stands before them.
    """

    def __init__(self, verbose: int = 1, title: str = "", stream: Any = None) -> None:
        super().__init__()
        self.verbose, self.title, self._stream = verbose, title, stream
        self._bar: Bar | None = None
        self._task: Any = None
        self._epoch = self._batch = 0
        self._started = self._shown = 0.0
        self._images = 0

    def _console(self) -> Console:
        from rich.console import Console

        return Console(file=self._stream or sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def epochs(self) -> int:
        return int(self.params.get("epochs") or 0)

    @property
    def steps(self) -> int | None:
        return self.params.get("steps")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._batch, self._images = epoch, 0, 0
        self._started, self._shown = time.monotonic(), 0.0
        console = self._console()
        if self.verbose != 1 or not console.is_terminal:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False), console=console, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._task = self._bar.add_task(self._head(epoch), total=self.steps, text="")
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batch = batch + 1
        now = time.monotonic()
        if self.steps and self.params.get("samples"):  # the last batch of an epoch may be smaller
            self._images = round(int(self.params["samples"]) * self._batch / self.steps)
        if self._bar is None or (now - self._shown < 0.1 and self._batch != self.steps):
            return
        self._shown = now
        each = (now - self._started) / self._batch
        text = measures(logs or {})
        if self._images:
            text += f"  {self._images / max(now - self._started, 1e-9):,.0f} images/s"
        if self.steps:
            left = each * (self.steps - self._batch)
            later = each * self.steps * max(0, self.epochs - self._epoch - 1)
            text += f"  ETA {clock(left + later)}"
        self._bar.update(self._task, completed=self._batch, text=text)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.close()
        if not self.verbose:
            return
        took = time.monotonic() - self._started
        line = f"{self._head(epoch)}  {measures(logs or {})}"
        validation = measures(logs or {}, "val_")
        if validation:
            line += f"  |  validation {validation}"
        if self.steps and self._batch < self.steps:
            line += f"  |  stopped at step {self._batch} of {self.steps}"
        line += f"  |  {clock(took)}"
        if self._images:
            line += f", {self._images / max(took, 1e-9):,.0f} images/s"
        self._console().print(line)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.close()

    def _head(self, epoch: int) -> str:
        width = len(str(self.epochs))
        return f"{self.title}{' ' if self.title else ''}epoch {epoch + 1:{width}}/{self.epochs}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
