# make demo   set up, draw a film and answer about it (VIDEO=path takes yours; QUESTION="..." asks something else)
# make test   set up and run the tests
# make check  what must hold before a commit: format, lint, types, floors, tests
# make nano   train the built-in model from nothing (hours; may be stopped, goes on where it stopped)
# make fix    what can be mended by machine · make docs  pages and gallery · make clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEO ?=
QUESTION ?= What happens in the video, and when?
MODEL ?= nano
DEMO := out/demo
# Two processes, each with whole files of tests.
PYTEST := -n 2 --dist loadfile

# Large tensors come and go in every step: keep their memory instead of giving it back each time.
NANO_ENV := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=10000000000

.PHONY: demo test check fix docs nano clean
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
else
	$(BIN)/timechat ask "$(VIDEO)" "$(QUESTION)" --model "$(MODEL)" --html $(DEMO)/answer.html
endif
	@echo "the same as a page: $(DEMO)/answer.html"

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST)

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains the built-in model from nothing, stage after stage; may be stopped at any time, the next call goes on.
# MINUTES=110 stops with a checkpoint after that long; PRECISION=bf16 is twice as fast where the processor has
# instructions for it (avx512_bf16, amx_bf16) and many times slower where not. Two processes of one thread each do more than one of two.
nano: $(VENV)/.dev
	test -f out/nano/start/config.json || $(BIN)/python -m timechat.synthetic.nano start out/nano/start
	$(NANO_ENV) $(BIN)/torchrun --nproc-per-node=2 -m timechat train recipes/nano.yaml $(if $(MINUTES),--minutes $(MINUTES)) $(if $(PRECISION),--set run.precision=$(PRECISION))

docs: $(VENV)/.dev
	$(BIN)/python docs/make_docs.py

clean:
	rm -rf $(VENV) out build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
