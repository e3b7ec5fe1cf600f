"""Random convolutions and poolings, from an ONNX model to its output, against onnxruntime and between the levels.

60 configurations for each instruction set level, 500 with the marker `full`; the same ones in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.isa import isa_levels
from fastconv.onnx import read
from tests.interpret import interpret

F32 = np.ndarray[Any, np.dtype[np.float32]]
TOLERANCE = 2e-5  # of the largest magnitude, against onnxruntime
AGREEMENT = 1e-5  # between levels
onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True)
class Config:
    """One node, what surrounds it, and the shape of its input."""

    op: str
    shape: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...]
    outputs: int = 0  # channels of a convolution's output
    bias: bool = False
    around: tuple[str, ...] = field(default=())  # "bn", "relu", "residual", ...: after the node, in this order
    seed: int = 0

    @property
    def rank(self) -> int:
        return len(self.shape) - 2


def make(c: Config) -> onnx.ModelProto:
    rng, attrs = np.random.default_rng(c.seed), dict(c.attrs)
    inits: dict[str, Any] = {}
    inputs = ["x"]
    if c.op == "Conv":
        kernel, cg = attrs["kernel_shape"], c.shape[1] // attrs["group"]
        w = rng.standard_normal((c.outputs, cg, *kernel)) / np.sqrt(cg * np.prod(kernel))
        inits["w"] = w.astype(np.float32)
        inputs.append("w")
        if c.bias:
            inits["b"] = rng.standard_normal(c.outputs).astype(np.float32)
            inputs.append("b")
    nodes = [helper.make_node(c.op, inputs, ["y0"], **attrs)]
    channels = c.outputs if c.op == "Conv" else c.shape[1]
    for i, name in enumerate(c.around):
        x, y = f"y{i}", f"y{i + 1}"
        if name == "bn":
            for k, v in (("s", rng.uniform(0.5, 1.5, channels)), ("o", rng.standard_normal(channels)),
                         ("m", rng.standard_normal(channels)), ("v", rng.uniform(0.5, 2, channels))):  # fmt: skip
                inits[f"{k}{i}"] = v.astype(np.float32)
            nodes.append(helper.make_node("BatchNormalization", [x, f"s{i}", f"o{i}", f"m{i}", f"v{i}"], [y]))
        elif name == "residual":
            inits[f"r{i}"] = rng.standard_normal((channels, *[1] * c.rank)).astype(np.float32)
            nodes.append(helper.make_node("Relu", [x], [f"t{i}"]))
            nodes.append(helper.make_node("Mul", [x, f"r{i}"], [f"u{i}"]))
            nodes.append(helper.make_node("Add", [f"t{i}", f"u{i}"], [y]))
        elif name == "concat":
            nodes.append(helper.make_node("Concat", [x, x, x], [y], axis=1))
            channels *= 3
        else:
            nodes.append(helper.make_node(name, [x], [y]))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *c.shape[1:]])],
        [helper.make_tensor_value_info(f"y{len(c.around)}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in inits.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=8)


def image(c: Config) -> F32:
    return np.random.default_rng(c.seed + 1).standard_normal(c.shape, np.float32)


def run_onnxruntime(model: onnx.ModelProto, x: F32) -> F32:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y: F32 = session.run(None, {"x": x})[0]
    return y


@cache
def counts_padding_at_the_end() -> bool:
    """Whether this onnxruntime divides by a window's cells in the padding behind the image too (1.23 does not)."""
    attrs = (("kernel_shape", [2, 2]), ("pads", [0, 0, 1, 1]), ("count_include_pad", 1))
    c = Config("AveragePool", (1, 1, 1, 1), attrs)
    x = image(c)
    return bool(np.allclose(run_onnxruntime(make(c), x), x / 4))


def expected(c: Config, model: onnx.ModelProto, x: F32) -> F32:
    """What onnxruntime computes; the interpreter's result where onnxruntime is wrong by the text of ONNX.

    count_include_pad: pad pixels are included in the average, wherever they are.
    """
    if dict(c.attrs).get("count_include_pad") and not counts_padding_at_the_end():
        y: F32 = interpret(read(model).build({"x": x.shape}), {"x": x})[0].astype(np.float32)
        return y
    return run_onnxruntime(model, x)


def window(n: int, kernel: int, dilation: int) -> int:
    return dilation * (kernel - 1) + 1


