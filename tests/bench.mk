# `make bench`: how fast the tunnel is on a real cluster. Included by the Makefile, beside e2e.mk, which names the
# programs under test.
#
# KUBECONFIG (admin, for a namespace of its own) and TUNNEL_TEST_DEVELOPER_KUBECONFIG name the cluster and its user.
# `make bench BENCH_FLAGS="--only download --rtt 0"` runs a part; `--help` tells the rest.

BENCH_FLAGS ?=

.PHONY: bench bench-inner

# Plugin and bench in one build: alone the bench would build half of what is below them once more, with other features.
bench: agent ## measure on a cluster, beside kubectl and the bare API (KUBECONFIG, TUNNEL_TEST_DEVELOPER_KUBECONFIG)
	$(CARGO) build --locked --package tunnel-test-target --profile agent --target x86_64-unknown-linux-musl
	$(CARGO) build --locked --release --package kubectl-tunnel --package tunnel-bench
	target/release/tunnel-bench $(BENCH_FLAGS)

bench-inner: ## measure link, streams and relay in memory, without a cluster
	$(CARGO) bench --locked --package tunnel-wire --bench pipe $(if $(BENCH_FLAGS),-- $(BENCH_FLAGS))
