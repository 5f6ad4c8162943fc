# make environment  .venv with the pinned versions; the other targets call it
# make demo         set up, run the pipeline on 5,000 simulated patients, say where the report is
# make test         set up, run all tests but those on SLURM
# make test-slurm   start a SLURM on this machine (root, Debian) and run the pipeline's tests on it
# make bench        time the data stages at SCALES times MIMIC-III's size; tables to benchmarks/README.md
# make check        linters, types, generated files
# make generated    write the files that come from the settings and contracts anew

PYTHON ?= python3
BIN := .venv/bin
# Of `make bench`; 50 takes 2 GB of disk and minutes.
SCALES ?= 1 10 50
# Written when the environment is whole; pip starts again if a pin changes.
READY := .venv/.ready

.PHONY: environment demo test test-slurm bench check generated

environment: $(READY)

demo: $(READY)
	$(BIN)/snakemake --profile profiles/demo
	@echo "The report is results/demo/report/report.html"

test: $(READY)
	$(BIN)/pytest -n 2

test-slurm: $(READY)
	$(BIN)/pytest tests/slurm -m slurm -rs --durations 8

bench: $(READY)
	$(BIN)/python benchmarks/data.py --scales $(SCALES) --into benchmarks/README.md

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python -m promptehr.settings_docs --check
	$(BIN)/python -m promptehr.reference --check

generated: $(READY)
	$(BIN)/python -m promptehr.settings_docs
	$(BIN)/python -m promptehr.reference

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "promptehr needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
