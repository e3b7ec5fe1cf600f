"""fuse, patterns, simplify, dead on logical graphs: same results, the expected nodes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fastconv.graph import Graph, Value, Weight
from fastconv.passes import fuse, optimize_logical, remove_dead, restore_activations, simplify
from tests.interpret import interpret
from tests.passes.helpers import Build, feeds, ops

Make = Callable[[Build, Value], Value]


def check(graph: Graph, expected: list[str]) -> Graph:
    """optimize_logical keeps the results and the input graph, and leaves exactly these operators."""
    text, f = str(graph), feeds(graph)
    result = optimize_logical(graph)
    assert str(graph) == text
    for a, b in zip(interpret(graph, f), interpret(result, f), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5 * max(1.0, float(np.abs(a).max())))
    assert ops(result) == expected, str(result)
    return result


def one(make: Make, *shape: int) -> Graph:
    b = Build()
    return b.done(make(b, b.input(*(shape or (2, 4, 5, 5)))))


# -- per-channel arithmetic -------------------------------------------------------------------------------------
FOLDED: dict[str, Make] = {
    "bn": lambda b, x: b.bn(b.conv(x, 6, 3, bias=False)),
    "bias_bn_relu": lambda b, x: b.relu(b.bn(b.conv(x, 6, 3))),
    "bn_bn": lambda b, x: b.bn(b.bn(b.conv(x, 6, 3))),
    "mul_c11": lambda b, x: b.mul(b.conv(x, 6, 1), b.const(6, 1, 1)),
    "mul_1c11_left": lambda b, x: b.mul(b.const(1, 6, 1, 1), b.conv(x, 6, 1)),
    "keras_bn": lambda b, x: b.add(b.mul(b.conv(x, 6, 1, bias=False), b.const(1, 6, 1, 1)), b.const(1, 6, 1, 1)),
    "sub": lambda b, x: b.bin("Sub", b.conv(x, 6, 1), b.const(6, 1, 1)),
    "sub_from": lambda b, x: b.bin("Sub", b.const(6, 1, 1), b.conv(x, 6, 1)),
    "div": lambda b, x: b.bin("Div", b.conv(x, 6, 1), b.const(6, 1, 1, low=0.5, high=2.0)),
    "number": lambda b, x: b.add(b.mul(b.conv(x, 6, 1), b.number(0.3)), b.number(2.0, 1)),
    "depthwise": lambda b, x: b.bn(b.conv(x, 8, 3, group=4)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folds_into_conv(name: str) -> None:
    check(one(FOLDED[name]), ["Conv"])


def test_folding_leaves_the_weight_alone() -> None:
    b = Build()

    def fail() -> np.ndarray:
        raise AssertionError("a pass read the weight")

    w = b.g.constant(Weight((6, 4, 3, 3), np.float32, fail))
    y = b.g.add(
        "Conv", [b.input(1, 4, 5, 5), w, None], (1, 6, 3, 3), strides=(1, 1), dilations=(1, 1), group=1, pads=(0,) * 4
    )
    g = optimize_logical(b.done(b.relu(b.bn(y))))
    conv = g.nodes[0]
    assert conv.input(1) is w and conv.attrs["scale"].shape == (6,) and conv.attrs["scale"].dtype == np.float32
    assert conv.input(2).shape == (6,) and conv.input(2).dtype == np.float32
    assert conv.attrs["activation"] == ("Relu", 0.0, 0.0)
    assert g.outputs[0].name == b.g.outputs[0].name


NOT_FOLDED: dict[str, tuple[Make, list[str]]] = {
    "two_readers": (
        lambda b, x: (lambda y: b.mul(b.bn(y), b.un("Abs", y)))(b.conv(x, 6, 1)),
        ["Conv", "Affine", "Abs", "Mul"],
    ),
    "bn_first": (lambda b, x: b.conv(b.relu(b.bn(x)), 6, 1), ["Affine", "Conv"]),
    "after_relu": (lambda b, x: b.relu(b.bn(b.relu(b.conv(x, 6, 1)))), ["Conv", "Affine"]),
    "wrong_axis": (lambda b, x: b.mul(b.conv(x, 5, 1), b.const(5)), ["Conv", "Mul"]),
    "spatial_constant": (lambda b, x: b.mul(b.conv(x, 6, 1), b.const(6, 5, 5)), ["Conv", "Mul"]),
    "by_zero": (lambda b, x: b.bin("Div", b.conv(b.relu(x), 6, 1), b.number(0.0)), ["Relu", "Conv", "Div"]),
    "residual": (lambda b, x: b.bn(b.add(b.conv(x, 4, 1), x)), ["Conv", "Affine"]),
    "mul_add": (lambda b, x: b.relu(b.add(b.mul(x, b.const(4, 1, 1)), b.const(4, 1, 1))), ["Affine"]),
    "mul_add_number": (lambda b, x: b.add(b.mul(x, b.const(4, 1, 1)), b.number(0.5)), ["Affine"]),
    "number_mul_add": (lambda b, x: b.bin("Sub", b.mul(x, b.number(0.5)), b.const(4, 1, 1)), ["Affine"]),
    "mul_add_other_axis": (lambda b, x: b.add(b.mul(x, b.const(4, 1, 1)), b.const(5)), ["Mul", "Add"]),
    "affine_then_mul": (lambda b, x: b.mul(b.bn(x), b.const(4, 1, 1)), ["Affine"]),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_stays_apart_from_conv(name: str) -> None:
    make, expected = NOT_FOLDED[name]
    if name == "by_zero":
        g = optimize_logical(one(make))
        assert ops(g) == expected
    else:
        check(one(make), expected)


@pytest.mark.parametrize("trans_b", [False, True])
def test_folds_into_gemm(trans_b: bool) -> None:
    check(one(lambda b, x: b.relu(b.bn(b.gemm(x, 5, trans_b=trans_b, bias=False))), 3, 7), ["Gemm"])
    check(one(lambda b, x: b.add(b.gemm(x, 5, trans_b=trans_b, bias=False), b.const(5)), 3, 7), ["Gemm"])
    check(one(lambda b, x: b.add(b.gemm(x, 5, trans_b=trans_b), b.const(1, 5)), 3, 7), ["Gemm"])


def test_dynamic_weight_is_not_scaled() -> None:
    b = Build()
    x, w = b.input(3, 7), b.input(5, 7, name="w")
    y = b.g.add("Gemm", [x, w, None], (3, 5), trans_b=True)
    check(b.done(b.mul(b.add(y, b.const(5)), b.const(5))), ["Gemm", "Mul"])


# -- activations ------------------------------------------------------------------------------------------------
ACTIVATIONS: list[tuple[str, dict[str, object], tuple[str, float, float]]] = [
    ("Relu", {}, ("Relu", 0.0, 0.0)),
    ("Clip", {"min": 0.0, "max": 6.0}, ("Clip", 0.0, 6.0)),
    ("Clip", {"min": 0.0, "max": math.inf}, ("Relu", 0.0, 0.0)),
    ("LeakyRelu", {"alpha": 0.1}, ("LeakyRelu", 0.1, 0.0)),
    ("Elu", {"alpha": 0.5}, ("Elu", 0.5, 0.0)),
    ("Selu", {"alpha": 1.5, "gamma": 1.1}, ("Selu", 1.5, 1.1)),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, ("HardSigmoid", 0.25, 0.5)),
    ("Gelu", {"approximate": "none"}, ("Gelu", 0.0, 0.0)),
    ("Gelu", {"approximate": "tanh"}, ("Gelu", 1.0, 0.0)),
    *((op, {}, (op, 0.0, 0.0)) for op in ("Sigmoid", "HardSwish", "Swish", "Tanh", "Softplus", "Mish")),
]


@pytest.mark.parametrize("op,attrs,fused", ACTIVATIONS)
def test_fuses_activation(op: str, attrs: dict[str, object], fused: tuple[str, float, float]) -> None:
    makers: list[tuple[Make, str]] = [
        (lambda b, x: b.conv(x, 4, 3, pad=1), "Conv"),
        (lambda b, x: b.mul(x, b.un("Abs", x)), "Mul"),
        (lambda b, x: b.bn(x), "Affine"),
    ]
    for make, last in makers:
        g = check(
            one(lambda b, x, make=make: b.un(op, make(b, x), **attrs)), ["Abs", last] if last == "Mul" else [last]
        )
        assert g.nodes[-1].attrs["activation"] == fused
    check(one(lambda b, x: b.un(op, b.gemm(x, 5), **attrs), 2, 3), ["Gemm"])


def test_activation_does_not_fuse_when_the_value_before_is_needed() -> None:
    b = Build()
    y = b.conv(b.input(1, 4, 5, 5), 4, 1)
    check(b.done(b.relu(y), y), ["Conv", "Relu"])
    check(one(lambda b, x: b.un("Exp", b.conv(x, 4, 1))), ["Conv", "Exp"])
    check(one(lambda b, x: b.un("Tanh", b.relu(b.conv(x, 4, 1)))), ["Conv", "Tanh"])


def _relu6_of_plus_3(b: Build, x: Value) -> Value:
    return b.un("Clip", b.add(x, b.number(3.0)), min=0.0, max=6.0)


def _erf_gate(b: Build, x: Value) -> Value:
    return b.add(b.un("Erf", b.bin("Div", x, b.number(1.4142135))), b.number(1.0, 1))


def _tanh_gate(b: Build, x: Value, spelling: int) -> Value:
    if spelling == 0:
        cubic = b.add(x, b.mul(b.bin("Pow", x, b.number(3.0)), b.number(0.044715)))
    elif spelling == 1:
        cubic = b.add(b.mul(b.number(0.044715), b.mul(x, b.mul(x, x))), x)
    else:
        cubic = b.mul(x, b.add(b.number(1.0), b.mul(b.mul(x, x), b.number(0.044715))))
    return b.add(b.number(1.0), b.un("Tanh", b.mul(cubic, b.number(0.7978845608))))


PATTERNS: list[tuple[str, Make]] = [
    ("Swish", lambda b, x: b.mul(x, b.un("Sigmoid", x))),
    ("Swish", lambda b, x: b.mul(b.un("Sigmoid", x), x)),
    ("Mish", lambda b, x: b.mul(x, b.un("Tanh", b.un("Softplus", x)))),
    ("HardSwish", lambda b, x: b.mul(b.un("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)),
    ("HardSwish", lambda b, x: b.bin("Div", b.mul(x, _relu6_of_plus_3(b, x)), b.number(6.0))),
    ("HardSwish", lambda b, x: b.mul(x, b.bin("Div", _relu6_of_plus_3(b, x), b.number(6.0)))),
    ("HardSwish", lambda b, x: b.mul(b.mul(_relu6_of_plus_3(b, x), b.number(0.16666667, 1)), x)),
    ("HardSwish", lambda b, x: b.mul(b.number(1 / 6), b.mul(x, _relu6_of_plus_3(b, x)))),
    ("HardSwish", lambda b, x: b.mul(b.bin("Div", x, b.number(6.0)), _relu6_of_plus_3(b, x))),
    ("HardSigmoid", lambda b, x: b.bin("Div", _relu6_of_plus_3(b, x), b.number(6.0))),
    ("HardSigmoid", lambda b, x: b.mul(_relu6_of_plus_3(b, x), b.number(1 / 6))),
    ("HardSigmoid", lambda b, x: b.un("Clip", b.add(b.mul(x, b.number(0.2)), b.number(0.5)), min=0.0, max=1.0)),
    ("Gelu", lambda b, x: b.mul(b.mul(x, _erf_gate(b, x)), b.number(0.5))),
    ("Gelu", lambda b, x: b.mul(b.mul(b.number(0.5), x), _erf_gate(b, x))),
    ("Gelu", lambda b, x: b.mul(x, b.mul(_erf_gate(b, x), b.number(0.5)))),
    *(("Gelu", lambda b, x, k=k: b.mul(b.mul(x, b.number(0.5)), _tanh_gate(b, x, k))) for k in range(3)),
]


@pytest.mark.parametrize("index", range(len(PATTERNS)))
def test_restores_activation(index: int) -> None:
    op, make = PATTERNS[index]
    check(one(make), [op])
    check(one(lambda b, x: make(b, b.conv(x, 4, 1))), ["Conv"])
    check(one(lambda b, x: make(b, b.mul(x, b.un("Abs", x)))), ["Abs", "Mul"])  # x is a product itself
    check(one(lambda b, x: make(b, b.mul(x, b.number(2.0)))), ["Mul"])


NEAR_MISSES: list[Make] = [
    lambda b, x: b.mul(x, b.un("Sigmoid", b.un("Abs", x))),
    lambda b, x: b.mul(x, b.un("HardSigmoid", x, alpha=0.2, beta=0.5)),
    lambda b, x: b.bin("Div", b.mul(x, b.un("Clip", b.add(x, b.number(2.0)), min=0.0, max=6.0)), b.number(6.0)),
    lambda b, x: b.mul(b.mul(x, _erf_gate(b, b.un("Abs", x))), b.number(0.5)),
    lambda b, x: b.mul(b.mul(x, _erf_gate(b, x)), b.number(0.6)),
    lambda b, x: b.bin("Div", b.mul(x, _relu6_of_plus_3(b, x)), b.number(3.0)),
]


@pytest.mark.parametrize("index", range(len(NEAR_MISSES)))
def test_near_misses_keep_their_meaning(index: int) -> None:
    g = one(NEAR_MISSES[index])
    f = feeds(g)
    result = optimize_logical(g)
    np.testing.assert_allclose(interpret(result, f)[0], interpret(g, f)[0], rtol=1e-5, atol=1e-5)
    assert not {"Gelu", "HardSwish", "Swish", "Mish"} & {n.attrs.get("activation", (n.op,))[0] for n in result.nodes}


def test_intermediate_results_that_others_read_stay() -> None:
    b = Build()
    x = b.input(1, 4, 3, 3)
    s = b.un("Sigmoid", x)
    check(b.done(b.mul(x, s), s), ["Sigmoid", "Swish"])


# -- residuals --------------------------------------------------------------------------------------------------
def test_residual_and_relu_fuse() -> None:
    g = check(one(lambda b, x: b.relu(b.add(b.bn(b.conv(x, 4, 3, pad=1)), x))), ["Conv"])
    assert g.nodes[0].input(3) is g.inputs[0] and g.nodes[0].attrs["activation"][0] == "Relu"
    check(one(lambda b, x: b.relu(b.add(x, b.gemm(x, 7))), 3, 7), ["Gemm"])


def test_residual_takes_the_later_conv() -> None:
    g = check(one(lambda b, x: b.add(b.conv(x, 6, 1), b.conv(b.relu(x), 6, 1))), ["Conv", "Relu", "Conv"])
    assert g.nodes[2].input(3) is g.nodes[0].output


def test_conv_moves_behind_its_residual() -> None:
    def make(b: Build, x: Value) -> Value:
        y = b.conv(x, 4, 1)
        return b.relu(b.add(y, b.un("Exp", b.un("Neg", x))))

    check(one(make), ["Neg", "Exp", "Conv"])


def test_residual_needs_a_free_conv_of_equal_shape() -> None:
    check(one(lambda b, x: b.add(b.relu(b.conv(x, 4, 1)), x)), ["Conv", "Add"])
    check(one(lambda b, x: b.add(b.conv(x, 4, 1), b.mean(x))), ["Conv", "ReduceMean", "Add"])
    check(one(lambda b, x: b.add(b.add(b.conv(x, 4, 1), x), b.un("Abs", x))), ["Conv", "Abs", "Add"])
    check(one(lambda b, x: (lambda y: b.add(y, y))(b.conv(x, 4, 1))), ["Conv", "Add"])


# -- clean-up ---------------------------------------------------------------------------------------------------
CLEAN: dict[str, tuple[Make, list[str]]] = {
    "reshape_chain": (lambda b, x: b.relu(b.reshape(b.reshape(x, 2, 100), 4, 50)), ["Reshape", "Relu"]),
    "reshape_back": (lambda b, x: b.relu(b.reshape(b.reshape(x, 2, 100), 2, 4, 5, 5)), ["Relu"]),
    "transpose_pair": (lambda b, x: b.relu(b.transpose(b.transpose(x, 0, 2, 3, 1), 0, 3, 1, 2)), ["Relu"]),
    "transposes": (lambda b, x: b.relu(b.transpose(b.transpose(x, 0, 2, 3, 1), 1, 0, 2, 3)), ["Transpose", "Relu"]),
    "slice_all": (lambda b, x: b.relu(b.slice(x, 1, 0, 4)), ["Relu"]),
    "pad_none": (lambda b, x: b.relu(b.pad(x, (0, 0), (0, 0), (0, 0), (0, 0))), ["Relu"]),
    "concat_one": (lambda b, x: b.relu(b.concat(1, x)), ["Relu"]),
    "clip_any": (lambda b, x: b.relu(b.un("Clip", x, min=-math.inf, max=math.inf)), ["Relu"]),
    "clip_chain": (lambda b, x: b.un("Clip", b.relu(x), min=-math.inf, max=1.0), ["Clip"]),
    "min_relu": (lambda b, x: b.bin("Min", b.relu(x), b.number(1.0)), ["Clip"]),
    "max_zero": (lambda b, x: b.bin("Max", b.number(0.0), x), ["Relu"]),
    "prelu_number": (lambda b, x: b.bin("PRelu", x, b.number(0.2)), ["LeakyRelu"]),
    "times_one": (lambda b, x: b.relu(b.mul(x, b.number(1.0))), ["Relu"]),
    "mean_of_pixel": (lambda b, x: b.mean(b.mean(x), keepdims=0), ["ReduceMean", "Reshape"]),
    "pool_1x1": (lambda b, x: b.relu(b.pool("MaxPool", x, 1, 1)), ["Relu"]),
    "global_average": (lambda b, x: b.pool("AveragePool", x, 5, 1), ["ReduceMean"]),
    "transposed_pixel": (lambda b, x: b.transpose(b.mean(x), 0, 2, 3, 1), ["ReduceMean", "Reshape"]),
    "expand": (lambda b, x: b.mul(x, b.g.add("Expand", [b.mean(x)], x.shape)), ["ReduceMean", "Mul"]),
    "expand_needed": (lambda b, x: b.relu(b.g.add("Expand", [b.mean(x)], x.shape)), ["ReduceMean", "Expand", "Relu"]),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_up(name: str) -> None:
    make, expected = CLEAN[name]
    check(one(make), expected)


IMAGE_PAD = ((0, 0), (0, 0), (1, 2), (0, 1))
PADS: dict[str, tuple[Make, list[str]]] = {
    "conv": (lambda b, x: b.conv(b.pad(x, *IMAGE_PAD), 6, 3, pad=1), ["Conv"]),
    "conv_value": (lambda b, x: b.conv(b.pad(x, *IMAGE_PAD, value=1.0), 6, 3), ["Pad", "Conv"]),
    "conv_channels": (lambda b, x: b.conv(b.pad(x, (0, 0), (1, 1), (0, 0), (0, 0)), 6, 3), ["Pad", "Conv"]),
    "average": (lambda b, x: b.pool("AveragePool", b.pad(x, *IMAGE_PAD), 2, 1), ["AveragePool"]),
    "average_excluded": (lambda b, x: b.pool("AveragePool", b.pad(x, *IMAGE_PAD), 3, 1, 1), ["Pad", "AveragePool"]),
    "average_included": (
        lambda b, x: b.pool("AveragePool", b.pad(x, *IMAGE_PAD), 3, 1, 1, count_include_pad=1),
        ["AveragePool"],
    ),
    "max_zero": (lambda b, x: b.pool("MaxPool", b.pad(x, *IMAGE_PAD), 3, 1), ["Pad", "MaxPool"]),
    "max_infinity": (lambda b, x: b.pool("MaxPool", b.pad(x, *IMAGE_PAD, value=-math.inf), 3, 2), ["MaxPool"]),
    "max_after_relu": (lambda b, x: b.pool("MaxPool", b.pad(b.relu(x), *IMAGE_PAD), 3, 2), ["Relu", "MaxPool"]),
    "max_small_window": (
        lambda b, x: b.pool("MaxPool", b.pad(b.relu(x), *IMAGE_PAD), 2, 1),
        ["Relu", "Pad", "MaxPool"],
    ),
}


@pytest.mark.parametrize("name", PADS)
def test_pad_joins_window(name: str) -> None:
    make, expected = PADS[name]
    check(one(make), expected)


def test_average_that_hangs_over_keeps_its_pad() -> None:
    b = Build()
    y = b.pad(b.input(1, 2, 4, 4), (0, 0), (0, 0), (1, 0), (1, 0))
    y = b.g.add("AveragePool", [y], (1, 2, 3, 3), kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4)
    check(b.done(y), ["Pad", "AveragePool"])


def test_outputs_keep_their_names() -> None:
    b = Build()
    x = b.input(1, 4, 3, 3)
    y = b.reshape(b.relu(x), 1, 4, 3, 3)
    z = b.mul(y, b.number(1.0))
    g = check(b.done(y, z), ["Relu", "Mul"])
    assert [v.name for v in g.outputs] == [y.name, z.name]
    b = Build()
    x = b.input(1, 4, 3, 3)
    check(b.done(b.reshape(x, 1, 4, 3, 3)), ["Reshape"])  # an output is not replaced by an input


def test_dead_nodes_go() -> None:
    b = Build()
    x = b.input(1, 4, 3, 3)
    y = b.relu(x)
    b.un("Exp", b.un("Neg", y))
    assert ops(remove_dead(b.done(y))) == ["Relu"]


@pytest.mark.parametrize("step", [simplify, restore_activations, fuse])
def test_integer_values_are_left_alone(step: Callable[[Graph], Graph]) -> None:
    b = Build()
    x = b.g.add_input("i", (2, 3), np.int64)
    y = b.g.add("Add", [x, b.g.constant(np.ones((3,), np.int64))], (2, 3), dtype=np.int64)
    z = b.g.add("Mul", [y, b.g.constant(np.full((3,), 2, np.int64))], (2, 3), dtype=np.int64)
    assert ops(step(b.done(z))) == ["Add", "Mul"]
