# `make e2e`: the real programs on a real cluster. Included by the Makefile.
#
# KUBECONFIG (admin) and TUNNEL_TEST_DEVELOPER_KUBECONFIG name the cluster and its users; what else there is to
# know is in tests/cluster/harness/settings.rs. The plugin under test is the release build, which people run; the
# tests themselves share the debug build of `make test`, whose features are those of the whole workspace.

TEST_TARGET := target/x86_64-unknown-linux-musl/agent/tunnel-test-target
export TUNNEL_TEST_PLUGIN := $(CURDIR)/target/release/kubectl-tunnel
export TUNNEL_TEST_TARGET := $(CURDIR)/$(TEST_TARGET)
E2E := bash tests/e2e.sh
# Tests mostly wait for the cluster, whose node is often the same small machine.
E2E_THREADS ?= 6

# A test cluster on this machine keeps its audit log beside the administrator's kubeconfig.
ifndef TUNNEL_TEST_AUDIT_LOG
export TUNNEL_TEST_AUDIT_LOG := $(wildcard $(dir $(firstword $(KUBECONFIG)))log/audit.jsonl)
endif

.PHONY: e2e e2e-build e2e-parallel e2e-serial

e2e: e2e-parallel e2e-serial ## run the tests that need a cluster (KUBECONFIG, TUNNEL_TEST_DEVELOPER_KUBECONFIG)
	$(E2E) 2 --locked --workspace --test session

e2e-build: build
	$(CARGO) build --locked --package tunnel-test-target --profile agent --target x86_64-unknown-linux-musl
	$(CARGO) test --locked --workspace --test cluster --test cluster_serial --test session --no-run

e2e-parallel: e2e-build
	$(E2E) $(E2E_THREADS) --locked --workspace --test cluster

# These measure, fill the machine or break the cluster on purpose.
e2e-serial: e2e-parallel
	$(E2E) 1 --locked --workspace --test cluster_serial
