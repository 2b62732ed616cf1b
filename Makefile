# `make demo` shows Evoke at work; `make test` runs every check. Both install what they need.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint quick soak bench tools

help: ## what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: ## a gateway, functions, the broker and things to try, on this machine
	@tests/prepare build
	cargo run --locked -p broker-server -- demo

test: ## every test, against the real servers
	@tests/prepare test
	cargo build --locked -p broker-server
	cargo test --locked --workspace --no-fail-fast

lint: ## formatting, lints, documentation warnings
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

quick: ## the rules only, in seconds
	cargo test --locked

soak: ## kills, then sources and contracts in their long form (SOAK_ROUNDS, 2000; SOAK_MINUTES, 120)
	@tests/prepare test
	cargo build --locked -p broker-server
	EVOKE_CRASH_ROUNDS=$${SOAK_ROUNDS:-2000} cargo test --locked -p e2e --test it -- --nocapture crash::
	until=$$(($$(date +%s) + 60 * $${SOAK_MINUTES:-120})); round=0; \
	while [ $$round = 0 ] || [ $$(date +%s) -lt $$until ]; do \
		round=$$((round + 1)); echo "soak: round $$round of sources and contracts"; \
		EVOKE_SOAK=1 cargo test --locked --workspace --test it -- contract:: sources::; \
	done

bench: ## the figures, each beside its limit (JSON and a Markdown table in target/bench)
	@tests/prepare test
	cargo build --locked --release -p broker-server -p bench
	target/release/bench
