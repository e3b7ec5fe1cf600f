"""The families of torchvision in full size, from both exporters, on each instruction set, batch 1 and 3.

Needs the folder that `python -m bench.export --out DIR/classic` and `... --exporter dynamo --out DIR/dynamo` filled, in
FASTCONV_TEST_MODELS; `make test-full` makes it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import fastconv
from fastconv import _core

from .builder import Array
from .nets import inputs
from .test_models import TOLERANCE, reference, relative_error

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

FAMILIES = [
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet1_0",
    "mobilenet_v2",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "vgg16",
]
FOLDER = os.environ.get("FASTCONV_TEST_MODELS")
EXPORTERS = ("classic", "dynamo")
FILES = [p for e in EXPORTERS for p in sorted(Path(FOLDER, e).glob("*.onnx"))] if FOLDER else []
LABELS = [f"{p.parent.name}-{p.stem}" for p in FILES]


@lru_cache(maxsize=1)
def case(path: Path) -> list[tuple[dict[str, Array], list[Array]]]:
    model = onnx.load(path, load_external_data=False)
    batches = [inputs(model, batch, seed=7) for batch in (1, 3)]
    return [(x, reference(path, x)) for x in batches]


@pytest.mark.skipif(FOLDER is None, reason="FASTCONV_TEST_MODELS names no folder of exported models")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_family_is_there(exporter: str) -> None:
    assert FOLDER is not None
    missing = [name for name in FAMILIES if not Path(FOLDER, exporter, f"{name}.onnx").is_file()]
    assert not missing


@pytest.mark.parametrize("path", FILES, ids=LABELS)
def test_batch_is_symbolic(path: Path) -> None:
    """With a fixed batch the comparison below would not be over batch 1 and 3."""
    (value,) = onnx.load(path, load_external_data=False).graph.input
    assert value.type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize("isa", _core.isa_levels())
@pytest.mark.parametrize("path", FILES, ids=LABELS)
def test_agrees_with_onnxruntime(path: Path, isa: str) -> None:
    model = fastconv.load(path, _isa=isa)
    for x, want in case(path):
        (got,) = model.run(None, x)
        assert np.isfinite(got).all()
        assert relative_error(got, want[0]) <= TOLERANCE
