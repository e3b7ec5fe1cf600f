"""What a Model of layers needs to be trained: compile, fit, evaluate, with Keras' arguments."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import losses, metrics, optimizers
from fastconv.callbacks import Callback, CallbackList, History, Progress
from fastconv.errors import ShapeError
from fastconv.layers.initializers import next_seed
from fastconv.layers.variable import Variable
from fastconv.layers.windows import whole
from fastconv.models.batches import (
    ArrayBatches,
    Batches,
    as_batches,
    class_weights,
    is_arrays,
    refuse_endless,
    split_off,
)
from fastconv.models.evaluation import Evaluation, Logs
from fastconv.models.kept import Keeper, Kept
from fastconv.models.trainer import Trainer, moving_statistics
from fastconv.target import CPU, Target, training_precision, training_target
from fastconv.threads import thread_count

MetricLike = str | metrics.Metric | Callable[..., Any]


class Training(Evaluation):
    """Mixed into Model."""

    history: History | None = None
    stop_training = False  # a callback sets it to end `fit` after the current step
    _trainer: Trainer | None = None
    _target: Target = CPU
    _chosen: tuple[list[Variable], list[Variable]] | None = None  # to learn, to move: since compile

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        metrics: Sequence[MetricLike] | MetricLike | None = None,
        *,
        precision: str | None = None,
        recompute: bool = False,
        device: str | None = None,
    ) -> None:
        """Decide how to train. Which weights are trainable is settled now: call it again after changing that.

        metrics: names ("accuracy" chooses what fits), Metric objects, or functions (y_true, y_pred). precision: "fp32",
        or "strict", which allows no algorithm with a larger rounding error than direct summation; on a GPU also "tf32".
        device: "cpu", or "cuda" (docs/cuda.md). `predict` and `evaluate` follow both from now on; None: as the model
        is, at first in fp32 on the CPU, and in fp32 where its own precision does not train. recompute: keep only some
        activations of the trained part and compute the others again for the gradients, to the same numbers: less memory
        for about a third more time. Raises ValueError, and DeviceError for a device that is not there or does not train
        in this precision (fp16 and bf16: none does).
        """
        device = self._model.device if device is None else device
        precision = training_precision(device, precision, self._model)
        wanted = [] if metrics is None else [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
        made = (  # all that can fail, before anything is changed
            training_target(device, precision),
            optimizers.get(optimizer),
            None if loss is None else losses.get(loss),
            [_metric(m) for m in wanted],
            self._choice() if self._model.inputs else None,
        )
        self._target, self.optimizer, self.loss, self._metrics, self._chosen = made
        self._strict, self._recompute = precision == "strict", bool(recompute)
        self._trainer = None
        self._model.place(device, precision)

    def _choice(self) -> tuple[list[Variable], list[Variable]]:
        return self._model.trainable_weights, moving_statistics(self._model)

    def trainer(self) -> Trainer:
        """What runs the steps; made when first needed. Raises ValueError before `compile`."""
        self._check("training")
        assert self.optimizer is not None and self.loss is not None
        if self._chosen is None:
            self._chosen = self._choice()
        if self._trainer is None or self._trainer.threads != thread_count(self._model.threads):
            self._trainer = Trainer(
                self._model, self.optimizer, self.loss, *self._chosen, strict=self._strict, recompute=self._recompute,
                target=self._target,
            )  # fmt: skip
            runtime = self._model._runtime
            if runtime is not None and runtime._target.shares(self._target):
                self._trainer.cache.before = dict(runtime._cache.packed)
        return self._trainer

    # -- one batch --------------------------------------------------------------------------------------------
    def _inputs(self, x: Any) -> list[npt.NDArray[np.float32]]:
        """The inputs of a batch as a step takes them. Raises ShapeError."""
        model = self._model
        arrays = [np.ascontiguousarray(a, np.float32) for a in model._arrays(x)]
        for tensor, a in zip(model.inputs, arrays, strict=True):
            fits = len(tensor.shape) == a.ndim and all(
                w in (None, d) for w, d in zip(tensor.shape[1:], a.shape[1:], strict=True)
            )
            if not fits or not a.size:
                raise ShapeError(f"input {tensor.name!r}: expected shape {tensor.shape}, got {a.shape}")
        return arrays

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
        assert self.loss is not None
        arrays = x if isinstance(x, Kept) else self._inputs(x)
        if y is None:
            raise ShapeError("the batch has no targets")
        shape = self._output_shape(arrays.shapes if isinstance(arrays, Kept) else [a.shape for a in arrays])
        target = self.loss.targets(y, shape)
        weight = np.ones(len(target), np.float32)
        if sample_weight is not None:
            weight = np.asarray(sample_weight, np.float32).reshape(-1)
        if class_weight:
            weight = weight * class_weights(np.asarray(y), class_weight, shape[-1])
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
        return self._report(self._logs(loss), return_dict)

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
        cache_features: bool | None = None,
        views: int = 1,
    ) -> History:
        """Train for epochs `initial_epoch` to `epochs`, and return the History of losses and metrics.

        x: N images [N, H, W, C] (a list or a dict for several inputs) with targets y; or what yields batches (x, y) or
        (x, y, sample_weight): a data set, a list-like with `__len__`, a generator. An epoch is steps_per_epoch batches,
        or all there are: of a generator that never ends it lasts until Ctrl-C (KeyboardInterrupt), after which the
        weights are those of the last whole step and `fit` may be called again. batch_size: 32 where None.
        validation_split: this share of the arrays, the last rows, is held out. class_weight: class -> what its samples
        count. seed: decides the order and everything drawn at random; equal seeds give equal weights, whatever the
        number of threads. initial_batch: where to go on in the first epoch. verbose: 0 prints nothing, 1 and "auto"
        show a live display, 2 prints a line for each epoch.
        cache_features: keep what the frozen part below all that learns or is random gives for arrays and folders of
        images, so that each image goes through it once. None: where it saves time and up to 1 GiB; True: more than that
        in a file for temporary files that vanishes, and ValueError where features cannot be kept. They are made anew
        where a callback changes the frozen part. views: keep so many copies of each image, which the random layers
        below the frozen part draw; the epochs take them in turns.

        Warns where `trainable` flags have changed since `compile`, and where features would need more than 1 GiB.
        Raises ValueError and ShapeError, and ModelError for a model with several outputs and where memory is short.
        """
        model = self._model
        self._check("fit")
        self._warn_of_changes()
        for name, count in (("epochs", epochs), ("initial_epoch", initial_epoch)):
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
                raise ValueError(f"{name}={count!r}: expected a whole number of at least 0")
        whole(validation_freq, "validation_freq")
        if whole(views, "views") > 1 and cache_features is False:
            raise ValueError(f"views={views}, cache_features=False: expected cache_features=None or True")
        refuse_endless(validation_data, validation_steps)
        seed, x = next_seed() if seed is None else int(seed), self._in_order(x)
        if validation_split:
            if not is_arrays(x) or validation_data is not None:
                raise ValueError("validation_split: expected arrays, and no validation_data")
            several = len(model.inputs) > 1 and isinstance(x, (list, tuple))
            given = [*(x if several else [x]), y, sample_weight]
            kept, held = split_off([None if a is None else np.asarray(a) for a in given], validation_split)
            x, held_x = (p[:-2] if several else p[0] for p in (kept, held))
            (y, sample_weight), validation_data = kept[-2:], (held_x, *held[-2:])
        inputs = max(len(model.inputs), 1)
        data = as_batches(x, y, sample_weight, inputs, batch_size, shuffle, seed, steps_per_epoch)
        if not model.inputs and isinstance(data, ArrayBatches):
            model._arrays(data.x[0][:1])  # builds a Sequential
        if not model.inputs and (cache_features or views > 1):
            raise ValueError(f"model {model.name!r}: build it before its features can be kept")
        samples = getattr(data, "samples", None) or getattr(x, "samples", None)
        params = {"verbose": verbose, "epochs": epochs, "steps": data.steps, "samples": samples}
        size = validation_batch_size or batch_size
        reports = CallbackList(callbacks, _display(verbose))
        reports.set_params(params)
        reports.set_model(model)
        self.history, self.stop_training = reports.history, False
        with closing(reports):
            place = reports.begin_at(reports.callbacks, seed)
            initial_epoch, initial_batch = place or (initial_epoch, initial_batch)
            keeper = None
            remaining = epochs - initial_epoch
            asked = cache_features or views > 1 or (cache_features is None and remaining > 1)
            if model.inputs and remaining > 0 and asked:
                keeper = Keeper(model, cache_features, views, seed, verbose)
                params["steps"] = keeper.training(data).steps
                keeper.validation(validation_data, size, validation_steps)
            reports.on_train_begin({})
            logs: Logs = {}
            for epoch in range(initial_epoch, epochs):
                reports.on_epoch_begin(epoch, {})
                first = initial_batch if epoch == initial_epoch else 0
                batches = data if keeper is None else keeper.training(data)
                logs, complete = self._epoch(batches, epoch, first, class_weight, seed, reports)
                del batches  # for the memory, where they are made anew
                validates = validation_data is not None and not (epoch + 1) % validation_freq
                if validates and (complete or not self.stop_training):
                    held = keeper.validation(validation_data, size, validation_steps) if keeper else validation_data
                    found = self._evaluated(self._validation(held, size, validation_steps), reports)
                    del held
                    logs |= {f"val_{name}": value for name, value in found.items()}
                reports.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
            reports.on_train_end(logs)
        return reports.history

    def _epoch(
        self, data: Batches, epoch: int, first: int, class_weight: Mapping[int, float] | None, seed: int,
        reports: CallbackList,
    ) -> tuple[Logs, bool]:  # fmt: skip
        """Means over the epoch, and whether it came to its end."""
        self.reset_metrics()
        total, count = 0.0, 0
        logs: Logs = {}
        batch = first - 1
        for batch, (x, y, weights) in enumerate(data.epoch(epoch, first), first):
            reports.on_train_batch_begin(batch, {})
            loss, n = self._learn(x, y, weights, class_weight, seed)
            total, count = total + loss * n, count + n
            logs = self._logs(total / count)
            reports.on_train_batch_end(batch, logs)
            if self.stop_training:
                break
        if not count and not first:
            again = "" if data.steps is not None else ": a generator is used up after one epoch: give steps_per_epoch"
            raise ShapeError(f"fit: there is no batch{again}" if epoch else "fit: there is no batch")
        return dict(logs), data.steps is None or batch + 1 >= data.steps

    def _validation(self, data: Any, size: int | None, steps: int | None) -> Batches:
        """Batches of what `fit` got as validation_data. Raises ValueError."""
        x, y, weights = data, None, None
        if isinstance(data, (tuple, list)):
            if not 2 <= len(data) <= 3:
                raise ValueError("validation_data: expected (x, y), (x, y, sample_weight) or something with batches")
            x, y, weights = (*data, None)[:3]
        return self._held(x, y, size if is_arrays(x) else None, weights, steps)

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


def _metric(m: MetricLike) -> metrics.Metric:
    return metrics.get(m)


def _display(verbose: str | int) -> Callback | None:
    if verbose not in ("auto", 0, 1, 2, "0", "1", "2"):
        raise ValueError(f"verbose={verbose!r}: expected 0, 1, 2 or 'auto'")
    return None if verbose in (0, "0") else Progress(2 if verbose in (2, "2") else 1, stream=sys.stdout)
