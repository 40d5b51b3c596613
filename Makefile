# Every target gets what it needs, on a bare Debian machine as root too:
#
#   make demo                   a stale read prevented, a crash survived (a minute)
#   make demo-mysql             the same on private servers of MariaDB and memcached
#   make test                   the whole suite, with its own servers
#   make test-mysql             of it, what needs a MariaDB or MySQL
#   make test SERVERS="mariadb mysql9"  on these: mariadb mysql56 mysql9 mariadb118
#                               mariadb105 memcached-unstable; the default is all
#   make test-web-oldest        of it, Flask, SQLAlchemy and the console, on the oldest of both
#   make test ARGS="-k outbox"  what ARGS tells pytest
#   make test JOBS=0            in one process, with the servers started once
#   make test PYTHON=python3.9  on another interpreter
#   make docs                   the site, in docs/_build/html
#   make locks                  the newest packages for all of these, in tests/locked
#   make ci                     what must pass before a change lands

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SERVERS ?=
# Processes that the tests are shared among; each starts servers of its own.
JOBS ?= 2
# What `make test` installs: all that the whole suite needs.
EXTRAS ?= test test-mysql test-web test-browser fuzz

CODE = hydracache_sync hydracache_pytest.py tests examples docs setup.py noxfile.py
SETUP = PYTHON='$(PYTHON)' tests/setup_machine.sh
RUN = $(VENV)/bin/python
ifneq ($(SERVERS),)
export HYDRACACHE_TEST_SERVERS = $(SERVERS)
endif
SHARED = --numprocesses=$(JOBS) --dist=worksteal

.PHONY: demo demo-mysql test test-mysql test-web-oldest lint format format-check type build docs bench locks ci clean \
	venv-cli venv-test venv-test-mysql venv-test-web venv-test-browser venv-fuzz venv-docs venv-dev

demo: venv-cli
	$(RUN) examples/quickstart.py

demo-mysql: venv-cli
	@$(SETUP) servers
	$(RUN) tests/support/with_servers.py examples/quickstart.py

test: $(addprefix venv-,$(EXTRAS))
	@$(SETUP) servers
	@$(SETUP) browser
	$(RUN) -m pytest $(SHARED) $(ARGS)

test-mysql: venv-test venv-test-mysql
	@$(SETUP) servers
	$(RUN) -m pytest $(SHARED) tests/on_mysql $(ARGS)

# In an environment of its own: the rest of the suite wants the newest of them.
test-web-oldest:
	@$(SETUP) venv '$(VENV)-web-oldest' test-web-oldest
	@$(SETUP) servers
	$(VENV)-web-oldest/bin/python -m pytest $(SHARED) \
		tests/web/test_flask*.py tests/web/test_sqlalchemy*.py \
		tests/web/test_console*.py $(ARGS)

lint: venv-dev
	$(RUN) -m flake8 $(CODE)
	$(RUN) -m codespell_lib
	PYTHONPATH=tests $(RUN) -m prose

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
	$(RUN) -m build --no-isolation

# Warnings fail it, among them links that lead nowhere.
docs: venv-docs
	rm -rf docs/_build/html
	$(RUN) -m sphinx -b html --fail-on-warning --keep-going --nitpicky --jobs 2 \
		-c docs -d docs/_build/doctrees $(ARGS) . docs/_build/html

bench: venv-test
	@$(SETUP) servers
	@for program in tests/benchmarks/[!_]*.py; do \
		if [ -e "$$program" ]; then \
			echo "$(RUN) $$program $(ARGS)"; \
			PYTHONPATH=tests $(RUN) "$$program" $(ARGS) || exit; \
		fi; \
	done

# PYTHON only runs the tool that does it: the files are for every supported Python.
locks:
	PYTHON='$(PYTHON)' tests/renew_locks.sh

ci:
	bash .ci/run

clean:
	@for made in '$(VENV)' '$(VENV)-web-oldest' .venv-nox; do \
		if [ -e "$$made/.by-make" ]; then rm -rf "$$made"; fi; \
	done
	rm -rf build dist docs/_build *.egg-info .servers .hypothesis .mypy_cache .pytest_cache
	find hydracache_sync tests examples -name __pycache__ -prune -exec rm -rf {} +

# The script does nothing when the environment is as it should be.
venv-cli venv-test venv-test-mysql venv-test-web venv-test-browser venv-fuzz venv-docs venv-dev: venv-%:
	@$(SETUP) venv '$(VENV)' $*
