# Everything sets up its environment by itself when it is missing or stale: .venv, or that of the version that PYTHON is.
# `make help` lists what there is.

# The first of some interpreters that runs; one that pyenv has installed need not be activated.
pyenv = $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/$(1))
first = $(shell for each in $(1) $(foreach name,$(1),$(call pyenv,$(name))); do \
    "$$each" -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
version = $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) else "")')

ifeq ($(origin PYTHON),undefined)
PYTHON = $(or $(call first,python3.11 python3),$(error there is no python3.11: install it, or say make PYTHON=/path/to/python))
ENV := .venv
else
asked := $(PYTHON)
override PYTHON := $(or $(call first,$(asked)),$(error there is no $(asked): install it, or say make PYTHON=/path/to/python))
ENV := .venv-$(or $(version),$(error $(asked) is older than Python 3.11: say make PYTHON=/path/to/python))
endif
BIN := $(ENV)/bin
LOCKED := $(ENV)/.locked
READY := $(ENV)/.ready
SOURCES := $(wildcard dida operators examples tests tools benchmarks twisted docs setup.py)

.DEFAULT_GOAL := help
.PHONY: help demo test long check docs format lock clean simulate bugs torture soak clocks endurance chains hosts orders rolling runs makespan bench compare evaluate wheel
MAKEFLAGS += --no-print-directory

say = @printf '%-10s %s\n'
# As an installation does it: a node starts in a quarter less time.
compile = @$(BIN)/python -m compileall -q dida

help:
	$(say) "make" "what it does"
	$(say) "demo" "play pmscripts/demo: two runs of a chain, and the crash of a storage node between them"
	$(say) "test" "check, then all tests, two processes of them; TESTS='tests/wire -k words' runs some, SIDES=1 has one"
	$(say) "simulate" "1,000 seeds of the storage's simulation, all faults; SEEDS=0-19999 for a soak"
	$(say) "bugs" "how many seeds the simulator needs to find each deliberate bug"
	$(say) "torture" "real storage nodes under crashes, pauses and joins for a minute, then the checkers"
	$(say) "soak" "1.1 million writes with a member killed: logs and memory stay bounded"
	$(say) "clocks" "a whole system under load, the clocks of some or all nodes stepped by an hour, for five minutes"
	$(say) "endurance" "ten minutes of busy cores and short pauses, a minute of a stopped node: nobody is taken for dead"
	$(say) "long" "the tests that take minutes: scripts, torture, partitions, soak, hosts"
	$(say) "" "PYTHON=python3.13 takes that version, in an environment of its own: .venv-3.13"
	$(say) "check" "ruff (format and lint), mypy --strict, imports, the word list, and the docs as a site"
	$(say) "docs" "the documentation as a site, build/site/index.html"
	$(say) "chains" "the long form of the tests that kill workers, schedulers and storage under chains (some minutes)"
	$(say) "hosts" "one system on three hosts (network namespaces; root): cut off, PCS killed, puppetmaster killed"
	$(say) "orders" "200 orders for 50 items at once, workers and storage killed and paused; ROUNDS=50 of them"
	$(say) "rolling" "five storage nodes and three workers restarted one after the other, ten times, under load (5 minutes)"
	$(say) "makespan" "both policies with operators of 10 ms and 1 s on four workers, against the ideal"
	$(say) "runs" "10,000 runs: the memory of scheduler, workers and storage stays flat"
	$(say) "bench" "speed beside bare Twisted and the peers that are there; ROWS=chains for some, FULL=1 for all and longer"
	$(say) "compare" "speed and CPU seconds beside another clone, WITH=FOLDER, in seven alternating turns (4 minutes)"
	$(say) "evaluate" "the report's three experiments, and what lies behind them, as a page with plots (7 minutes)"
	$(say) "wheel" "build dist/*.whl, and play the baseline with what it installs into an empty environment"
	$(say) "format" "let ruff put the code in order"
	$(say) "lock" "choose the newest versions of what pyproject.toml asks for, and lock them"
	$(say) "clean" "remove what was built, cached and logged, and the environments"

demo: $(READY)
	@$(BIN)/twistd -n puppetmaster < pmscripts/demo
	@printf '\n%s\n' "Next:"
	@printf '  %-32s  %s\n' "$(BIN)/twistd -n puppetmaster" "a console of your own: try help" \
	    "less pmscripts/demo" "what was played" \
	    "less docs/tutorial/first-run.md" "the same, explained"

