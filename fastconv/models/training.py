"""What a Model of layers needs to be trained: compile, fit, evaluate, with Keras' arguments."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastconv import losses, metrics, optimizers
from fastconv.callbacks import BackupAndRestore, Callback, History, Progress
from fastconv.callbacks.progress import measures
from fastconv.errors import ShapeError
from fastconv.graph import Array
from fastconv.layers.initializers import next_seed
from fastconv.layers.variable import Variable
from fastconv.models.batches import Batches, as_batches, class_weights, is_arrays, split_off
from fastconv.models.trainer import Trainer, moving_statistics
from fastconv.target import CPU, Target
from fastconv.target import target as target_of

if TYPE_CHECKING:
    from fastconv.models.model import Model

Logs = dict[str, float]
MetricLike = str | metrics.Metric | Callable[..., Any]


class Training:
    """Mixed into Model."""

    optimizer: optimizers.Optimizer | None = None
    loss: losses.Loss | None = None
    history: History | None = None
    stop_training = False  # a callback sets it to end `fit` after the current step
    _metrics: Sequence[metrics.Metric] = ()
    _trainer: Trainer | None = None
    _target: Target = CPU
    _chosen: tuple[list[Variable], list[Variable]] | None = None  # to learn, to move: since compile

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        metrics: Sequence[MetricLike] | MetricLike | None = None,
        *,
        precision: str = "fp32",
        recompute: bool = False,
        device: str | None = None,
    ) -> None:
        """Decide how to train. Which weights are trainable is settled now: call it again after changing that.

        metrics: names ("accuracy" chooses what fits), Metric objects, or functions (y_true, y_pred). precision:
        "strict" allows no algorithm with a larger rounding error than direct summation; on a GPU "fp32" or "tf32".
        recompute: keep only some activations of the trained part and compute the others again for the gradients, to the
        same numbers: less memory for about a third more time. device: "cpu", or "cuda" (docs/cuda.md), where `predict`
        and `evaluate` run from now on, too; None: where the model is, at first the CPU. Raises ValueError, and
        DeviceError for a device that is not there.
        """
        device = self._model.device if device is None else device
        known = ("fp32", "strict") if device == "cpu" else ("fp32", "strict", "tf32")
        if precision not in known:
            raise ValueError(f"precision={precision!r}: expected one of {known}")
        self._target = target_of(device, precision)
        self._model.place(device, "fp32" if device == "cpu" else precision)
        self.optimizer = optimizers.get(optimizer)
        self.loss = None if loss is None else losses.get(loss)
        wanted = [] if metrics is None else [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
        self._metrics = [_metric(m) for m in wanted]
        self._strict, self._recompute = precision == "strict", bool(recompute)
        self._trainer = None
        self._chosen = self._choice() if self._model.inputs else None

    @property
    def _model(self) -> Model:
        return self  # type: ignore[return-value]

    def _choice(self) -> tuple[list[Variable], list[Variable]]:
        return self._model.trainable_weights, moving_statistics(self._model)

    @property
    def metrics_names(self) -> list[str]:
        return ["loss", *(m.name for m in self._metrics)]

    def trainer(self) -> Trainer:
        """What runs the steps; made when first needed. Raises ValueError before `compile`."""
        if self.optimizer is None or self.loss is None:
            raise ValueError(f"model {self._model.name!r}: call compile(optimizer, loss) before training")
        if self._chosen is None:
            self._chosen = self._choice()
        if self._trainer is None or self._trainer.threads != (self._model.threads or self._trainer.threads):
            self._trainer = Trainer(
                self._model, self.optimizer, self.loss, *self._chosen, strict=self._strict, recompute=self._recompute,
                target=self._target,
            )  # fmt: skip
            runtime = self._model._runtime
            if runtime is not None and runtime._target.shares(self._target):
                self._trainer.cache.before = dict(runtime._cache.packed)
        return self._trainer

    # -- one batch --------------------------------------------------------------------------------------------
    def _prepared(self, x: Any, y: Any) -> tuple[list[npt.NDArray[np.float32]], Array]:
        """Inputs and targets of a batch as a step takes them. Raises ShapeError."""
        model = self._model
        arrays = [np.ascontiguousarray(a, np.float32) for a in model._arrays(x)]
        if y is None:
            raise ShapeError("the batch has no targets")
        for tensor, a in zip(model.inputs, arrays, strict=True):
            fits = len(tensor.shape) == a.ndim and all(
                w in (None, d) for w, d in zip(tensor.shape[1:], a.shape[1:], strict=True)
            )
            if not fits or not a.size:
                raise ShapeError(f"input {tensor.name!r}: expected shape {tensor.shape}, got {a.shape}")
        assert self.loss is not None
        shape = self._output_shape([a.shape for a in arrays])
        return arrays, self.loss.targets(y, shape)

    def _output_shape(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        model = self._model
        (want,) = (t.shape for t in model.outputs)
        if None not in want[1:]:
            return (shapes[0][0], *(d for d in want[1:] if d is not None))
        from fastconv.layers.base import Call, Tensor

        (made,) = model.make_outputs(Call(model, [Tensor(s, "probe") for s in shapes]))
        return tuple(d for d in made.shape if d is not None)

    def _learn(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None, seed: int
    ) -> tuple[float, int]:
        """One step: its loss and how many samples it had. Metrics are brought up to date."""
        model = self._model
        if not model.inputs:
            model._arrays(x)  # builds a Sequential
        trainer = self.trainer()
        arrays, target = self._prepared(x, y)
        weight = np.ones(len(target), np.float32)
        if sample_weight is not None:
            weight = np.asarray(sample_weight, np.float32).reshape(-1)
        if class_weight:
            classes = self._output_shape([a.shape for a in arrays])[-1]
            weight = weight * class_weights(np.asarray(y), dict(class_weight), classes)
        if weight.shape != (len(target),):
            raise ShapeError(f"sample_weight: expected {len(target)} numbers, got shape {weight.shape}")
        loss, outputs = trainer.step(arrays, target, weight, seed)
        for metric in self._metrics:
            metric.update_state(y, outputs)
        return loss, len(target)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
        *,
        seed: int = 0,
    ) -> Any:
        """One step on one batch. Returns its loss, or [loss, metrics...], or a dict, of this batch alone."""
        self.reset_metrics()
        loss, _ = self._learn(x, y, sample_weight, class_weight, seed)
        return self._report(loss, return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of one batch; nothing is learnt."""
        return self.evaluate(_OneBatch((x, y, sample_weight)), verbose=0, return_dict=return_dict)

    def reset_metrics(self) -> None:
        for metric in self._metrics:
            metric.reset_state()

    def _logs(self, loss: float) -> Logs:
        return {"loss": loss, **{m.name: float(m.result()) for m in self._metrics}}

    def _report(self, loss: float, return_dict: bool) -> Any:
        logs = self._logs(loss)
        values = list(logs.values())
        return logs if return_dict else values[0] if len(values) == 1 else values

    # -- many -------------------------------------------------------------------------------------------------
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Iterable[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        *,
        seed: int | None = None,
        initial_batch: int = 0,
    ) -> History:
        """Train for epochs `initial_epoch` to `epochs`, and return the History of losses and metrics.

        x: N images [N, H, W, C] (a list for several inputs) with targets y; or what yields batches (x, y) or
        (x, y, sample_weight): a data set, a list-like with `__len__`, a generator with steps_per_epoch. batch_size: 32
        where None. validation_split: this share of the arrays, the last rows, is held out. class_weight: class -> what
        its samples count. seed: decides the order and everything drawn at random; equal seeds give equal weights,
        whatever the number of threads. initial_batch: where to go on in the first epoch. verbose: 0 prints nothing, 1
        and "auto" show a live display, 2 prints a line for each epoch.

        Warns where `trainable` flags have changed since `compile`. Raises ValueError and ShapeError.
        """
        model = self._model
        if self.optimizer is None or self.loss is None:
            raise ValueError(f"model {model.name!r}: call compile(optimizer, loss) before fit")
        self._warn_of_changes()
        seed = next_seed() if seed is None else int(seed)
        if validation_split:
            if not is_arrays(x) or validation_data is not None:
                raise ValueError("validation_split: expected arrays, and no validation_data")
            several = len(model.inputs) > 1 and isinstance(x, (list, tuple))
            parts = [np.asarray(a) for a in (x if several else [x])]
            weights = None if sample_weight is None else np.asarray(sample_weight)
            kept, held = split_off([*parts, np.asarray(y), weights], validation_split)
            x, held_x = (p[:-2] if several else p[0] for p in (kept, held))
            (y, sample_weight), validation_data = kept[-2:], (held_x, *held[-2:])
        inputs = max(len(model.inputs), 1)
        data = as_batches(x, y, sample_weight, inputs, batch_size, shuffle, seed, steps_per_epoch)
        samples = getattr(data, "samples", None) or getattr(x, "samples", None)
        params = {"verbose": verbose, "epochs": epochs, "steps": data.steps, "samples": samples}
        reports = _Reports(model, callbacks, params, _display(verbose))
        self.history, self.stop_training = reports.history, False
        for place in [c.begin_at(reports.callbacks, seed) for c in reports.callbacks]:
            initial_epoch, initial_batch = place or (initial_epoch, initial_batch)
        reports("on_train_begin", {})
        logs: Logs = {}
        for epoch in range(initial_epoch, epochs):
            reports("on_epoch_begin", epoch, {})
            logs = self._epoch(data, epoch, initial_batch if epoch == initial_epoch else 0, class_weight, seed, reports)
            if validation_data is not None and not (epoch + 1) % validation_freq and not self._interrupted(reports):
                found = self._validate(validation_data, validation_batch_size or batch_size, validation_steps)
                logs |= {f"val_{name}": value for name, value in found.items()}
            reports("on_epoch_end", epoch, logs)
            if self.stop_training:
                break
        reports("on_train_end", logs)
        return reports.history

    def _interrupted(self, reports: _Reports) -> bool:
        return self.stop_training and reports.mid_epoch

    def _epoch(
        self, data: Batches, epoch: int, first: int, class_weight: Mapping[int, float] | None, seed: int,
        reports: _Reports,
    ) -> Logs:  # fmt: skip
        self.reset_metrics()
        total, count = 0.0, 0
        logs: Logs = {}
        batch = first - 1
        for batch, (x, y, weights) in enumerate(data.epoch(epoch, first), first):
            reports("on_train_batch_begin", batch, {})
            loss, n = self._learn(x, y, weights, class_weight, seed)
            total, count = total + loss * n, count + n
            logs = self._logs(total / count)
            reports("on_train_batch_end", batch, logs)
            if self.stop_training:
                break
        if not count and not first:
            raise ShapeError("fit: there is no batch")
        reports.mid_epoch = data.steps is not None and batch + 1 < data.steps
        return dict(logs)

    def _validate(self, data: Any, size: int | None, steps: int | None) -> Logs:
        x, y, weights = data, None, None
        if isinstance(data, (tuple, list)):
            if not 2 <= len(data) <= 3:
                raise ValueError("validation_data: expected (x, y), (x, y, sample_weight) or something with batches")
            x, y, weights = (*data, None)[:3]
        found: Logs = self.evaluate(x, y, size if is_arrays(x) else None, 0, weights, steps, return_dict=True)
        return found

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
        **_: Any,
    ) -> Any:
        """The loss, or [loss, metrics...], or a dict, over all samples; x and y as for `fit`."""
        model = self._model
        if self.loss is None:
            raise ValueError(f"model {model.name!r}: call compile(optimizer, loss) before evaluate")
        data = as_batches(x, y, sample_weight, max(len(model.inputs), 1), batch_size, False, 0, steps)
        reports = _Reports(model, callbacks, {"verbose": verbose, "steps": data.steps})
        self.reset_metrics()
        reports("on_test_begin", {})
        total, count = 0.0, 0
        for batch, (part, target, weights) in enumerate(data.epoch(0)):
            reports("on_test_batch_begin", batch, {})
            predicted = model.predict_on_batch(part)
            if target is None:
                raise ShapeError("evaluate: the batch has no targets")
            total += self.loss(target, predicted, weights) * len(predicted)
            count += len(predicted)
            for metric in self._metrics:
                metric.update_state(target, predicted)
            reports("on_test_batch_end", batch, self._logs(total / count))
        if not count:
            raise ShapeError("evaluate: there is no batch")
        reports("on_test_end", self._logs(total / count))
        if verbose not in (0, "0", "auto"):
            print(measures(self._logs(total / count)))
        return self._report(total / count, return_dict)

    def _warn_of_changes(self) -> None:
        if self._chosen is None or not self._model.inputs:
            return
        if [set(part) for part in self._choice()] != [set(part) for part in self._chosen]:
            warnings.warn(
                f"model {self._model.name!r}: trainable flags have changed since compile() and have no effect yet: "
                "call compile() again",
                UserWarning,
                stacklevel=3,
            )


