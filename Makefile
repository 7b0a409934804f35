# `make` lists what there is. Everything runs in .venv (VENV=...), which is made from any Python 3.11 or newer (PYTHON=...).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
RELEASED := protos/released/0.1.0.binpb
SECONDS ?= 60
LANES ?= 2
UV := .venv-uv/bin/uv
COMPILE := $(UV) pip compile --quiet --upgrade --generate-hashes --universal --python-version 3.11 \
	--fork-strategy fewest --custom-compile-command "make lock"
CHAOS_SECONDS := $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),120)
OURS := $(VENV)/.perdure
LOCKED := $(VENV)/.locked
FOREIGN := $(if $(wildcard $(VENV)),$(if $(wildcard $(OURS) $(LOCKED)),,$(VENV)))
STAMP := $(VENV)/.installed
PROTO_STAMP := $(PROTO_VENV)/.installed

# An environment of its own, with versions chosen now.
define fresh
$(UV) venv --quiet --clear --python $(PYTHON) $(1)
$(UV) pip install --quiet --python $(1)/bin/python --resolution $(2) -e '.[dev]'
endef

.PHONY: help dev lock run test test-all test-latest test-lowest lint fmt types proto proto-clients check-proto test-clients simulate chaos bench bench-all bench-compare bench-peers docs build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# Exact versions with hashes, by `make lock`. When they change, the environment is made anew.
$(LOCKED): requirements-dev.txt
	$(if $(FOREIGN),$(error $(VENV) was not made by make, which would clear it. Remove it, or name another folder, as in: make VENV=.venv-perdure))
	$(PYTHON) -m venv --clear $(VENV)
	@touch $(OURS)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(STAMP): $(LOCKED) pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(PROTO_STAMP): requirements-proto.txt
	$(PYTHON) -m venv --clear $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

dev: $(STAMP) ## make the development environment, of the versions in requirements-dev.txt

lock: $(UV) ## renew requirements-dev.txt and requirements-proto.txt: the newest versions of everything
	$(COMPILE) --extra dev pyproject.toml -o requirements-dev.txt
	$(COMPILE) --group proto -o requirements-proto.txt

run: $(STAMP) ## start a service with a local Ray, run the example against it, stop
	@$(BIN)/python tools/run_example.py

test: lint types check-proto ## install what is needed, check everything, run all tests but the slow ones
	$(BIN)/python -m pytest -q -n $(LANES) -m "not slow"

test-all: test ## all tests, the slow ones too, with new examples of properties and many more worlds of the simulation
	$(BIN)/python -m pytest -q -m slow
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -q tests/unit
	SIMULATION_SEEDS=2500 $(BIN)/python -m pytest -q tests/simulation

test-latest: $(UV) ## all tests but the slow ones, on the newest versions that pyproject.toml allows
	$(call fresh,.venv-latest,highest)
	.venv-latest/bin/python -m pytest -q -n $(LANES) -m "not slow" $(TESTS)

test-lowest: $(UV) ## all tests but the slow ones, on the oldest versions that pyproject.toml allows
	$(call fresh,.venv-lowest,lowest-direct)
	.venv-lowest/bin/python -m pytest -q -n $(LANES) -m "not slow" $(TESTS)

lint: $(STAMP) ## check the style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

fmt: $(STAMP) ## mend the style, and renew the generated parts of ARCHITECTURE.md
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tests/architecture.py

types: $(STAMP) ## check the types
	$(BIN)/mypy
	$(BIN)/mypy --config-file pyproject.toml tests/typing/sdk_api.py
	$(BIN)/pyright --pythonpath $(BIN)/python

proto: $(STAMP) $(PROTO_STAMP) ## generate the stubs anew
	$(BIN)/buf format -w protos
	$(BIN)/python tools/generate_stubs.py $(PROTO_VENV)/bin sdk

check-proto: $(STAMP) $(PROTO_STAMP) ## check the API: its style, that clients of the last release can use it, the stubs
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(RELEASED)
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python tools/generate_stubs.py $(PROTO_VENV)/bin sdk --check

proto-clients: $(STAMP) $(PROTO_STAMP) ## generate the stubs of clients in other languages anew; needs their toolchains; CLIENTS as below
	$(BIN)/python tools/generate_client_stubs.py $(PROTO_VENV)/bin $(CLIENTS)

test-clients: $(STAMP) ## test the clients in other languages that have their toolchain here; CLIENTS="go ..."
	$(BIN)/python tools/test_clients.py $(CLIENTS)

simulate: $(STAMP) ## run fresh worlds of the simulation for SECONDS
	$(BIN)/python tools/simulate.py $(SECONDS)

chaos: $(STAMP) ## engines, PostgreSQL, S3 and Ray under load and faults for SECONDS (120)
	$(BIN)/python tools/run_chaos.py --seconds $(CHAOS_SECONDS)

bench: $(STAMP) ## measure, with floors of the same run beside
	$(BIN)/python benchmarks/run.py

bench-compare: $(STAMP) ## measure, and fail if a ratio to its floor is a fifth worse than recorded
	$(BIN)/python benchmarks/compare.py

bench-all: $(STAMP) ## measure on both storages, several engines, growing sizes, short and long tasks
	$(BIN)/python benchmarks/run.py --storage sqlite,postgresql
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/efficiency.py

bench-peers: $(STAMP) ## measure Perdure and other systems in turn; PEERS="dbos=PYTHON temporal=PYTHON ..."
	$(BIN)/python benchmarks/compare_peers.py $(foreach peer,$(PEERS),--peer $(peer))

docs: $(STAMP) ## build the site into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

build: $(STAMP) ## make the wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what the targets made
	rm -rf $(if $(FOREIGN),,$(VENV)) $(PROTO_VENV) .venv-latest .venv-lowest .venv-uv .venv-go dist site
