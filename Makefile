# LiveRL's commands. Each target works from a fresh clone and installs what it lacks; `make install` is instant when nothing changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install install-gpu quickstart test check golden docs bench lock

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## a .venv with everything that runs and tests need

$(STAMP): pyproject.toml requirements.lock scripts/install.sh
	@PYTHON="$(PYTHON)" scripts/install.sh $(VENV)
	@touch $@

install-gpu:  ## a .venv-gpu with the set for runs on NVIDIA GPUs (gigabytes); then .venv-gpu/bin/liverl run specs/one-gpu.jsonnet
	@PYTHON="$(PYTHON)" scripts/install_gpu.sh .venv-gpu

quickstart: install  ## install, then watch a small policy learn to repair code (about ten minutes on two cores)
	@$(BIN)/liverl run specs/quickstart.jsonnet $(shell command -v bwrap >/dev/null || echo --sandbox process)

test: install  ## every test, in groups from fast to slow; skipped ones are listed with their reason
	@scripts/test.sh $(BIN)

# Three workers on two cores: a fifth of the time one waits for what it started.
check: install  ## lint, types and fast tests: what to run before a commit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@said=$$(mktemp); trap 'rm -f "$$said"' EXIT; $(BIN)/mypy >"$$said" 2>&1 & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal --hypothesis-profile=check -m "not (sandbox or torch or verl or deep or network or consumers)"; tests=$$?; \
	wait $$types; types=$$?; cat "$$said"; exit $$((tests ? tests : types))

golden: install  ## compile every golden spec, the reference pages and the README's picture again and show what changed
	@$(BIN)/python -m tests.compiler.refresh_golden
	@$(BIN)/python -m compiler.reference > docs/spec.md.new && mv docs/spec.md.new docs/spec.md
	@$(BIN)/python -m scripts.picture
	@$(BIN)/python -m scripts.reference
	@git --no-pager diff --stat -- golden docs/spec.md docs/system.svg docs/reference

docs: install  ## the documentation site into build/site; a dead link is an error
	@$(BIN)/zensical build --strict
	@echo "to read it: $(BIN)/zensical serve, or any web server of build/site"

lock:  ## the newest versions into requirements.lock (KEEP=1: only what pyproject.toml asks for and the lock lacks)
	@PYTHON="$(PYTHON)" scripts/install.sh $(VENV) uv
	@$(BIN)/python -m scripts.lock $(if $(KEEP),--keep)
	@git --no-pager diff --stat -- requirements.lock

bench: install  ## every benchmark, one table each (minutes)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done
