# `make` lists the targets. Everything runs as root on Debian 12 or 13; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
HOST ?= crm-int-01

LAB := lab/bin/launch
# Scenarios of `make test`, in this order; the first leaves its hosts to those after it.
SCENARIOS := default kernel_esp rebuild native_php debian12

# What `make bench` runs; the first leaves a running lab to the others.
BENCHMARKS := converge private_link front_door mass_mailing return_path hardening tools

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## install what is missing: Debian packages, .venv, base image
	@lab/bin/setup

.PHONY: lab
lab: setup ## two hosts, a real CiviCRM, the first newsletter and a report; keeps running
	@$(LAB) lab/bin/lab up

.PHONY: converge
converge: setup ## run the playbooks again on the running lab (FAST=1 through mitogen)
	@$(LAB) lab/bin/lab converge

.PHONY: shell
shell: ## a root shell on a lab host: make shell HOST=crm-ext-01
	@$(LAB) podman exec -it $(HOST) bash -l

.PHONY: check
check: setup ## linters, unit, render and contract tests, no hosts (CHANGED=1: what the change can have broken, in seconds)
	@lab/bin/check

.PHONY: lint
lint: setup ## the linters of `make check` alone (CHANGED=1, too)
	@lab/bin/check --lint

.PHONY: test
test: check ## everything: check, then each scenario from destroyed hosts
	@$(LAB) lab/bin/lab test $(SCENARIOS)

.PHONY: bench
bench: ## measure into docs/benchmarks/; cleans and makes the lab twice (ONLY=private_link: that one, on the running lab)
	@set -e; for b in $(or $(ONLY),$(BENCHMARKS)); do python3 bench/$$b.py; done

.PHONY: clean
clean: ## remove hosts, network, images, state and .venv
	@lab/bin/clean
