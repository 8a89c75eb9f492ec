# Two commands do it all: `make demo` and `make test`. Both install what is missing, and are safe to run again.

CARGO ?= cargo
BIN := target/release/clove

.PHONY: demo test build tools bench clean-data

# Builds CloveOS and runs 48 drug-discovery experiments on real data, with three faults put in.
demo: build
	$(BIN) demo drug-discovery $(ARGS)

build:
	scripts/setup build
	$(CARGO) build --release --locked -p clove -p clove-sys

# Everything: formatting, lints, unit and property tests, simulation, end to end with the real binary, Python,
# the escape suite, and cgroup v2 inside User-Mode Linux. Prints what was skipped, and why.
test: build
	scripts/setup test
	scripts/test $(ARGS)

tools:
	scripts/setup test

# Ours and the peers in turns, on this machine: about an hour and a half. ARGS="--quick" shows only that it works;
# ARGS="ping cold_spawn" runs some. The tables are printed, and kept in target/bench.
bench: build
	$(CARGO) build --release --locked -p clove-client --example bench_client
	scripts/bench --json target/bench/results.json --markdown target/bench/results.md $(ARGS)
