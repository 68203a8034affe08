# Two commands are all the set-up there is: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_FLAGS ?=
BENCH_FLAGS ?=
TESTS ?= not slow and not soak

.PHONY: demo test soak lint bench bench-sum bench-rum bench-energies bench-view screenshots clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bm3d,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/txm-stream demo $(if $(HEADLESS),--headless) $(DEMO_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "$(TESTS) and not alone" $(PYTEST_FLAGS)
	$(BIN)/pytest -m alone $(PYTEST_FLAGS) || test $$? = 5  # 5: the flags leave none

soak: $(STAMP)
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "" $(PYTEST_FLAGS) tests/faults

bench: $(STAMP)
	$(BIN)/python benchmarks/bench_main_job.py

bench-sum: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench,dev]"
	$(BIN)/python benchmarks/bench_sum.py
	$(BIN)/python benchmarks/bench_registration.py

bench-rum: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench,dev]"
	$(BIN)/python benchmarks/bench_rum.py

bench-energies: $(STAMP)
	$(BIN)/python benchmarks/bench_energies.py $(BENCH_FLAGS)

bench-view: $(STAMP)
	$(BIN)/python benchmarks/bench_view.py $(BENCH_FLAGS)

screenshots: $(STAMP)
	$(BIN)/python benchmarks/view_screenshots.py out/screenshots

clean:
	rm -rf .venv build dist *.egg-info
