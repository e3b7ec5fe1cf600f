"""Images to arrays and batches: Keras' `load_img`, `img_to_array`, `image_dataset_from_directory`, and named presets of
what published networks expect."""

from __future__ import annotations

from fastconv.preprocessing.augment import Augmentation
from fastconv.preprocessing.dataset import Dataset, image_dataset_from_directory
from fastconv.preprocessing.features import Features, cache_features
from fastconv.preprocessing.image import img_to_array, load_img
from fastconv.preprocessing.presets import PRESETS, Preset, preset

__all__ = [
    "PRESETS",
    "Augmentation",
    "Dataset",
    "Features",
    "Preset",
    "cache_features",
    "image_dataset_from_directory",
    "img_to_array",
    "load_img",
    "preset",
]
