"""Files of other kinds, given as a model: the message says what they are."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv.applications import LeNet5
from fastconv.errors import ModelError


def _image(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return out.getvalue()


def _safetensors() -> bytes:
    head = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(4)


FILES = {
    "a PNG image": _image("PNG"),
    "a JPEG image": _image("JPEG"),
    "a GIF image": _image("GIF"),
    "a WebP image": _image("WEBP"),
    "a BMP image": _image("BMP"),
    "a TIFF image": _image("TIFF"),
    "a zip archive, such as a torch or Keras file: export": _zip(),
    "a pickle, such as an old torch file": pickle.dumps({"w": 1.0}),
    "a safetensors file: it holds weights, but no network": _safetensors(),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a TensorFlow Lite file": b"\x1c\0\0\0TFL3" + bytes(100),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "a web page": b"<!DOCTYPE html>\n<html><title>404</title></html>",
    "a text file": b"hello\n",
}


@pytest.mark.parametrize("what", FILES)
def test_what_it_is(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FILES[what])
    with pytest.raises(ModelError, match=rf"model\.onnx: this is no ONNX model but {what}"):
        fastconv.load(path)
    with pytest.raises(ModelError, match=f"^this is no ONNX model but {what}"):
        fastconv.load(FILES[what])
    with pytest.raises(ModelError, match=f"this is no ONNX model but {what}"):
        LeNet5(weights=path)


def test_others_keep_their_message(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for data in (b"", b"\xff" * 100, b"\x10\x01" + bytes(100)):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"model\.onnx: (model file|ir_version)"):
            fastconv.load(path)
    os.mkfifo(tmp_path / "fifo.onnx")
    with pytest.raises(ModelError, match="no regular file"):
        fastconv.load(tmp_path / "fifo.onnx")
