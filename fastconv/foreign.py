"""What a file is that was given as a model or as weights and is neither, by its first bytes: for messages only."""

from __future__ import annotations

import os
from typing import Final

HEAD: Final = 512  # bytes that are looked at
_EXPORT = "export the network with torch.onnx.export first"
# where the mark lies, the mark, what it means
_MARKS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"BM", "a BMP image"),
    (0, b"II*\x00", "a TIFF image"),
    (0, b"MM\x00*", "a TIFF image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program or library"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"PK\x03\x04", f"a zip archive, such as a torch or Keras file: {_EXPORT}, or with tf2onnx"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes: convert it with tf2onnx first"),
    (4, b"TFL3", "a TensorFlow Lite file: convert it with tf2onnx first"),
    (4, b"ORTM", "a file in onnxruntime's own format: use the ONNX file that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
)


def foreign(source: object) -> str | None:
    """What a path or bytes hold, or None where that is unknown (an ONNX model is)."""
    head = _head(source)
    for at, mark, what in _MARKS:
        if head[at : at + len(mark)] == mark:
            return what
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return f"a pickle, such as an old torch file: {_EXPORT}"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file: it holds weights, but no network"
    text = head.lstrip()
    if text[:1] == b"<":
        return "a web page or an XML file, perhaps of a download that failed"
    if len(head) >= 4 and all(32 <= b < 127 or b in b"\t\r\n" for b in head):
        return "a text file"
    return None


def _head(source: object) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):  # a FIFO would block
            return b""
        with open(source, "rb") as file:
            return file.read(HEAD)
    return bytes(source[:HEAD]) if isinstance(source, (bytes, bytearray, memoryview)) else b""
