"""F(4x4, 3x3) in float32: its transforms, the product of 36 groups, the epilogue, and when it is chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import _core, layers, models
from fastconv.cuda import library
from fastconv.cuda.library import device
from fastconv.errors import DeviceError, UnsupportedOpError
from fastconv.selection import Choice, Selection, Shape
from tests import cases, reference
from tests.kernels.guard import F32, dense
from tests.kernels.weighted import ACTIVATIONS, activation
from tests.models import nets, nets_exports
from tests.models.builder import Builder

from . import single
from .single import SCALAR, close, constant, force, random, run, target

assert nets_exports  # importing it fills NETS


def force_winograd(wanted: int, tiles: int = 0) -> None:
    device(0).call("force_winograd", wanted, tiles)


@pytest.fixture(autouse=True)
def usual_choice() -> Iterator[None]:
    yield
    force(-1)
    force_winograd(-1)


def descriptor(case: cases.ConvCase, x: Any, y: Any, res: Any, act: str = "identity") -> Any:
    """x, y, res: element strides."""
    return _core.Winograd(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, m=4, r=3, pad_t=case.pads[0],
        pad_l=case.pads[1], x_image=x[0], x_row=x[1], x_ld=x[2], y_ld=y[2], res_ld=res[2], act=activation(act),
    )  # fmt: skip


def winograd(
    case: cases.ConvCase,
    *,
    gaps: tuple[int, int, int] = (0, 0, 0),
    bias: bool = True,
    residual: bool = False,
    act: str = "identity",
) -> F32:
    """The largest difference from reference.py is that of rounding; returns the result."""
    rng = np.random.default_rng(3)
    x = random(rng, "fp32", case.N, case.H, case.W, case.C)
    w = random(rng, "fp32", case.K, case.C, 3, 3)
    b = rng.standard_normal(case.K, np.float32) if bias else None
    shape = (case.N, case.P, case.Q, case.K)
    res = random(rng, "fp32", *shape) if residual else None
    xs, ys, rs = dense(x.shape, case.C + gaps[0]), dense(shape, case.K + gaps[1]), dense(shape, case.K + gaps[2])
    packed = target("fp32").store().pack_winograd(w, None, 4, SCALAR)
    inputs: list[Any] = [(x, xs), packed, None if b is None else constant("fp32", b)]
    inputs.append(None if res is None else (res, rs))
    got = run("fp32", "winograd_conv2d", descriptor(case, xs, ys, rs, act), inputs, shape, ys)
    act_of = reference.activation(*ACTIVATIONS[act])
    want = reference.conv2d(x, w, b, res, strides=(1, 1), dilations=(1, 1), pads=case.pads, groups=1, act=act_of)
    terms = 9 * case.C
    close(got, want, "fp32", terms=terms, scale=8 * float(np.sqrt(terms)), note=(case.name, gaps))
    return got


SAME = (1, 1, 1, 1)
SHAPES = (
    cases.ConvCase("one-tile", 1, 4, 4, 4, 4, 3, 3, pads=SAME),
    cases.ConvCase("one-pixel", 1, 3, 3, 8, 12, 3, 3),
    cases.ConvCase("odd", 1, 7, 5, 12, 20, 3, 3, pads=SAME),
    cases.ConvCase("images", 3, 6, 9, 20, 8, 3, 3, pads=SAME),  # a tile of a block for each of several images
    cases.ConvCase("asymmetric", 2, 9, 6, 36, 28, 3, 3, pads=(1, 0, 0, 1)),
    cases.ConvCase("wide-border", 1, 5, 4, 8, 8, 3, 3, pads=(3, 5, 4, 2)),  # tiles that see no pixel
    cases.ConvCase("inside", 1, 14, 15, 8, 8, 3, 3),  # no border
    cases.ConvCase("line", 2, 1, 17, 8, 4, 3, 3, pads=SAME),
    cases.ConvCase("blocks", 2, 15, 22, 36, 68, 3, 3, pads=SAME),  # more than one block in each direction
)


@pytest.mark.parametrize("case", SHAPES, ids=lambda c: c.name)
def test_shapes(case: cases.ConvCase) -> None:
    winograd(case)
    winograd(case, residual=True, bias=False, act="relu")


@pytest.mark.parametrize("gaps", [(8, 8, 8), (1, 3, 5), (0, 0, 1), (4, 1, 0)])
def test_strides(gaps: tuple[int, int, int]) -> None:
    """Slices of concatenations, aligned to 16 bytes or not."""
    winograd(SHAPES[4], gaps=gaps, residual=True)
    winograd(SHAPES[2], gaps=gaps, bias=False)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act: str) -> None:
    winograd(cases.ConvCase("odd", 1, 5, 3, 8, 8, 3, 3, pads=SAME), act=act)


def test_tiles_and_slices_of_the_product() -> None:
    case = cases.ConvCase("deep", 1, 10, 9, 100, 40, 3, 3, pads=SAME)
    for tile in range(4):
        for slices in (1, 3):
            force(tile, slices)
            winograd(case, residual=slices == 3, act="hard_swish")
    tiles = 9
    for slices in (1, 2, 4):
        force(2, slices)
        partial = slices * case.K if slices > 1 else 0
        assert workspace(case) == 4 * 36 * tiles * (case.C + case.K + partial)


def test_blocks_of_tiles() -> None:
    """Images whose planes are more than the workspace holds go by in blocks, the last of which is smaller: the results
    are the same, and the workspace is that of one block."""
    case = SHAPES[3]
    force(2)  # one tile of the product for all of them
    whole = winograd(case, residual=True)
    sizes = []
    for tiles in (0, 7, 1):
        force_winograd(-1, tiles)
        np.testing.assert_array_equal(winograd(case, residual=True), whole)
        sizes.append(workspace(case))
    assert sizes == [4 * 36 * tiles * (case.C + case.K) for tiles in (18, 7, 1)]


def test_a_plan_keeps_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test forces is of plans made later: the workspace of this one holds one tile at a time."""
    monkeypatch.setattr(single, "_targets", {})  # a workspace that no other plan made larger
    case, rng, t = SHAPES[2], np.random.default_rng(7), target("fp32")
    x, w = random(rng, "fp32", 1, case.H, case.W, case.C), random(rng, "fp32", case.K, case.C, 3, 3)
    shape = (1, case.P, case.Q, case.K)
    force_winograd(-1, 1)
    store = t.store()
    plan = t.plan(SCALAR, store)
    weight = plan.weight(store.pack_winograd(w, None, 4, SCALAR))
    desc = descriptor(case, dense(x.shape), dense(shape), (0, 0, 0))
    plan.winograd_conv2d(desc, [plan.external(0, 0, x.size), weight], plan.external(1, 0, int(np.prod(shape))))
    force_winograd(-1, 0)
    y = np.zeros(int(np.prod(shape)), np.float32)
    t.executor(1).run(plan, [x.reshape(-1), y])
    want = reference.conv2d(x, w, None, None, strides=(1, 1), dilations=(1, 1), pads=case.pads, groups=1)
    close(y.reshape(shape), want, "fp32", terms=9 * case.C, scale=8 * float(np.sqrt(9 * case.C)))


