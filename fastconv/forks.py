"""Forking: it waits until nobody compiles, so that the child finds every lock free and every weight store whole."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class HasLock(Protocol):
    """Who compiles under a lock of its own."""

    _lock: threading.Lock


_owners: weakref.WeakSet[HasLock] = weakref.WeakSet()
_held: list[threading.Lock] = []


def hold_at_fork(owner: HasLock) -> None:
    """From now on a fork waits for `owner._lock`."""
    _owners.add(owner)


def _before() -> None:
    for owner in list(_owners):
        owner._lock.acquire()
        _held.append(owner._lock)


def _after() -> None:
    while _held:
        _held.pop().release()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
