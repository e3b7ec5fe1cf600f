"""What the scripts that draw the documents' pictures share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

COLOURS = 48  # of a kept picture, so that it stays small


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 4, mode: str = "RGB") -> Image.Image:
    """Pictures of one size in rows, `gap` pixels apart."""
    w, h = rows[0][0].size
    columns = max(map(len, rows))
    made = Image.new(mode, (columns * (w + gap) - gap, len(rows) * (h + gap) - gap), "white")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            made.paste(picture, (j * (w + gap), i * (h + gap)))
    return made


def keep(picture: Image.Image, path: Path) -> Path:
    """Write a picture in few colours."""
    picture.quantize(COLOURS).save(path, optimize=True)
    return path


def main(draw: Callable[[Path], list[Path]], page: str) -> None:
    """The command line of a script that draws the pictures of a page into a folder."""
    parser = argparse.ArgumentParser(description=f"Draw the pictures of {page}.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/images"))
    for path in draw(parser.parse_args().folder):
        print(f"{path} {path.stat().st_size:,} bytes")
