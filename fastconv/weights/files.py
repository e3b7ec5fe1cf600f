"""Named arrays in files: torch's state dicts, and safetensors (an optional package)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv.errors import FastconvError, ModelError, UnsupportedOpError
from fastconv.foreign import foreign
from fastconv.graph import Array
from fastconv.paths import open_file, replacing
from fastconv.torch_file import load_state_dict


def read_weights(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Name -> float array, by the file's ending: .safetensors, else a torch file.

    Raises ModelError for a broken file, FastconvError where the package safetensors is missing, OSError.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending == ".onnx":
        use = "fastconv.load runs them, and the functions of fastconv.applications take them as weights="
        raise ModelError(f"{os.fspath(path)}: ONNX files hold whole networks: {use}")
    return _read_safetensors(path) if ending == ".safetensors" else load_state_dict(path)


def _safetensors() -> Any:
    try:
        import safetensors.numpy as library
    except ImportError:
        raise FastconvError('.safetensors files need a package: pip install "fastconv[safetensors]"') from None
    return library


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    _safetensors()
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    open_file(path).close()  # safetensors would wait for a pipe
    arrays: dict[str, Array] = {}
    try:
        with safe_open(name, framework="numpy") as file:
            names = file.keys()
            for key in names:
                kind = file.get_slice(key).get_dtype()
                if kind == "BF16":
                    raise UnsupportedOpError(f"{name}: tensor {key!r} is bfloat16, which numpy does not have")
                arrays[key] = file.get_tensor(key)
    except FastconvError:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, AttributeError) as e:
        what = foreign(path)
        found = f", but {what}" if what and "safetensors" not in what else f": {e}"
        raise ModelError(f"{name}: not a readable safetensors file{found}") from None
    if not arrays:
        raise ModelError(f"{name}: no tensors in it")
    return arrays


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the arrays; the file appears when it is whole. Raises FastconvError where safetensors is missing."""
    library = _safetensors()
    with replacing(path) as partial:
        library.save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial, metadata=metadata)
