# Every target works on a fresh clone with g++ 10 (or clang++ 12), make and Python 3.10 with venv: the environment
# .venv is made here, and made anew where pyproject.toml changes. C++ is rebuilt where csrc changes; Python needs no
# rebuild (the installation is editable). Variables: PYTHON, CXX, JOBS, PYTEST (more options for pytest).
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DELETE_ON_ERROR:

PYTHON ?= python3
JOBS ?= $(shell nproc)
PYTEST ?=
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY := .venv/bin/python
BENCH_PY := .venv-bench/bin/python
CXX_SOURCES := $(shell find csrc -path csrc/cuda -prune -o \( -name '*.cpp' -o -name '*.h' -o -name '*.def' \) -print)
CUDA_SOURCES := $(shell find csrc/cuda -type f)
CXX_FORMATTED := $(shell find csrc tests include examples -name '*.cpp' -o -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
MODELS := build/models

.PHONY: all help demo check test test-full test-emulated fuzz bench bench-docs bench-quick wheel clean \
  cuda check-cuda lint lint-python lint-types lint-cpp lint-symbols format stubs
all: .venv/installed
help:
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# -- environments -----------------------------------------------------------------------------------------------------
# $(call install,venv): build with progress; the whole log is shown where the build fails.
define install
	@mkdir -p build
	@echo 'building fastconv for $(1) (build/$(1).log)'
	@$(1)/bin/python -m pip install -v --no-build-isolation -Cbuild-dir=build/$(1) -e '.[test]' 2>&1 | tee build/$(1).log \
	  | { grep --line-buffered -E '^ *\[[0-9]+/[0-9]+\]|^ *(Collecting|Downloading) |^Installing ' || true; } \
	  || { cat build/$(1).log; exit 1; }
	@touch $(1)/installed
endef

.venv/tools .venv-bench/tools: %/tools: pyproject.toml
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install -q --upgrade pip
	$*/bin/python -m pip install -q --group build
	@touch $@

.venv/installed: .venv/tools $(CXX_SOURCES) CMakeLists.txt
	$(call install,.venv)

.venv/lint: .venv/installed
	$(PY) -m pip install -q --group lint
	@touch $@

# torch's own build for the CPU where pip's sources have one; torchvision only for its Python half.
.venv-bench/torch: .venv-bench/tools
	$(BENCH_PY) -m pip install --group export
	$(BENCH_PY) -m pip install --no-deps torchvision==0.28.0
	@touch $@

.venv-bench/installed: .venv-bench/torch $(CXX_SOURCES) CMakeLists.txt
	$(BENCH_PY) -m pip install --group bench
	$(call install,.venv-bench)

# -- use --------------------------------------------------------------------------------------------------------------
demo: .venv/installed ## classify real photos with EfficientNet-Lite0, beside onnxruntime
	$(PY) examples/demo.py

# -- tests ------------------------------------------------------------------------------------------------------------
WORKERS := -n auto --maxprocesses 4
# FASTCONV_TEST_ALL: a missing package fails a test instead of skipping it.
check: .venv/installed ## the quick tests
	FASTCONV_TEST_ALL=1 $(PY) -m pytest -q $(WORKERS) \
	  -m 'not full and not torch and not slow and not long' $(PYTEST)

test: .venv/installed ## all tests but those of make test-full
	FASTCONV_TEST_ALL=1 $(PY) -m pytest -ra --durations=10 $(WORKERS) $(PYTEST)

test-full: .venv/installed .venv-bench/installed $(MODELS)/exported $(MODELS)/timm/made $(MODELS)/states/made ## everything: models in full size, training beside torch
	FASTCONV_TEST_ALL=1 FASTCONV_TEST_MODELS=$(MODELS) $(PY) -m pytest -ra --durations=20 -m 'not torch' $(PYTEST)
	$(BENCH_PY) -m pytest -ra -m torch tests/training $(PYTEST)

$(MODELS)/exported: .venv-bench/torch .venv/installed bench/export.py
	names=$$($(PY) -c 'from tests.models.test_torchvision import FAMILIES as f; print(",".join(f))'); \
	for e in classic dynamo; do $(BENCH_PY) -m bench.export --out $(MODELS)/$$e --exporter $$e --models $$names; done
	@touch $@

$(MODELS)/timm/made: .venv-bench/torch bench/export.py tests/models/timm_models.py
	$(BENCH_PY) -W ignore -m tests.models.timm_models --out $(MODELS)/timm
	@touch $@

# State dicts of torchvision and timm with torch's outputs, for the applications.
$(MODELS)/states/made: .venv-bench/torch tests/applications/torch_reference.py tests/applications/states.py
	$(BENCH_PY) -m tests.applications.torch_reference --out $(MODELS)/states
	@touch $@

test-emulated: .venv/installed ## sanitizers, valgrind, emulated CPUs (without AVX; aarch64), instruction counts, main loops
	PYTHON=$(CURDIR)/$(PY) tests/native/run_guards.sh
	PYTHON=$(CURDIR)/$(PY) tests/native/run_sanitized.sh
	PYTHON=$(CURDIR)/$(PY) tests/native/run_valgrind.sh
	PYTHON=$(CURDIR)/$(PY) tests/native/run_qemu.sh
	PYTHON=$(CURDIR)/$(PY) tests/native/run_aarch64.sh

fuzz: ## a minute of libFuzzer on the loader of saved plans and on the ONNX scanner; FUZZ: its options
	tests/fuzz/run.sh

# -- CUDA -------------------------------------------------------------------------------------------------------------
# make test runs the kernels under an emulator. With nvcc: the plugin for every architecture, laid beside the package's
# compiled module, and the checks of its machine code. With a GPU: bench/cuda_all.sh.
ARCH ?=
build/cuda/libfastconv_cuda.so: .venv/installed $(CUDA_SOURCES) csrc/ops.h csrc/training_ops.h csrc/cpu/kernels.def csrc/cpu/winograd.h
	PATH=$(CURDIR)/.venv/bin:$$PATH cmake -S . -B build/cuda -DCMAKE_BUILD_TYPE=Release -DFASTCONV_CUDA=ON \
	  $(if $(ARCH),-DFASTCONV_CUDA_ARCHITECTURES="$(ARCH)") -DPython_EXECUTABLE=$(CURDIR)/$(PY) \
	  -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
	PATH=$(CURDIR)/.venv/bin:$$PATH cmake --build build/cuda --target fastconv_cuda

cuda: build/cuda/libfastconv_cuda.so check-cuda ## the CUDA plugin by nvcc, and checks of its code; ARCH=90a-real
	cp build/cuda/libfastconv_cuda.so $$($(PY) -c 'from fastconv.cuda import library; print(library.find().parent)')/

.venv/cuda: .venv/installed
	$(PY) -m pip install -q --group cuda
	@touch $@

check-cuda: build/cuda/libfastconv_cuda.so .venv/cuda
	$(PY) -m tests.cuda.check_code build/cuda/libfastconv_cuda.so

# -- style ------------------------------------------------------------------------------------------------------------
lint: lint-python lint-types lint-cpp lint-symbols ## ruff, mypy, clang-format, symbols of the kernels
lint-python: .venv/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
lint-types: .venv/lint
	$(PY) -m mypy
lint-cpp: .venv/lint
	@echo clang-format --dry-run csrc tests
	@.venv/bin/clang-format --dry-run --Werror $(CXX_FORMATTED)
lint-symbols: .venv/installed
	$(PY) tests/native/check_symbols.py build/.venv

format: .venv/lint ## let ruff and clang-format rewrite the tree
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	.venv/bin/clang-format -i $(CXX_FORMATTED)

stubs: .venv/lint ## write fastconv/_core.pyi from the compiled module
	$(PY) -m tests.stubs

# -- benchmarks -------------------------------------------------------------------------------------------------------
# Whole models are measured RUNS times over, and the report takes medians. BENCH: options of bench.models.
RUNS ?= 3
BENCH ?=
ENGINES := fastconv,onnxruntime,openvino,torch,ncnn,mnn
MEASURE_MODELS := $(BENCH_PY) -m bench.models --engines $(ENGINES) --threads 1,2

bench: .venv-bench/installed ## models, layers and loading against other engines: 90 minutes, 45 with RUNS=1
	status=0; mkdir -p build/bench; rm -f build/bench/models-*.json build/bench/batch*.json; \
	for run in $$(seq $(RUNS)); do \
	  $(MEASURE_MODELS) --batch 1 --json build/bench/models-$$run.json $(BENCH) || status=$$?; \
	  $(MEASURE_MODELS) --batch 8 --runs 10 --json build/bench/models-8-$$run.json $(BENCH) || status=$$?; \
	done; \
	$(BENCH_PY) -m bench.models --engines $(ENGINES) --models resnet50,mobilenet_v2 --batch 2,4,16 --runs 10 \
	  --json build/bench/batch.json || status=$$?; \
	$(BENCH_PY) -m bench.load --dir $(MODELS)/classic --models vgg16,resnet50 --threads 1,2 --json build/bench/load.json \
	  || status=$$?; \
	$(BENCH_PY) -m bench.roofline --models resnet50,mobilenet_v2,vgg16 --json build/bench/layers.json || status=$$?; \
	$(BENCH_PY) -m bench.kernels --json build/bench/kernels.json || status=$$?; \
	$(BENCH_PY) -m bench.training --json build/bench/training.json || status=$$?; \
	$(BENCH_PY) -m bench.report build/bench/*.json --out build/bench; \
	exit $$status

bench-docs: .venv-bench/installed ## write what make bench measured into README.md and docs/
	$(BENCH_PY) -m bench.report build/bench/*.json --out docs --readme README.md

bench-quick: .venv/installed ## ResNet50 and VGG16 against onnxruntime, under two minutes
	$(PY) -m bench.quick

# -- packages ---------------------------------------------------------------------------------------------------------
wheel: .venv/installed ## dist/: an sdist and the wheel that pip builds from it alone; the quick tests with that wheel
	rm -rf dist
	$(PY) -c 'from scikit_build_core.build import build_sdist; print(build_sdist("dist"))'
	$(PY) -m pip wheel -v --no-deps -w dist dist/fastconv-*.tar.gz 2>&1 | tee build/wheel.log \
	  | grep --line-buffered -E '^ *\[[0-9]+/[0-9]+\]|warning:|error:|compiler identification' \
	  || { cat build/wheel.log; exit 1; }
	$(PY) -m pip install -q --group wheel
	PATH=$(CURDIR)/.venv/bin:$$PATH $(PY) -m auditwheel repair --plat auto -w dist/repaired dist/fastconv-*.whl
	rm dist/fastconv-*.whl
	mv dist/repaired/*.whl dist/ && rmdir dist/repaired
	PATH=$(CURDIR)/.venv/bin:$$PATH $(PY) -m cibuildwheel --platform linux --print-build-identifiers
	$(PY) -m tests.check_wheel dist

clean: ## remove everything that is not in the repository
	rm -rf .venv .venv-bench build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis fastconv/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
