"""Whole small networks against onnxruntime, on each instruction set of this machine, batch 1 and 3."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import fastconv
from fastconv import _core

from . import nets_exports, nets_formats  # noqa: F401  (they add to NETS)
from .builder import Array
from .nets import NETS, inputs, serialized

TOLERANCE = 1e-4


def reference(model: bytes | Path, x: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, x))


@lru_cache(maxsize=4)
def case(name: str, batch: int) -> tuple[dict[str, Array], list[Array]]:
    x = inputs(onnx.load_from_string(serialized(name)), batch)
    return x, reference(serialized(name), x)


def relative_error(got: Array, want: Array) -> float:
    assert got.shape == want.shape and got.dtype == want.dtype
    return float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("isa", _core.isa_levels())
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_onnxruntime(name: str, batch: int, isa: str) -> None:
    x, want = case(name, batch)
    kept = {k: v.copy() for k, v in x.items()}
    model = fastconv.load(serialized(name), threads=1, _isa=isa)
    for _ in range(2):  # the second run meets buffers that hold the first one's values
        got = model.run(None, x)
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert relative_error(g, w) <= TOLERANCE
    for k, v in kept.items():
        np.testing.assert_array_equal(x[k], v, err_msg=f"input {k} was changed")


@pytest.mark.parametrize("name", NETS)
def test_one_model_serves_several_batch_sizes(name: str) -> None:
    model = fastconv.load(serialized(name), threads=2)
    for batch in (3, 1, 3):
        x, want = case(name, batch)
        for g, w in zip(model.run(None, x), want, strict=True):
            assert relative_error(g, w) <= TOLERANCE


@pytest.mark.parametrize("name", NETS)
def test_the_network_would_show_swapped_channels(name: str) -> None:
    """The comparison above means something only if exchanging two channels of any weight moves the output well past
    the tolerance; this guards the networks themselves."""
    model = onnx.load_from_string(serialized(name))
    x, want = case(name, 1)
    blind = []
    for i, tensor in enumerate(model.graph.initializer):
        w = numpy_helper.to_array(tensor)
        if w.dtype != np.float32 or w.ndim == 0 or w.shape[0] < 2:
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.initializer[i].CopyFrom(numpy_helper.from_array(np.roll(w, 1, axis=0), tensor.name))
        got = reference(changed.SerializeToString(), x)
        if max(relative_error(g, y) for g, y in zip(got, want, strict=True)) < 10 * TOLERANCE:
            blind.append(tensor.name)
    assert not blind