class _OneBatch:
    def __init__(self, batch: tuple[Any, Any, Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch])


class _Reports:
    """Calls every callback, History and the display last."""

    def __init__(self, model: Model, callbacks: Any, params: dict[str, Any], shown: Callback | None = None) -> None:
        given = [] if callbacks is None else list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
        self.history = next((c for c in given if isinstance(c, History)), None) or History()
        self.mid_epoch = False
        others = [c for c in given if c is not self.history and not isinstance(c, BackupAndRestore)]
        backups = [c for c in given if isinstance(c, BackupAndRestore)]  # keep what all others remember of an epoch
        self.callbacks = [*others, self.history, *([shown] if shown else []), *backups]
        for callback in self.callbacks:
            callback.set_params(params)
            callback.set_model(model)
        self._methods: dict[str, list[Callable[..., Any]]] = {}

    def __call__(self, event: str, *args: Any) -> None:
        methods = self._methods.get(event)
        if methods is None:  # those that do nothing are not called: an event costs as much as it is used
            base = getattr(Callback, event)
            methods = [getattr(c, event) for c in self.callbacks if getattr(type(c), event, base) is not base
                       or event in vars(c)]  # fmt: skip
            self._methods[event] = methods
        for method in methods:
            method(*args)


def _metric(m: MetricLike) -> metrics.Metric:
    return metrics.get(m)


def _display(verbose: str | int) -> Callback | None:
    return None if verbose in (0, "0") else Progress(2 if verbose in (2, "2") else 1, stream=sys.stdout)
