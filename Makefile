# `make demo` and `make test` do all the set-up there is; the rest is for developers.
# Both make $(VENV) once and use it again: a stamp inside says what is installed, and a change of
# pyproject.toml makes the stamp stale. pip is brought to 25.1 first, which knows dependency groups.
# Where PyPI's torch with CUDA is too much: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV ?= .venv
DATA ?= ../shared/data
# An interpreter that has annbatch[zarrs] (Python 3.12 or newer), for the benchmarks against it
ANNBATCH := $(if $(ANNBATCH_PYTHON),--annbatch-python $(ANNBATCH_PYTHON))

BIN := $(VENV)/bin
BENCH = $(BIN)/python -m benchmarks
EVALUATE = $(BIN)/cellscribe evaluate mini -o benchmarks/evaluation --seeds 5
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SAMPLE := src/cellscribe/bundled/pbmc3k_sample.h5ad

.PHONY: help demo test lint docs corpus mini bench evaluate clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    set up $(VENV), embed the bundled cells, leave vectors, report and map in demo/"
	@echo "make test    set up $(VENV) for development and run the tests"
	@echo "make lint    ruff, formatting, types and spelling"
	@echo "make docs    the site, notebooks run, warnings as errors: docs/_build/html/index.html"
	@echo "make corpus  build the files in DATA ($(DATA)) into runs/corpus, as recipes/small.toml says"
	@echo "make mini    train the bundled model on runs/corpus, in half an hour on two cores; after a stop it goes on"
	@echo "make bench   measure on the real cells in DATA ($(DATA)) and render the tables of README and docs"
	@echo "make evaluate measures the bundled model on the files in DATA and renders the tables of README and docs"
	@echo "make clean   remove what make made, $(VENV) included"
	@echo "Another interpreter (3.11 or newer): make demo PYTHON=python3.12"

demo: $(VENV)/.stamp-demo
	@mkdir -p demo
	$(BIN)/cellscribe embed $(SAMPLE) -o demo/embeddings.npy \
	  --report demo/report.html --map demo/umap.png --color-by cell_type --overwrite
	@echo
	@echo "vectors  demo/embeddings.npy   one row a cell, in the order of the file"
	@echo "report   demo/report.html      open it in a browser"
	@echo "map      demo/umap.png         coloured by cell type"
	@echo "Your own cells: $(BIN)/cellscribe embed YOUR.h5ad -o OUT.npy"

# One process a core, tests handed over as processes run out of them; coverage and its floor: pyproject.toml.
test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -m "not gpu and not slow" -n auto --dist worksteal --cov --cov-report=term

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell src docs scripts benchmarks recipes *.md NOTICE

# -n: a reference to nothing is a warning, too. Without the notebooks: DOCS_NOTEBOOKS=off make docs
docs: $(VENV)/.stamp-dev
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html

# All files but the knock-downs, which are for tests of perturbation.
corpus: $(VENV)/.stamp-dev
	@mkdir -p runs
	$(BIN)/cellscribe corpus build $(filter-out $(DATA)/perturb_%,$(sort $(wildcard $(DATA)/*.h5ad))) \
	  -o runs/corpus --config recipes/small.toml
	$(BIN)/cellscribe corpus card runs/corpus --md docs/small-corpus.md

# What it ends in, runs/mini/model, is put into the package by scripts/bundle_model.py.
mini: $(VENV)/.stamp-dev
	@test -e runs/corpus/manifest.json || $(MAKE) corpus
	$(BIN)/cellscribe train --preset mini --corpus runs/corpus -o runs/mini --resume

bench: $(VENV)/.stamp-dev
	$(BENCH) tokenize --data $(DATA)
	$(BENCH) embed --data $(DATA)
	$(BENCH) memory --data $(DATA) --context 32
	$(BENCH) build --data $(DATA) $(ANNBATCH)
	$(BENCH) read --data $(DATA) $(ANNBATCH)
	$(BENCH) train $(if $(wildcard runs/corpus),--corpus runs/corpus,--data $(DATA))
	$(BENCH) vectors --data $(DATA)
	$(BENCH) transfer --data $(DATA)
	$(BIN)/python -m benchmarks.render_tables

# Two files that the bundled model never saw; one that it did, for batches; one screen.
evaluate: $(VENV)/.stamp-dev
	$(BIN)/python scripts/make_gene_types.py
	$(EVALUATE) --task core performance --gene-list benchmarks/evaluation/gene_types.csv \
	  --data $(DATA)/pbmc_facs_zheng2017.h5ad $(DATA)/pbmc3k_10x.h5ad
	$(EVALUATE) --task integration --data $(DATA)/pancreas_baron_human_came.h5ad
	$(EVALUATE) --task perturbation deletion --max-cells 21000 \
	  --data $(DATA)/perturb_papalexi2021_thp1_299genes.h5ad
	$(BIN)/python -m benchmarks.render_tables

clean:
	rm -rf demo build dist docs/_build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -e "$(VENV)/.stamp-pip" ]; then echo "rm -rf $(VENV)"; rm -rf "$(VENV)"; fi

# Every check before the first download, each with one line that says how to go on.
$(VENV)/.stamp-pip:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "cellscribe needs Python 3.11 or newer, $(PYTHON) is $$("$(PYTHON)" -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) comes without venv and pip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)"
	@$(PIP) install -qq "pip>=25.1"
	@touch $@

$(VENV)/.stamp-demo: pyproject.toml $(VENV)/.stamp-pip
	@echo "Installing cellscribe into $(VENV) (the first time takes a minute or more: torch is large)"
	@$(PIP) install -qq --editable ".[report]"
	@touch $@

# One environment for tests and types: what mypy sees must not depend on which target ran first.
$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-pip
	@echo "Installing cellscribe and its development tools into $(VENV)"
	@$(PIP) install -qq --editable ".[report,census]" --group bench --group test --group docs --group lint
	@touch $@ $(VENV)/.stamp-demo
