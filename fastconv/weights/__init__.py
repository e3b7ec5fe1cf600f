"""Weights of networks made of layers: reading them from files, finding and fetching published ones, writing them."""

from __future__ import annotations

from fastconv.weights.download import cache_folder, published
from fastconv.weights.files import read_weights
from fastconv.weights.load import load_into
from fastconv.weights.save import save_model, save_safetensors

__all__ = ["cache_folder", "load_into", "published", "read_weights", "save_model", "save_safetensors"]
