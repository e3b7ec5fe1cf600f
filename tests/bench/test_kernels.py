"""bench.kernels and bench.roofline: what is timed computes the layer, shapes are the networks'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import kernels, roofline, shapes
from bench.merged import load
from fastconv import cold
from fastconv.isa import isa_levels, resolve_isa
from tests.cases import ConvCase
from tests.models.nets import serialized
from tests.reference import conv2d

# Multiplications of whole networks, batch 1, without squeeze-and-excite: torchvision's documentation.
GFLOPS = {"resnet50": 4.09, "vgg16": 15.47, "mobilenet_v2": 0.30, "efficientnet_b0": 0.386}


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "last_level_cache", lambda: 1 << 18)


@pytest.mark.parametrize("network", GFLOPS)
def test_shapes_add_up(network: str) -> None:
    total = sum(layer.flops * layer.times for layer in shapes.LAYERS[network]) / 2e9
    assert total == pytest.approx(GFLOPS[network], rel=0.02)
    names = [layer.name for layer in shapes.LAYERS[network]]
    assert len(set(names)) == len(names)


CASES = [
    ConvCase("1x1", 1, 6, 5, 24, 40, 1, 1),
    ConvCase("3x3", 1, 14, 14, 32, 48, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("stem", 1, 15, 15, 3, 8, 3, 3, (2, 2), (1, 1, 1, 1)),
    ConvCase("depthwise", 1, 9, 9, 20, 20, 5, 5, (2, 2), (2, 2, 2, 2), groups=20),
    shapes.DenseCase("dense", 1, 70, 30),
]


@pytest.mark.parametrize("isa", isa_levels())
@pytest.mark.parametrize("layer", CASES, ids=lambda c: c.name)
def test_a_cold_layer_computes_its_layer(layer: shapes.Layer, isa: str, small_cache: None) -> None:
    cold = kernels.ColdLayer(layer, resolve_isa(isa))
    times = cold.round()
    assert len(times) == cold.copies > 1 and min(times) > 0
    assert cold.copies * kernels.nbytes(layer)[1] >= 3 << 18 or cold._sweep is not None
    graph = kernels.build(layer, 1)
    _, node = graph.nodes
    w, bias = (node.input(i).weight.numpy() for i in (1, 2))
    x = np.maximum(cold._arrays[0], 0)
    if isinstance(layer, shapes.DenseCase):
        want = x.astype(np.float64) @ w.T + bias
    else:
        how = dict(strides=layer.strides, pads=layer.pads, dilations=layer.dilations, groups=layer.groups)
        want = conv2d(x, w, bias, **how)
    want = np.maximum(want, 0)
    assert np.abs(cold.output - want).max() <= 1e-5 * np.abs(want).max()


def test_kernels_main(tmp_path: Path, small_cache: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kernels.json"
    argv = ["--networks", "resnet50,mobilenet_v2", "--match", "7-", "--seconds", "0", "--json", str(out)]
    assert kernels.main(argv) == 0
    found = json.loads(out.read_text())
    levels = [n for n in isa_levels() if n != "scalar"] or ["scalar"]
    layers = [(n, x.name) for n in ("resnet50", "mobilenet_v2") for x in shapes.LAYERS[n] if "7-" in x.name]
    assert sorted({(r["network"], r["layer"]) for r in found["rows"]}) == sorted(layers)
    assert {r["isa"] for r in found["rows"]} == set(levels)
    for r in found["rows"]:
        assert r["us"] > 0 and r["share"] == pytest.approx(r["gflops"] / found["peaks_gflops"][r["isa"]])
        assert r["gflops"] == pytest.approx(r["flops"] / r["us"] / 1e3)
        assert r["gbs"] == pytest.approx(r["bytes"] / r["us"] / 1e3)
    assert "GFLOP/s" in capsys.readouterr().out
    assert load([out])["kernels"]
    with pytest.raises(SystemExit, match="2"):
        kernels.main(["--isa", "sse9"])
    with pytest.raises(SystemExit, match="2"):
        kernels.main(["--match", "no such layer"])


def test_roofline_main(tmp_path: Path, small_cache: None) -> None:
    (tmp_path / "net.onnx").write_bytes(serialized("resnet"))
    out = tmp_path / "layers.json"
    assert roofline.main(["--dir", str(tmp_path), "--models", "net", "--runs", "2", "--json", str(out)]) == 0
    found = load([out])["layers"][0]
    assert found["peak_gflops"] > 0 and found["bandwidth_gbs"] > 0
    names = [r["name"] for r in found["rows"]]
    assert len(set(names)) == len(names)
    convs = [r for r in found["rows"] if r["op"] == "Conv"]
    assert len(convs) == 15 and all(r["flops"] > 0 and r["bytes"] > 0 and r["ms"] > 0 for r in convs)
    with pytest.raises(SystemExit, match="2"):
        roofline.main(["--dir", str(tmp_path), "--models", "other", "--json", str(out)])
