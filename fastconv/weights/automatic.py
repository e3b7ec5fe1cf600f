"""Layers whose names are automatic (conv2d, conv2d_1, ...) beside those of a file, by the order of their numbers.

The numbers count on in one process: the same network built a second time has other ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from fastconv.layers.base import Layer, snake_case

_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")


def file_names(layers: Sequence[Layer], stored: Collection[str]) -> dict[str, str]:
    """For each layer's name the one that a file with the layers `stored` has for it.

    Names that somebody gave stay as they are, and so do all where the file has them all. Else the n-th automatic
    conv2d here, by number, is the n-th conv2d among the file's other layers, for each kind of layer of which both have
    equally many.
    """
    names = {layer.name: layer.name for layer in layers}
    if set(names) == set(stored):
        return names
    for _, own, theirs in _kinds(layers, stored):
        if len(theirs) == len(own):
            names.update(zip(own, theirs, strict=True))
    return names


def difference(layers: Sequence[Layer], stored: Collection[str]) -> str:
    """What to say where automatic names cannot be matched: how many layers of a kind are here and there; or ""."""
    for stem, own, theirs in _kinds(layers, stored):
        if len(theirs) != len(own):
            return (
                f"; names such as {(own or [stem])[0]!r} are automatic and matched by their order: the model has"
                f" {len(own)} layers {stem!r} with weights, the file {len(theirs)}"
            )
    return ""


def numbered(names: Collection[str], stem: str) -> list[str]:
    """Those that are `stem` or `stem`_1, `stem`_2, ..., by their numbers."""
    found: dict[int, str] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None and match[1] == stem:
            found[int(match[2] or 0)] = name
    return [found[n] for n in sorted(found)]


def _kinds(layers: Sequence[Layer], stored: Collection[str]) -> list[tuple[str, list[str], list[str]]]:
    """For each kind of layer with automatic names here: what they begin with, the names here and those in the file."""
    given = {layer.name for layer in layers if not layer.named_automatically}
    stems: dict[str, list[str]] = {}
    for layer in layers:
        own = stems.setdefault(snake_case(type(layer).__name__), []) if layer.named_automatically else []
        if layer.name not in own:
            own.append(layer.name)
    others = set(stored) - given
    return [(stem, numbered(own, stem), numbered(others, stem)) for stem, own in stems.items()]