SIDES ?= 2
test: check
	$(say) "tests" "running"
	@$(BIN)/python -m $(if $(TESTS)$(filter 1,$(SIDES)),pytest,tools.sides) -m "not long" $(TESTS)

long: $(READY)
	@$(BIN)/pytest -m long

SEEDS ?= 0-999
simulate: $(READY)
	@$(BIN)/python -m dida.simulate --seeds $(SEEDS)

bugs: $(READY)
	@$(BIN)/python -m tools.bugs

torture: $(READY)
	@$(BIN)/python -m tools.torture --seconds 60 --nodes 5 --clients 20

soak: $(READY)
	@$(BIN)/python -m tools.soak

SECONDS_OF_STEPS ?= 300
clocks: $(READY)
	@$(BIN)/python -m tools.stepping --seconds $(SECONDS_OF_STEPS)

endurance: $(READY)
	@DIDA_LONG=1 $(BIN)/pytest tests/system/test_failures.py -k "busy or silent" --timeout 900

check: $(READY)
	@$(BIN)/ruff format --quiet --diff $(SOURCES)
	$(say) "format" "ok"
	@$(BIN)/ruff check --quiet $(SOURCES)
	$(say) "lint" "ok"
	@$(BIN)/mypy --no-error-summary
	$(say) "types" "ok"
	@found=$$($(BIN)/lint-imports 2>&1) || { echo "$$found"; exit 1; }
	$(say) "imports" "ok"
	@$(BIN)/python -m tools.word_list
	$(say) "words" "ok"
	@$(MAKE) docs

docs: $(READY)
	@$(BIN)/sphinx-build -q -W -E -d build/doctrees docs build/site
	$(say) "docs" "ok"

chains: $(READY)
	@DIDA_LONG=1 $(BIN)/pytest -s tests/system/test_chains.py tests/system/test_lost_writes.py

hosts: $(READY)
	@$(BIN)/pytest tests/system/test_hosts.py -rs

ROUNDS ?= 50
orders: $(READY)
	@DIDA_ROUNDS=$(ROUNDS) $(BIN)/pytest -s tests/system/test_orders.py

rolling: $(READY)
	@$(BIN)/python -m tools.rolling --nodes 5 --workers 3 --turns 10

makespan: $(READY)
	@$(BIN)/python -m tools.makespan

runs: $(READY)
	@$(BIN)/python -m tools.many_runs --runs 10000

# Exit status 1 says that a target is missed, which is no error of make's.
bench: $(READY)
	$(compile)
	@$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(ROWS),--rows "$(ROWS)") $(BENCH) || test $$? = 1

# WITH is a clone of the old code whose environment is ready.
compare: $(READY)
	$(compile)
	@$(BIN)/python -m benchmarks.compare --with "$(WITH)" $(BENCH)

evaluate: $(READY)
	$(compile)
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || { echo "evaluate   getting matplotlib for the plots"; \
	    $(BIN)/python -m pip install -qq --disable-pip-version-check 'matplotlib>=3.9'; }
	@$(BIN)/python -m benchmarks.evaluate $(EVALUATE)

format: $(READY)
	@$(BIN)/ruff format --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet --fix $(SOURCES)

# The environment is an empty one, which gets what the wheel asks for; nothing of the source tree is in its sight.
wheel:
	@rm -rf build/lib build/installed dist/*.whl
	@"$(PYTHON)" -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .
	@"$(PYTHON)" -m venv build/installed
	@build/installed/bin/python -m pip install -qq --disable-pip-version-check dist/*.whl
	@cd build/installed && bin/twistd -n puppetmaster < "$$(echo lib/python*/site-packages/dida/stock/pmscripts/baseline)"
	@printf '%-10s %s\n' "wheel" dist/*.whl

lock: $(READY)
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe \
	    --strip-extras --extra test --extra develop --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --output-file requirements.lock pyproject.toml
	$(say) "lock" "ok"

$(LOCKED): requirements.lock
	@printf '%-8s %s\n' "set up" "$(ENV) with the versions of requirements.lock (half a minute)"
	@test -n "$(version)" || { echo "$(PYTHON) is older than Python 3.11: say make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(ENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@touch $@

$(READY): $(LOCKED) setup.py pyproject.toml
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@$(BIN)/python -m pip check -qq
	$(compile)
	@touch $@

clean:
	@rm -rf .venv .venv-* build dist *.egg-info logs .hypothesis .pytest_cache .mypy_cache .ruff_cache twisted/plugins/dropin.cache
	@find dida operators examples tests tools benchmarks twisted -name __pycache__ -prune -exec rm -rf {} +
