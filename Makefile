# Two commands matter on a fresh machine: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two cores is what the project is sized for; more helps only the tests.
export OMP_NUM_THREADS ?= 2

.PHONY: demo demo-omni test test-slow check fuzz docs docs-serve clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/optmerge bench demo

demo-omni: $(READY)
	$(BIN)/optmerge omni demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(READY)
	OMP_NUM_THREADS=1 OPTMERGE_TEST_EVERYTHING=1 $(BIN)/pytest -n 2 --dist loadfile -m 'slow or sampled'

check: $(READY)
	$(BIN)/ruff format --check src tests perf docs zoo
	$(BIN)/ruff check src tests perf docs zoo
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not slow'

# Coverage-guided, for so many seconds per target; what breaks one is left in out/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(READY)
	@for name in $(notdir $(wildcard tests/fuzz/corpus/*)); do \
	  echo "== $$name"; \
	  PYTHONPATH=tests $(BIN)/python -m fuzz $$name --seconds $(FUZZ_SECONDS) || exit 1; \
	done

# The generated pages of docs/reference, then the site in out/site; its search works where it is served.
export NO_MKDOCS_2_WARNING ?= 1
docs: $(READY)
	$(BIN)/python docs/make_method_pages.py
	$(BIN)/python docs/make_model_types_page.py
	$(BIN)/python docs/make_reference_pages.py
	$(BIN)/mkdocs build --strict

docs-serve: docs
	$(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) out build dist

perf: $(READY)
	$(BIN)/python -m perf.run all
	$(BIN)/python -m perf.composition

perf-clean:
	rm -rf out/perf
.PHONY: perf perf-clean
