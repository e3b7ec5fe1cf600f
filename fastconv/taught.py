"""What is said where a network that `fastconv.load` gave is asked to learn: which models do."""

from __future__ import annotations

from typing import Any

NAMES = ("add", "evaluate", "fit", "load_weights", "predict", "predict_on_batch", "save_weights", "train_on_batch")


def only_runs(name: str) -> str:
    return (
        f"model {name!r} from fastconv.load runs but does not learn: as_layers() gives a model with compile, fit and "
        "predict, without_top(pooling='avg').add_head(classes) one with a new head"
    )


def missing(model: Any, name: str) -> AttributeError:
    """For an attribute that a model has not."""
    what = f"{type(model).__name__!r} object has no attribute {name!r}"
    return AttributeError(f"{what}: {only_runs(model.name)}" if name in NAMES else what, name=name, obj=model)
