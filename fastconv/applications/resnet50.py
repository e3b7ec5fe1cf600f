"""ResNet50, under the name of Keras' module; see resnet.py."""

from __future__ import annotations

from fastconv.applications.resnet import ResNet50, decode_predictions, preprocess_input

__all__ = ["ResNet50", "decode_predictions", "preprocess_input"]
