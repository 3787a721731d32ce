# Commands for users and developers. `make` without arguments lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)

PIP_AUDIT := pip-audit==2.10.1

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench audit lint types imports format serve migrate lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Start the service, load ratings, train, recommend (RATINGS=file.csv DATA_DIR=folder PORT=8000 EXIT=1)
	@$(BIN)/palate demo $(if $(RATINGS),--ratings "$(RATINGS)") $(if $(ITEMS),--items "$(ITEMS)") \
		$(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(PORT),--port $(PORT)) $(if $(EXIT),--exit)

test: $(VENV)/.dev ## Run the tests on SQLite and PostgreSQL (ARGS="-k name")
	$(BIN)/pytest -n auto -m "not soak" $(ARGS)

soak: $(VENV)/.dev ## Run the long-running load, crash and fuzz tests
	$(BIN)/pytest -m soak $(ARGS)

bench: $(VENV)/.dev ## Compare training speed with other libraries (QUICK=1: a few minutes; otherwise about half an hour)
	@$(BIN)/python -m benchmarks.machine_code
	@$(BIN)/python -m benchmarks.training_speed $(if $(QUICK),--quick) $(ARGS)

audit: ## Check the versions pinned in constraints.txt for known vulnerabilities (needs access to pypi.org)
	$(if $(UV),uv tool run,pipx run) $(PIP_AUDIT) --requirement constraints.txt --no-deps --disable-pip --strict --vulnerability-service pypi

lint: $(VENV)/.dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check the import contracts
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(VENV)/.runtime ## Start the service on ./palate-data
	$(BIN)/palate serve

migrate: $(VENV)/.runtime ## Bring the database schema up to date
	$(BIN)/palate migrate

lock: ## Update constraints.txt (needs uv)
	uv pip compile -q --upgrade --no-header --no-emit-index-url --universal --python-version 3.11 --extra dev pyproject.toml -o constraints.txt

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Palate needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(if $(UV),uv venv -q --allow-existing --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

# Both install exactly what constraints.txt pins.
INSTALL = $(if $(UV),VIRTUAL_ENV=$(VENV) uv pip install -q --compile-bytecode,$(BIN)/python -m pip install -q --disable-pip-version-check) -c constraints.txt

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Palate into $(VENV) (once) ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Palate and its development tools into $(VENV) (once) ..."
	@$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.runtime
