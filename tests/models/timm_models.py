"""Export timm's models to ONNX for `make test-full`, with seeded random weights; nothing is downloaded.

    python -m tests.models.timm_models --out DIR [--models lcnet_100,dla60] [--skip-existing]

Needs what bench.export needs, and timm. Weights are those of bench.export (random statistics, one calibrating pass);
what it leaves alone is randomised here: layer norms, the gains of standardised convolutions, 1-D convolutions and layer
scales, which timm starts at 1e-6, so that a whole residual branch would not show in the output.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from bench.export import TOLERANCE, _calibrate, _randomise, export, import_torchvision, verify

NAMES = (
    "resnet26d", "seresnet50", "res2net50_26w_4s", "resnest26d", "convnext_tiny", "regnetx_008", "ghostnetv2_100",
    "mobilenetv3_large_100", "dpn68", "vovnet39a", "hrnet_w30", "dla60", "cspdarknet53", "eca_nfnet_l0", "mixnet_m",
    "tinynet_a", "hardcorenas_a", "rexnet_100", "selecsls60", "spnasnet_100", "mobilenetv4_conv_small", "inception_v4",
    "legacy_xception", "densenet169", "efficientnetv2_rw_t", "xception41", "gernet_s", "mobileone_s0", "resnetrs50",
    "lcnet_100",
)  # fmt: skip


def randomise(net: Any, gen: Any) -> None:
    """bench.export's weights, and random values for the parameters it does not know."""
    import torch
    from torch import nn

    _randomise(net, gen)
    known = (nn.BatchNorm2d, nn.Linear)
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, known) or (isinstance(module, nn.Conv2d) and name in ("weight", "bias")):
                continue
            if isinstance(module, nn.Conv1d):  # the channel attention of ECA
                p.copy_(torch.randn(p.shape, generator=gen) * (2.0 / p[0].numel()) ** 0.5)
            elif name == "bias":
                p.copy_(torch.randn(p.shape, generator=gen) * 0.2)
            else:  # scales
                p.copy_(torch.rand(p.shape, generator=gen) + 0.5)


def build(name: str, seed: int = 0) -> tuple[Any, tuple[int, int, int]]:
    """The module in eval mode and its image shape, which is timm's own for the model."""
    import torch

    import_torchvision()  # timm imports it
    import timm

    torch.manual_seed(seed)
    gen = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    net = timm.create_model(name, pretrained=False).eval()
    image = tuple(net.pretrained_cfg["input_size"])
    with torch.no_grad():
        randomise(net, gen)
        _calibrate(net, torch.randn(4, *image, generator=gen))
    return net, image


def make(name: str, folder: Path) -> str:
    """Write `folder`/NAME.onnx with a dynamic batch; RuntimeError where onnxruntime and torch disagree."""
    net, image = build(name)
    path, started = folder / f"{name}.onnx", time.perf_counter()
    export(net, image, path, exporter="classic", dynamic=True)
    took = time.perf_counter() - started
    error, top = verify(net, path, image, (1, 3))
    if not error <= TOLERANCE:
        raise RuntimeError(f"onnxruntime differs from torch by {error:.2e} of the largest output {top:.3g}")
    return f"{name:22} {took:6.1f} s  error {error:.1e}  largest output {top:7.2f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.models.timm_models", description="export timm's models to ONNX")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx")
    parser.add_argument("--models", default=",".join(NAMES), help="comma-separated names (default: all)")
    parser.add_argument("--skip-existing", action="store_true")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in args.models.split(","):
        path = args.out / f"{name}.onnx"
        if args.skip_existing and path.exists():
            continue
        try:
            print(make(name, args.out), flush=True)
        except Exception as error:
            failed += 1
            path.unlink(missing_ok=True)
            print(f"{name:22} FAILED {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
