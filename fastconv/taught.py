"""What is said where a network that `fastconv.load` gave is asked to learn: which models do."""

from __future__ import annotations

from typing import Any

NAMES = ("add", "evaluate", "fit", "load_weights", "predict", "predict_on_batch", "save_weights", "train_on_batch")


def only_runs(model: Any) -> str:
    """What to do instead with this network of `fastconv.load`; of a saved plan there are no layers."""
    from fastconv.saved import SavedModel

    if isinstance(model, SavedModel):
        return f"saved plan {model.name!r} runs but does not learn: load the model that the plan was made of"
    return (
        f"model {model.name!r} from fastconv.load runs but does not learn: as_layers() gives a model with compile, fit "
        "and predict, without_top(pooling='avg').add_head(classes) one with a new head"
    )


def missing(model: Any, name: str) -> AttributeError:
    """For an attribute that a model has not."""
    what = f"{type(model).__name__!r} object has no attribute {name!r}"
    return AttributeError(f"{what}: {only_runs(model)}" if name in NAMES else what, name=name, obj=model)
