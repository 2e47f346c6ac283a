# Each target works alone on a fresh machine: Python 3.11 or newer, make and git are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test fuzz lint clean bench-cifar bench-training bench-price bench-deploy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/offramp search --data digits --backbone resnet8 --accelerator diana --run runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

# New random cases: 10,000 for every reader; `make fuzz CASES=hypothesis` draws for every other property too (hours).
CASES ?= reader
fuzz: setup
	$(BIN)/pytest -n 2 --dist worksteal --hypothesis-profile fuzz --timeout 0 -m $(CASES)

# Long measurements; each prints the table that docs/ and LOG.md quote.
bench-cifar: setup
	$(BIN)/python benchmarks/bench_cifar.py $(if $(DATA_DIR),--data-dir $(DATA_DIR))

bench-training: setup
	$(BIN)/python benchmarks/bench_training.py

bench-price: setup
	$(BIN)/python benchmarks/bench_price.py
	$(BIN)/python benchmarks/bench_seedcase.py

bench-deploy: setup
	$(BIN)/python benchmarks/bench_deploy.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