def workspace(case: cases.ConvCase) -> int:
    """Bytes that a plan with this one operation reserves."""
    t = target("fp32")
    plan, store = t.plan(SCALAR, t.store()), t.store()
    shape = (case.N, case.P, case.Q, case.K)
    xs, ys = dense((case.N, case.H, case.W, case.C)), dense(shape)
    packed = store.pack_winograd(np.zeros((case.K, case.C, 3, 3), np.float32), None, 4, SCALAR)
    size = case.N * case.H * case.W * case.C
    inputs = [plan.external(0, 0, size), plan.weight(packed)]
    plan.winograd_conv2d(descriptor(case, xs, ys, ys), inputs, plan.external(1, 0, int(np.prod(shape))))
    return t.owner.library.workspace(plan.handle)


def test_workspace_is_bounded() -> None:
    """128 MB, whatever the batch, in whole rows of the products' tiles."""
    for batch in (1, 32, 37, 256):
        size = workspace(cases.ConvCase("vgg", batch, 112, 112, 128, 128, 3, 3, pads=SAME))
        assert size <= 128 << 20 and (batch == 1 or (size > 100 << 20 and size % (4 * 36 * 256 * 128) == 0))


def test_rounding_error() -> None:
    """About twice that of direct sums in one piece (docs/cuda.md), of a layer as networks have them; slices of the
    depth, which a card with many multiprocessors takes for so few pixels, would make direct sums more exact."""
    case = cases.ConvCase("14-64", 1, 14, 14, 64, 16, 3, 3, pads=SAME)
    rng = np.random.default_rng(8)
    x = np.maximum(random(rng, "fp32", 1, 14, 14, 64), 0)
    w = random(rng, "fp32", 16, 64, 3, 3)
    xs, ys = dense(x.shape), dense((1, 14, 14, 16))
    store = target("fp32").store()
    fast = run("fp32", "winograd_conv2d", descriptor(case, xs, ys, ys),
               [(x, xs), store.pack_winograd(w, None, 4, SCALAR)], (1, 14, 14, 16), ys)  # fmt: skip
    want = reference.conv2d(x, w, None, None, pads=SAME)
    direct = _core.Conv2d(
        N=1, H=14, W=14, C=64, K=16, P=14, Q=14, R=3, S=3, groups=1, stride_h=1, stride_w=1, dilation_h=1,
        dilation_w=1, pad_t=1, pad_l=1, x_image=xs[0], x_row=xs[1], x_ld=xs[2], y_ld=16,
        algorithm=_core.ConvAlgorithm.implicit,
    )  # fmt: skip
    force(0, 1)
    slow = run("fp32", "conv2d", direct, [(x, xs), store.pack_conv2d(w, None, 1, SCALAR)], (1, 14, 14, 16), ys)
    force(-1)
    errors = [float(np.sqrt(np.mean((y.astype(np.float64) - want) ** 2))) for y in (fast, slow)]
    assert errors[0] < 2.7 * errors[1], errors


