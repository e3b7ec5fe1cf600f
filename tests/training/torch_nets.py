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
from tests.training import kinks

Arrays = dict[str, np.ndarray]


def build_net(name: str, train: bool = False, size: int | None = 64) -> tuple[Any, tuple[int, ...]]:
    """A torch network of bench/export.py, its batch norms in this mode, and (C, H, W) of its images."""
    net, image = build(name, size=None if name == "lenet5" else size)
    norms_train(net, train)
    return net, image


def settled(name: str, n: int, train: bool, candidates: int = 24) -> tuple[Any, np.ndarray]:
    """A network and images [N, H, W, C] that keep away from its kinks, by torch alone (see kinks.py).

    Biases move all ReLUs' inputs away from kinks; of `candidates` batches the one whose windows of maxima are the most
    decided is taken.
    """
    import torch

    best: tuple[float, Any, Any] = (-1.0, None, None)
    first, image = build_net(name, train)
    for seed in range(candidates):
        x = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, *image)).astype(np.float32))
        net = copy.deepcopy(first)
        kinks.settle(net, x)
        best = max(best, (kinks.clearance(net, x), net, x), key=lambda found: found[0])
    print(f"\n{name}: the number nearest to a kink is {best[0]:.1f} rounding errors away from it")
    return best[1], np.ascontiguousarray(best[2].numpy().transpose(0, 2, 3, 1))


def as_layers(net: Any, image: tuple[int, ...], path: Path, train: bool) -> Model:
    """The network as layers, from an ONNX file; frozen batch norms where they do not train."""
    import torch

    modes = {module: module.training for module in net.modules()}
    export(net.eval(), image, path, exporter="classic", dynamic=True, keep_bn=True)
    for module, mode in modes.items():
        module.training = mode
    assert isinstance(net, torch.nn.Module)
    model = fastconv.load(path).as_layers()
    if not train:
        freeze_norms(model)
    return model


def batch(model: Model, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, channels last, and classes."""
    rng = np.random.default_rng(seed)
    shape = model.inputs[0].shape[1:]
    return rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(0, model.output_shape[-1], n)


def decided_batch(net: Any, model: Model, n: int, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """The batch of which the numbers keep away most from kinks, by torch alone."""
    import torch

    made = [batch(model, n, seed) for seed in seeds]
    images = [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x, _ in made]
    return made[int(np.argmax([kinks.clearance(net, x) for x in images]))]


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


def torch_gradients(
    net: Any, x: np.ndarray, y: np.ndarray, double: bool, pieces: list[Any] | None = None
) -> tuple[float, Arrays]:
    """pieces: of the kinks, in order, those to take; None: those that the numbers say."""
    net = copy.deepcopy(net)
    net = net.double() if double else net.float()
    with kinks.Watch(pieces):
        loss = torch_loss(net, x, y)
    loss.backward()
    return float(loss.detach()), {n: p.grad.numpy().astype(np.float64) for n, p in net.named_parameters()}


def compile_for_gradients(model: Model) -> None:
    model.compile("sgd", SparseCategoricalCrossentropy(from_logits=True))


def our_gradients(model: Model, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
    """By the names in the file, which are torch's."""
    loss, found = model.trainer().gradients([x], y.astype(np.float32))
    return loss, {v.path: g for v, g in found.items()}


class OurKinks:
    """As our_gradients, and all ReLUs' outputs and maxima's inputs, N C H W, in order; one plan computes them all."""

    def __init__(self, model: Model, n: int) -> None:
        self.trainer = trainer = model.trainer()
        graph, scope, found = trainer._differentiated([(n, *model.inputs[0].shape[1:])], (n,))
        nodes = [node for node in graph.nodes if node.op in ("Relu", "Clip", "MaxPool")]
        kinks = [node.input(0) if node.op == "MaxPool" else node.output for node in nodes]
        graph.outputs = [
            graph.outputs[0],
            *(graph.add("Copy", [v], v.shape) for v in [*(g for *_, g in found), *kinks]),
        ]
        self.compiled = trainer.compile(graph, {value.name: variable for value, variable in scope.states.items()})
        self.names = [variable.path for variable, *_ in found]

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays, list[np.ndarray]]:
        outputs = [np.empty(shape, np.float32) for _, shape in self.compiled.outputs]
        share = np.full(len(y), 1 / len(y), np.float32)
        self.trainer.executor.run(self.compiled.plan, [x, y.astype(np.float32), share, *outputs])
        loss, gradients, seen = outputs[0], outputs[1 : len(self.names) + 1], outputs[len(self.names) + 1 :]
        return float(loss[0]), dict(zip(self.names, gradients, strict=True)), seen


def errors(got: Arrays, want: Arrays) -> dict[str, float]:
    """|got - want| / |want| of each tensor, in norms.

    Tensors on which the loss does not depend (a shift in front of a batch norm) are left out: torch's float64 gives
    1e-16 of the others for them.
    """
    largest = max(float(np.linalg.norm(w)) for w in want.values())
    norms = {n: float(np.linalg.norm(w)) for n, w in want.items() if n in got}
    return {n: float(np.linalg.norm(got[n] - want[n])) / norm for n, norm in norms.items() if norm > 1e-12 * largest}