# -- configurations -----------------------------------------------------------------------------------------------
@st.composite
def spatial(draw: st.DrawFn, conv: bool) -> tuple[list[int], dict[str, Any]]:
    """Image sizes and window attributes of one, two (mostly) dimensions that fit each other."""
    rank = draw(st.sampled_from((2, 2, 2, 2, 1)))
    kernel = draw(st.lists(st.sampled_from((1, 2, 3, 3, 3, 4, 5, 7)), min_size=rank, max_size=rank))
    if rank == 2 and draw(st.booleans()):
        kernel = [kernel[0]] * 2
    strides = [draw(st.sampled_from((1, 1, 2, 3)))] * rank
    dilations = draw(st.lists(st.sampled_from((1, 1, 1, 2, 3)), min_size=rank, max_size=rank))
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    auto_pad = draw(st.sampled_from(("NOTSET",) * 5 + ("SAME_UPPER", "SAME_LOWER", "VALID")))
    spans = [window(0, k, d) for k, d in zip(kernel, dilations, strict=True)]
    if auto_pad != "NOTSET":
        attrs["auto_pad"] = auto_pad
        if auto_pad != "VALID":  # which onnxruntime lacks for dilated windows
            attrs["dilations"], spans = [1] * rank, kernel
        pads = [0] * (2 * rank)
    else:
        # Padding of a pooling is narrower than its window: elsewhere onnxruntime refuses.
        most = [s if conv else k - 1 for s, k in zip(spans, kernel, strict=True)]
        pads = [draw(st.integers(0, min(m, 4))) for m in (*most, *most)]
        attrs["pads"] = pads
    least = [max(1, s - pads[i] - pads[i + rank]) for i, s in enumerate(spans)]
    return [draw(st.integers(n, n + 14)) for n in least], attrs


@st.composite
def convolutions(draw: st.DrawFn) -> Config:
    size, attrs = draw(spatial(conv=True))
    kind = draw(st.sampled_from(("dense", "dense", "wide", "groups", "depthwise", "multiplier")))
    channels = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 19, 24, 33))
    if kind == "dense":
        group, c, k = 1, draw(channels), draw(channels)
    elif kind == "wide":  # enough for Winograd and for several panels
        group, c, k = 1, draw(st.sampled_from((32, 36, 64))), draw(st.sampled_from((32, 40, 65, 130)))
        if draw(st.booleans()):
            n = len(size)
            attrs = {"kernel_shape": [3] * n, "strides": [1] * n, "dilations": [1] * n, "pads": [1] * (2 * n)}
    elif kind == "groups":
        group = draw(st.sampled_from((2, 3, 4)))
        c, k = group * draw(st.sampled_from((1, 2, 5, 8, 17))), group * draw(st.sampled_from((1, 3, 8, 16, 18)))
    else:
        c = group = draw(channels)
        k = c * (1 if kind == "depthwise" else draw(st.sampled_from((2, 3))))
    around = draw(st.sampled_from(((), (), ("Relu",), ("bn",), ("bn", "Relu"), ("residual",), ("concat", "bn"),
                                   ("bn", "Sigmoid"),
                                   ("Relu", "bn"), ("concat", "residual"))))  # fmt: skip
    batch = draw(st.sampled_from((1, 1, 2, 3, 0)))
    return Config("Conv", (batch, c, *size), tuple({**attrs, "group": group}.items()), k, draw(st.booleans()), around,
                  draw(st.integers(0, 1 << 16)))  # fmt: skip


@st.composite
def poolings(draw: st.DrawFn) -> Config:
    size, attrs = draw(spatial(conv=False))
    op = draw(st.sampled_from(("MaxPool", "AveragePool")))
    if "auto_pad" not in attrs or attrs["auto_pad"] == "VALID":
        attrs["ceil_mode"] = int(draw(st.booleans()))
    else:  # with gaps between its windows onnxruntime finds negative padding
        attrs["strides"] = [min(*attrs["strides"], *attrs["kernel_shape"])] * len(size)
    if op == "AveragePool":
        attrs["count_include_pad"] = int(draw(st.booleans()))
    channels = draw(st.sampled_from((1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 65)))
    around = draw(st.sampled_from(((), (), ("Relu",), ("concat",), ("bn",), ("concat", "residual"))))
    batch = draw(st.sampled_from((1, 1, 2, 3, 0)))
    return Config(op, (batch, channels, *size), tuple(attrs.items()), around=around, seed=draw(st.integers(0, 1 << 16)))


