"""Weights of a network whose layers have automatic names, in the same network built a second time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fastconv import layers as L
from fastconv.errors import ModelError
from fastconv.layers import base
from fastconv.models import Sequential
from fastconv.weights.automatic import numbered


def network(convolutions: int = 3, units: int = 4) -> Sequential:
    convs = [L.Conv2D(4, 3, padding="same") for _ in range(convolutions)]
    return Sequential(
        [L.Input((8, 8, 4)), *convs, L.BatchNormalization(), L.Flatten(), L.Dense(units), L.Dense(3, name="top")]
    )


def test_the_same_network_built_again(tmp_path: Path) -> None:
    first = network()
    first.save(tmp_path / "a.safetensors")
    for _ in range(4):  # until numbers have two digits, where the order of texts is another one
        again = network()
        again.load_weights(tmp_path / "a.safetensors")
        assert again.layers[0].name != first.layers[0].name
        for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def numbers_from(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let the next automatic name of a Dense be dense_n, dense for 0."""
    monkeypatch.setattr(base, "_names", Counter(dense=n))


def test_names_that_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dense_1 and dense_2 into dense_2 and dense_3: by their order, not by the one name that both have."""
    made = []
    for n in (1, 2):
        numbers_from(monkeypatch, n)
        made.append(Sequential([L.Input((3,)), L.Dense(3), L.Dense(3)]))
    a, b = made
    assert [la.name for la in b.layers] == ["dense_2", "dense_3"]
    a.save(tmp_path / "a.safetensors")
    b.load_weights(tmp_path / "a.safetensors")
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("first", [0, 1, 3, 11])
def test_a_given_name_that_looks_automatic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """dense_2 is a name that somebody gave, before as behind the automatic one: it stays with its weights."""
    made = []
    for n in (0, first):
        numbers_from(monkeypatch, n)
        made.append(Sequential([L.Input((3,)), L.Dense(3), L.Dense(3, name="dense_2")]))
    a, b = made
    a.save(tmp_path / "a.safetensors")
    b.load_weights(tmp_path / "a.safetensors")
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_given_names_are_not_matched_by_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers_from(monkeypatch, 0)
    Sequential([L.Input((3,)), L.Dense(3), L.Dense(3)]).save(tmp_path / "a.safetensors")
    b = Sequential([L.Input((3,)), L.Dense(3, name="dense_4"), L.Dense(3, name="dense_5")])
    with pytest.raises(ModelError, match="dense_4"):
        b.load_weights(tmp_path / "a.safetensors")


def test_other_networks(tmp_path: Path) -> None:
    network(3).save(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"automatic.* the model has 2 layers 'conv2d' with weights, the file 3"):
        network(2).load_weights(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"expected shape \(256, 5\), got \(256, 4\)"):
        network(3, units=5).load_weights(tmp_path / "a.safetensors")


def test_numbers() -> None:
    assert numbered(["conv2d_10", "conv2d_9", "conv2d", "conv2d_x", "my_conv2d", "dense"], "conv2d") == [
        "conv2d", "conv2d_9", "conv2d_10",
    ]  # fmt: skip
