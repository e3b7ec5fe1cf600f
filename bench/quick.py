"""A quick paired check of speed: ResNet50 and VGG16 against onnxruntime, in turns, in under two minutes.

    python -m bench.quick [--threads 1] [--runs 30] [--json OUT]

Needs no torch: the networks are written here, with random weights. Each ratio is the median over turns of fastconv's
time to onnxruntime's, with the 95% interval of that median from its order statistics. Exit code 1 where a ratio's
interval lies wholly above its limit, where the outputs disagree, or where an engine fails. The limits hold for CPUs
with AVX-512; elsewhere the check is for 1.0: slower than onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import models, runner, timing
from tests.models.builder import Builder

FOLDER = Path("build/models/quick")
LIMITS = {"resnet50": 0.95, "vgg16": 0.6}


def resnet50() -> Any:
    """ResNet50 v1.5 (stride in the 3x3 convolutions), as torchvision's; batch norm folded, as exporters leave it."""
    b = Builder(50, (3, 224, 224))
    x = b.relu(b.conv(b.x, 64, 7, 2, bias=True))
    x = b.pool("MaxPool", x, 3, 2, (1, 1, 1, 1))
    for mid, repeats, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            stride = first if i == 0 else 1
            y = b.relu(b.conv(x, mid, 1, bias=True))
            y = b.relu(b.conv(y, mid, 3, stride, bias=True))
            y = _halved(b, y, 4 * mid)
            short = x if i else _halved(b, x, 4 * mid, stride)
            x = b.relu(b.op("Add", y, short))
    return b.model((b.head(x, 1000), [1000]))


def _halved(b: Builder, x: str, out: int, stride: int = 1) -> str:
    """A 1x1 convolution with half the usual variance, so that sums of two keep the size of their terms."""
    b.initializers_before = len(b.initializers)  # type: ignore[attr-defined]
    return b.conv(x, out, 1, stride, bias=True)


def vgg16() -> Any:
    b = Builder(16, (3, 224, 224))
    x = b.x
    for out, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = b.relu(b.conv(x, out, 3, bias=True))
        x = b.pool("MaxPool", x, 2, 2)
    x = b.op("Flatten", x, axis=1)
    x = b.relu(b.dense(x, 25088, 4096))
    x = b.relu(b.dense(x, 4096, 4096))
    return b.model((b.dense(x, 4096, 1000), [1000]))
