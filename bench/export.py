"""Export torchvision's CNNs, Xception and LeNet-5 to ONNX, with seeded random weights and batch-norm statistics.

    python -m bench.export --out DIR [--models resnet50,vgg16] [--exporter classic|dynamo] [--keep-bn] [--batch 1]

Nothing is downloaded. Needs torch, torchvision, onnx, onnxscript and onnxruntime; timm for xception. Random statistics
matter: with the default ones (mean 0, variance 1, scale 1) a swapped or forgotten channel would not show in the output.
One calibrating forward pass keeps the networks well conditioned, like trained ones: each convolution and dense layer is
scaled to outputs with a standard deviation of 1 (the logits 2), and batch norm's mean and variance are the observed
ones, moved at random by about 0.2 standard deviations and by a factor from 0.5 to 2. (With statistics that ignore the
data, EfficientNet-B0 was so badly conditioned that onnxruntime and torch differed by 1.4e-4 of the largest output.)

Each file is checked in onnxruntime against torch, for a dynamic batch with batch sizes 1 and 3.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Image = tuple[int, int, int]  # C H W
RGB: Image = (3, 224, 224)

# name -> (torchvision builder, its keyword arguments, image). Xception comes from timm, LeNet-5 is below.
MODELS: dict[str, tuple[str, dict[str, Any], Image]] = {
    "resnet50": ("resnet50", {}, RGB),
    "mobilenet_v2": ("mobilenet_v2", {}, RGB),
    "vgg16": ("vgg16", {"init_weights": False}, RGB),
    "efficientnet_b0": ("efficientnet_b0", {}, RGB),
    "resnet18": ("resnet18", {}, RGB),
    "alexnet": ("alexnet", {}, RGB),
    "googlenet": ("googlenet", {"aux_logits": False, "init_weights": False}, RGB),
    "inception_v3": ("inception_v3", {"aux_logits": False, "init_weights": False}, (3, 299, 299)),
    "densenet121": ("densenet121", {}, RGB),
    "squeezenet1_0": ("squeezenet1_0", {}, RGB),
    "squeezenet1_1": ("squeezenet1_1", {}, RGB),
    "shufflenet_v2_x1_0": ("shufflenet_v2_x1_0", {}, RGB),
    "regnet_y_400mf": ("regnet_y_400mf", {}, RGB),
    "resnext50_32x4d": ("resnext50_32x4d", {}, RGB),
    "mnasnet1_0": ("mnasnet1_0", {}, RGB),
    "lenet5": ("own:lenet5", {}, (1, 28, 28)),
    "xception": ("timm:legacy_xception", {}, (3, 299, 299)),
}
TOLERANCE = 1e-4


def import_torchvision() -> Any:
    """torchvision's Python side. Beside a torch of another build its compiled operators are missing, and then the
    import fails on the schemas of nms and qnms; no classifier uses them, so declaring them is enough."""
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def lenet5() -> Any:
    """LeNet-5 (LeCun et al., 1998) as it is written today: full connections between the maps, plain average pooling,
    a linear last layer; the 28x28 digit is padded to 32x32 by the first convolution."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def _randomise(net: Any, gen: Any) -> None:
    """Kaiming-normal weights, small biases, batch-norm statistics and affine parameters unlike their defaults."""
    import torch
    from torch import nn

    def uniform(t: Any, low: float, high: float) -> None:
        t.copy_(torch.rand(t.shape, generator=gen) * (high - low) + low)

    def normal(t: Any, std: float) -> None:
        t.copy_(torch.randn(t.shape, generator=gen) * std)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # the statistics: factors here, applied to the observed ones below
            normal(module.running_mean, 0.2)
            uniform(module.running_var, 0.5, 2.0)
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, 0.0, 1.0)  # mean 0.5: around 0 each ReLU after BN amplifies errors by sqrt(1.47)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            normal(module.weight, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.1)


