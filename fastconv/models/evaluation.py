"""The loss and the metrics of a compiled Model of layers on what it has not learnt: evaluate, with Keras' arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from fastconv import losses, metrics, optimizers
from fastconv.callbacks import Callback, CallbackList
from fastconv.callbacks.progress import measures
from fastconv.errors import ModelError, ShapeError
from fastconv.models.batches import Batches, as_batches, not_learnt
from fastconv.models.kept import Kept, KeptBatches

if TYPE_CHECKING:
    from fastconv.models.model import Model

Logs = dict[str, float]


class Evaluation:
    """The part of Training that learns nothing."""

    optimizer: optimizers.Optimizer | None = None
    loss: losses.Loss | None = None
    _metrics: Sequence[metrics.Metric] = ()

    @property
    def _model(self) -> Model:
        return self  # type: ignore[return-value]

    @property
    def metrics_names(self) -> list[str]:
        return ["loss", *(m.name for m in self._metrics)]

    def reset_metrics(self) -> None:
        for metric in self._metrics:
            metric.reset_state()

    def _logs(self, loss: float) -> Logs:
        return {"loss": loss, **{m.name: float(m.result()) for m in self._metrics}}

    def _report(self, logs: Logs, return_dict: bool) -> Any:
        values = list(logs.values())
        return logs if return_dict else values[0] if len(values) == 1 else values

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of one batch; nothing is learnt."""
        return self.evaluate(iter([(x, y, sample_weight)]), verbose=0, steps=1, return_dict=return_dict)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Iterable[Callback] | Callback | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss, or [loss, metrics...], or a dict, over all samples; x and y as for `fit`.

        steps: how many batches; None: all there are, of a generator until it ends.
        """
        self._check("evaluate")
        data = self._held(x, y, batch_size, sample_weight, steps)
        reports = CallbackList(callbacks)
        reports.set_params({"verbose": verbose, "steps": data.steps})
        reports.set_model(self._model)
        with closing(reports):
            logs = self._evaluated(data, reports)
        if verbose not in (0, "0", "auto"):
            print(measures(logs))
        return self._report(logs, return_dict)

    def _held(self, x: Any, y: Any, size: int | None, sample_weight: Any, steps: int | None) -> Batches:
        """Batches of what is evaluated."""
        if isinstance(x, KeptBatches):
            return x
        inputs = max(len(self._model.inputs), 1)
        return as_batches(not_learnt(self._in_order(x)), y, sample_weight, inputs, size, False, 0, steps)

    def _evaluated(self, data: Batches, reports: CallbackList) -> Logs:
        model = self._model
        assert self.loss is not None
        self.reset_metrics()
        reports.on_test_begin({})
        total, count = 0.0, 0
        for batch, (part, target, weights) in enumerate(data.epoch(0)):
            reports.on_test_batch_begin(batch, {})
            kept = isinstance(part, Kept)
            predicted = model.trainer().halves.above(part) if kept else model.predict_on_batch(part)
            if target is None:
                raise ShapeError("evaluate: the batch has no targets")
            total += self.loss(target, predicted, weights) * len(predicted)
            count += len(predicted)
            for metric in self._metrics:
                metric.update_state(target, predicted)
            reports.on_test_batch_end(batch, self._logs(total / count))
        if not count:
            used = getattr(data, "endless", False)
            again = ": the generator is used up: give steps, in fit validation_steps, as many as it has for each epoch"
            raise ShapeError(f"evaluate: there is no batch{again if used else ''}")
        logs = self._logs(total / count)
        reports.on_test_end(logs)
        return logs

    def _in_order(self, x: Any) -> Any:
        """Arrays by the inputs' names as a list of them."""
        if not isinstance(x, Mapping):
            return x
        arrays = self._model._arrays(x)
        return arrays if len(arrays) > 1 else arrays[0]

    def _check(self, call: str) -> None:
        """Whether the model can be trained and evaluated. Raises ValueError and ModelError."""
        model = self._model
        if self.optimizer is None or self.loss is None:
            raise ValueError(f"model {model.name!r}: call compile(optimizer, loss) before {call}")
        if len(model.outputs) > 1:
            names = ", ".join(model.output_names)
            raise ModelError(f"model {model.name!r} has {len(model.outputs)} outputs ({names}): {call} expects one")
