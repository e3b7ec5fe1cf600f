"""Augmentation layers: Keras' geometry, numbers per image, nothing outside of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import layers as L
from fastconv.layers.augment import _Geometric
from fastconv.models import Sequential
from fastconv.preprocessing.augment import Augmentation
from tests import reference

X = np.random.default_rng(3).uniform(0, 255, (4, 9, 12, 3)).astype(np.float32)


def augmented(*layers: Any, x: np.ndarray = X, seed: int = 5, number: int = 2) -> np.ndarray:
    return Augmentation(Sequential([L.Input(x.shape[1:]), *layers]), seed)(x, number)


# -- what a point of the image does --------------------------------------------------------------------------------
def peak(layer: Any, row: int, column: int, size: tuple[int, int] = (21, 31)) -> tuple[float, float]:
    """Where one bright pixel of a dark image goes: the centre of mass."""
    x = np.zeros((1, *size, 1), np.float32)
    x[0, row, column] = 1
    y = augmented(layer, x=x)[0, :, :, 0].astype(np.float64)
    rows, columns = np.mgrid[: y.shape[0], : y.shape[1]]
    return float((rows * y).sum() / y.sum()), float((columns * y).sum() / y.sum())


def test_directions() -> None:
    """Positive: counter-clockwise, down, right, smaller."""
    quarter = peak(L.RandomRotation((0.25, 0.25), "constant"), 10, 20)  # right of the centre (10, 15)
    np.testing.assert_allclose(quarter, (5, 15), atol=1e-4)  # goes above it
    np.testing.assert_allclose(peak(L.RandomTranslation((2 / 21, 2 / 21), 0.0), 10, 15), (12, 15), atol=1e-4)
    np.testing.assert_allclose(peak(L.RandomTranslation(0.0, (3 / 31, 3 / 31)), 10, 15), (10, 18), atol=1e-4)
    np.testing.assert_allclose(peak(L.RandomTranslation((-0.1, -0.1), 0.0), 10, 15), (7.9, 15), atol=1e-4)
    np.testing.assert_allclose(peak(L.RandomZoom((1.0, 1.0), None, "constant"), 10, 23), (10, 19), atol=1e-4)
    np.testing.assert_allclose(peak(L.RandomZoom((-0.5, -0.5), None, "constant"), 11, 16), (12, 17), atol=1e-4)
    np.testing.assert_allclose(peak(L.RandomZoom((1.0, 1.0), (0.0, 0.0), "constant"), 14, 23), (12, 23), atol=1e-4)


@pytest.mark.parametrize("interpolation", ("bilinear", "nearest"))
@pytest.mark.parametrize("fill_mode", ("reflect", "wrap", "constant", "nearest"))
def test_geometry(fill_mode: str, interpolation: str) -> None:
    """Against the formulas in float64: Keras' own rotate, shift and zoom about the middle of the pixels' centres."""
    h, w = X.shape[1:3]
    cy, cx = (h - 1) / 2, (w - 1) / 2
    for layer in (
        L.RandomRotation(0.4),
        L.RandomTranslation(0.3, (-0.5, 0.1)),
        L.RandomZoom(0.5),
        L.RandomZoom(0.3, 0.6),
    ):
        layer.fill_mode, layer.interpolation, layer.fill_value = fill_mode, interpolation, 7.0
        rng = np.random.default_rng((5, 2, 0))
        if isinstance(layer, L.RandomRotation):
            angle = rng.uniform(-0.4, 0.4, 4) * 2 * np.pi
            turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angle]
            shifts = [np.zeros(2)] * 4
        elif isinstance(layer, L.RandomTranslation):
            down, right = rng.uniform(-0.3, 0.3, 4) * h, rng.uniform(-0.5, 0.1, 4) * w
            turns, shifts = [np.eye(2)] * 4, [-np.array(s) for s in zip(right, down, strict=True)]
        else:
            tall = 1 + rng.uniform(*layer.height_factor, 4)
            wide = tall if layer.width_factor is None else 1 + rng.uniform(*layer.width_factor, 4)
            turns, shifts = [np.diag(z) for z in zip(wide, tall, strict=True)], [np.zeros(2)] * 4
        centre = np.array([cx, cy])
        offsets = [centre - t @ centre + s for t, s in zip(turns, shifts, strict=True)]
        matrix = np.array([[*t[0], o[0], *t[1], o[1]] for t, o in zip(turns, offsets, strict=True)])
        want = reference.affine_sample(X, matrix, (h, w), fill_mode, interpolation == "bilinear", 7.0)
        bad = np.abs(augmented(layer) - want) > 0.05  # of 255; at 0.5 the nearest pixel may be either
        assert bad.mean() < (0.002 if interpolation == "nearest" else 1e-9), layer


def test_flip() -> None:
    seen = set()
    for number in range(8):
        y = augmented(L.RandomFlip(), number=number)
        for a, b in zip(X, y, strict=True):
            kinds = {"": a, "h": a[:, ::-1], "v": a[::-1], "hv": a[::-1, ::-1]}
            same = [k for k, v in kinds.items() if np.array_equal(v, b)]
            assert len(same) == 1
            seen.add(same[0])
    assert seen == {"", "h", "v", "hv"}
    for mode, axis in (("horizontal", 1), ("vertical", 0)):
        for a, b in zip(X, augmented(L.RandomFlip(mode)), strict=True):
            assert np.array_equal(a, b) or np.array_equal(np.flip(a, axis), b)


def test_crop() -> None:
    y = augmented(L.RandomCrop(5, 6))
    places = set()
    for a, b in zip(X, y, strict=True):
        found = [(i, j) for i, j in np.ndindex(5, 7) if np.array_equal(a[i : i + 5, j : j + 6], b)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1
    layer = L.RandomCrop(5, 6)
    model = Sequential([L.Input((9, 12, 3)), layer])
    assert model.output_shape == (None, 5, 6, 3)
    np.testing.assert_array_equal(model.predict(X), X[:, 2:7, 3:9])
    with pytest.raises(ValueError, match="no window of 10x6"):
        L.RandomCrop(10, 6)(L.Input((9, 12, 3)))


def test_contrast_and_brightness() -> None:
    rng = np.random.default_rng((5, 2, 0))
    factor = rng.uniform(0.4, 1.2, (4, 1, 1, 1))
    mean = X.mean((1, 2), keepdims=True, dtype=np.float64)
    want = np.clip((X - mean) * factor + mean, 20, 200)
    np.testing.assert_allclose(augmented(L.RandomContrast((0.6, 0.2), value_range=(20, 200))), want, atol=1e-3)
    delta = np.random.default_rng((5, 2, 0)).uniform(-0.3, 0.3, (4, 1, 1, 1)) * 255
    np.testing.assert_allclose(augmented(L.RandomBrightness(0.3)), np.clip(X + delta, 0, 255), atol=1e-3)
    assert (
        augmented(L.RandomBrightness((0.5, 0.5), value_range=(0, 1)), x=X / 1000) == np.minimum(X / 1000 + 0.5, 1)
    ).all()


RANDOM = (L.RandomFlip(), L.RandomRotation(0.1), L.RandomTranslation(0.1, 0.1), L.RandomZoom(0.2),
          L.RandomContrast(0.3), L.RandomBrightness(0.2))  # fmt: skip


@pytest.mark.parametrize("layer", RANDOM, ids=lambda la: type(la).__name__)
def test_only_in_training(layer: Any) -> None:
    np.testing.assert_array_equal(Sequential([L.Input((9, 12, 3)), layer]).predict(X), X)
    first, again, other = augmented(layer), augmented(layer), augmented(layer, number=3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, X) and not np.array_equal(first, other)
    assert not layer.weights
    if isinstance(layer, _Geometric):
        assert len(np.unique(layer.matrices(np.random.default_rng(0), 5, 9, 12), axis=0)) == 5


def test_each_layer_draws_for_itself_whatever_the_threads() -> None:
    layers = [
        L.RandomRotation(0.2),
        L.RandomZoom(0.3),
        L.RandomTranslation(0.2, 0.2),
        L.RandomFlip(),
        L.RandomContrast(0.2),
    ]
    model = Sequential([L.Input((9, 12, 3)), *layers])
    one, two = Augmentation(model, 1, threads=1)(X, 7), Augmentation(model, 1, threads=3)(X, 7)
    np.testing.assert_array_equal(one, two)
    twice = augmented(L.RandomTranslation((-0.3, 0.3), 0.0), L.RandomTranslation((-0.3, 0.3), 0.0))
    once = augmented(L.RandomTranslation((-0.3, 0.3), 0.0))
    assert not np.allclose(twice, augmented(L.RandomTranslation((-0.3, 0.3), 0.0), x=once), atol=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L.RandomRotation("a"), "could not convert"),
        (lambda: L.RandomRotation((0.2, 0.1)), "lower <= upper"),
        (lambda: L.RandomRotation(0.1, fill_mode="mirror"), "reflect, wrap, constant, nearest"),
        (lambda: L.RandomZoom(0.1, interpolation="bicubic"), "bilinear, nearest"),
        (lambda: L.RandomTranslation(2, 0.1), "height_factor=2"),
        (lambda: L.RandomFlip("diagonal"), "horizontal, vertical"),
        (lambda: L.RandomContrast(1.5), "from 0 to 1"),
        (lambda: L.RandomBrightness(0.1, value_range=(1, 0)), "ascending"),
        (lambda: L.RandomCrop(0, 1), "positive"),
        (lambda: L.RandomFlip(data_format="channels_first"), "channels_last"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_graphs_before_and_after_layout() -> None:
    """The same numbers from the logical graph, the physical one and the kernels."""
    from fastconv.graph import Graph
    from fastconv.layers.base import Scope
    from fastconv.passes.layout import to_channels_last
    from tests.interpret import interpret

    model = Sequential([L.Input((9, 12, 3)), L.RandomRotation(0.2), L.RandomCrop(7, 5), L.RandomContrast(0.3)])
    graph = Graph("augment")
    scope = Scope(graph, training=True)
    x = graph.add_input("x", X.shape)
    graph.outputs = [scope.channels_last(model.emit(scope, scope.channels_first(x))[0])]
    feeds = {"x": X.astype(np.float64)}
    for i, feed in enumerate(scope.feeds):
        feeds[feed.value.name] = np.asarray(feed.draw(np.random.default_rng((5, 2, i))), np.float64)
    want = augmented(*model.layers)
    for g, physical in ((graph, False), (to_channels_last(graph), True)):
        found = interpret(g, feeds, physical=physical)
        np.testing.assert_allclose(found[0], want, atol=2e-3)


# -- Normalization -------------------------------------------------------------------------------------------------
def test_adapt() -> None:
    x = np.random.default_rng(0).normal(3, 5, (50, 4, 4, 3)) * [1, 10, 0.1]
    layer = L.Normalization()
    layer.adapt(x)
    model = Sequential([L.Input((4, 4, 3)), layer])
    want = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    np.testing.assert_allclose(model.predict(x), want, atol=2e-5)
    batches = L.Normalization()
    batches.adapt((x[i : i + 7], None) for i in range(0, 50, 7))
    for a, b in zip(layer.get_weights(), batches.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert [v.path.split("/")[1] for v in layer.weights] == ["mean", "variance"] and not layer.trainable_weights
    layer.adapt(x * 2)  # the model sees it
    np.testing.assert_allclose(model.predict(x * 2), want, atol=2e-5)
    one = L.Normalization(axis=None)
    one.adapt(x)
    np.testing.assert_allclose(one.get_weights()[0], [x.mean()], rtol=1e-6)


def test_adapt_is_exact_far_from_zero() -> None:
    x = 1e6 + np.random.default_rng(0).normal(0, 1, (1000, 2))
    layer = L.Normalization()
    layer.adapt(iter(np.split(x, 10)))
    np.testing.assert_allclose(layer.get_weights()[1], x.var(0), rtol=1e-6)


def test_normalization_errors() -> None:
    with pytest.raises(ValueError, match="both"):
        L.Normalization(mean=1.0)
    with pytest.raises(ValueError, match="constants"):
        L.Normalization(mean=1.0, variance=2.0).adapt(X)
    with pytest.raises(ValueError, match="no data"):
        L.Normalization().adapt(iter([]))
