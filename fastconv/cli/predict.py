"""`fastconv predict`: images in, class names out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv.cli import inputs, output
from fastconv.data import imagenet_labels, load_labels
from fastconv.errors import FastconvError, ModelError, ShapeError
from fastconv.preprocessing import Preset, preset
from fastconv.preprocessing.dataset import find_images as images_below
from fastconv.preprocessing.presets import from_metadata
from fastconv.saved import image_layout

if TYPE_CHECKING:
    from fastconv.model import Model

_PROGRESS_FROM = 9  # images


@dataclass
class Options:
    """What the command line says; None where it says nothing."""

    model: str
    preset: str | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    labels: str | None = None
    top: int = 5
    batch: int = 1
    how: inputs.How = inputs.DEFAULT
    json: bool = False


@dataclass
class _Target:
    """The model's image input: its name, layout, dtype and the sizes that the file fixes."""

    name: str
    layout: str
    dtype: np.dtype[Any]
    batch: int | None
    size: tuple[int, int] | None


def find_images(paths: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Files as given and, below folders, every file whose extension Pillow reads; and (path, problem) of the rest."""
    found: list[str] = []
    problems: list[tuple[str, str]] = []
    for path in paths:
        inside = images_below(path) if os.path.isdir(path) else [path]
        found += inside
        if not inside:
            problems.append((path, "no images in this folder"))
    return found, problems


def _target(model: Model) -> _Target:
    if len(model.inputs) != 1:
        names = ", ".join(i.name for i in model.inputs)
        raise ModelError(f"the model has {len(model.inputs)} inputs ({names}): predict needs one image input")
    value = model.inputs[0]
    shape = value.shape
    layout = image_layout(shape)
    if len(shape) != 4 or (layout == "NCHW" and isinstance(shape[1], int) and shape[1] != 3):
        found = ", ".join(map(str, shape))
        raise ModelError(f"input {value.name!r}: expected [N, 3, H, W] or [N, H, W, 3], got [{found}]")
    height, width = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    batch = shape[0] if isinstance(shape[0], int) else None
    return _Target(value.name, layout, np.dtype(value.dtype), batch, size)


def build_preset(options: Options, size: tuple[int, int] | None, metadata: Mapping[str, str] | None = None) -> Preset:
    """The named preset (else the file's, else torchvision), fitted to the model's fixed size, with the flags on top.

    Flags are taken as they are.
    """
    chosen = from_metadata(metadata or {}) if options.preset is None else None
    chosen = chosen or preset(options.preset or "torchvision")
    if size is not None:
        chosen = chosen.for_size(*size)
    changes: dict[str, Any] = {}
    for name, side in (("resize", options.resize), ("crop", options.crop)):
        if side is not None:
            changes |= {name: (side, side), "squash": None}
    if "resize" in changes and "crop" not in changes and chosen.crop is None:
        changes["crop"] = chosen.squash
    for name, text in (("mean", options.mean), ("std", options.std)):
        if text is not None:
            changes[name] = inputs.numbers(text, f"--{name}", float, 3)
    if options.interpolation is not None:
        changes["interpolation"] = options.interpolation
    return replace(chosen, **changes)


def probabilities(scores: npt.NDArray[Any], name: str) -> npt.NDArray[np.float64]:
    """Rows that sum to one: the scores themselves where they already do, else their softmax.

    `scores` is [N, classes], or [N, classes, 1, 1]. Raises ModelError for another rank and for NaN.
    """
    rows = scores.reshape(scores.shape[:2]) if scores.ndim > 2 and set(scores.shape[2:]) == {1} else scores
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ModelError(f"output {name!r}: expected [N, classes], got {list(scores.shape)}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ModelError(f"output {name!r} holds NaN or infinity: are the weights damaged? (fastconv info tells)")
    if (rows >= -1e-6).all() and (np.abs(rows.sum(axis=1) - 1) < 1e-3).all():
        return rows
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def class_names(file: str | None, classes: int, own: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names from --labels; else the model's own, ImageNet's for 1000 classes, or 1001 with a background; or "class 17".

    Raises ShapeError where the file's count does not fit.
    """
    if file is not None:
        names = load_labels(file)
        if len(names) != classes:
            raise ShapeError(f"--labels {file}: {len(names)} names, but the model has {classes} classes")
        return names
    if own is not None and len(own) == classes:
        return tuple(own)
    if classes == 1000:
        return imagenet_labels()
    if classes == 1001:
        return ("background", *imagenet_labels())
    return tuple(f"class {i}" for i in range(classes))


class _Job:
    """One run of the command: what it found and what failed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.model = inputs.load(options.model, options.how)
        self.target = _target(self.model)
        self.output = self.model.outputs[0].name
        self.preset = replace(build_preset(options, self.target.size, self.model.metadata), layout=self.target.layout)
        size, wanted = self.preset.size, self.target.size
        if size and wanted and size != wanted:  # once, not for each image
            raise ShapeError(
                f"images become {size[0]} x {size[1]} by --crop or --resize, but {options.model} takes "
                f"{wanted[0]} x {wanted[1]}"
            )
        self.results: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []

    def fail(self, path: str, problem: object) -> None:
        text = " ".join(str(problem).split()).removeprefix(f"{path}: ")
        self.failed.append({"image": path, "error": text})
        output.error(f"{path}: {text}")

    def read(self, path: str) -> npt.NDArray[Any] | None:
        try:
            return self.preset.apply(path).astype(self.target.dtype, copy=False)
        except OSError as e:
            self.fail(path, e.strerror or e)
        except (FastconvError, MemoryError) as e:
            self.fail(path, e)
        return None

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[list[str], npt.NDArray[Any], int]]:
        """(paths of the readable images, their array, images attempted); equal sizes, at most --batch of them."""
        limit = self.target.batch or self.options.batch
        held: list[tuple[str, npt.NDArray[Any]]] = []
        tried = 0
        for path in paths:
            array = self.read(path)
            tried += 1
            if array is None:
                continue
            if held and held[0][1].shape != array.shape:
                yield [p for p, _ in held], np.concatenate([a for _, a in held]), tried - 1
                held, tried = [], 1
            held.append((path, array))
            if len(held) == limit:
                yield [p for p, _ in held], np.concatenate([a for _, a in held]), tried
                held, tried = [], 0
        if held or tried:
            yield [p for p, _ in held], np.concatenate([a for _, a in held]) if held else np.empty(0), tried

    def run(self, paths: list[str], batch: npt.NDArray[Any]) -> None:
        """Classify one batch; a fixed batch size is filled up with zeros, whose results are dropped."""
        fill = (self.target.batch or len(paths)) - len(paths)
        if fill > 0:
            batch = np.concatenate([batch, np.zeros((fill, *batch.shape[1:]), batch.dtype)])
        try:
            scores = np.asarray(self.model.run([self.output], {self.target.name: batch})[0])
            if scores.ndim == 0 or scores.shape[0] != len(batch):
                raise ModelError(f"output {self.output!r}: expected {len(batch)} rows, got {list(scores.shape)}")
            rows = probabilities(scores, self.output)[: len(paths)]
        except FastconvError as e:
            for path in paths:
                self.fail(path, e)
            return
        names = class_names(self.options.labels, rows.shape[1], self.model.class_names)
        for path, row in zip(paths, rows, strict=True):
            best = np.argsort(-row, kind="stable")[: self.options.top]
            found = [{"class": int(i), "label": names[i], "probability": float(row[i])} for i in best]
            self.results.append({"image": path, "predictions": found})
            if not self.options.json:
                self.show(path, found)

    def show(self, path: str, found: list[dict[str, Any]]) -> None:
        output.print_line(path, style="bold")
        for place, item in enumerate(found):
            style = "green" if place == 0 else ""
            output.print_line(f"  {item['probability'] * 100:5.1f}%  {item['label']}", style=style)


def run(images: Sequence[str], options: Options) -> int:
    """Classify; returns the exit code: 1 where any image failed."""
    job = _Job(options)
    if options.labels is not None:
        load_labels(options.labels)  # a wrong file is reported once, before any image
    paths, problems = find_images(images)
    for path, problem in problems:
        job.fail(path, problem)
    with output.progress(len(paths), "classifying", _PROGRESS_FROM) as tick:
        for names, batch, tried in job.batches(paths):
            if names:
                job.run(names, batch)
            for _ in range(tried):
                tick(os.path.basename(names[-1]) if names else "")
    if options.json:
        output.dump_json(
            {"model": options.model, "preset": job.preset.name, "images": job.results, "failed": job.failed}
        )
    return 1 if job.failed else 0
