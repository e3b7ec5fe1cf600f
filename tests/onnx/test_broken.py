"""Every broken model gives a typed error, soon and without a large allocation, and the process goes on."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from fastconv.errors import ModelError
from tests.onnx.broken import GOOD
from tests.onnx.corpus import CASES, LIMIT_SECONDS, MUTANTS, Maker, load_and_build


def test_corpus_is_large() -> None:
    assert len(CASES) >= 60


def test_the_model_that_mutants_come_from_is_good() -> None:
    load_and_build(GOOD)


@pytest.mark.parametrize("name", CASES)
def test_broken(name: str, tmp_path: Path) -> None:
    source = CASES[name](tmp_path)
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        load_and_build(source)
    assert time.perf_counter() - start < LIMIT_SECONDS
    tracemalloc.start()  # numpy reports its arrays to it
    try:
        with pytest.raises(ModelError):
            load_and_build(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20
    assert len(str(caught.value)) > 15


def survive(make: Maker, folder: Path) -> bool:
    """Load a mutant; True if it loads."""
    start = time.perf_counter()
    try:
        load_and_build(make(folder))
    except ModelError:
        return False
    finally:
        assert time.perf_counter() - start < LIMIT_SECONDS
    return True


@pytest.mark.parametrize("kind", ["flipped", "spliced"])
def test_mutants_load_or_raise(kind: str, tmp_path: Path) -> None:
    loaded = [survive(make, tmp_path) for name, make in MUTANTS.items() if name.startswith(kind)]
    assert 0 < sum(loaded) < len(loaded) * 0.9  # both outcomes are exercised
