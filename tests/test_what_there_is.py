"""docs/transfer-learning.md lists what scripts for Keras find; other keywords and places say what is missing."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import fastconv
from fastconv import callbacks, layers, losses, metrics, optimizers, utils
from fastconv.layers import activations, initializers
from fastconv.optimizers import schedules

PAGE = Path(__file__).resolve().parents[1] / "docs" / "transfer-learning.md"


def classes(module: Any, base: type) -> list[str]:
    """Those that a module shows below `base`, without other names of the same class."""
    shown = ((n, getattr(module, n)) for n in sorted(getattr(module, "__all__", vars(module))))
    found = [n for n, c in shown if inspect.isclass(c) and issubclass(c, base) and c is not base and c.__name__ == n]
    return [n for n in found if not n.startswith("_")]


THERE = {
    "Layers": ["Input", *(n for n in classes(layers, layers.Layer) if n != "InputLayer")],
    "Activations": list(activations.NAMES),
    "Initializers": list(initializers.INITIALIZERS),
    "Losses": classes(losses, losses.Loss),
    "Metrics": [n for n in classes(metrics, metrics.Metric) if n != "MeanMetricWrapper"],
    "Optimisers": classes(optimizers, optimizers.Optimizer),
    "Schedules": classes(schedules, schedules.LearningRateSchedule),
    "Callbacks": [n for n in classes(callbacks, callbacks.Callback) if n not in ("CallbackList", "Progress")],
    "Helpers": list(utils.__all__),
}


@pytest.mark.parametrize("kind", THERE)
def test_the_page_lists_them(kind: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    said = re.search(rf"{kind}[^:]*: ([^;.]*?)(?:, or|, with|;|\.)", text[text.index("## What there is") :])
    assert said is not None
    assert re.findall(r"`(\w+)`", said[1]) == THERE[kind]


@pytest.mark.parametrize("name", THERE["Layers"][1:])
def test_keywords_that_a_layer_does_not_have(name: str) -> None:
    made = getattr(layers, name)
    needed = [p for p in inspect.signature(made).parameters.values() if p.default is p.empty and p.kind == 1]
    given: dict[str, Any] = {p.name: {"mode": "horizontal"}.get(p.name, 1) for p in needed}
    given |= {n: v for n, v in {"target_shape": (1,), "dims": (1,), "activation": "relu"}.items() if n in given}
    with pytest.raises(TypeError, match=rf"^{name}: unknown argument 'kernel_regularizer': .*AdamW\(weight_decay="):
        made(**given, kernel_regularizer="l2")
    with pytest.raises(TypeError, match=f"^{name}: unknown argument 'colour'$"):
        made(**given, colour="red")


@pytest.mark.parametrize("name", THERE["Optimisers"])
def test_keywords_that_an_optimizer_does_not_have(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: unknown argument 'lr': the rate is learning_rate$"):
        getattr(optimizers, name)(lr=0.1)
    with pytest.raises(TypeError, match=f"^{name}: unknown argument 'use_ema'$"):
        getattr(optimizers, name)(use_ema=True)


def test_kerass_places() -> None:
    assert fastconv.utils.set_random_seed is layers.set_random_seed
    for name in ("image_dataset_from_directory", "img_to_array", "load_img"):
        assert getattr(fastconv.utils, name) is getattr(fastconv.preprocessing, name)
