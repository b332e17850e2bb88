# `make dist`, `make krew`: the archives of a release and what installs them. Included by the Makefile.
#
# zig compiles the C code of aws-lc and links, so that one Linux machine builds for all five systems. It comes from PyPI
# into target/dist-tools/venv, pinned by krew/requirements.txt; python3 with venv is all it needs beside Rust and make.

# The plugin's name in Krew's index, and so the command: `kubectl $(KREW_NAME)`. `tunnel` is taken in the default index.
KREW_NAME ?= tunnel

DIST := target/dist
DIST_PLATFORMS ?= linux-amd64 linux-arm64 darwin-amd64 darwin-arm64 windows-amd64
DIST_TOOLS := target/dist-tools/venv

DIST_TARGET_linux-amd64 := x86_64-unknown-linux-musl
DIST_TARGET_linux-arm64 := aarch64-unknown-linux-musl
DIST_TARGET_darwin-amd64 := x86_64-apple-darwin
DIST_TARGET_darwin-arm64 := aarch64-apple-darwin
DIST_TARGET_windows-amd64 := x86_64-pc-windows-gnu
DIST_SUFFIX_windows-amd64 := .exe

# All times in the archives: the commit's, so that two builds of one commit give the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1600000000)
DIST_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)

# zig has no Apple frameworks, so their symbols come from krew/darwin.
DIST_RUSTFLAGS_darwin-amd64 := -L framework=$(CURDIR)/krew/darwin
DIST_RUSTFLAGS_darwin-arm64 := -L framework=$(CURDIR)/krew/darwin

# The oldest macOS it runs on: the first for arm64. zig's own default is much later.
export MACOSX_DEPLOYMENT_TARGET := 11.0

# Where the program for this machine is installed.
DIST_BIN = $(DIST)/installed/linux-$(if $(filter aarch64,$(shell uname -m)),arm64,amd64)/bin

# The agents' flags, which the Makefile exports, are not the plugin's.
DIST_ENV = env -u CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER -u CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS \
	-u CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER -u CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS \
	PATH="$(CURDIR)/$(DIST_TOOLS)/bin:$$PATH" TUNNEL_COMMIT="$(DIST_COMMIT)" \
	CARGO_ZIGBUILD_ZIG_PATH="$$(echo $(CURDIR)/$(DIST_TOOLS)/lib/python3*/site-packages/ziglang/zig)"

TUNNEL_DIST = SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) target/debug/tunnel-dist

.PHONY: dist dist-tool dist-check dist-test krew krew-bot \
	$(DIST_PLATFORMS:%=dist-binary-%) $(DIST_PLATFORMS:%=dist-archive-%) $(DIST_PLATFORMS:%=dist-check-%)

dist: $(DIST_PLATFORMS:%=dist-archive-%) ## pack the archives, SHA256SUMS and the SBOM into target/dist
	$(CARGO) metadata --locked --format-version 1 > $(DIST)/metadata.json
	$(TUNNEL_DIST) sbom --out $(DIST) < $(DIST)/metadata.json
	@rm $(DIST)/metadata.json
	$(TUNNEL_DIST) sums $(DIST)
	@ls -l $(DIST)

dist-check: $(DIST_PLATFORMS:%=dist-check-%) ## compile the plugin for all five systems, without linking

# With KUBECONFIG set, the installed program is tried on that cluster, as `make demo` does, else on the playground.
dist-test: krew ## install what `make dist` packed by Krew's rules, and by Krew itself where it is present; run it
	rm -rf $(DIST)/installed
	$(TUNNEL_DIST) check --name $(KREW_NAME) --into $(DIST)/installed $(DIST)
	@! command -v kubectl >/dev/null || PATH="$(CURDIR)/$(DIST_BIN):$$PATH" \
		kubectl $(KREW_NAME) version $(if $(KUBECONFIG),,--client)
	$(CARGO) build --locked --package tunnel-playground
	bash tests/demo.sh $(DIST_BIN)/kubectl-$(subst -,_,$(KREW_NAME)) target/debug/playground

krew: dist-tool ## render the Krew manifest and our own index for what `make dist` packed
	$(TUNNEL_DIST) krew --name $(KREW_NAME) --out $(DIST)/krew $(DIST)

krew-bot: dist-tool ## render .krew.yaml for krew-release-bot
	$(TUNNEL_DIST) bot --name $(KREW_NAME) > target/krew.yaml && mv target/krew.yaml .krew.yaml

dist-tool:
	$(CARGO) build --quiet --locked --package tunnel-dist

$(DIST_PLATFORMS:%=dist-archive-%): dist-archive-%: dist-binary-% dist-tool
	$(TUNNEL_DIST) pack --platform $* --out $(DIST) \
		--binary target/$(DIST_TARGET_$*)/release/kubectl-tunnel$(DIST_SUFFIX_$*) README.md LICENSE

$(DIST_PLATFORMS:%=dist-binary-%): dist-binary-%: agent $(DIST_TOOLS)/.ready
	@rustup target list --installed | grep -qx '$(DIST_TARGET_$*)' || rustup target add '$(DIST_TARGET_$*)'
	$(DIST_ENV) RUSTFLAGS="$(REMAP_PATHS) $(DIST_RUSTFLAGS_$*)" \
		cargo-zigbuild zigbuild --locked --release --bin kubectl-tunnel --target $(DIST_TARGET_$*)

$(DIST_PLATFORMS:%=dist-check-%): dist-check-%: $(DIST_TOOLS)/.ready
	@rustup target list --installed | grep -qx '$(DIST_TARGET_$*)' || rustup target add '$(DIST_TARGET_$*)'
	$(DIST_ENV) cargo-zigbuild check --locked --bin kubectl-tunnel --target $(DIST_TARGET_$*)

$(DIST_TOOLS)/.ready: krew/requirements.txt
	@python3 -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'packing needs python3 with venv: `apt-get install python3-venv`' >&2; exit 1; }
	python3 -m venv --clear $(DIST_TOOLS)
	$(DIST_TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: --requirement krew/requirements.txt
	@touch $@
