"""Command-line values that several benchmarks take."""

from __future__ import annotations

import argparse


def numbers(text: str) -> list[int]:
    """The argument type of a comma-separated list of positive whole numbers."""
    values = [int(t) for t in text.split(",") if t]
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected positive numbers, got {text!r}")
    return values
