"""Benchmarks: `bench.export` makes models, `bench.models` and `bench.load` time engines on them, `bench.kernels` times
single layers with cold weights, `bench.roofline` the layers of a model, `bench.report` writes tables and plots."""

import os

# No engine computes with numpy's BLAS; the bandwidth of one core is read with its dot product, which must stay on it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
