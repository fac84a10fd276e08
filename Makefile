# What a person runs. Works with GNU make and any POSIX shell; nothing here needs more than
# git, the Rust toolchain, make, Python 3 and Node.js (`make tools` fetches the rest).
CARGO = cargo

.PHONY: help demo test lint fmt tools deny bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: ## back up sample data, change it, restore the first state, compare
	$(CARGO) build --locked
	sh scripts/demo.sh "$${CARGO_TARGET_DIR:-target}/debug/opsctl"

test: tools ## install what the tests need, then run all of them
	$(CARGO) test --locked --lib --bins --tests

lint: ## formatting and clippy; every warning is an error
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

fmt: ## format the Rust code
	$(CARGO) fmt

tools: ## install what the tests need: Debian packages, and .tools/
	@sh scripts/install-tools.sh

bench: tools ## compare with restic and a plain pipe; RECORD=1 also writes docs/benchmarks.md, ARGS="--help" lists options
	@sh scripts/install-bench-tools.sh
	$(CARGO) build --locked --release
	PYTHONDONTWRITEBYTECODE=1 python3 benches/run.py $(if $(RECORD),--record) $(ARGS)

deny: ## licences, duplicate versions and sources of the crates (needs cargo-deny)
	@command -v cargo-deny >/dev/null 2>&1 || { echo 'cargo-deny is missing: cargo install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --locked --offline check licenses bans sources
