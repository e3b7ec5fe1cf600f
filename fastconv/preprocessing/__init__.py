"""Images to arrays: Keras' `load_img` and `img_to_array`, and named presets of what published networks expect."""

from __future__ import annotations

from fastconv.preprocessing.image import img_to_array, load_img
from fastconv.preprocessing.presets import PRESETS, Preset, preset

__all__ = ["PRESETS", "Preset", "img_to_array", "load_img", "preset"]