# What failed once: a row of two channels, seen as two rows of one, overwritten in place.
FAILED_ONCE = (
    Config("Conv", (1, 1, 5),
           (("kernel_shape", [5]), ("strides", [1]), ("dilations", [1]), ("auto_pad", "VALID"), ("group", 1)),
           outputs=2, around=("Relu",)),
)  # fmt: skip


# -- properties ---------------------------------------------------------------------------------------------------
def check(c: Config, levels: Sequence[str]) -> None:
    model, x = make(c), image(c)
    kept = x.copy()
    want = expected(c, model, x) if x.size else None
    results = []
    for level in levels:
        loaded = fastconv.load(model, threads=1 + c.seed % 2, _isa=level)
        got = loaded(x)
        np.testing.assert_array_equal(x, kept)
        if want is None:  # onnxruntime does not say what an empty batch gives: no images, shaped like those of one
            one = loaded(np.zeros((1, *c.shape[1:]), np.float32))
            assert got.shape == (0, *one.shape[1:])
            continue
        assert got.shape == want.shape and got.dtype == np.float32
        agree(got, want, TOLERANCE, level)
        results.append(got)
    for other in results[1:]:
        agree(other, results[0], AGREEMENT, "levels")


def agree(got: F32, want: F32, tolerance: float, note: str) -> None:
    """Equal to `tolerance` of the largest magnitude, or of 1/2 where all sums cancel: their terms are about 1.

    A pooling window that sees no pixel gives -inf here and the least float in onnxruntime.
    """
    nothing = np.abs(want) > 1e30
    np.testing.assert_array_equal(np.abs(got) > 1e30, nothing, note)
    got, want = np.where(nothing, 0, got), np.where(nothing, 0, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max(initial=0.5)), err_msg=note)


def examples(count: int) -> Callable[[Any], Any]:
    return settings(max_examples=count, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


STRATEGIES = {"conv": convolutions(), "pool": poolings()}


def property_test(kind: str, levels: Sequence[str], count: int) -> None:
    @examples(count)
    @given(STRATEGIES[kind])
    def holds(c: Config) -> None:
        check(c, levels)

    holds()


@pytest.mark.parametrize("c", FAILED_ONCE, ids=str)
def test_failed_once(c: Config) -> None:
    check(c, isa_levels())


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("isa", isa_levels())
def test_against_onnxruntime(isa: str, kind: str) -> None:
    property_test(kind, [isa], 60)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("isa", isa_levels())
def test_against_onnxruntime_full(isa: str, kind: str) -> None:
    property_test(kind, [isa], 500)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_levels_agree(kind: str) -> None:
    property_test(kind, isa_levels(), 60)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", STRATEGIES)
def test_levels_agree_full(kind: str) -> None:
    property_test(kind, isa_levels(), 500)


def test_the_configurations_are_varied() -> None:
    """What the strategies reach: narrow ones would prove little."""
    seen: set[str] = set()

    def note(c: Config) -> None:
        attrs = dict(c.attrs)
        facts = {
            f"rank{c.rank}": True, f"batch{c.shape[0]}": True, "dilated": max(attrs["dilations"]) > 1,
            "strided": max(attrs["strides"]) > 1, attrs.get("auto_pad", "NOTSET"): True,
            "ceil": bool(attrs.get("ceil_mode")),
            "counting": bool(attrs.get("count_include_pad")), "asymmetric": len(set(attrs.get("pads", [0]))) > 1,
            **dict.fromkeys(c.around, True),
        }  # fmt: skip
        if c.op == "Conv" and c.shape[0]:
            facts.update({o.algorithm: True for o in fastconv.load(make(c)).inspect(c.shape)})
            facts["multiplier"] = c.outputs > c.shape[1] == attrs["group"] > 1
            facts["groups"] = 1 < attrs["group"] < c.shape[1]
        seen.update(k for k, v in facts.items() if v)

    for kind in STRATEGIES:
        examples(300)(given(STRATEGIES[kind])(note))()
    wanted = {"rank1", "rank2", "batch0", "batch1", "batch2", "batch3", "dilated", "strided", "NOTSET", "SAME_UPPER",
              "SAME_LOWER", "VALID", "ceil", "counting", "asymmetric", "bn", "Relu", "concat", "residual", "gemm",
              "implicit",
              "row_run", "depthwise", "multiplier", "groups"}  # fmt: skip
    winograd = {a for a in seen if a.startswith("F(")}
    assert wanted <= seen and winograd, (wanted - seen, winograd)
