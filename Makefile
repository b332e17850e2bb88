# The only entry point for people and CI. Each target says what it does after `##`.

CARGO ?= cargo

# The agent is linked statically for both; rust-lld comes with the toolchain, so that neither needs a C compiler.
AGENT_ARCHITECTURES := x86_64 aarch64
AGENTS := target/agents
# A ConfigMap holds 1 MiB; the budget leaves room for the next features.
AGENT_SIZE_LIMIT := 870400

export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER := rust-lld
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER := rust-lld
# No path of this machine in what is released: the same bytes wherever it is built.
REMAP_PATHS := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/build
# Size only: no relocation table, identical functions once, no tables for unwinding (the agent aborts). Together 13 %.
AGENT_RUSTFLAGS := -C relocation-model=static -C link-arg=--icf=all -C link-arg=--no-eh-frame-hdr \
	-C link-arg=--script=agent/no-unwind.ld $(REMAP_PATHS)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS := $(AGENT_RUSTFLAGS)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS := $(AGENT_RUSTFLAGS)

.DEFAULT_GOAL := help
.PHONY: help agent agent-size build install man fmt lint deny test demo e2e clean $(AGENT_ARCHITECTURES:%=agent-%)

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

agent: $(AGENT_ARCHITECTURES:%=agent-%) ## build the static agents into target/agents

$(AGENT_ARCHITECTURES:%=agent-%): agent-%:
	@rustup target list --installed | grep -qx '$*-unknown-linux-musl' || rustup target add '$*-unknown-linux-musl'
	$(CARGO) build --locked --package tunnel-agent --bin tunnel-agent --profile agent --target '$*-unknown-linux-musl'
	@mkdir -p $(AGENTS)
	@cmp -s 'target/$*-unknown-linux-musl/agent/tunnel-agent' '$(AGENTS)/tunnel-agent-$*' || \
		cp 'target/$*-unknown-linux-musl/agent/tunnel-agent' '$(AGENTS)/tunnel-agent-$*'

agent-size: agent ## fail when an agent has outgrown its ConfigMap's budget
	@for agent in $(AGENT_ARCHITECTURES:%=$(AGENTS)/tunnel-agent-%); do \
		size=$$(wc -c < $$agent); \
		echo "$$agent: $$size of $(AGENT_SIZE_LIMIT) bytes"; \
		test $$size -le $(AGENT_SIZE_LIMIT) || exit 1; \
	done

build: agent ## build the plugin with both agents inside (target/release/kubectl-tunnel)
	$(CARGO) build --locked --release --bin kubectl-tunnel

PREFIX ?= $(HOME)/.local

install: build ## build, and copy the plugin to $(PREFIX)/bin
	install -D -m 0755 target/release/kubectl-tunnel $(DESTDIR)$(PREFIX)/bin/kubectl-tunnel

man: ## write the manual into target/man, a page for each command
	$(CARGO) run --locked --quiet --package kubectl-tunnel -- man target/man

fmt: ## format the code
	$(CARGO) fmt --all

# Below the plugin nothing may know Kubernetes, TLS, HTTP or a command line (README, invariants).
AGENT_BANNED := kube kube-client k8s-openapi rustls hyper clap serde tracing

lint: agent-size deny ## check formatting, lints, dependencies and the agent's size
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@for name in $(AGENT_BANNED); do \
		if $(CARGO) tree --locked -p tunnel-agent -e normal --prefix none | grep -qE "^$$name v"; then \
			echo "tunnel-agent depends on $$name" >&2; exit 1; \
		fi; \
	done
	@if grep -rnE 'crate::session' src/cluster src/cluster.rs || grep -nE 'crate::cluster|kube::' src/session.rs; then \
		echo 'the cluster code and the session code must not know each other' >&2; exit 1; \
	fi
	@if grep -rnE '("|`)kubectl tunnel ' src --include=*.rs | grep -vE '^src/(cli[./]|program.rs)|^[^:]*:[0-9]+: *//|assert|tests\.rs:'; then \
		echo 'the program may have another name: program::name()' >&2; exit 1; \
	fi
	@if grep -rnE '\b(e?print(ln)?!)' src --include=*.rs; then echo 'only src/ui.rs writes to the terminal' >&2; exit 1; fi

deny: ## check licences, sources, duplicates and advisories of all dependencies, where cargo-deny is installed
	@if ! command -v cargo-deny >/dev/null; then \
		echo 'dependencies not checked: no cargo-deny here (`cargo install cargo-deny --locked`)'; \
	elif ! $(CARGO) deny --locked check bans licenses sources; then \
		exit 1; \
	elif ! $(CARGO) deny --locked fetch db; then \
		echo 'advisories not checked: their database cannot be reached'; \
	else \
		$(CARGO) deny --locked check --disable-fetch advisories; \
	fi

test: agent ## run every hermetic test
	$(CARGO) test --locked --workspace

demo: agent ## proxy, expose and forward end to end, against the playground or, with KUBECONFIG set, that cluster
	$(CARGO) build --locked --package kubectl-tunnel --package tunnel-playground
	bash tests/demo.sh target/debug/kubectl-tunnel target/debug/playground

clean: ## remove what was built
	$(CARGO) clean

include krew/dist.mk tests/e2e.mk tests/bench.mk
