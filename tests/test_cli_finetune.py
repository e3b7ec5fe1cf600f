"""`fastconv finetune`: files, display, Ctrl-C, kill -9, and that a resumed run writes the same file."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fastconv
from fastconv import plots
from fastconv.errors import DeviceError

from .cli_tools import call, one_line
from .test_finetune import network, photos  # fixtures

__all__ = ["call", "network", "photos"]
ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("--preset", "unit", "--batch", "4", "--rate", "0.1", "--augment", "zoom,translate")


def test_finetune(call: Any, network: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "grey" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "my.onnx"
    try:
        got = call("finetune", photos, "--model", network, "--out", out, "--epochs", "8,2", *OPTIONS)
    finally:
        (photos / "grey" / "broken.png").unlink()
    assert got.code == 0
    right, total = (int(word) for word in got.out.split(" validation")[0].split(" of "))
    assert total == 7 and f"({right / 7:.1%})" in got.out
    assert "1 file could not be read" in got.out
    assert "fastconv: warning: " in got.err and "broken.png: not an image that Pillow can read: skipped" in got.err
    assert "30 training and 7 validation images of 3 classes" in got.err
    lines = [line for line in got.err.splitlines() if " epoch " in line]
    assert len(lines) == 10 and lines[0].startswith("head epoch 1/") and lines[9].startswith("fine-tuning epoch 10/10")
    assert all("validation loss" in line and "images/s" in line for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my-confusion.png", "my-curves.png", "my.onnx"]
    for name in ("my-confusion.png", "my-curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    assert fastconv.load(out).class_names == ("across", "down", "grey")
    named = call("predict", photos / "down" / "00.png", "--model", out, "--top", 3)
    assert named.code == 0 and all(word in named.out for word in ("across", "down", "grey"))


def test_json_and_no_plots(call: Any, network: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "my.onnx"
    options = ("--epochs", 2, "--unfreeze", 0, "--json", "--no-plots", "--hidden", "6,5", *OPTIONS)
    got = call("finetune", photos, "--model", network, "--out", out, *options)
    assert got.code == 0 and got.json["phases"] == [2, 0] and len(got.json["history"]["val_loss"]) == 2
    assert got.json["class_names"] == ["across", "down", "grey"] and got.json["files"] == [str(out)]
    assert sum(map(sum, got.json["confusion"])) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["my.onnx"]


def test_without_matplotlib(
    call: Any, network: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    got = call("finetune", photos, "--model", network, "--out", tmp_path / "my.onnx", "--epochs", "1,0", *OPTIONS)
    assert got.code == 0 and "fastconv[plots]" in got.err
    assert [p.name for p in tmp_path.iterdir()] == ["my.onnx"]


def command(network: Path, photos: Path, out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "fastconv.cli", "finetune", str(photos), "--model", str(network), "--out", str(out)]
    return [*base, "--epochs", "3", "--no-plots", "--views", "2", *OPTIONS, *more]


@pytest.fixture(scope="module")
def whole(network: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("whole") / "my.onnx"
    done = subprocess.run(command(network, photos, out), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


SLOW = """
import sys, time
from fastconv.callbacks import Callback
import fastconv.finetune as f
keep = f._Keeper.on_train_batch_end
def slow(self, batch, logs=None):
    keep(self, batch, logs)
    print("step", flush=True)
    time.sleep(0.02)
f._Keeper.on_train_batch_end = slow
from fastconv.cli import app
sys.exit(app.run(sys.argv[1:]))
"""


def started(network: Path, photos: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    arguments = command(network, photos, out, *more)[3:]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_ctrl_c(call: Any, network: Path, photos: Path, tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "my.onnx"
    for steps in (3, 20):
        more = ("--resume",) if steps > 3 else ()
        with started(network, photos, out, *more) as process:
            assert process.stdout is not None
            for _ in range(steps):
                assert process.stdout.readline() == "step\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "finishing the step" in err and "--resume" in err and "stopped at step" in err
        assert [p.name for p in tmp_path.iterdir()] == ["my.ckpt"]
    one_line(call(*command(network, photos, out)[3:]), "my.ckpt", "--resume")
    got = call(*command(network, photos, out, "--resume")[3:])
    assert got.code == 0 and [p.name for p in tmp_path.iterdir()] == ["my.onnx"]
    assert out.read_bytes() == whole


def test_ctrl_c_before_the_first_step(
    call: Any, network: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and nothing is there; --resume then says so and begins."""
    out = tmp_path / "my.onnx"

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fastconv.finetune.cache_features", interrupted)
        got = call(*command(network, photos, out)[3:])
    assert got.code == 130 and "stopped; there was no step yet, nothing is kept" in got.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
    got = call(*command(network, photos, out, "--resume")[3:])
    assert got.code == 0 and "there is no" in got.err and "my.ckpt to go on from" in got.err


