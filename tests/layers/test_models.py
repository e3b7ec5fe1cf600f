"""Model and Sequential: graphs of layers, names, shapes, weights, running."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastconv import ShapeError
from fastconv.applications import ResNet152
from fastconv.layers import (
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    Subtract,
)
from fastconv.models import Model, Sequential

X = np.random.default_rng(0).standard_normal((5, 12, 10, 3)).astype(np.float32)


def branched() -> Model:
    inputs = Input(shape=(12, 10, 3), name="image")
    a = Conv2D(4, 3, padding="same", activation="relu", name="a")(inputs)
    b = BatchNormalization(name="bn")(Conv2D(4, 1, name="b")(inputs))
    x = Concatenate(name="both")([Add(name="sum")([a, b]), a])
    return Model(inputs, Dense(2, name="scores")(GlobalAveragePooling2D(name="mean")(x)), name="branched")


def test_names_order_and_counts() -> None:
    model = branched()
    assert [la.name for la in model.layers] == ["image", "b", "a", "bn", "sum", "both", "mean", "scores"]
    assert model.get_layer("bn").count_params() == 8
    assert model.get_layer(index=-1).name == "scores"
    assert model.count_params() == 4 * 28 + 4 * 4 + 8 + 18
    assert [v.path for v in model.weights if v.statistic] == ["bn/moving_mean", "bn/moving_variance"]
    assert [v.shape for v in model.weights[:2]] == [(1, 1, 3, 4), (4,)]
    assert model.input_shape == (None, 12, 10, 3) and model.output_shape == (None, 2)
    for kwargs, text in ((dict(name="c"), "no layer named 'c'"), (dict(index=8), "no layer 8"), ({}, "either a name")):
        with pytest.raises(ValueError, match=text):
            model.get_layer(**kwargs)  # type: ignore[arg-type]


def test_summary_adds_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    branched().summary()
    text = capsys.readouterr().out
    assert "bn (BatchNormalization)" in text and "(None, 12, 10, 8)" in text
    assert "Parameters: 154" in text and "Moving statistics: 8" in text
    lines: list[str] = []
    branched().summary(print_fn=lines.append)
    assert len(lines) == 1 and capsys.readouterr().out == ""
    outer, inner = Input(shape=(12, 10, 3)), branched()
    inner.get_layer("bn").trainable = False
    model = Model(outer, inner(outer))
    model.summary(print_fn=lines.append)
    model.summary(print_fn=lines.append, expand_nested=True, show_trainable=True)
    assert "bn (" not in lines[1] and "Trainable" not in lines[1]
    (bn,) = (line for line in lines[2].splitlines() if line.startswith("  bn (BatchNormalization)"))
    assert bn.split()[-2:] == ["8", "N"]
    with pytest.raises(TypeError):
        model.summary(expand=True)  # type: ignore[call-arg]


def test_predict_in_batches_is_the_same() -> None:
    model = branched()
    whole = model.predict(X)
    assert whole.shape == (5, 2) and whole.dtype == np.float32
    for batch in (1, 2, 5, 7):
        np.testing.assert_allclose(model.predict(X, batch_size=batch, verbose=0), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(X), whole)
    np.testing.assert_array_equal(model.predict_on_batch(X), whole)
    np.testing.assert_allclose(model.predict((X[i : i + 2] for i in (0, 2)), steps=2), whole[:4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict(X, batch_size=2, steps=1), whole[:2], rtol=1e-5, atol=1e-6)


def test_predict_takes_any_numbers_and_changes_nothing() -> None:
    model = branched()
    pixels = np.random.default_rng(1).integers(0, 255, X.shape).astype(np.uint8)
    want = model.predict(pixels.astype(np.float32))
    for x in (pixels, pixels.astype(np.float64), pixels.tolist(), np.asfortranarray(pixels)):
        np.testing.assert_allclose(model.predict(x), want, rtol=1e-5, atol=1e-5)
    kept = X.copy()
    model.predict(X)
    np.testing.assert_array_equal(X, kept)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (X[0], r"expected rank 4 \[N, 12, 10, 3\], got rank 3 \[12, 10, 3\]"),
        (X[:, :11], "expected 12 at axis 1"),
        (X[..., :2], "expected 3 at axis 3"),
        (np.array(3.0), "got rank 0"),
        (np.array([["a"]]), "array of numbers"),
        ([X, X], "rank"),
    ],
)
def test_wrong_inputs(x: object, text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        branched().predict(x)


def test_wrong_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        branched().predict(X, batch_size=0)


def test_several_inputs_and_outputs() -> None:
    a, b = Input(shape=(12, 10, 3), name="left"), Input(shape=(4,), name="right")
    x = Concatenate()([GlobalAveragePooling2D()(a), b])
    model = Model([a, b], [Dense(2, name="first")(x), x])
    right = np.ones((5, 4), np.float32)
    scores, joined = model.predict([X, right])
    np.testing.assert_allclose(joined, np.concatenate([X.mean((1, 2)), right], 1), rtol=1e-4, atol=1e-5)
    assert scores.shape == (5, 2) and model.output_names[0] == "first"
    with pytest.raises(ShapeError, match="takes 2 inputs"):
        model.predict(X)
    with pytest.raises(ShapeError, match="different lengths"):
        model.predict([X, right[:2]])


def test_inner_outputs_share_weights() -> None:
    model = branched()
    inner = Model(model.input, [model.get_layer("a").output, model.output])
    maps, scores = inner.predict(X)
    assert maps.shape == (5, 12, 10, 4) and maps.min() == 0
    np.testing.assert_array_equal(scores, model.predict(X))
    model.get_layer("scores").set_weights([np.zeros((8, 2)), np.array([1, 2])])
    np.testing.assert_array_equal(inner.predict(X)[1], np.tile([1, 2], (5, 1)))
    np.testing.assert_array_equal(model.predict(X), np.tile([1, 2], (5, 1)))


def test_a_part_in_the_middle() -> None:
    model = branched()
    tail = Model(model.get_layer("both").output, model.output)
    maps = Model(model.input, model.get_layer("both").output).predict(X)
    np.testing.assert_allclose(tail.predict(maps), model.predict(X), rtol=1e-5, atol=1e-6)


def test_a_model_is_a_layer() -> None:
    base = branched()
    x = Input(shape=(12, 10, 3))
    model = Model(x, Dense(3)(base(x)))
    assert [type(la).__name__ for la in model.layers] == ["InputLayer", "Model", "Dense"]
    assert model.count_params() == base.count_params() + 9
    w, b = model.layers[-1].get_weights()
    np.testing.assert_allclose(model.predict(X), base.predict(X) @ w + b, rtol=1e-4, atol=1e-5)
    base.trainable = False
    assert len(model.trainable_weights) == 2
    with pytest.raises(ValueError, match="expected an input of shape"):
        base(Input(shape=(12, 11, 3)))
    twice = Model(x, Add()([base(x), base(x)]))
    np.testing.assert_allclose(twice.predict(X), 2 * base.predict(X), rtol=1e-5)


def test_sequential_grows() -> None:
    model = Sequential(name="small")
    model.add(Input(shape=(12, 10, 3)))
    model.add(Conv2D(4, 3, activation="relu"))
    model.add(MaxPooling2D())
    model.add(Flatten())
    model.add(Dropout(0.5))
    model.add(Dense(2, activation="softmax"))
    assert len(model.layers) == 5 and model.output_shape == (None, 2)
    assert model.predict(X).shape == (5, 2)
    model.pop()
    assert model.output_shape == (None, 5 * 4 * 4)
    assert model.predict(X).shape == (5, 80)
    with pytest.raises(ValueError, match="comes first"):
        model.add(Input(shape=(3,)))
    with pytest.raises(ValueError, match="expected a layer"):
        model.add(3)


def test_sequential_that_waits_for_its_shape() -> None:
    model = Sequential([Conv2D(4, 3), GlobalAveragePooling2D(), Dense(2)])
    assert model.predict(X).shape == (5, 2)
    assert model.input_shape == (None, 12, 10, 3)
    shaped = Sequential([Conv2D(4, 3, input_shape=(12, 10, 3)), Flatten()])
    assert shaped.output_shape == (None, 320)
    assert Sequential([Dense(3, input_dim=7)]).input_shape == (None, 7)
    around = Sequential([branched(), Dense(2)])
    assert around.output_shape == (None, 2)


def test_graphs_that_do_not_hang_together() -> None:
    a, b = Input(shape=(4,)), Input(shape=(4,), name="other")
    y = Add()([a, b])
    with pytest.raises(ValueError, match="'other', which is not among the inputs"):
        Model(a, y)
    with pytest.raises(ValueError, match="no output needs"):
        Model([a, b], Dense(2)(a))
    with pytest.raises(ValueError, match="two layers are called 'd'"):
        Model(a, Dense(2, name="d")(Dense(2, name="d")(a)))
    with pytest.raises(ValueError, match="expected inputs and outputs"):
        Model()
    with pytest.raises(ValueError, match="symbolic"):
        Model(a, np.zeros(3))


def test_new_weights_count_at_the_next_call() -> None:
    model = branched()
    before = model.predict(X)
    saved = model.get_weights()
    model.set_weights([w + 1 for w in saved])
    assert not np.allclose(model.predict(X), before)
    model.set_weights(saved)
    np.testing.assert_array_equal(model.predict(X), before)


def test_threads_and_the_runtime() -> None:
    model = branched()
    want = model.predict(X)
    model.threads = 1
    np.testing.assert_array_equal(model.predict(X), want)
    runtime = model.runtime()
    assert runtime.threads == 1 and runtime.inputs[0].shape == (None, 12, 10, 3)
    assert runtime.profile(X[:1], runs=1).rows
    assert "Conv" in str(model.graph()) and model.graph((2, 12, 10, 3)).outputs[0].shape == (2, 2)
    results: list[np.ndarray] = []
    workers = [threading.Thread(target=lambda: results.append(model.predict(X))) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(results) == 4 and all((r == want).all() for r in results)


def test_inputs_by_name() -> None:
    a, b = Input(shape=(3,), name="a"), Input(shape=(3,), name="b")
    model = Model([a, b], Subtract()([a, b]))
    x, y = np.random.default_rng(0).random((2, 4, 3), np.float32)
    for got in (model.predict({"b": y, "a": x}), model({"a": x, "b": y}), model.predict([x, y])):
        np.testing.assert_array_equal(got, x - y)
    np.testing.assert_array_equal(model.predict({"b": y, "a": x}, batch_size=3), x - y)
    one = Model(a, ReLU()(a))
    np.testing.assert_array_equal(one.predict({"a": x}), x)
    for wrong in ({"a": x}, {"a": x, "b": y, "c": y}, {}):
        with pytest.raises(ShapeError, match=r"has the inputs \['a', 'b'\]"):
            model.predict(wrong)
    with pytest.raises(ValueError, match="given twice"):
        Model([a, a], ReLU()(a))


def test_build() -> None:
    for build in (lambda m: m.build((None, 8, 8, 2)), lambda m: m.build(input_shape=(None, 8, 8, 2))):
        model = Sequential([Conv2D(3, 3)])
        build(model)
        assert model.count_params() == 57 and model.output_shape == (None, 6, 6, 3)
    for wrong in ((), (8,), ((8, 8), (8, 8))):
        with pytest.raises(ValueError, match="expected one shape"):
            Sequential([Dense(3)]).build(*wrong)


@pytest.mark.parametrize("wrong", [dict(batch_size=0), dict(batch_size=True), dict(steps=0), dict(steps=-1)])
def test_predict_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected a positive int"):
        branched().predict(X, **wrong)


def test_no_weights_are_drawn_before_they_are_needed() -> None:
    """A terabyte of them may be described."""
    x = Input(shape=(1 << 19,))
    model = Model(x, Dense(1 << 19)(x))
    assert model.count_params() == (1 << 38) + (1 << 19)


@pytest.mark.parametrize("copy_of", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
def test_copies_and_pickles(copy_of: Callable[[Model], Model]) -> None:
    x = Input(shape=(12, 10, 3))
    base = branched()
    base.get_layer("a").trainable = False
    shared = Dense(2, name="shared")
    model = Model(x, Add()([shared(base(x)), shared(Dense(2)(Flatten()(x)))]), name="outer")
    model.threads = 1
    other = copy_of(model)
    assert [la.name for la in other.layers] == [la.name for la in model.layers] and other.threads == 1
    assert len(other.weights) == len(model.weights)
    assert len(other.trainable_weights) == len(model.trainable_weights)
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    before = model.predict(X)
    other.get_layer("shared").set_weights([np.zeros((2, 2)), np.ones(2)])
    np.testing.assert_array_equal(other.predict(X), np.full((5, 2), 2))
    np.testing.assert_array_equal(model.predict(X), before)


def test_inner_models_with_several_outputs() -> None:
    base = branched()
    both = Model(base.input, [base.get_layer("mean").output, base.output])
    x = Input(shape=(12, 10, 3))
    mean, scores = both(x)
    model = Model(x, [Dense(3)(scores), Concatenate()([mean, scores])])
    other = pickle.loads(pickle.dumps(model))
    for got, want in zip(other.predict(X), model.predict(X), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(model.predict(X)[1][:, 8:], base.predict(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shaped", [True, False])
def test_sequential_copies(shaped: bool) -> None:
    model = Sequential([*([Input(shape=(12, 10, 3))] if shaped else []), Conv2D(4, 3), Flatten(), Dense(2)])
    other = pickle.loads(pickle.dumps(model))
    assert isinstance(other, Sequential) and len(other.layers) == 3
    want = model.predict(X)
    if shaped:
        np.testing.assert_array_equal(other.predict(X), want)
    np.testing.assert_array_equal(copy.deepcopy(model).predict(X), want)


def test_a_deep_network_pickles() -> None:
    model = ResNet152(weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3), seed=1)
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    data = pickle.dumps(model)
    assert len(data) < 1 << 20  # values that nobody has drawn are not in it
    np.testing.assert_array_equal(pickle.loads(data).predict(x), model.predict(x))


def test_weights_as_files(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, other = branched(), branched()
    other.load_weights(_saved(model, tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    assert not list(tmp_path.glob(".*"))


def _saved(model: Model, path: Path) -> Path:
    model.save_weights(path)
    return path
