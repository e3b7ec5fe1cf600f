"""Pictures of a training: learning curves and confusion matrices. Needs matplotlib: pip install "fastconv[plots]"."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.errors import FastconvError
from fastconv.paths import replacing

BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#94a3b8"
_LONGEST = 18  # characters of a class name


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FastconvError('pictures need a package: pip install "fastconv[plots]"') from None
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    with replacing(target) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the font draws a box: no news on a terminal
        figure.savefig(partial, dpi=110, format=target.suffix[1:] or "png")
    return target


def learning_curves(
    history: Mapping[str, Sequence[float]], path: str | os.PathLike[str], *, phases: Sequence[int] = (), title: str = ""
) -> Path:
    """Loss and accuracy over the epochs, of training and validation. phases: epochs after which something changed.

    history: a History's `history`. The picture's kind follows the path's ending. Raises FastconvError without
    matplotlib.
    """
    names = [n for n in history if not n.startswith("val_") and n != "learning_rate"]
    names = sorted(names, key=lambda n: n != "loss")
    if not names:
        raise ValueError("learning_curves: the history is empty")
    figure = _figure(4.2 * len(names), 3.4)
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        _curve(axes, history, name, phases)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return _save(figure, path)


def _curve(axes: Any, history: Mapping[str, Sequence[float]], name: str, phases: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for key, label, colour in ((name, "training", BLUE), (f"val_{name}", "validation", ORANGE)):
        values = np.asarray(history.get(key, ()), float)
        if len(values):
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, marker="o", markersize=3)
    count = len(history[name])
    for phase in phases:
        if 0 < phase < count:
            axes.axvline(phase + 0.5, color=GREY, linewidth=1, linestyle="--")
            axes.annotate(
                "fine-tuned", (phase + 0.5, 0.5), xycoords=("data", "axes fraction"), xytext=(3, 0), rotation=90,
                textcoords="offset points", fontsize=8, color=GREY, va="center",
            )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_title(name.replace("_", " "), fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    if "acc" in name:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.04)
    axes.grid(color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def confusion_matrix(
    matrix: npt.ArrayLike, class_names: Sequence[str], path: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """Counts [classes, classes] of label (rows) and prediction (columns), shaded by the share of the row.

    More than 30 classes are drawn without numbers and names. Raises FastconvError without matplotlib.
    """
    counts = np.asarray(matrix, np.int64)
    n = len(counts)
    if counts.shape != (n, n) or n != len(class_names) or n == 0:
        raise ValueError(f"confusion_matrix: {counts.shape} counts and {len(class_names)} names do not fit")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = n <= 30
    names = [s if len(s) <= _LONGEST else s[: _LONGEST - 1] + "\u2026" for s in class_names]
    side = min(8.0, max(2.0, 0.42 * n))
    margin = 0.9 + (0.09 * max(map(len, names)) if named else 0)
    figure = _figure(side + margin + (0 if named else 0.8), side + margin)
    axes = figure.add_subplot(1, 1, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        turned = max(map(len, names)) > 3
        axes.set_xticks(range(n), names, rotation=45 if turned else 0, ha="right" if turned else "center",
                        parse_math=False)  # fmt: skip
        axes.set_yticks(range(n), names, parse_math=False)
        size = max(5.0, min(10.0, 120 / n))
        for i, j in np.argwhere(counts):
            colour = "white" if shares[i, j] > 0.55 else "#1e293b"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=size)
    else:
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class").outline.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(title or f"{np.trace(counts)} of {counts.sum()} ({accuracy:.1%})", fontsize=11, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return _save(figure, path)
