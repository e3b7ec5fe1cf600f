"""What `fit` calls between steps and epochs; Keras' names, arguments and methods."""

from __future__ import annotations

from fastconv.callbacks.backup import BackupAndRestore
from fastconv.callbacks.base import (
    Callback,
    CallbackList,
    CSVLogger,
    History,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)
from fastconv.callbacks.monitor import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from fastconv.callbacks.progress import Progress

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "Progress",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
