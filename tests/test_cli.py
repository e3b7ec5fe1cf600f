"""The command line: what it prints, what it returns, and that every error is one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv.cli import bench, inputs, predict
from fastconv.errors import FastconvError, ModelError, ShapeError

from .cli_tools import CLASSES, call, model, one_line, small_model

onnx = pytest.importorskip("onnx")

__all__ = ["call", "model"]  # fixtures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with five images, one below, and things that are none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.jpg", "c.bmp", "d.PNG", "more/e.webp", ".hidden/f.png"]):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((40 + 9 * i, 50)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


# -- predict -----------------------------------------------------------------------------------------------------


def reference(path: str | Path, images: list[Path], **kw: Any) -> np.ndarray:
    """Probabilities by the Python API, softmax in numpy."""
    p = predict.build_preset(predict.Options(str(path), **kw), (32, 32))
    scores = np.concatenate([fastconv.load(str(path))(p.apply(i)) for i in images]).astype(np.float64)
    e = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def test_predict_json(call: Any, model: str, photos: Path) -> None:
    names = ["a.png", "b.jpg", "c.bmp", "d.PNG", "more/e.webp"]
    expected = reference(model, [photos / n for n in names])
    for batch in (1, 2, 5, 9):
        got = call("predict", photos, "--model", model, "--json", "--top", 3, "--batch", batch)
        assert got.code == 0 and got.err == ""
        assert [i["image"] for i in got.json["images"]] == [str(photos / n) for n in names]
        for row, image in zip(expected, got.json["images"], strict=True):
            best = np.argsort(-row)[:3]
            assert [p["class"] for p in image["predictions"]] == best.tolist()
            assert [p["label"] for p in image["predictions"]] == [f"class {i}" for i in best]
            np.testing.assert_allclose([p["probability"] for p in image["predictions"]], row[best], rtol=1e-4)


def test_predict_text(call: Any, model: str, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"name{i}" for i in range(CLASSES)))
    row = reference(model, [photos / "a.png"])[0]
    got = call("predict", photos / "a.png", "-m", model, "--labels", labels, "--top", 1)
    best = int(row.argmax())
    assert got.out == f"{photos / 'a.png'}\n  {row[best] * 100:5.1f}%  name{best}\n"
    labels.write_text("just one")
    one_line(call("predict", photos / "a.png", "-m", model, "--labels", labels), "1 names", f"{CLASSES} classes")


def test_predict_flags_change_the_input(call: Any, model: str, photos: Path) -> None:
    image = photos / "b.jpg"
    flags = {"resize": 40, "crop": 32, "mean": "0.1,0.2,0.3", "std": "0.5,0.6,0.7", "interpolation": "nearest"}
    row = reference(model, [image], **flags)[0]
    assert np.abs(row - reference(model, [image])[0]).max() > 1e-3
    args = [f"--{k}={v}" for k, v in flags.items()]
    got = call("predict", image, "--model", model, "--json", "--top", 1, *args).json["images"][0]["predictions"][0]
    np.testing.assert_allclose(got["probability"], row.max(), rtol=1e-4)


def test_predict_goes_on_after_broken_images(call: Any, model: str, photos: Path) -> None:
    (photos / "aa.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    got = call("predict", photos, photos / "none.png", photos / "notes.txt", "--model", model, "--json")
    assert got.code == 1
    assert len(got.json["images"]) == 5
    failed = [os.path.basename(f["image"]) for f in got.json["failed"]]
    assert failed == ["aa.png", "none.png", "notes.txt"]
    lines = got.err.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"fastconv: error: {photos}") for line in lines)


def test_predict_softmax_only_where_it_is_needed(call: Any, photos: Path, tmp_path: Path) -> None:
    plain, done = tmp_path / "plain.onnx", tmp_path / "done.onnx"
    onnx.save(small_model(), str(plain))
    onnx.save(small_model(softmax=True), str(done))
    a, b = (call("predict", photos, "--model", p, "--json").json["images"] for p in (plain, done))
    for left, right in zip(a, b, strict=True):
        for x, y in zip(left["predictions"], right["predictions"], strict=True):
            assert x["class"] == y["class"] and abs(x["probability"] - y["probability"]) < 1e-6


def test_predict_layouts_and_fixed_batches(call: Any, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_model(), str(path))
    expected = call("predict", photos, "--model", path, "--json").json["images"]
    for changes in ({"layout": "NHWC"}, {"shape": (3, 3, 32, 32)}, {"shape": (1, 3, 32, 32)}):
        onnx.save(small_model(**changes), str(path))
        got = call("predict", photos, "--model", path, "--json", "--batch", 2).json["images"]
        for left, right in zip(expected, got, strict=True):
            assert left["image"] == right["image"]
            for x, y in zip(left["predictions"], right["predictions"], strict=True):
                assert x["class"] == y["class"] and abs(x["probability"] - y["probability"]) < 1e-5


def test_predict_imagenet_names(call: Any, photos: Path, tmp_path: Path) -> None:
    from fastconv.data import imagenet_labels

    path = tmp_path / "m.onnx"
    for classes, shift in ((1000, 0), (1001, 1)):
        onnx.save(small_model(classes=classes), str(path))
        for p in call("predict", photos / "a.png", "--model", path, "--json").json["images"][0]["predictions"]:
            assert p["label"] == ("background", *imagenet_labels())[p["class"] + 1 - shift]


def test_predict_errors(call: Any, model: str, photos: Path, tmp_path: Path) -> None:
    image = photos / "a.png"
    one_line(call("predict", image, "--model", tmp_path / "none.onnx"), "none.onnx", "no such file")
    one_line(call("predict", image, "--model", tmp_path), "is a folder")
    one_line(call("predict", image, "--model", image))
    one_line(call("predict", image, "--model", model, "--preset", "x"), "torchvision")
    one_line(call("predict", image, "--model", model, "--mean", "1,2"), "--mean", "3 numbers")
    one_line(call("predict", image, "--model", model, "--std", "1,0,1"), "std")
    one_line(call("predict", image, "--model", model, "--interpolation", "x"), "interpolation")
    one_line(call("predict", image, "--model", model, "--labels", tmp_path / "none"), "none")
    one_line(call("predict", image, image, "--model", model, "--crop", "24"), "24 x 24", "--crop", "32 x 32")
    one_line(call("predict", image), "--model")
    one_line(call("predict", image, "--model", model, "--top", 0), "--top")
    (tmp_path / "empty").mkdir()
    one_line(call("predict", tmp_path / "empty", "--model", model), "no images")


@pytest.mark.parametrize("shape", [("N", 3), (1, 4, 32, 32), (1, 32, 32, 4), (1, 3, 8, 8, 8)])
def test_predict_needs_one_image_input(shape: tuple[Any, ...]) -> None:
    value = fastconv.model.TensorInfo("x", shape)
    with pytest.raises(ModelError, match=r"'x': expected \[N, 3, H, W\]"):
        predict._target(SimpleNamespace(inputs=[value]))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="2 inputs"):
        predict._target(SimpleNamespace(inputs=[value, value]))  # type: ignore[arg-type]


def test_probabilities() -> None:
    ready = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(predict.probabilities(ready, "y"), ready)
    np.testing.assert_allclose(predict.probabilities(np.array([[1e4, 0.0]], np.float32), "y"), [[1, 0]])
    assert predict.probabilities(np.zeros((2, 5, 1, 1), np.float32), "y").shape == (2, 5)
    for bad in (np.zeros((2, 5, 2, 2)), np.zeros(5), np.zeros((2, 0)), np.array([[np.nan, 1]])):
        with pytest.raises(ModelError, match="'y'"):
            predict.probabilities(bad, "y")


# -- the other commands ------------------------------------------------------------------------------------------


def test_info(call: Any, model: str) -> None:
    got = call("info", model, "--json").json
    assert got["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3, 32, 32]}]
    assert got["outputs"][0]["shape"] == ["N", CLASSES]
    assert got["parameters"] == 8 * 27 + 4 * 8 + CLASSES * 9
    assert got["opsets"] == {"ai.onnx": 17} and got["nodes"] == 6 and got["operators"]["Conv"] == 1
    text = call("info", model).out
    for word in ("x  float32", "ai.onnx 17", "Conv", "BatchNormalization", f"{got['parameters']:,}", "tests"):
        assert word in text


def test_inspect(call: Any, model: str) -> None:
    got = call("inspect", model, "--json").json
    conv = max(got["operations"], key=lambda o: o["flops"])
    assert conv["flops"] >= 2 * 8 * 27 * 15 * 15 and conv["isa"] and conv["algorithm"]
    assert got["inputs"] == {"x": [1, 3, 32, 32]}
    larger = call("inspect", model, "--json", "--shape", "4,3,32,32").json
    assert sum(o["flops"] for o in larger["operations"]) > 3 * sum(o["flops"] for o in got["operations"])
    table = call("inspect", model).out.splitlines()
    assert table[0].split()[:3] == ["name", "op", "algorithm"] and len(table) == len(got["operations"]) + 2


def test_profile(call: Any, model: str) -> None:
    got = call("profile", model, "--runs", 3, "--threads", 1, "--json").json
    assert got["runs"] == 3 and got["total_ms"] > 0 and got["peak_gflops"] > 0 and got["threads"] == 1
    assert all(o["ms"] >= 0 for o in got["operations"])
    assert "median of 3 runs" in call("profile", model, "--runs", 3).out


def test_bench(call: Any, model: str) -> None:
    got = call("bench", model, "--threads", "1,2", "--batch", "1,3", "--runs", 5, "--json").json["results"]
    assert [(r["threads"], r["batch"]) for r in got] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    for r in got:
        assert 0 < r["min_ms"] <= r["p50_ms"] <= r["p90_ms"] <= r["p99_ms"]
        assert r["images_per_s"] == pytest.approx(r["batch"] * 1e3 / r["p50_ms"])
    shaped = call("bench", model, "--shape", "2,3,32,32", "--runs", 1, "--json").json["results"][0]
    assert shaped["batch"] == 2 and shaped["inputs"] == {"x": [2, 3, 32, 32]}
    assert call("bench", model, "--runs", 2).out.split()[:2] == ["threads", "batch"]
    one_line(call("bench", model, "--threads", "0"), "--threads 0: expected numbers from 1 to 1024")
    one_line(call("bench", model, "--threads", "1,9999"), "--threads 1,9999: expected numbers from 1 to 1024")
    one_line(call("bench", model, "--batch", "0"), "--batch 0: expected numbers of at least 1")
    one_line(call("inspect", model, "--threads", "9999"), "--threads", "1024")
    one_line(call("bench", model, "--threads", "a"), "--threads 'a': expected some numbers such as 1,2")
    one_line(call("bench", model, "--batch", "many"), "--batch")


def test_interrupted_bench_shows_what_is_done(call: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, done = bench.measure, []

    def second_is_interrupted(*args: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(measure(*args))
        return done[0]

    monkeypatch.setattr(bench, "measure", second_is_interrupted)
    got = call("bench", model, "--batch", "1,3", "--runs", 1, "--json")
    assert got.code == 130 and got.json["interrupted"] and [r["batch"] for r in got.json["results"]] == [1]
    assert call("bench", model, "--runs", 1).code == 130  # nothing is done yet
    done.clear()
    got = call("bench", model, "--batch", "1,3", "--runs", 1)
    assert got.code == 130 and len(got.out.splitlines()) == 2


def test_shapes(call: Any, model: str, tmp_path: Path) -> None:
    one_line(call("inspect", model, "--shape", "1,3"), "'x'")
    one_line(call("inspect", model, "--shape", "1,3,32,33"), "'x'", "33")
    one_line(call("inspect", model, "--shape", "y=1,3,32,32"), "no input 'y'")
    one_line(call("inspect", model, "--shape", "1,3,0,32"), "at least 1")
    one_line(call("bench", model, "--shape", "1000000,3,32,32"), "GiB")
    free = tmp_path / "free.onnx"
    onnx.save(small_model(shape=("N", 3, "H", "W")), str(free))
    one_line(call("inspect", free), "[N, 3, H, W]", "--shape")
    assert call("inspect", free, "--shape", "x=2x3x20x24").code == 0
    assert inputs.parse_shapes(["a=1,2", "b=3"], ["a", "b"]) == {"a": (1, 2), "b": (3,)}
    with pytest.raises(ShapeError, match="NAME"):
        inputs.parse_shapes(["1,2"], ["a", "b"])


def test_config_and_version(call: Any) -> None:
    assert fastconv.__version__ in call("config").out
    assert call("--version").out == f"fastconv {fastconv.__version__}\n"
    assert "predict" in call("--help").out
    one_line(call("nonsense"), "nonsense")
    one_line(call("info", "x", "--nonsense"), "--nonsense")


# -- the process -------------------------------------------------------------------------------------------------


def process(*args: object, **kw: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastconv.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **kw)


def test_process(model: str, photos: Path) -> None:
    done = process("predict", photos, "--model", model, "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)["images"]) == 5 and done.stderr == ""
    piped = process("inspect", model).stdout
    assert "\x1b" not in piped and "\u2026" not in piped
    failed = process("info", "none.onnx")
    assert failed.returncode == 1 and failed.stdout == "" and failed.stderr.count("\n") == 1


def test_debug_shows_the_traceback(model: str) -> None:
    for args in (["--debug", "inspect", model, "--shape", "1"], ["inspect", model, "--shape", "1", "--debug"]):
        done = process(*args)
        assert done.returncode == 1 and "Traceback" in done.stderr and "ShapeError" in done.stderr


def test_internal_errors_are_one_line(call: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "load", lambda *a: 1 / 0)
    one_line(call("inspect", model), "internal error", "ZeroDivisionError", "--debug")
    monkeypatch.setattr(inputs, "load", lambda *a: (_ for _ in ()).throw(MemoryError()))
    one_line(call("inspect", model), "out of memory")
    monkeypatch.setattr(inputs, "load", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert call("inspect", model).code == 130
    monkeypatch.setattr(inputs, "load", lambda *a: (_ for _ in ()).throw(FastconvError("two\nlines")))
    one_line(call("inspect", model), "two lines")


def test_interrupt(model: str) -> None:
    """Ctrl-C in the middle of a long run: exit code 130 and no traceback."""
    command = [sys.executable, "-m", "fastconv.cli", "bench", model, "--runs", "100000000"]

    def listen() -> None:  # whoever started these tests in the background had SIGINT ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=listen, **pipes) as running:
        try:
            time.sleep(5)  # its imports have two workers beside them
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == 130 and "Traceback" not in err


def test_closed_pipe(model: str) -> None:
    """`fastconv info | head -0` must not end in a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fastconv.cli", "info", model]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize("width", ["40", "80"])
def test_help_shows_whole_names(width: str) -> None:
    environment = {**os.environ, "COLUMNS": width}
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", "predict", "--help"],
        capture_output=True, text=True, encoding="utf-8", check=True, env=environment,
    )  # fmt: skip
    assert "--interpolation" in done.stdout and "\u2026" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys; from fastconv.cli import app; app.run(['--help']); "
        "print([m for m in ('PIL', 'onnx', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
