"""`fastconv compare`: agreement is seen, and a sabotaged node is found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.cli import compare

from .cli_tools import CLASSES, call, model, one_line

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

__all__ = ["call", "model"]  # fixtures


def test_compare_agrees(call: Any, model: str) -> None:
    pytest.importorskip("onnxruntime")
    got = call("compare", model, "--shape", "2,3,32,32", "--json")
    assert got.code == 0 and got.json["same"] and got.json["first_diverging"] is None
    assert got.json["outputs"][0]["shape"] == [2, CLASSES] and 0 <= got.json["outputs"][0]["relative"] < 1e-4
    assert "agrees" in call("compare", model).out


class Sabotaged:
    """fastconv with a mistake in one node, in every model that holds it: its pads are taken the wrong way round."""

    def __init__(self, node: str) -> None:
        self.node, self.real = node, fastconv.load

    def __call__(self, source: Any, **kw: Any) -> Any:
        proto = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
        for node in proto.graph.node:
            if node.name == self.node:
                pads = next(a for a in node.attribute if a.name == "pads").ints
                pads[:] = [*pads[2:], *pads[:2]]
        return self.real(proto, **kw)


def branches() -> Any:
    """Two convolutions side by side, each followed by others, added: the culprit is not the first in the file."""
    rng = np.random.default_rng(3)
    nodes, names = [], []
    for side in ("left", "right"):
        at = "x"
        for i in range(4):
            weight = f"{side}{i}_w"
            names.append(weight)
            pads = [0, 0, 2, 2] if i == 2 else [1, 1, 1, 1]
            nodes.append(helper.make_node("Conv", [at, weight], [f"{side}{i}_c"], f"{side}{i}", pads=pads))
            nodes.append(helper.make_node("Relu", [f"{side}{i}_c"], [f"{side}{i}_r"], f"{side}{i}_relu"))
            at = f"{side}{i}_r"
    nodes.append(helper.make_node("Add", ["left3_r", "right3_r"], ["y"], "sum"))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 9, 9]) for n in ("x", "y")]
    weights = [numpy_helper.from_array(rng.normal(0, 0.4, (3, 3, 3, 3)).astype(np.float32), n) for n in names]
    graph = helper.make_graph(nodes, "branches", value[:1], value[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("node", ["left2", "right2"])
def test_compare_finds_the_culprit(call: Any, tmp_path: Path, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "b.onnx"
    onnx.save(branches(), str(path))
    assert call("compare", path).code == 0
    monkeypatch.setattr(fastconv, "load", Sabotaged(node))
    got = call("compare", path, "--json")
    assert got.code == 1 and not got.json["same"]
    found = got.json["first_diverging"]
    assert found["node"] == node and found["op"] == "Conv" and found["relative_error"] > 1e-2
    assert found["attributes"]["pads"] == [0, 0, 2, 2]
    text = call("compare", path)
    assert text.code == 1 and "DIFFERS" in text.out and f"first node that differs: {node} (Conv" in text.out


def test_compare_without_onnxruntime(call: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    one_line(call("compare", model), "pip install onnxruntime")


def test_difference() -> None:
    a = np.array([1.0, -4.0, np.inf])
    assert compare.difference("y", a, a).relative == 0
    assert compare.difference("y", np.array([1.0, -3.0, np.inf]), a).relative == pytest.approx(0.25)
    assert compare.difference("y", np.array([1.0, -4.0, np.nan]), a).relative == float("inf")
    assert compare.difference("y", np.array([1.0, np.nan, np.inf]), a).relative == float("inf")
    assert compare.difference("y", np.zeros((1, 3)), a).relative == float("inf")
    assert compare.difference("y", np.zeros(2), np.zeros(2)).relative == 0
