"""What `save` takes for a plan, and what the plan keeps of it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastconv
from fastconv import _core
from fastconv.inputs import TensorInfo
from fastconv.saved import check_labels

from .small import network


def test_options_of_save(tmp_path: Path) -> None:
    model = fastconv.load(network())
    model.save(tmp_path / "x.fcplan", shape=(1, 3, 20, 18), isa="neon")
    assert _core.PlanFile(str(tmp_path / "x.fcplan")).levels == ["neon"]
    with pytest.raises(fastconv.ShapeError, match="labels: 2 names, but the outputs have"):
        model.save(tmp_path / "y.fcplan", shape=(1, 3, 20, 18), labels=["a", "b"])
    for wrong in ({"isa": ["neon"]}, {"labels": ["a"]}):
        with pytest.raises(fastconv.ModelError, match=r"y\.onnx: isa and labels are for saved plans"):
            model.save(tmp_path / "y.onnx", shape=(1, 3, 20, 18), **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("y.*"))


def test_the_preset_has_the_layout_of_the_input(tmp_path: Path) -> None:
    """Networks of layers take their images channels-last, and their plans say so."""
    from fastconv.layers import Dense, GlobalAveragePooling2D
    from fastconv.models import Sequential
    from fastconv.preprocessing import preset

    net = Sequential([GlobalAveragePooling2D(input_shape=(8, 8, 3)), Dense(2)])
    net.metadata = preset("caffe").to_metadata()
    assert json.loads(net.metadata["fastconv.preset"])["layout"] == "NCHW"
    net.save(tmp_path / "x.fcplan")
    assert json.loads(fastconv.load(tmp_path / "x.fcplan").metadata["fastconv.preset"])["layout"] == "NHWC"
    net.metadata = {"fastconv.preset": "[1"}  # kept as it is
    net.save(tmp_path / "x.fcplan")
    assert fastconv.load(tmp_path / "x.fcplan").metadata == net.metadata


def test_the_layout_where_sizes_do_not_say_it(tmp_path: Path) -> None:
    """Networks of layers are channels-last for any sizes; of a file's input with two axes of 3 nothing is known."""
    from fastconv.layers import Dense, GlobalAveragePooling2D
    from fastconv.models import Sequential
    from fastconv.preprocessing import preset

    def layout(model: Any, **options: Any) -> Any:
        model.save(tmp_path / "x.fcplan", **options)
        return json.loads(fastconv.load(tmp_path / "x.fcplan").metadata["fastconv.preset"])["layout"]

    for shape in ((8, 8, 1), (3, 3, 3), (3, 8, 8)):
        net = Sequential([GlobalAveragePooling2D(input_shape=shape, name="pool"), Dense(2)])
        net.metadata = preset("caffe").to_metadata()
        assert layout(net) == layout(net.runtime().features("pool"), shape=(1, *shape)) == "NHWC", shape
    for told in ("NCHW", "NHWC"):
        net = Sequential([GlobalAveragePooling2D(input_shape=(3, 3, 3)), Dense(2)])
        net.metadata = replace(preset("caffe"), layout=told).to_metadata()
        net.save(tmp_path / "x.onnx")
        assert layout(fastconv.load(tmp_path / "x.onnx"), shape=(1, 3, 3, 3)) == told


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((1, 5), True), ((1, 4), False), ((1, 5, 1, 1), True), ((1, 5, 7, 7), True), ((1, 7, 7, 5), True),
        ((1, 4, 5, 7), False), ((None, "classes"), True), ((1, None, 7, 7), True), ((1, 9, 5), True), ((), False),
    ],
)  # fmt: skip
def test_which_labels_fit(shape: tuple[Any, ...], fits: bool) -> None:
    outputs = [TensorInfo("y", shape, "float32")]
    with contextlib.nullcontext() if fits else pytest.raises(fastconv.ShapeError, match="labels: 5 names"):
        check_labels("abcde", outputs, "labels")
