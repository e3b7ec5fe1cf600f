"""timm's models in full size as torch's classic exporter writes them, against onnxruntime.

Needs the folder timm/ that `python -m tests.models.timm_models --out DIR/timm` filled in FASTCONV_TEST_MODELS (DIR);
`make test-full` makes it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import fastconv

from .nets import inputs
from .test_models import TOLERANCE, reference, relative_error
from .timm_models import NAMES

FOLDER = os.environ.get("FASTCONV_TEST_MODELS")

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(300),
    pytest.mark.skipif(FOLDER is None, reason="FASTCONV_TEST_MODELS names no folder of exported models"),
]


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_onnxruntime(name: str) -> None:
    assert FOLDER is not None
    path = Path(FOLDER, "timm", f"{name}.onnx")
    file = onnx.load(path)
    model = fastconv.load(path)
    for batch in (1, 2):
        x = inputs(file, batch, seed=7)
        (want,) = reference(path, x)
        assert want.shape == (batch, 1000)
        (got,) = model.run(None, x)
        assert np.isfinite(got).all()
        error = relative_error(got, want)
        print(f"{name} batch {batch}: {error:.1e} of the largest output {np.abs(want).max():.2f}")
        assert error <= TOLERANCE