def test_filters_are_transformed_once_in_double_precision() -> None:
    """With the scale of a folded normalisation, as [36][K][C]."""
    rng = np.random.default_rng(5)
    w, scale = random(rng, "fp32", 8, 4, 3, 3), random(rng, "fp32", 8)
    packed = target("fp32").packer(target("fp32").store(), SCALAR)
    planes = packed.store.pack_winograd(w, scale, 4, SCALAR)._array.reshape(6, 6, 8, 4)
    scaled = w.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
    np.testing.assert_array_equal(planes[5, 5], scaled[:, :, 2, 2].astype(np.float32))  # both points at infinity
    rows = {0: (1.0, 0.0), 1: (1.0, 0.625), 4: (1.0, -1.5)}  # of the points' polynomials, over their distances
    distances = {0: 0.625**2 * 1.5**2, 1: 2 * 0.625**2 * (0.625**2 - 1.5**2), 4: 2 * 1.5**2 * (1.5**2 - 0.625**2)}
    for i, (_, p) in rows.items():
        for j, (_, q) in rows.items():
            power = np.array([1, p, p * p])[:, None] * np.array([1, q, q * q])
            want = (scaled * power).sum(axis=(2, 3)) / (distances[i] * distances[j])
            np.testing.assert_allclose(planes[i, j], want, rtol=1e-6, atol=1e-6)


def test_what_it_cannot() -> None:
    case = cases.ConvCase("six-channels", 1, 5, 5, 6, 8, 3, 3, pads=SAME)
    with pytest.raises(DeviceError, match="channels in fours"):
        winograd(case)
    with pytest.raises(UnsupportedOpError, match=r"F\(4x4, 3x3\) in fp32"):
        target("fp32").store().pack_winograd(np.zeros((4, 4, 3, 3), np.float32), None, 2, SCALAR)
    with pytest.raises(UnsupportedOpError, match=r"F\(4x4, 3x3\) in fp32"):
        target("tf32").store().pack_winograd(np.zeros((4, 4, 3, 3), np.float32), None, 4, SCALAR)


def test_empty_batch() -> None:
    case = cases.ConvCase("none", 0, 5, 5, 8, 8, 3, 3, pads=SAME)
    w = target("fp32").store().pack_winograd(np.ones((8, 8, 3, 3), np.float32), None, 4, SCALAR)
    xs = dense((0, 5, 5, 8))
    got = run("fp32", "winograd_conv2d", descriptor(case, xs, xs, xs), [(np.empty((0, 5, 5, 8), np.float32), xs), w],
              (0, 5, 5, 8))  # fmt: skip
    assert got.shape == (0, 5, 5, 8)


# -- when -----------------------------------------------------------------------------------------------------------
def chosen(N: int, size: int, C: int, K: int) -> bool:
    """On a device with an H100's multiprocessors."""
    return device(0).library.choose_winograd(N, size, size, C, K, 132)


