# Philoxenia: two commands on a fresh Debian 12 machine, `make demo` and `make test`. Each sets up what it needs.
SHELL := /bin/bash
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PHX_HOME,PHX_RECIPES,http_proxy,COLUMNS,TERM)
MADE := $(or $(PHX_HOME),artifacts)
PY := .venv/bin/python
FAST := not vm and not xen and not services and not root

.PHONY: help setup demo demo-xen test fast lint bench figures clean

help:
	@sed -n 's/^## //p' Makefile

## make demo    build the appliances, launch a Slurm cluster, run jobs and MPI on it, take it down
demo: setup
	@$(SUDO) $(PY) -m cluster.demo

## make demo-xen   the same on a real Xen, which runs under QEMU: no Xen machine is needed
demo-xen: setup
	@$(SUDO) $(PY) -m cluster.demo --xen

## make test    the whole test suite: the fast tests side by side, then those that boot guests
test: setup
	@$(SUDO) $(PY) -m pytest -p no:cacheprovider -n auto -m "$(FAST)"
	@$(SUDO) $(PY) -m pytest -p no:cacheprovider -m "not ($(FAST))"

## make fast    only the tests that start no guest (seconds)
fast: setup
	@$(PY) -m pytest -n auto -m "$(FAST)"

## make lint    ruff and mypy
lint: setup
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

## make bench   measured times beside their targets; ONLY=assembly (or launch, context, memory, xen) is one part
bench: setup
	@$(SUDO) $(PY) -m tests.bench $(ONLY)

## make figures  experiments on real guests that prove the guarantees; ARGS="isolation --host NAME" chooses
figures: setup
	@$(SUDO) $(PY) -m cluster.figures $(ARGS)

## make setup   Debian packages and .venv, each only if missing (the others do this by themselves)
setup:
	@.ci/setup

## make clean   stop the sandbox hosts, remove everything that was made
clean:
	@[ ! -x .venv/bin/phx ] || for h in $$($(SUDO) .venv/bin/phx host ls --json | $(PY) -c 'import json,sys; [print(h["name"]) for h in json.load(sys.stdin)]'); do \
	    $(SUDO) .venv/bin/phx host down $$h --force; done
	@[ ! -d $(MADE) ] || $(SUDO) find $(MADE) -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