def _calibrate(net: Any, x: Any) -> None:
    """Scale weights and place batch-norm statistics around the observed ones (see above), in one forward pass."""
    from torch import nn

    def place(module: Any, inputs: Any) -> None:
        var, mean = inputs[0].var((0, 2, 3)), inputs[0].mean((0, 2, 3))
        var = var.clamp(min=0.1 * float(var.mean()))  # a channel that is nearly dead stays so
        module.running_mean.mul_(var.sqrt()).add_(mean)
        module.running_var.mul_(var)

    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    def hook(module: Any, _inputs: Any, y: Any) -> Any:
        factor = (2.0 if module is layers[-1] else 1.0) / max(float(y.std()), 1e-6)
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.mul_(factor)
        return y * factor

    handles = [m.register_forward_hook(hook) for m in layers]
    handles += [m.register_forward_pre_hook(place) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net(x)
    for h in handles:
        h.remove()


def build(name: str, seed: int = 0, size: int | None = None) -> tuple[Any, Image]:
    """The torch module in eval mode, with seeded random weights, and its image shape. KeyError for an unknown name.

    size: of the image's sides; VGG16's first dense layer then fits the image.
    """
    import torch

    builder, kwargs, image = MODELS[name]
    image = image if size is None else (image[0], size, size)
    gen = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    torch.manual_seed(seed)
    if builder.startswith("own:"):
        net = globals()[builder[4:]](**kwargs)
    elif builder.startswith("timm:"):
        import_torchvision()  # timm imports it
        import timm

        net = timm.create_model(builder[5:], pretrained=False, **kwargs)
    else:
        net = getattr(import_torchvision().models, builder)(weights=None, **kwargs)
    if builder == "vgg16" and size is not None:
        net.avgpool = torch.nn.Identity()
        net.classifier[0] = torch.nn.Linear(512 * (size // 32) ** 2, 4096)
    net.eval()
    with torch.no_grad():
        _randomise(net, gen)
        _calibrate(net, torch.randn(4, *image, generator=gen))
    return net, image


def export(net: Any, image: Image, path: Path, *, exporter: str, dynamic: bool, keep_bn: bool = False) -> None:
    """Write `path`. Both exporters fold batch norm into convolutions unless keep_bn; dynamo puts the weights into
    `path`.data beside the file."""
    import torch

    x = torch.randn(2 if dynamic else 1, *image)
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("N")},) if dynamic else None
            torch.onnx.export(
                net, (x,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=not keep_bn, **names
            )
        else:
            torch.onnx.export(
                net,
                (x,),
                str(path),
                dynamo=False,
                opset_version=17,
                do_constant_folding=True,
                training=torch.onnx.TrainingMode.PRESERVE if keep_bn else torch.onnx.TrainingMode.EVAL,
                dynamic_axes={"input": {0: "N"}, "output": {0: "N"}} if dynamic else None,
                **names,
            )


def verify(net: Any, path: Path, image: Image, batches: tuple[int, ...], seed: int = 0) -> tuple[float, float]:
    """(largest error of onnxruntime against torch relative to the largest output, largest output)."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = top = 0.0
    for n in batches:
        x = np.random.default_rng(seed + n).standard_normal((n, *image), dtype=np.float32)
        got = session.run(None, {"input": x})[0]
        with torch.no_grad():
            want = net(torch.from_numpy(x)).numpy()
        if got.shape != want.shape or not np.isfinite(want).all():
            return float("inf"), float(np.abs(want).max())
        largest = float(np.abs(want).max())
        worst, top = max(worst, float(np.abs(got - want).max()) / largest), max(top, largest)
    return worst, top


def make(name: str, folder: Path, *, exporter: str, dynamic: bool, keep_bn: bool, seed: int) -> str:
    """Export and verify one model; a dynamic batch falls back to a static one where the exporter cannot, and the
    returned line says so. RuntimeError where onnxruntime and torch disagree."""
    net, image = build(name, seed)
    path, note, started = folder / f"{name}.onnx", "", time.perf_counter()
    try:
        export(net, image, path, exporter=exporter, dynamic=dynamic, keep_bn=keep_bn)
    except Exception as error:
        if not dynamic:
            raise
        note, dynamic = f"  STATIC batch: {type(error).__name__}: {str(error).splitlines()[0][:120]}", False
        export(net, image, path, exporter=exporter, dynamic=False, keep_bn=keep_bn)
    took = time.perf_counter() - started
    error_, top = verify(net, path, image, (1, 3) if dynamic else (1,), seed)
    if not error_ <= TOLERANCE:
        raise RuntimeError(f"{path}: onnxruntime differs from torch by {error_:.2e} of the largest output {top:.3g}")
    return f"{name:20} {exporter:8} {took:6.1f} s  error {error_:.1e}  largest output {top:6.2f}{note}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.export", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated names (default: all)")
    parser.add_argument("--exporter", choices=["classic", "dynamo"], default="classic")
    parser.add_argument("--keep-bn", action="store_true", help="keep all BatchNormalization nodes")
    parser.add_argument("--batch", choices=["1", "dynamic"], default="dynamic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-existing", action="store_true")
    args = parser.parse_args(argv)
    names = [n for n in args.models.split(",") if n]
    unknown = [n for n in names if n not in MODELS]
    if unknown:
        parser.error(f"unknown models {unknown}; known: {', '.join(MODELS)}")

    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in names:
        if args.skip_existing and (args.out / f"{name}.onnx").exists():
            continue
        try:
            dynamic = args.batch == "dynamic"
            line = make(name, args.out, exporter=args.exporter, dynamic=dynamic, keep_bn=args.keep_bn, seed=args.seed)
            print(line, flush=True)
        except Exception as error:
            failed += 1
            for leftover in (f"{name}.onnx", f"{name}.onnx.data"):
                (args.out / leftover).unlink(missing_ok=True)
            print(f"{name:20} {args.exporter:8} FAILED {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
