"""Layers whose names are automatic (conv2d, conv2d_1, ...) beside those of a file, by the order of their numbers.

The numbers count on in one process: the same network built a second time has other ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from fastconv.layers.base import Layer, snake_case

_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")


def stem_of(layer: Layer) -> str | None:
    """What an automatic name of this layer begins with; None where its name is one that somebody gave."""
    stem = snake_case(type(layer).__name__)
    return stem if layer.name == stem or re.fullmatch(rf"{re.escape(stem)}_\d+", layer.name) else None


def file_names(layers: Sequence[Layer], stored: Collection[str]) -> dict[str, str]:
    """For each layer's name the one that a file with the layers `stored` has for it.

    Equal names where the file has them all; else the n-th of its conv2d, by number, is the n-th conv2d here, for each
    kind of layer of which both have equally many. Other names stay as they are.
    """
    names = {layer.name: layer.name for layer in layers}
    if set(names) == set(stored):
        return names
    for stem, own in _by_stem(layers).items():
        theirs = numbered(stored, stem)
        if len(theirs) == len(own):
            names.update(zip(numbered(own, stem), theirs, strict=True))
    return names


def difference(layers: Sequence[Layer], stored: Collection[str]) -> str:
    """What to say where automatic names cannot be matched: how many layers of a kind are here and there; or ""."""
    for stem, own in _by_stem(layers).items():
        there = len(numbered(stored, stem))
        if there != len(own):
            return (
                f"; names such as {own[0]!r} are automatic and matched by their order: the model has {len(own)} layers"
                f" {stem!r} with weights, the file {there}"
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


def _by_stem(layers: Sequence[Layer]) -> Mapping[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for layer in layers:
        stem = stem_of(layer)
        if stem is not None and layer.name not in stems.setdefault(stem, []):
            stems[stem].append(layer.name)
    return stems
