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

lint: ## formatting and clippy, every warning is an error; do the fuzz targets still build
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz

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

FUZZ_SECONDS = 600
FUZZ_TARGETS = manifest receipt pack config time
# The stable compiler takes the flags of the sanitizer only so.
CARGO_FUZZ = RUSTC_BOOTSTRAP=1 PATH="$(CURDIR)/.tools/cargo-fuzz/bin:$$PATH" $(CARGO) fuzz
FUZZ_LIMITS = -rss_limit_mb=1024 -malloc_limit_mb=64 -timeout=10 -max_len=8192

.PHONY: fuzz fuzz-one fuzz-min

.tools/cargo-fuzz/bin/cargo-fuzz:
	$(CARGO) install --locked --root .tools/cargo-fuzz cargo-fuzz@0.13.2

fuzz: .tools/cargo-fuzz/bin/cargo-fuzz ## fuzz each target for FUZZ_SECONDS
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p "fuzz/work/$$target"; \
		$(CARGO_FUZZ) run --target-dir fuzz/target "$$target" "fuzz/work/$$target" "fuzz/corpus/$$target" -- \
			"-dict=fuzz/dict/$$target.dict" $(FUZZ_LIMITS) "-max_total_time=$(FUZZ_SECONDS)" -print_final_stats=1; \
	done

fuzz-one: .tools/cargo-fuzz/bin/cargo-fuzz
	$(CARGO_FUZZ) run --target-dir fuzz/target "$(FUZZ_TARGETS)" "$(FUZZ_INPUT)" -- $(FUZZ_LIMITS)

fuzz-min: .tools/cargo-fuzz/bin/cargo-fuzz
	$(CARGO_FUZZ) tmin --target-dir fuzz/target "$(FUZZ_TARGETS)" "$(FUZZ_INPUT)" -- $(FUZZ_LIMITS)
