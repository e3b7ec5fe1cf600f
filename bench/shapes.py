"""Layers that bench.kernels times: those of tests/cases.py, EfficientNet-B0's, and dense layers."""

from __future__ import annotations

from typing import NamedTuple

from tests.cases import NETWORKS, ConvCase


class DenseCase(NamedTuple):
    """y[M, K] = x[M, C] times the transpose of w[K, C]."""

    name: str
    M: int
    C: int
    K: int
    times: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.M * self.C * self.K


Layer = ConvCase | DenseCase


def _efficientnet_b0() -> list[Layer]:
    """Stem, MBConv blocks (expansion, kernel, channels, repeats, stride) and head of EfficientNet-B0 (Tan & Le, 2019).
    The squeeze-and-excite layers are dense at one pixel."""
    layers: list[Layer] = [ConvCase("stem", 1, 224, 224, 3, 32, 3, 3, (2, 2), (1, 1, 1, 1))]
    blocks = [
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    ]  # fmt: skip
    size, c = 112, 32
    for expansion, r, k, repeats, first in blocks:
        for i in range(repeats):
            stride, wide, p = (first if i == 0 else 1), c * expansion, r // 2
            if expansion > 1:
                layers.append(ConvCase(f"{size}-{c}-{wide}", 1, size, size, c, wide, 1, 1))
            name = f"{size}-dw{wide}-{r}x{r}-s{stride}"
            strides, pads = (stride, stride), (p, p, p, p)
            layers.append(ConvCase(name, 1, size, size, wide, wide, r, r, strides, pads, groups=wide))
            size //= stride
            squeezed = max(1, c // 4)
            layers.append(ConvCase(f"se-{wide}-{squeezed}", 1, 1, 1, wide, squeezed, 1, 1))
            layers.append(ConvCase(f"se-{squeezed}-{wide}", 1, 1, 1, squeezed, wide, 1, 1))
            layers.append(ConvCase(f"{size}-{wide}-{k}", 1, size, size, wide, k, 1, 1))
            c = k
    layers.append(ConvCase("head", 1, 7, 7, 320, 1280, 1, 1))
    layers.append(DenseCase("classifier", 1, 1280, 1000))
    return layers


def _distinct(layers: list[Layer]) -> list[Layer]:
    """Each name once; `times` adds up."""
    found: dict[str, Layer] = {}
    for layer in layers:
        before = found.get(layer.name)
        found[layer.name] = layer if before is None else layer._replace(times=before.times + layer.times)
    return list(found.values())


VGG16_DENSE = [DenseCase("fc6", 1, 25088, 4096), DenseCase("fc7", 1, 4096, 4096), DenseCase("fc8", 1, 4096, 1000)]
# Without padding, so that the kernel is measured without the copy that pads: InceptionV3's stem, those of MobileNetV2
# and VGG16 on an image that carries its border.
STEMS: list[Layer] = [
    ConvCase("stem-299-32", 1, 299, 299, 3, 32, 3, 3, (2, 2), (0, 0, 0, 0)),
    ConvCase("stem-225-32", 1, 225, 225, 3, 32, 3, 3, (2, 2), (0, 0, 0, 0)),
    ConvCase("stem-226-64", 1, 226, 226, 3, 64, 3, 3, (1, 1), (0, 0, 0, 0)),
]
LAYERS: dict[str, list[Layer]] = {
    "resnet50": [*NETWORKS["resnet50"], DenseCase("fc", 1, 2048, 1000)],
    "vgg16": [*NETWORKS["vgg16"], *VGG16_DENSE],
    "mobilenet_v2": _distinct([*NETWORKS["mobilenet_v2"], DenseCase("classifier", 1, 1280, 1000)]),
    "efficientnet_b0": _distinct(_efficientnet_b0()),
    "stems": STEMS,
}
