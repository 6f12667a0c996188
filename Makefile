# Every target is a subcommand of `cargo xtask`, which says with --help what it does.

CARGO ?= cargo
XTASK = $(CARGO) run --quiet --package xtask --

.PHONY: help setup test demo check bench soak

help:
	@echo "make test   set up the machine (as root, Debian) and run every test"
	@echo "make demo   see it work, from a pool to a restored snapshot"
	@echo "make check  format, lints, docs, licences"
	@echo "make bench  measure"
	@echo "make soak   kill and cut power for hours; not what CI runs"

setup: have-cargo
	$(XTASK) setup

test: setup
	$(XTASK) test

demo: setup
	$(XTASK) demo

check: have-cargo
	$(XTASK) check

bench: setup
	$(XTASK) bench

soak: setup
	$(XTASK) soak

.PHONY: have-cargo
have-cargo:
	@command -v $(CARGO) >/dev/null || { \
		echo "cargo is missing. Install rustup (apt-get install rustup, or your distribution's"; \
		echo "package), then: rustup toolchain install. rust-toolchain.toml names the version."; \
		exit 1; }
