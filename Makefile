# Every target gets what it needs, on a bare Debian machine as root too:
#
#   make demo                   a stale read prevented, a crash survived (a minute)
#   make demo-mysql             the same on private servers of MariaDB and memcached
#   make test                   the whole suite, with its own servers
#   make test-mysql             of it, what needs MariaDB and MySQL 5.6
#   make test ARGS="-k outbox"  what ARGS tells pytest
#   make test PYTHON=python3.9  on another interpreter
#   make ci                     what must pass before a change lands

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

CODE = hydracache_sync tests examples setup.py
SETUP = PYTHON='$(PYTHON)' tests/setup_machine.sh
RUN = $(VENV)/bin/python

.PHONY: demo demo-mysql test test-mysql lint format format-check type build bench ci clean \
	venv-cli venv-test venv-test-mysql venv-test-web venv-fuzz venv-dev

demo: venv-cli
	$(RUN) examples/quickstart.py

demo-mysql: venv-cli
	@$(SETUP) servers
	$(RUN) tests/with_servers.py examples/quickstart.py

test: venv-test venv-test-mysql venv-test-web venv-fuzz
	@$(SETUP) servers
	$(RUN) -m pytest $(ARGS)

test-mysql: venv-test venv-test-mysql
	@$(SETUP) servers
	$(RUN) -m pytest tests/on_mysql $(ARGS)

lint: venv-dev
	$(RUN) -m flake8 $(CODE)

format: venv-dev
	$(RUN) -m isort $(CODE)
	$(RUN) -m black $(CODE)

format-check: venv-dev
	$(RUN) -m isort --check --diff $(CODE)
	$(RUN) -m black --check --diff $(CODE)

type: venv-dev
	$(RUN) -m mypy

build: venv-dev
	rm -rf dist
	$(RUN) -m build

bench: venv-test
	@$(SETUP) servers
	@for program in tests/benchmarks/[!_]*.py; do \
		if [ -e "$$program" ]; then \
			echo "$(RUN) $$program $(ARGS)"; \
			PYTHONPATH=tests $(RUN) "$$program" $(ARGS) || exit; \
		fi; \
	done

ci:
	bash .ci/run

clean:
	@if [ -e '$(VENV)/.by-make' ]; then rm -rf '$(VENV)'; fi
	rm -rf build dist *.egg-info .servers .hypothesis .mypy_cache .pytest_cache
	find hydracache_sync tests examples -name __pycache__ -prune -exec rm -rf {} +

# The script does nothing when the environment is as it should be.
venv-cli venv-test venv-test-mysql venv-test-web venv-fuzz venv-dev: venv-%:
	@$(SETUP) venv '$(VENV)' $*
