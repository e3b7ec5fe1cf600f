"""The command line and saved plans: compile makes them, and what takes a model takes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fastconv

from .cli_tools import call, one_line, small_model  # noqa: F401  a fixture
from .small import CLASSES, images, network, same_bits


def test_compile_and_info(tmp_path: Path, call: Any) -> None:  # noqa: F811
    (tmp_path / "net.onnx").write_bytes(network())
    (tmp_path / "labels.txt").write_text("".join(f"kind {i}\n" for i in range(CLASSES)))
    target = tmp_path / "net.fcplan"
    labels = tmp_path / "labels.txt"
    done = call("compile", tmp_path / "net.onnx", "-o", target, "--isa", "scalar,neon", "--labels", labels)
    assert done.code == 0 and "scalar, neon" in done.out, done.err
    done = call("info", target)
    assert done.code == 0 and "neon" in done.out and "input  float32 [1, 3, 20, 18]" in done.out
    facts = call("info", target, "--json").json
    assert [v["isa"] for v in facts["variants"]] == ["scalar", "neon"] and facts["labels"] == CLASSES
    assert call("info", target, "--kernels").out.startswith("conv2d;copy;")
    one_line(call("tune", target, "-o", tmp_path / "t.json"), "a saved plan keeps the algorithms")
    one_line(call("compile", tmp_path / "net.onnx", "-o", tmp_path / "x.bin"), ".fcplan")
    one_line(call("compile", target, "-o", tmp_path / "x.fcplan"), "saved plan already")
    one_line(call("compile", tmp_path / "net.onnx", "-o", tmp_path / "x.fcplan", "--isa", "sse"), "sse", "neon")
    one_line(call("compile", tmp_path / "net.onnx", "-o", tmp_path / "x.fcplan", "--labels", __file__), "names")
    target.write_bytes(target.read_bytes()[:-1])
    one_line(call("info", target), "broken plan", "truncated or lengthened")
    target.write_bytes(network())
    one_line(call("info", target, "--kernels"), "not a saved plan")
    one_line(call("info", tmp_path / "net.onnx", "--kernels"), "is not a saved plan, which --kernels needs")


def test_commands_take_plans(tmp_path: Path, call: Any) -> None:  # noqa: F811
    """predict answers as of the model that the plan was made of, with its class names and preset."""
    from PIL import Image

    from fastconv.data import names_to_metadata
    from fastconv.preprocessing import preset

    given = small_model(shape=("N", 3, 32, 32))
    names = [f"kind {i}" for i in range(12)]
    onnx.helper.set_model_props(given, {**preset("caffe").to_metadata(), **names_to_metadata(names)})
    model, target = tmp_path / "net.onnx", tmp_path / "net.fcplan"
    onnx.save(given, model)
    assert call("compile", model, "-o", target).code == 0
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
        pixels = pixels[::-1]
    want, got = (call("predict", tmp_path / "photos", "--model", m, "--json").json for m in (model, target))
    assert got.pop("model") == str(target) and want.pop("model") == str(model)
    assert got == want and got["preset"] == "caffe"
    assert got["images"][0]["predictions"][0]["label"].startswith("kind ")
    facts = call("info", target, "--json").json
    assert facts["labels"] == 12 and "caffe" in facts["metadata"]["fastconv.preset"]
    for command in ("inspect", "profile", "bench"):
        done = call(command, target, *(() if command == "inspect" else ("--runs", "1")))
        assert done.code == 0 and "expected to take" not in done.out
    one_line(call("compare", target), "a saved plan; compare the ONNX file")
    one_line(call("tune", target, "-o", tmp_path / "tuning.json"), "saved plan")
    one_line(call("finetune", tmp_path, "--model", target, "--out", tmp_path / "x.onnx"), "saved plan")


def test_strict_plans(tmp_path: Path, call: Any) -> None:  # noqa: F811
    """One that was not made so is refused where "strict" is asked for."""
    (tmp_path / "net.onnx").write_bytes(network())
    for precision in ("fp32", "strict"):
        model = fastconv.load(network(), precision=precision)
        model.save(tmp_path / f"{precision}.fcplan", shape=(1, 3, 20, 18))
        saved = fastconv.load(tmp_path / f"{precision}.fcplan")
        assert saved.precision == pickle.loads(pickle.dumps(saved)).precision == precision and saved.metadata == {}
        assert all(same_bits(a, b) for a, b in zip(model(images(1)), saved(images(1)), strict=True))
    with pytest.raises(fastconv.ModelError, match="the plan was made without"):
        fastconv.load(tmp_path / "fp32.fcplan", precision="strict")
    assert fastconv.load(tmp_path / "strict.fcplan", precision="strict").precision == "strict"
    done = call("compile", tmp_path / "net.onnx", "-o", tmp_path / "cli.fcplan", "--strict", "--shape", "1,3,20,18")
    assert done.code == 0 and fastconv.load(tmp_path / "cli.fcplan").precision == "strict"
