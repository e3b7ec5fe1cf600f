"""BackupAndRestore: a training that was interrupted goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastconv.callbacks.base import Callback, Logs
from fastconv.errors import ModelError

NAME = "training.ckpt"


class BackupAndRestore(Callback):
    """Save all that a training needs to go on, after each epoch or every `save_freq` steps, in `backup_dir`.

    The same `fit`, with the same seed, begins where the last checkpoint was and ends with the same weights, bit by bit,
    as one that was never interrupted. What the other callbacks remember comes back too, but for EarlyStopping's best
    weights; loss and metrics of an epoch that is gone on with are those of its remaining batches. delete_checkpoint: it
    goes when `fit` has ended. Raises ModelError for a checkpoint of another network, seed or list of callbacks.
    """

    last = True  # it keeps what all others remember of an epoch

    def __init__(
        self, backup_dir: str | os.PathLike[str], save_freq: str | int = "epoch", delete_checkpoint: bool = True
    ) -> None:
        super().__init__()
        if save_freq != "epoch" and (isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f"save_freq={save_freq!r}: expected 'epoch' or a number of steps")
        self.path = Path(backup_dir) / NAME
        self.save_freq, self.delete_checkpoint = save_freq, delete_checkpoint
        self._callbacks: Sequence[Callback] = ()
        self._seed = self._epoch = 0

    def begin_at(self, callbacks: Sequence[Callback], seed: int) -> tuple[int, int] | None:
        from fastconv.training_state import are_of, load_training, restore

        self._callbacks, self._seed = [c for c in callbacks if c is not self], seed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return None

        def check(state: Mapping[str, Any]) -> None:
            if state.get("seed") != seed or not are_of(state.get("callbacks"), self._callbacks):
                problem = "made by a fit with another seed or other callbacks: remove it, or use them"
                raise ModelError(f"{self.path}: {problem}")
            for name in ("epoch", "batch"):
                number = state.get(name)
                if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                    raise ModelError(f"{self.path}: not a backup of a fit: {name} is {number!r}")

        state = load_training(self.model, self.path, check=check)
        restore(self._callbacks, state["callbacks"])
        return int(state["epoch"]), int(state["batch"])

    def _save(self, epoch: int, batch: int) -> None:
        from fastconv.training_state import save_training, states_of

        state = {"epoch": epoch, "batch": batch, "seed": self._seed, "callbacks": states_of(self._callbacks)}
        save_training(self.model, self.path, state)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.save_freq != "epoch" and (batch + 1) % int(self.save_freq) == 0 and batch + 1 != self.params["steps"]:
            self._save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._save(epoch + 1, 0)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint:
            self.path.unlink(missing_ok=True)
