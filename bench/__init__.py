"""Benchmarks: `python -m bench.export` makes models, `bench.models` and `bench.load` time engines on them."""
