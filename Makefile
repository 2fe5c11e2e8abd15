# make demo   export SmolLM2-135M and chat with it
# make test   the whole test suite
# make lint   style and types
# make bench  compare with other exporters; QUICK=1 takes minutes
# make docs   write the generated pages of docs/ anew
# make site   the pages as a site, in site/
# make clean  remove what these make, downloads included

VENV := .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	{ echo $$each; break; }; done)

DISTRIBUTIONS := core $(wildcard backends/*/pyproject.toml plugins/*/pyproject.toml)
DISTRIBUTIONS := $(patsubst %/pyproject.toml,%,$(DISTRIBUTIONS))
REQUIREMENTS := constraints.txt scripts/install.py $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
TYPED := $(addsuffix /src,$(DISTRIBUTIONS))

.PHONY: demo test lint bench docs site clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@$(RUN) scripts/demo.py

test: $(VENV)/installed-dev
	$(RUN) -m pytest -q -n auto --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy $(TYPED)

bench: $(VENV)/installed-dev
	$(RUN) benchmarks/compare/run.py $(if $(QUICK),--quick)

docs: $(VENV)/installed
	$(RUN) scripts/reference.py

site: $(VENV)/installed-dev
	$(RUN) -m mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) build demo site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: $(REQUIREMENTS) | python
	@$(PYTHON) scripts/install.py $(VENV) $(DISTRIBUTIONS)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@$(PYTHON) scripts/install.py $(VENV) --requirements requirements-dev.txt
	@touch $@

.PHONY: python
python:
	$(if $(PYTHON),,$(error no Python 3.11 or later found; name one: make demo PYTHON=/path/to/python3))
