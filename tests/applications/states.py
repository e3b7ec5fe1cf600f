"""State dicts that torch and the tests make alike, without torch: each tensor follows from its name and shape."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.torch_writer import tensor, zip_file

F32 = npt.NDArray[np.float32]

# name of the application -> name in torchvision (timm for Xception)
TORCH = {
    "AlexNet": "alexnet",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "GoogLeNet": "googlenet",
    "InceptionV3": "inception_v3",
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    **{f"EfficientNetB{i}": f"efficientnet_b{i}" for i in range(8)},
    "Xception": "xception",
}
SIZES = {"InceptionV3": ((139, 107), (107, 123)), "Xception": ((107, 83), (75, 91))}
USUAL_SIZES = ((97, 75), (67, 90))


def sizes(application: str) -> tuple[tuple[int, int], ...]:
    """Two image sizes, odd and not square, for the network without its top."""
    return SIZES.get(application, USUAL_SIZES)


def numbers(name: str, shape: tuple[int, ...]) -> F32:
    """A tensor of torch's state dict: He's deviations, and random statistics, which show swapped channels."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    end = name.rsplit(".", 1)[-1]
    if end == "running_var":  # above 1, or residual networks of a hundred layers become too steep to compare
        return rng.uniform(1.0, 2.0, shape).astype(np.float32)
    if end == "weight" and len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    a = rng.standard_normal(shape, np.float32)
    a *= np.float32(math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.2)
    return a


def image(size: tuple[int, int], channels: int = 3) -> F32:
    """[1, H, W, channels]."""
    return np.random.default_rng(size[0] * 1000 + size[1]).standard_normal((1, *size, channels), np.float32)


def pth(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A file as torch.save writes it."""
    root = OrderedDict((n, tensor(str(i), a)) for i, (n, a) in enumerate(arrays.items()))
    return zip_file(root, {str(i): np.ascontiguousarray(a).tobytes() for i, a in enumerate(arrays.values())})


def torch_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the state dict that torch has for the network of a fastconv model."""
    from fastconv.layers import Dense
    from fastconv.models import all_variables
    from fastconv.weights.load import torch_name

    return {
        torch_name(layer, v): v.graph_shape[::-1] if isinstance(layer, Dense) and v.name == "kernel" else v.graph_shape
        for layer, v in all_variables(model)
    }


def write_pth(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    path.write_bytes(pth({name: numbers(name, shape) for name, shape in shapes.items()}))
    return path


def sample(y: F32, count: int = 12) -> list[float]:
    """Some numbers of an output, spread over it, and its largest magnitude."""
    flat = y.reshape(-1)
    where = np.linspace(0, flat.size - 1, count).astype(int)
    return [float(v) for v in [*flat[where], np.abs(flat).max()]]


def listing(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Names and shapes as text, for a hash."""
    return "\n".join(sorted(f"{n} {'x'.join(map(str, s))}" for n, s in shapes))
