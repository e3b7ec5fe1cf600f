"""Depthwise convolutions that gather the mean over the pixels behind them (see prepare.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import cuda
from fastconv.isa import isa_levels
from fastconv.target import Target

LEVELS = pytest.mark.parametrize("isa", isa_levels())
GLOBAL = [helper.make_node("GlobalAveragePool", ["a"], ["mean"])]


def network(
    size: int, channels: int, pools: list[Any], outputs: tuple[str, ...] = ("y",), *, groups: int = 0, kernel: int = 3
) -> bytes:
    """a = swish(depthwise(x)); y = a * sigmoid(dense(mean(a))): squeeze-and-excite with `pools` as the mean."""
    rng, groups = np.random.default_rng(channels), groups or channels
    named = {
        "w": rng.standard_normal((channels, channels // groups, kernel, kernel)) / kernel,
        "bias": rng.standard_normal(channels),
        "dense": rng.standard_normal((channels, channels, 1, 1)) / channels**0.5,
    }
    pads = [kernel // 2] * 4
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["c"], group=groups, pads=pads),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["a"]),
        *pools,
        helper.make_node("Conv", ["mean", "dense"], ["pre"]),
        helper.make_node("Sigmoid", ["pre"], ["gate"]),
        helper.make_node("Mul", ["a", "gate"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "means", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in outputs],
        [
            *(numpy_helper.from_array(v.astype(np.float32), n) for n, v in named.items()),
            numpy_helper.from_array(np.array([0, -1, 1, 1]), "back"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def algorithms(model: fastconv.Model, shape: tuple[int, ...]) -> list[str]:
    return [op.algorithm for op in model.inspect(shape)]


def image(n: int, channels: int, size: int) -> Any:
    return np.random.default_rng(size).standard_normal((n, channels, size, size), dtype=np.float32)


def compare(model: bytes, x: Any, **options: Any) -> fastconv.Model:
    """A model whose outputs are onnxruntime's, and the same bits on 1, 2 and 4 threads."""
    want = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    fast = fastconv.load(model, threads=1, **options)
    many = len(want) > 1
    got = fast(x) if many else [fast(x)]
    for g, w in zip(got, want, strict=True):
        assert np.abs(g - w).max() <= 2e-6 * np.abs(w).max()
    for threads in (2, 4):
        other = fastconv.load(model, threads=threads, **options)
        again = other(x) if many else [other(x)]
        assert all(np.array_equal(g, a) for g, a in zip(got, again, strict=True))
    return fast


@LEVELS
@pytest.mark.parametrize("size", (5, 14, 30, 57, 112))  # one band of rows, and several
@pytest.mark.parametrize("kernel", (3, 5))
def test_means(isa: str, size: int, kernel: int) -> None:
    model = network(size, 19, GLOBAL, kernel=kernel)
    for n in (1, 3):
        fast = compare(model, image(n, 19, size), _isa=isa)
        names = algorithms(fast, (n, 19, size, size))
        if n > 1:
            assert "depthwise" in names and "reduce" in names  # several images: a pass of its own is faster
            continue
        assert "depthwise+mean" in names and "depthwise" not in names and "reduce" not in names
        assert ("mean" in names) == (size >= 14)


@LEVELS
def test_other_means_and_outputs(isa: str) -> None:
    """Without kept axes, as an output of the model, twice, and with the image itself an output."""
    flat = [
        helper.make_node("ReduceMean", ["a"], ["flat"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["flat", "back"], ["mean"]),
    ]
    twice = [*GLOBAL, helper.make_node("ReduceMean", ["a"], ["second"], axes=[2, 3], keepdims=1)]
    joined = [*GLOBAL, helper.make_node("Concat", ["mean", "mean"], ["second"], axis=1)]
    for size in (8, 30):
        for n in (1, 2):
            x = image(n, 16, size)
            for pools, outputs in (
                (flat, ("y", "flat")),
                (GLOBAL, ("mean", "y")),
                (GLOBAL, ("y", "a")),
                (GLOBAL, ("mean",)),
                (twice, ("y", "second")),
                (joined, ("y", "second")),
            ):
                fast = compare(network(size, 16, pools, outputs), x, _isa=isa)
                assert ("depthwise+mean" in algorithms(fast, x.shape)) == (n == 1)


def test_what_is_left_alone() -> None:
    """Means over other axes, other convolutions, and precision strict, which changes no algorithm here."""
    rows = [
        helper.make_node("ReduceMean", ["a"], ["rows"], axes=[3], keepdims=1),
        helper.make_node("ReduceMax", ["rows"], ["mean"], axes=[2], keepdims=1),
    ]
    x = image(1, 16, 20)
    assert "depthwise" in algorithms(compare(network(20, 16, rows), x), x.shape)
    assert not any("mean" in a for a in algorithms(compare(network(20, 16, GLOBAL, groups=1), x), x.shape))
    strict = compare(network(20, 16, GLOBAL), x, precision="strict")
    assert "depthwise+mean" in algorithms(strict, x.shape)


def test_devices_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cuda.Target.gathers_means
    monkeypatch.setattr(Target, "gathers_means", False)
    x = image(1, 16, 30)
    names = algorithms(compare(network(30, 16, GLOBAL), x), x.shape)
    assert "depthwise" in names and "reduce" in names


@pytest.mark.parametrize("size", (9, 57))
def test_saved(tmp_path: Path, size: int) -> None:
    """A file keeps the second output of an operation."""
    model, x = fastconv.load(network(size, 19, GLOBAL, ("y", "mean"))), image(1, 19, size)
    model.save(tmp_path / "means.fcplan", shape=x.shape, isa=isa_levels())
    for isa in isa_levels():
        saved = fastconv.load(tmp_path / "means.fcplan", _isa=isa)
        want = fastconv.load(network(size, 19, GLOBAL, ("y", "mean")), _isa=isa)(x)
        assert all(np.array_equal(a, b) for a, b in zip(saved(x), want, strict=True))
