"""Tensors that live in files of their own, beside the model.

Only regular files inside the model's folder are opened: no absolute path, no "..", no symbolic link that leads out of
it. Offset and length are checked against the file's size and the tensor's dims.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastconv.errors import ModelError
from fastconv.onnx.scan import open_file

if TYPE_CHECKING:
    from fastconv._core import ModelFile, OnnxTensor


class ExternalFiles:
    """The data files of one model, each opened once. `folder` None: the model came as bytes and may have none."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._open: dict[str, ModelFile] = {}

    @property
    def size(self) -> int:
        """Bytes of the files opened so far; one that is known under two names counts twice."""
        return sum(int(f.size) for f in self._open.values())

    def locate(self, tensor: OnnxTensor, nbytes: int) -> tuple[ModelFile, int]:
        """The open file and the offset where the `nbytes` bytes of an external tensor start; ModelError if refused."""
        what = f"tensor {tensor.name!r}"
        fields = tensor.external_data
        location = fields.get("location", "")
        file = self._file(location, what)
        offset, length = _number(fields, "offset", 0, what), _number(fields, "length", nbytes, what)
        if length != nbytes:
            raise ModelError(f"{what}: external data of {length} bytes, but its dims ask for {nbytes}")
        if offset + length > file.size:
            raise ModelError(
                f"{what}: external data at bytes {offset} to {offset + length}, "
                f"but {location!r} has only {file.size} bytes"
            )
        return file, offset

    def _file(self, location: str, what: str) -> ModelFile:
        if location in self._open:
            return self._open[location]
        if self._folder is None:
            raise ModelError(
                f"{what} is in an external file, which a model given as bytes cannot have: load it by path"
            )
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ".." in parts or parts[0] == "":
            raise ModelError(f"{what}: external data path {location!r} does not stay inside the model's folder")
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(folder, location))
        if os.path.commonpath([folder, path]) != folder or path == folder:
            raise ModelError(f"{what}: external data path {location!r} leads out of the model's folder")
        try:
            # The path has no links left; one that appears now, between check and open, is refused.
            file = open_file(path, follow=False)
        except OSError as e:
            raise ModelError(f"{what}: external data file {location!r} cannot be opened: {e.strerror}") from None
        except ModelError:
            raise ModelError(f"{what}: external data {location!r} is no regular file") from None
        return self._open.setdefault(location, file)


def _number(fields: dict[str, str], key: str, default: int, what: str) -> int:
    text = fields.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ModelError(f"{what}: external data {key} {text!r} is no number of bytes")
    return int(text)