def test_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timed on an H200 (docs/cuda.md): from 64 channels on, where there are tiles enough."""
    for size, C, K in ((112, 128, 128), (56, 128, 256), (28, 128, 128), (28, 512, 512), (14, 256, 256), (7, 512, 512)):
        assert chosen(32, size, C, K) and chosen(8, size, C, K)
    assert chosen(32, 56, 64, 64) and chosen(8, 56, 64, 64) and not chosen(1, 56, 64, 64)
    for batch in (1, 8, 32):
        assert chosen(batch, 224, 64, 64) and not chosen(batch, 224, 4, 64)
    assert [chosen(1, *s) for s in ((28, 128, 128), (14, 256, 256), (7, 512, 512), (14, 512, 512))] == 4 * [False]
    assert chosen(1, 56, 256, 256) and chosen(1, 28, 512, 512)
    assert not chosen(32, 28, 126, 128) and not chosen(32, 28, 128, 130) and not chosen(0, 28, 128, 128)
    monkeypatch.setenv("FASTCONV_CUDA_WINOGRAD", "0")
    assert not chosen(32, 28, 512, 512)


def test_only_for_what_it_computes() -> None:
    """Stride, dilation and groups of 1, constant weights, fp32 but not strict."""
    force_winograd(1)
    plain = Shape(1, 8, 8, 64, 64, 8, 8, 3, 3, 1, (1, 1), (1, 1), SAME)
    asked = Selection(SCALAR)

    def algorithm(precision: str, shape: Shape, asked: Selection = asked, constant: bool = True) -> str:
        return target(precision).selection(asked).choose(shape, constant=constant).choice.algorithm

    assert target("fp32").selection(asked).choose(plain).choice == Choice("winograd", 4)
    assert algorithm("fp32", plain, constant=False) != "winograd"
    assert algorithm("fp32", plain, Selection(SCALAR, strict=True)) != "winograd"
    trains = target("fp32").selection(asked, states=True)
    assert trains.choose(plain).choice.algorithm != "winograd"
    assert not any(algorithm(p, plain) == "winograd" for p in ("tf32", "fp16", "bf16"))
    changes: tuple[dict[str, Any], ...] = (
        {"strides": (2, 2), "P": 4, "Q": 4}, {"dilations": (2, 2), "pads": (2, 2, 2, 2)}, {"groups": 2},
        {"R": 1, "pads": (0, 1, 0, 1)}, {"R": 5, "S": 5, "pads": (2, 2, 2, 2)},
    )  # fmt: skip
    for change in changes:
        assert algorithm("fp32", plain._replace(**change)) != "winograd"


@pytest.mark.parametrize("name", ("resnet_preactivation", "vgg", "squeezenet", "keras_unet"))
def test_whole_networks(name: str) -> None:
    """Wherever it can: with residuals, pools and concatenations behind it, also when replayed as a graph."""
    data, feed = nets.serialized(name), nets.inputs(nets.NETS[name](), 2)
    want = fastconv.load(data, precision="strict").run(None, feed)
    force_winograd(1)
    model = fastconv.load(data, device="cuda")
    first = model.run(None, feed)
    assert any(op.algorithm == "F(4x4,3x3)" for op in model.inspect())
    for a, b in zip(first, want, strict=True):
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()
    for _ in range(2):
        for a, b in zip(model.run(None, feed), first, strict=True):
            np.testing.assert_array_equal(a, b)
    strict = fastconv.load(data, device="cuda", precision="strict")
    strict.run(None, feed)
    assert not any(op.algorithm.startswith("F(") for op in strict.inspect())


def test_a_network_takes_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rule, on the emulator's four multiprocessors, and not where it is switched off."""
    monkeypatch.setattr(library, "_devices", {})
    monkeypatch.setattr(single, "_targets", {})
    b = Builder(5, (3, 24, 24))
    x = b.conv_bn_relu(b.x, 128, 1)
    x = b.relu(b.op("Add", x, b.bn(b.conv(x, 128, 3))))
    x = b.conv_bn_relu(x, 128, 3, 2)
    data = b.model((b.head(x), [10])).SerializeToString()
    feed = {"input": np.random.default_rng(6).standard_normal((1, 3, 24, 24), np.float32)}
    (want,) = fastconv.load(data, precision="strict").run(None, feed)

    def algorithms(precision: str) -> list[str]:
        model = fastconv.load(data, device="cuda", precision=precision)
        (got,) = model.run(None, feed)
        assert np.abs(got - want).max() < (1e-4 if precision in ("fp32", "strict") else 4e-3) * np.abs(want).max()
        return [op.algorithm for op in model.inspect() if op.op == "Conv" and "3x3" in op.algorithm]

    if not os.environ.get("FASTCONV_TEST_CUDA"):  # a card has more multiprocessors than so few tiles fill
        assert algorithms("fp32") == ["F(4x4,3x3)"]
    assert algorithms("strict") == [] and algorithms("tf32") == []
    monkeypatch.setenv("FASTCONV_CUDA_WINOGRAD", "0")
    assert algorithms("fp32") == []


def test_training_sums_directly() -> None:
    """Its frozen convolutions, too, forward and for the gradient of their input."""
    force_winograd(1)
    model = models.Sequential([
        layers.Input((8, 8, 32)), layers.Conv2D(32, 3, padding="same"), layers.Conv2D(32, 3, padding="same"),
        layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax"),
    ])  # fmt: skip
    model.layers[1].trainable = False
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 32), np.float32)
    model.compile("sgd", "sparse_categorical_crossentropy", device="cuda")
    model.fit(x, np.array([0, 2]), batch_size=2, verbose=0)
    (step,) = model.trainer().steps.values()
    assert not any(op.algorithm.startswith("F(") for op in step.compiled.ops)