def test_a_class_without_validation_images(call: Any, network: Path, tmp_path: Path) -> None:
    for name, images in (("a", 4), ("b", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (32, 32), (90 * i, 80, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    options = ("--epochs", "1,0", "--no-plots", *OPTIONS)
    got = call("finetune", tmp_path / "photos", "--model", network, "--out", tmp_path / "my.onnx", *options)
    assert got.code == 0 and got.err.count("fastconv: warning: class 'b': no validation image") == 1


def killed(network: Path, photos: Path, folder: Path, kills: int, seed: int, whole: bytes) -> None:
    """Kill the command at random moments, always going on from what it left; the file at the end is the same."""
    out, rng = folder / "my.onnx", random.Random(seed)
    for _ in range(kills):
        with started(network, photos, out, "--resume") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.25))
            process.kill()
            process.communicate()
        if out.exists():
            assert out.read_bytes() == whole
            out.unlink()
    done = subprocess.run(
        command(network, photos, out, "--resume"), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_kills(network: Path, photos: Path, tmp_path: Path, whole: bytes) -> None:
    killed(network, photos, tmp_path, 4, 3, whole)


@pytest.mark.full
def test_fifty_kills(network: Path, photos: Path, tmp_path: Path, whole: bytes) -> None:
    killed(network, photos, tmp_path, 50, 4, whole)


def test_errors(call: Any, network: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "my.onnx"
    start = ("finetune", photos, "--model", network, "--out", out)
    for more, words in (
        (("--epochs", "0"), ("--epochs",)),
        (("--epochs", "1,2,3"), ("5 or 8,3",)),
        (("--augment", "mirror"), ("flip, rotate",)),
        (("--hidden", "a"), ("--hidden",)),
        (("--preset", "photo"), ("photo", "torchvision")),
        (("--validation", "1.5"), ("--validation 1.5:",)),
        (("--rate", "0"), ("--rate 0.0, --dropout 0.2:",)),
        (("--epochs", "0,3", "--unfreeze", "0"), ("--epochs (0, 0), --unfreeze 0",)),
    ):
        one_line(call(*start, *more), *words)
    one_line(call("finetune", photos, "--model", network, "--out", tmp_path / "my.pt"), ".onnx")
    one_line(call("finetune", tmp_path / "nowhere", "--model", network, "--out", out), "folder")
    one_line(call(*start[:-1], tmp_path / "nowhere" / "my.onnx"), "nowhere", "no such folder")
    one_line(call(*start[:-1], "/proc/my.onnx"), "/proc", "cannot be written to")
    same = tmp_path / "same.onnx"
    same.write_bytes(network.read_bytes())
    one_line(call("finetune", photos, "--model", same, "--out", same), "--out", "another name")
    assert same.read_bytes() == network.read_bytes()
    same.unlink()
    one_line(call("finetune", photos / "grey", "--model", network, "--out", out), "one folder for each class")
    one_line(call("finetune", photos, "--model", tmp_path / "no.onnx", "--out", out), "no such file")
    assert not list(tmp_path.iterdir())


def test_odd_folders(call: Any, network: Path, tmp_path: Path) -> None:
    """Too few images, none that can be read, names that no file can hold: one line each, before anything is learnt."""
    out = tmp_path / "my.onnx"

    def folders(where: str, *names: str, images: int = 4, broken: bool = False) -> tuple[Any, ...]:
        for value, name in enumerate(names):
            folder = tmp_path / where / name
            folder.mkdir(parents=True)
            for i in range(images):
                Image.new("RGB", (32, 32), (90 * value, i, 0)).save(folder / f"{i}.png")
                if broken:
                    (folder / f"{i}.png").write_bytes(b"no image")
        return ("finetune", tmp_path / where, "--model", network, "--out", out, "--epochs", "1,1", *OPTIONS)

    one_line(call(*folders("one", "only")), "two classes", "only")
    one_line(call(*folders("few", "a", "b", images=1)), "no class has a second image")
    (tmp_path / "none" / "a").mkdir(parents=True)
    one_line(call(*folders("none", "b")), "a", "no images")
    got = call(*folders("broken", "a", "b", broken=True))
    assert got.code == 1 and "no image can be read in" in got.err.splitlines()[-1] and "Traceback" not in got.err
    one_line(call(*folders("bytes", "a", "b\udcff")), "UTF-8")
    names = ("$a_$ & <b>", "\u00fc 'x' \"y\"", "\u65e5\u672c, 100%", "[red]c [b]")
    assert call(*folders("names", *names)).code == 0
    assert fastconv.load(out).class_names == tuple(sorted(names))


# -- pictures -----------------------------------------------------------------------------------------------------
def test_pictures(tmp_path: Path) -> None:
    history = {"loss": [2.0, 1.0], "accuracy": [0.2, 0.9], "val_loss": [1.5, 1.2], "val_accuracy": [0.3, 0.8]}
    one = plots.learning_curves(history, tmp_path / "a.png", phases=[1], title="title")
    two = plots.learning_curves({"loss": [1.0]}, tmp_path / "b.png")
    with Image.open(one) as a, Image.open(two) as b:
        assert a.width > 1.8 * b.width
    for n in (2, 12, 40):
        path = plots.confusion_matrix([[i == j for i in range(n)] for j in range(n)], ["name"] * n, tmp_path / "c.png")
        assert path.stat().st_size > 3000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match="empty"):
        plots.learning_curves({}, tmp_path / "d.png")
    with pytest.raises(ValueError, match="fit"):
        plots.confusion_matrix([[1]], ["a", "b"], tmp_path / "d.png")


def test_device_that_is_not_there(
    call: Any, network: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is read or written."""
    monkeypatch.setenv("FASTCONV_CUDA_LIBRARY", str(tmp_path / "nothing.so"))
    got = call("finetune", photos, "--model", network, "--out", tmp_path / "my.onnx", "--device", "cuda")
    assert got.code == 1 and "the CUDA plugin" in got.err and "nothing.so is not installed; build it with" in got.err
    got = call("finetune", photos, "--model", network, "--out", tmp_path / "my.onnx", "--precision", "tf32")
    assert got.code == 1 and "precision='tf32': on 'cpu' training computes in one of ('fp32', 'strict')" in got.err
    with pytest.raises(DeviceError, match="is not installed"):
        fastconv.fine_tune(network, tmp_path / "no folder", device="cuda")
    with pytest.raises(DeviceError, match='expected "cpu", "cuda" or "cuda:N"'):
        fastconv.fine_tune(network, photos, device="tpu")
    assert not list(tmp_path.iterdir())
