# Every target sets up what it needs by itself. PYTHON picks the interpreter of a new environment.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TESTS  ?=
# Tests mostly wait: three at once keep two cores busy.
JOBS   ?= 3
MINUTES ?= 5

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint bench chaos clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 10

demo: $(VENV)/ready  ## replay real trajectories through a fleet on this machine
	@scripts/system-packages bwrap=bubblewrap
	@$(BIN)/python -c 'from toolfleet.producer.embedded import find_redis_server as f; raise SystemExit(not f())' || \
		scripts/system-packages redis-server=redis-server
	$(BIN)/toolfleet run examples/intercode/gpt4-fs12.jsonl --out $(or $(OUT),/tmp/toolfleet-demo.jsonl)
	@echo "Each call's result: $(or $(OUT),/tmp/toolfleet-demo.jsonl)"

test: $(VENV)/ready  ## run the whole test suite (TESTS="tests/unit -k pool" for a part)
	@scripts/system-packages bwrap=bubblewrap redis-server=redis-server busybox=busybox-static debootstrap=debootstrap \
		mkfs.ext4=e2fsprogs openssl=openssl ip=iproute2 faketime=faketime dockerd=docker.io iptables=iptables \
		docker-compose=docker-compose slirp4netns=slirp4netns chromium=chromium
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not alone" $(TESTS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -m alone $(TESTS) || [ $$? -eq 5 ]

soak: $(VENV)/ready  ## hold a fleet under load and watch its memory (MINUTES=5)
	@scripts/system-packages bwrap=bubblewrap redis-server=redis-server
	cd tests && $(abspath $(BIN))/python -m chaos.soak --minutes $(MINUTES)

lint: $(VENV)/ready  ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready  ## measure against plain Celery and a bare spawn, side by side
	@scripts/system-packages bwrap=bubblewrap redis-server=redis-server
	$(BIN)/python benchmarks/calls.py

chaos: $(VENV)/ready  ## hurt a fleet while it works, and count what was lost (ARGS="--seed 7")
	@scripts/system-packages bwrap=bubblewrap redis-server=redis-server
	cd tests && $(abspath $(BIN))/python -m chaos $(ARGS)

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "toolfleet needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/system-packages no-such-command=python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[browser,dev,docker,embedded,flower,morph,server]'
	@touch $@
