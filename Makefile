# Everything a newcomer, a developer and CI type. `make demo` and `make test` do all the set-up there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
# Tests with real runtimes and networks wait much: two at a time, each worker with a network of its own, as their ports
# are the shipped ones. The others run on every CPU before. (5: none there.)
REAL   := e2e or network
NEEDED := $(if $(filter 1 true,$(E2E) $(CI)),--e2e)

.PHONY: help setup demo test check format bench prove fuzz wire lock clean

help:           ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## make .venv with the locked dependencies

$(READY): requirements.lock pyproject.toml deploy/venv.sh $(wildcard imagedist/unpack/c/*)
	@sh deploy/venv.sh "$(PYTHON)" "$(VENV)"
	@touch $(READY)

demo: $(READY)  ## the main job on this machine: registry → site → swarm → overlay storage (IMAGE=… for a real one)
	@$(BIN)/imagedist demo $(if $(IMAGE),--image $(IMAGE))

test: $(READY)  ## all tests; E2E=1 installs the Debian packages the end-to-end tests need
ifneq ($(filter 1 true,$(E2E) $(CI)),)
	@bash deploy/packages.sh
	-@sh deploy/newer-runtimes.sh
endif
	$(PYTEST) $(NEEDED) -n auto --maxprocesses 4 --dist loadfile -m "not ($(REAL))" $(TESTS) || [ $$? -eq 5 ]
	$(PYTEST) $(NEEDED) -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder --own-network -m "$(REAL)" $(TESTS) || [ $$? -eq 5 ]

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python deploy/check_c.py
	$(BIN)/python deploy/check_metrics.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python deploy/check_metrics.py --write

bench: $(READY) ## some minutes' look at this machine's figures, as root; BENCH="layers --rounds 3" measures something else
	$(BIN)/imagedist-bench $(or $(BENCH),all --quick)

prove: $(READY) ## long proofs in full counts
	PROVE=1 $(PYTEST) -m prove $(TESTS)
	TEST_DATABASE=postgresql $(PYTEST) tests/seeder tests/sync tests/integration/test_preheat.py tests/integration/test_nodes.py

fuzz: $(READY)  ## hostile bytes for the tar reader, the plan, the decoders: FUZZ_SECONDS=60
	$(BIN)/python -m tests.fuzz build/fuzz/corpus -max_total_time=$(or $(FUZZ_SECONDS),60) \
	    -artifact_prefix=build/fuzz/ -max_len=16384

wire: $(READY)  ## the messages of containerd's APIs again, from the .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. $(shell find imagedist bench tests -name '*.proto')

lock:           ## pin every dependency, with hashes, to requirements.lock; what nodes need, to deploy/requirements.lock
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra dev pyproject.toml -o requirements.lock
	echo 'setuptools>=74.1' | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate -c requirements.lock \
	    --extra containerd --extra postgres --extra redis pyproject.toml - -o deploy/requirements.lock

clean:
	rm -rf $(VENV) .demo build *.egg-info imagedist/unpack/*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
