# SPDX-License-Identifier: GPL-2.0-or-later
# The doors. Each sets up what it needs by itself.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/autoballoon
BIN := $(CACHE)/venv/bin
PYGUEST := PYTHONPATH=$(CURDIR) $(BIN)/python -m pyguest
PYTEST := PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest
export KERNEL QEMU KDIR QEMU_SRC

# KERNEL=all is each kernel of targets.toml in turn; without KERNEL it is the default.
KERNELS := $(shell sed -n 's/^\[kernels\."\(.*\)"\]$$/\1/p' targets.toml)
CHOSEN = $(if $(filter all,$(KERNEL)),$(KERNELS),$(or $(KERNEL),$(shell sed -n 's/^kernel = "\(.*\)"$$/\1/p' targets.toml)))
each = for kernel in $(CHOSEN); do echo "== Linux $$kernel"; export KERNEL=$$kernel; $(1) || exit; done

.DEFAULT_GOAL := help
.PHONY: help setup doctor build kmod qemu image demo lint test test-short test-unit test-device \
	test-guest test-e2e bench bench-quick bench-boot bench-driver bench-discard bench-hostctl \
	fuzz-device check series clean distclean

help: ## Show the doors
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  KERNEL=6.1 QEMU=10.0    choose a target of targets.toml; KERNEL=all is each in turn,"
	@echo "                          KERNEL=6.1-debug one with KASAN, lockdep and kmemleak"
	@echo "  KDIR=... QEMU_SRC=...   make kmod, make qemu with a tree of your own"

setup: ## Install what the lab needs (Debian and Python packages)
	@./setup

doctor: setup ## Say what this machine can do, and what to do about the rest
	@$(PYGUEST) doctor

build: setup ## Fetch and build kernel, driver, QEMU and guest image
	@$(call each,$(PYGUEST) build)

kmod: setup ## Build the guest driver alone
	@$(if $(KDIR),$(PYGUEST) build kmod,$(call each,$(PYGUEST) build kmod))

qemu: setup ## Build QEMU with the device alone
	@$(PYGUEST) build qemu

image: setup ## Build the guest image alone
	@$(call each,$(PYGUEST) build image)

demo: setup ## Two guests share a host that is too small for both
	@$(PYGUEST) demo

lint: setup ## ruff, mypy, shellcheck, and both checkpatch.pl
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@shellcheck setup .ci/run bin/pyguest pyguest/guest/lab-boot pyguest/guest/initrd-init
	@shellcheck -e SC1091 kmod/series/selftest/pressure.sh
	@$(PYGUEST) checkpatch

test: lint ## All tests
	@$(PYGUEST) build qemu
	@$(PYTEST) tests/unit tests/device
	@$(call each,$(PYGUEST) build && $(PYTEST) tests/guest tests/e2e)

test-short: setup ## A short set of the tests with guests, on each kernel
	@$(call each,$(PYGUEST) build && $(PYTEST) -m short tests/guest tests/e2e)

test-unit: setup ## The tests that need no guest (seconds)
	@$(PYTEST) tests/unit

test-device: setup ## The tests of the QEMU device, without a guest
	@$(PYGUEST) build qemu
	@$(PYTEST) tests/device

test-guest: setup ## The tests of the driver in a guest
	@$(call each,$(PYGUEST) build && $(PYTEST) tests/guest)

test-e2e: setup ## The tests of the whole loop
	@$(call each,$(PYGUEST) build && $(PYTEST) tests/e2e)

bench-driver: setup ## Measure the driver: latency, CPU share, inflation
	@$(call each,$(PYGUEST) bench-driver)

bench-discard: setup ## Measure the device: page frames discarded in runs, against stock
	@$(PYGUEST) bench-discard

bench-hostctl: setup ## Measure hostctl with a thousand guests: CPU, memory, latency
	@$(PYGUEST) bench-hostctl

bench: setup ## The experiments at full and quarter scale, and their reports: hours; goes on
	@failed=0; for plan in full quarter; do \
		$(PYGUEST) experiment --plan $$plan --report docs/results/$$plan || failed=1; \
	done; exit $$failed

bench-quick: setup ## A little of them in small: that they run, not what comes out
	@$(PYGUEST) experiment --plan quick --again --report $(CACHE)/runs/experiment-quick/report

fuzz-device: setup ## Drivers by chance for the device: MINUTES=60 for longer than one
	@$(PYGUEST) fuzz-device $(if $(MINUTES),--minutes $(MINUTES))

check: setup ## The driver before gcc W=1, sparse, kernel-doc and checkpatch (all kernels)
	@$(PYGUEST) check $(filter-out all,$(KERNEL))

series: setup ## The driver, or with QEMU=10.0 the device, as mails for upstream's lists, each tried
	@$(PYGUEST) series --check

bench-boot: setup ## Measure the time from QEMU's start to a login (5 boots)
	@$(PYGUEST) bench-boot

clean: ## Remove what is made again in seconds: driver, initrd, load programs, logs
	@echo "removing kmod, initrd, inject and runs in $(CACHE)"
	@cd "$(CACHE)" 2>/dev/null && rm -rf kmod initrd inject runs || true
	@echo "removing .mypy_cache, .ruff_cache, .pytest_cache, .hypothesis, __pycache__"
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove all that was fetched and built as well
	@if grep -q "^$(CACHE)/" /proc/swaps; then \
		echo "a swap file in $(CACHE) is in use: swapoff it first" >&2; exit 1; fi
	@echo "removing $(CACHE) (kernels, QEMU, image, venv, logs)"
	@rm -rf "$(CACHE)"
