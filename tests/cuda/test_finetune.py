"""fine_tune with device="cuda"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.errors import DeviceError, ModelError
from tests.cli_tools import small_model
from tests.test_finetune import paint

from .test_fit import distance


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("data") / "photos", each=5)


def taught(photos: Path, device: str | None, model: Any = None, **options: Any) -> Any:
    base = small_model() if model is None else model
    if model is None:
        base = fastconv.load(base.SerializeToString())
    return fastconv.fine_tune(
        base, photos, (2, 1), preset="unit", batch_size=6, augment=("zoom",), dropout=0.0, verbose=0, device=device,
        **options,
    )  # fmt: skip


def test_fine_tune(photos: Path, tmp_path: Path) -> None:
    """In one call: features, head and blocks on the device, to the CPU's weights; the result stays there, and is saved
    as any other."""
    cpu, gpu = taught(photos, None), taught(photos, "cuda")
    assert (cpu.model.device, gpu.model.device, gpu.model.runtime().device) == ("cpu", "cuda", "cuda")
    assert distance(gpu.model, cpu.model) < 1e-4
    for name, values in cpu.history.items():
        np.testing.assert_allclose(gpu.history[name], values, rtol=1e-3)
    np.testing.assert_array_equal(gpu.confusion, cpu.confusion)
    gpu.save(tmp_path / "taught.onnx")
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(fastconv.load(tmp_path / "taught.onnx")(x), cpu.model.predict(x), atol=1e-4)


def test_fine_tune_where_the_model_is(photos: Path) -> None:
    """Without `device` a loaded model stays on its own; what it computed in before does not matter to the training."""
    model = fastconv.load(small_model().SerializeToString(), device="cuda", precision="fp16")
    result = taught(photos, None, model, precision="tf32")
    assert result.model.device == "cuda" and result.model.runtime().precision == "tf32"


def test_fine_tune_resumes_on_its_own_device(photos: Path, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    saved = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        taught(photos, "cuda", checkpoint=saved, stop=lambda: next(asked, False))
    with pytest.raises(ModelError, match=r"made by a run on \['cuda', 'fp32'\], this one is on \['cpu', 'fp32'\]"):
        taught(photos, "cpu", checkpoint=saved, resume=True)
    again, whole = taught(photos, "cuda", checkpoint=saved, resume=True), taught(photos, "cuda")
    for a, b in zip(again.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(a.array, b.array)


def test_fine_tune_refuses(photos: Path) -> None:
    with pytest.raises(DeviceError, match="precision='bf16': on 'cuda' training"):
        taught(photos, "cuda", precision="bf16")
    with pytest.raises(DeviceError, match="no such device"):
        taught(photos, "cuda:9")
