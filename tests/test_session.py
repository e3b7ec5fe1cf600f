"""InferenceSession: the same script against fastconv and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fastconv

from .small import CLASSES, images, network

CPU = ["CPUExecutionProvider"]


def script(module: Any, source: Any) -> dict[str, Any]:
    """What a user's script does; `module` is the one import line that changes."""
    options = module.SessionOptions()
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = module.InferenceSession(source, sess_options=options, providers=CPU)
    name = session.get_inputs()[0].name
    feed = {name: images(2)}
    outputs = [o.name for o in session.get_outputs()]
    return {
        "inputs": [(i.name, i.shape, i.type) for i in session.get_inputs()],
        "outputs": [(o.name, o.shape, o.type) for o in session.get_outputs()],
        "providers": session.get_providers(),
        "all": session.run(None, feed),
        "empty list": session.run([], feed),
        "last": session.run([outputs[-1]], feed),
        "keywords": session.run(output_names=[outputs[0]], input_feed=feed, run_options=None),
        "reordered": session.run(outputs[::-1], feed),
    }


@pytest.mark.parametrize("kind", ("bytes", "str", "Path"))
def test_one_script(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network())
    source = {"bytes": network(), "str": str(path), "Path": path}[kind]
    ours, theirs = script(fastconv, source), script(onnxruntime, source)
    for key in ("inputs", "outputs", "providers"):
        assert ours[key] == theirs[key], key
    for key in ("all", "empty list", "last", "keywords", "reordered"):
        assert isinstance(ours[key], list) and len(ours[key]) == len(theirs[key]), key
        for got, want in zip(ours[key], theirs[key], strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=key)


@pytest.mark.parametrize("module", (fastconv, onnxruntime), ids=lambda m: m.__name__)
def test_positional_options(module: ModuleType) -> None:
    session = module.InferenceSession(network(), module.SessionOptions(), CPU)
    assert session.run(["output"], {"input": images(1)})[0].shape == (1, CLASSES)


def test_node_arg_prints_itself() -> None:
    text = repr(fastconv.InferenceSession(network()).get_inputs()[0])
    assert text == "NodeArg(name='input', type='tensor(float)', shape=['N', 3, 20, 18])"


def test_both_reject_the_same_feeds() -> None:
    sessions = [m.InferenceSession(network(), providers=CPU) for m in (fastconv, onnxruntime)]
    x = images(1)
    for names, feed in (
        (None, {"wrong": x}),
        (None, {}),
        (["nothing"], {"input": x}),
        (None, {"input": x[0]}),
        (None, {"input": x[:, :2]}),
        (None, {"input": x.astype(np.float64)}),
        (None, [x]),
    ):
        for session in sessions:
            with pytest.raises(Exception) as caught:
                session.run(names, feed)
            if session is sessions[0]:
                assert isinstance(caught.value, fastconv.ShapeError)


def test_threads() -> None:
    options = fastconv.SessionOptions()
    assert fastconv.InferenceSession(network(), options)._model.threads == fastconv._core.usable_cpus()
    options.intra_op_num_threads = 3
    assert fastconv.InferenceSession(network(), options)._model.threads == 3
    theirs = onnxruntime.SessionOptions()  # a script may keep onnxruntime's options
    theirs.intra_op_num_threads = 1
    assert fastconv.InferenceSession(network(), theirs)._model.threads == 1
    options.intra_op_num_threads = -1
    with pytest.raises(ValueError, match="threads"):
        fastconv.InferenceSession(network(), options)


def test_providers() -> None:
    for providers in (None, [], CPU, ["CUDAExecutionProvider", *CPU], [("CPUExecutionProvider", {"arena": "1"})]):
        session = fastconv.InferenceSession(network(), providers=providers)
        assert session.get_providers() == CPU
    with pytest.raises(fastconv.DeviceError, match="CUDAExecutionProvider"):
        fastconv.InferenceSession(network(), providers=["CUDAExecutionProvider"])


def test_every_option_of_onnxruntime_is_accepted() -> None:
    """A script may set any of them; an attribute that does not exist there is a mistake in the script either way."""
    options, theirs = fastconv.SessionOptions(), onnxruntime.SessionOptions()
    names = [n for n in dir(theirs) if not n.startswith("_") and not callable(getattr(theirs, n))]
    assert "graph_optimization_level" in names
    for name in names:
        setattr(options, name, getattr(theirs, name))
    fastconv.InferenceSession(network(), options)
