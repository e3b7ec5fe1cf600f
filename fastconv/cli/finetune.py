"""`fastconv finetune`: a folder of images and a network in, a network for its classes out."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv.cli import inputs, output
from fastconv.errors import FastconvError, ShapeError
from fastconv.paths import target_path

if TYPE_CHECKING:
    from fastconv.finetune import FineTuned


FLAGS = {
    "learning_rate": "--rate", "validation_split": "--validation", "batch_size": "--batch", "epochs": "--epochs",
    "unfreeze": "--unfreeze", "seed": "--seed", "dropout": "--dropout", "hidden": "--hidden", "augment": "--augment",
    "views": "--views",
}  # fmt: skip


@dataclass
class Options:
    """What the command line says."""

    model: str
    out: str
    epochs: str = "5"
    unfreeze: int = 1
    hidden: str | None = None
    dropout: float = 0.2
    rate: float = 1e-3
    batch: int = 32
    validation: float = 0.2
    augment: str = "flip,rotate,zoom"
    views: int = 1
    preset: str | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    precision: str = "fp32"
    resume: bool = False
    plots: bool = True
    json: bool = False


class _Stop:
    """The first Ctrl-C asks the training to end after its step, the second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.learning = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(*_: Any) -> None:
            if self.asked or not self.learning:
                raise KeyboardInterrupt
            self.asked = True
            print("\nfinishing the step (Ctrl-C again ends at once)", file=sys.stderr)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def parse_epochs(text: str) -> tuple[int, int]:
    """5 is 5 epochs of the head and 5 of fine-tuning; 8,3 are different ones."""
    counts = inputs.numbers(text, "--epochs", int)
    if len(counts) > 2 or min(counts) < 0 or not any(counts):
        raise ShapeError(f"--epochs {text!r}: expected one number or two, such as 5 or 8,3, not all of them 0")
    return int(counts[0]), int(counts[-1])


def checkpoint_of(out: Path) -> Path:
    return out.with_suffix(".ckpt")


def check_out(out: Path, model: str) -> None:
    """An error now, not after minutes: FastconvError, or OSError for a place that cannot be written to."""
    if out.suffix != ".onnx":
        raise FastconvError(f"--out {out}: expected a name that ends with .onnx")
    target_path(out)
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as e:
        raise OSError(e.errno, f"cannot be written to: {e.strerror}", str(out.parent)) from None
    if out.exists() and os.path.exists(model) and os.path.samefile(out, model):
        raise FastconvError(f"--out {out}: is the file of --model: expected another name")


def with_flags(message: str) -> str:
    """A message about arguments of fine_tune, with the options that they come from."""
    return re.sub(rf"\b({'|'.join(FLAGS)})=", lambda m: f"{FLAGS[m[1]]} ", message)


def run(folder: str, options: Options) -> int:
    """Teach, save, draw, report. 130 where it was interrupted; the checkpoint is then there."""
    from fastconv.callbacks import LambdaCallback
    from fastconv.finetune import fine_tune

    out = Path(options.out)
    check_out(out, options.model)
    saved = checkpoint_of(out)
    if options.resume and not saved.exists():
        print(f"there is no {saved} to go on from: this run begins at the beginning", file=sys.stderr)
    if saved.exists() and not options.resume:
        raise FastconvError(f"{saved} is there from a run that was interrupted: go on with --resume, or remove it")
    model = inputs.load(options.model, inputs.How(options.threads))
    if not os.path.isdir(folder):
        raise NotADirectoryError(20, "expected a folder with one folder of images for each class", folder)
    epochs, stop = parse_epochs(options.epochs), _Stop()
    problems: list[tuple[str, str]] = []

    def skipped(path: str, problem: str) -> None:
        problems.append((path, problem))
        output.warning(f"{path}: {problem}: skipped")

    def began(*_: Any) -> None:
        stop.learning = True

    try:
        with stop.listening(), output.warnings_as_lines():
            result = fine_tune(
                model, folder, epochs if options.unfreeze else (epochs[0], 0), unfreeze=options.unfreeze,
                hidden=inputs.numbers(options.hidden, "--hidden", int) if options.hidden else (),
                dropout=options.dropout, learning_rate=options.rate, batch_size=options.batch,
                validation_split=options.validation, augment=_names(options.augment), views=options.views,
                preset=options.preset, seed=options.seed, threads=options.threads, device=options.device,
                precision=options.precision, checkpoint=saved, resume=options.resume,
                callbacks=[LambdaCallback(on_train_batch_begin=began)], on_skip=skipped, stop=stop,
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = f"{saved} has all that is needed to go on: the same command with --resume"
        print(f"stopped; {kept if saved.exists() else 'there was no step yet, nothing is kept'}", file=sys.stderr)
        return 130
    except ValueError as e:
        raise e if isinstance(e, FastconvError) else FastconvError(with_flags(str(e))) from e
    result.save(out)
    files = [str(out), *(draw(result, out) if options.plots else [])]
    saved.unlink(missing_ok=True)
    if options.json:
        output.dump_json(document(result, files))
    else:
        report(result, files)
    return 0


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("", "none") else tuple(part.strip() for part in text.split(","))


def draw(result: FineTuned, out: Path) -> list[str]:
    """Learning curves and confusion matrix beside the model; a line says so where matplotlib is missing."""
    from fastconv import plots

    title = f"{out.stem}: {result.accuracy:.1%} of the validation images"
    try:
        made = [
            plots.learning_curves(
                result.history, out.with_name(f"{out.stem}-curves.png"), phases=[result.phases[0]], title=title
            ),
            plots.confusion_matrix(result.confusion, result.class_names, out.with_name(f"{out.stem}-confusion.png")),
        ]
    except FastconvError as e:
        print(f"no pictures: {e}", file=sys.stderr)
        return []
    return [str(p) for p in made]


def worst(result: FineTuned, most: int = 3) -> list[tuple[int, str, str]]:
    """(count, label, prediction) of the commonest mistakes."""
    names = result.class_names
    mistakes = [
        (int(n), names[i], names[j])
        for i, row in enumerate(result.confusion)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(mistakes, key=lambda m: -m[0])[:most]


def report(result: FineTuned, files: Sequence[str]) -> None:
    total = int(result.confusion.sum())
    right = int(result.confusion.trace())
    output.print_line(f"{right} of {total} validation images are right ({result.accuracy:.1%})", style="bold")
    for n, label, prediction in worst(result):
        output.print_line(f"  {n} of {label} taken for {prediction}")
    if result.skipped:
        noun = "file" if len(result.skipped) == 1 else "files"
        output.print_line(f"{len(result.skipped)} {noun} could not be read")
    output.print_line("wrote", ", ".join(files))


def document(result: FineTuned, files: Sequence[str]) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy, "class_names": result.class_names, "confusion": result.confusion.tolist(),
        "history": result.history, "phases": list(result.phases), "preset": result.preset.name,
        "skipped": [{"image": p, "error": e} for p, e in result.skipped], "files": list(files),
    }  # fmt: skip
