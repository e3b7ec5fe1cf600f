"""Networks of torch and of fastconv with the same weights, and what torch makes of them. Needs torch to run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from bench.export import build, export
from fastconv.losses import SparseCategoricalCrossentropy
from fastconv.models import Model

Arrays = dict[str, np.ndarray]


def pair(name: str, folder: Path) -> tuple[Any, Model]:
    """A torch network of bench/export.py in eval mode, and the same from an ONNX file, as layers.

    Images are small, so that few numbers lie within rounding errors of a kink of ReLU or a tie of a maximum: each that
    falls on the other side of it changes gradients by about 1 / sqrt(pixels), 1e-3 to 1e-2, in torch's float32 too.
    """
    net, image = build(name, size=None if name == "lenet5" else 64)
    path = folder / f"{name}.onnx"
    export(net, image, path, exporter="classic", dynamic=True, keep_bn=True)
    return net, fastconv.load(path).as_layers()


def batch(model: Model, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, channels last, and classes."""
    rng = np.random.default_rng(seed)
    shape = model.inputs[0].shape[1:]
    return rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(0, model.output_shape[-1], n)


def freeze_norms(model: Model) -> None:
    for layer in model.layers:
        if getattr(layer, "op", type(layer).__name__) == "BatchNormalization":
            layer.trainable = False


def norms_train(net: Any, train: bool) -> None:
    """Batch norms in this mode; all that is random stays off."""
    from torch import nn

    net.eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(train)


def torch_loss(net: Any, x: np.ndarray, y: np.ndarray) -> Any:
    import torch

    dtype = next(net.parameters()).dtype
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(dtype)
    return torch.nn.functional.cross_entropy(net(images), torch.from_numpy(y))


def torch_gradients(net: Any, x: np.ndarray, y: np.ndarray, double: bool) -> tuple[float, Arrays]:
    net = copy.deepcopy(net)
    net = net.double() if double else net.float()
    loss = torch_loss(net, x, y)
    loss.backward()
    return float(loss), {n: p.grad.numpy().astype(np.float64) for n, p in net.named_parameters()}


def our_gradients(model: Model, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
    """By the names in the file, which are torch's."""
    model.compile("sgd", SparseCategoricalCrossentropy(from_logits=True))
    loss, found = model.trainer().gradients([x], y.astype(np.float32))
    return loss, {v.path: g for v, g in found.items()}


def errors(got: Arrays, want: Arrays) -> dict[str, float]:
    """|got - want| / |want| of each tensor, in norms.

    Tensors on which the loss does not depend (a shift in front of a batch norm) are left out: torch's float64 gives
    1e-16 of the others for them.
    """
    largest = max(float(np.linalg.norm(w)) for w in want.values())
    norms = {n: float(np.linalg.norm(w)) for n, w in want.items() if n in got}
    return {n: float(np.linalg.norm(got[n] - want[n])) / norm for n, norm in norms.items() if norm > 1e-12 * largest}
