# Podwire: build it, see it work, test it. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# A static program needs the target named, even if it is this machine's own: build scripts and
# macros are compiled for the host and cannot be static.
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
OUT := $(CURDIR)/target/$(TRIPLE)/release
RELEASE := RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target $(TRIPLE)

# The lab makes namespaces, which only root may. Building needs no root.
ROOT := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

# A workspace of its own, see docs/ARCHITECTURE.md.
FUZZ := fuzz

# As Cargo.toml says.
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

DESTDIR ?=
PREFIX ?= /usr/local
CNI_BIN ?= /opt/cni/bin
SBIN ?= $(PREFIX)/sbin
BIN ?= $(PREFIX)/bin
MAN ?= $(PREFIX)/share/man/man8
COMPLETIONS_BASH ?= $(PREFIX)/share/bash-completion/completions
COMPLETIONS_ZSH ?= $(PREFIX)/share/zsh/site-functions
COMPLETIONS_FISH ?= $(PREFIX)/share/fish/vendor_completions.d

.PHONY: help
help: ## List the targets
	@echo "Podwire wires pods. These are the targets:"
	echo
	grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 18

.PHONY: demo
demo: build ## Raise a cluster of network namespaces and show the walkthrough in it
	@tests/tools.sh demo
	$(ROOT) env PODWIRE_BIN_DIR=$(OUT) $(OUT)/podwire-lab demo

.PHONY: lab
lab: build ## Raise the same cluster and let it stay, to look around in
	@tests/tools.sh demo
	$(ROOT) env PODWIRE_BIN_DIR=$(OUT) $(OUT)/podwire-lab up

.PHONY: ui
ui: build ## Raise a lab, unless one is up, and show it as a live page for a browser on this machine
	@tests/tools.sh demo
	lab="$(ROOT) env PODWIRE_BIN_DIR=$(OUT) $(OUT)/podwire-lab"
	$$lab pods >/dev/null 2>&1 || $$lab up
	$$lab ui

.PHONY: page
page: page-tools ## Build the live page from kubectl-plugin/page/src into dist/ (needs Node.js)
	@cd kubectl-plugin/page && node_modules/.bin/tsc --project . && node build.mjs

.PHONY: page-check
page-check: page-tools ## Check the live page: types, no markup out of strings, dist/ as the sources give
	@cd kubectl-plugin/page && node_modules/.bin/tsc --project . && node build.mjs --check

.PHONY: page-tools
page-tools:
	@tests/tools.sh page
	cd kubectl-plugin/page && npm ci --silent

# PICTURES=1 also takes the pictures in docs/pictures/.
.PHONY: test-ui
test-ui: root toolchain ## Test the live page in headless Chromium, beside a lab (needs Node.js)
	@tests/tools.sh page test-ui
	cargo build --workspace --bins
	cd tests/ui && npm ci --silent
	PODWIRE_BIN_DIR=$(CURDIR)/target/debug node --test --test-concurrency=1 fixture.test.mjs lab.test.mjs

.PHONY: build
build: toolchain ## Build the release programs: static, stripped
	@$(RELEASE) --package podwire --package podwire-agent --bin podwire --bin podwire-agent
	# By themselves: what they need of kube is not for the agent.
	$(RELEASE) --package podwire-lab --package kubectl-podwire --bin podwire-lab --bin kubectl-podwire

.PHONY: test
test: root toolchain ## Format, lints, unit, property and golden tests, real packets in the lab
	@tests/tools.sh test
	cargo fmt --all --check
	cargo fmt --check --manifest-path $(FUZZ)/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	cargo test --workspace

.PHONY: lint
lint: toolchain ## Check the format and the lints only
	@cargo fmt --all --check
	cargo fmt --check --manifest-path $(FUZZ)/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings

# What tests/go-tools.sh has built comes last: a program of the machine's own is as good.
GO_TOOLS := export PATH="$$PATH:$(CURDIR)/target/go-tools"

.PHONY: chart-test
chart-test: toolchain ## Test the Helm chart and the overlays (needs kubectl; helm, or Go)
	@$(GO_TOOLS)
	tests/go-tools.sh helm kubectl
	cargo test --package podwire-agent --test ways_in -- --include-ignored

.PHONY: ci-lint
ci-lint: ## Check the workflow for a public forge (needs actionlint, or Go)
	@$(GO_TOOLS)
	tests/go-tools.sh actionlint
	actionlint

.PHONY: bench
bench: root toolchain ## Measure the plugin, routes, Services and policies, beside targets
	@tests/tools.sh bench
	$(RELEASE) --package podwire --package podwire-agent --package podwire-lab \
	    --bin podwire --bin podwire-agent --bin podwire-bench
	parts='cargo bench --target $(TRIPLE) --package podwire-agent'
	export RUSTFLAGS="-C target-feature=+crt-static"
	# Nothing is compiled while something is measured.
	$$parts --bench services --bench policies --no-run
	# All, whatever the first says.
	missed=0
	$$parts --bench services --quiet || missed=1
	$$parts --bench policies --quiet || missed=1
	PODWIRE_BIN_DIR=$(OUT) $(OUT)/podwire-bench || missed=1
	exit $$missed

# The models are asked about millions of packets: the agent's own crate is optimised for that, on top of
# dependencies as other tests have them.
OPTIMISED := --config profile.dev.package.podwire-agent.opt-level=2
POLICY_TESTS := cargo test $(OPTIMISED) --package podwire-agent --lib --

.PHONY: oracle
oracle: root toolchain ## Compare policies of CLUSTERS (10000) random clusters with what cyclonus says, and SENT (1000) of them by packets; needs Go
	@tests/tools.sh test
	export ORACLE_SEED=$${SEED:-1} ORACLE_CLUSTERS=$${CLUSTERS:-10000} ORACLE_SENT=$${SENT:-1000}
	$(POLICY_TESTS) cyclonus --ignored --nocapture

.PHONY: oracle-packets
oracle-packets: root toolchain ## Send the packets of CLUSTERS (1000) random clusters with policies of both kinds
	@tests/tools.sh test
	export PACKETS_SEED=$${SEED:-1} PACKETS_CLUSTERS=$${CLUSTERS:-1000}
	$(POLICY_TESTS) packets_meet --nocapture

# What `cargo fuzz` passes to a stable compiler, so that neither it nor a nightly one is needed; how
# much is counted of which crate is in fuzz/rustc.sh.
COVERAGE := -Cpasses=sancov-module -Ccodegen-units=1 $(addprefix -Cllvm-args=-sanitizer-coverage-, \
    inline-8bit-counters pc-table)
SECONDS_TO_FUZZ ?= 60
INPUTS ?= -1
TARGETS ?=

.PHONY: fuzz
fuzz: root toolchain ## Look for input that breaks something, for SECONDS_TO_FUZZ (60) in all (INPUTS, TARGETS)
	@tests/tools.sh fuzz
	RUSTC_WRAPPER=$(CURDIR)/$(FUZZ)/rustc.sh RUSTFLAGS="$(COVERAGE)" \
	    cargo build --release --target $(TRIPLE) --manifest-path $(FUZZ)/Cargo.toml --target-dir target/fuzz
	$(FUZZ)/run.sh $(CURDIR)/target/fuzz/$(TRIPLE)/release $(SECONDS_TO_FUZZ) $(INPUTS) $(TARGETS)

KILLS ?= 500
SEED ?=

.PHONY: kills
kills: root toolchain ## Kill agents under a client KILLS times (500, from SEED) and count its failures
	@tests/tools.sh kills
	cargo build --workspace --bins
	PODWIRE_KILLS=$(KILLS) PODWIRE_SEED=$(SEED) \
	    cargo test --package podwire-lab --test kills -- --nocapture

STARTS ?= 1000

.PHONY: starts
starts: root toolchain ## Start STARTS (1000) pods under policies: one by one, 30 at once, while agents are killed
	@tests/tools.sh starts
	cargo build --workspace --bins
	run() { PODWIRE_STARTS=$(STARTS) PODWIRE_AT_ONCE=$$1 \
	    cargo test --package podwire-lab --test policies_start -- --nocapture "$$2"; }
	run 1 the_first_packets
	run 30 the_first_packets
	run 1 an_agent_that_is_killed

SOAK_SECONDS ?= 3600

.PHONY: soak
soak: root toolchain ## Churn a lab at random for SOAK_SECONDS (3600, from SEED) and check it every minute
	@tests/tools.sh soak
	$(RELEASE) --package podwire --package podwire-agent --package podwire-lab \
	    --bin podwire --bin podwire-agent --bin podwire-lab --bin podwire-soak
	PODWIRE_BIN_DIR=$(OUT) $(OUT)/podwire-soak --seconds $(SOAK_SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: image
image: toolchain ## Build the container image: two static programs and nothing else (ARCH)
	@ARCH=$(ARCH) tests/kind/image.sh

.PHONY: sbom
sbom: toolchain ## Print what the image is made of: SPDX in JSON, as `make image` writes it to a file
	@tests/sbom.sh $(TRIPLE)

.PHONY: kind
kind: toolchain ## Create a real kind cluster on Podwire alone (KIND_CONFIG, CLUSTER)
	@tests/kind/up.sh

.PHONY: kind-demo
kind-demo: ## Show the walkthrough on the kind cluster
	@tests/kind/demo.sh

.PHONY: kind-down
kind-down: ## Delete the kind cluster
	@tests/kind/down.sh

.PHONY: e2e
e2e: ## Run the upstream end-to-end tests of Kubernetes on the kind cluster
	@tests/kind/e2e.sh all

SUITES ?= cluster

.PHONY: e2e-policies
e2e-policies: ## Run suites of others for policies on the kind cluster: SUITES (cluster, cyclonus); needs Go
	@tests/kind/policies.sh $(SUITES)

.PHONY: chaos
chaos: ## Break things on the kind cluster and count what clients notice
	@tests/kind/chaos.sh

.PHONY: kind-faults
kind-faults: build ## Plant ten faults in the kind cluster and show that `why` and `test` name each (FAULTS)
	@tests/kind/faults.sh $(FAULTS)

.PHONY: kind-starts
kind-starts: ## Start STARTS (1000) pods under policies on the kind cluster, AT_ONCE (30), and look for a leak
	@STARTS=$(STARTS) tests/kind/starts.sh
	STARTS=$$(($(STARTS) / 10)) tests/kind/starts.sh kill

.PHONY: leave
leave: toolchain ## Show on clusters of its own that uninstall leaves nothing on a node (needs helm, or Go)
	@$(GO_TOOLS)
	tests/go-tools.sh helm
	WAY=kubectl tests/kind/leave.sh
	WAY=helm SKIP_IMAGE=1 tests/kind/leave.sh

.PHONY: bench-api
bench-api: toolchain ## Measure the way from the API server to the kernel beside kube-proxy
	@tests/kind/bench-api.sh

.PHONY: bench-nodes
bench-nodes: toolchain ## Measure the agent on each node of a kind cluster beside kube-proxy
	@tests/kind/bench-nodes.sh

.PHONY: kernels
kernels: root toolchain ## Try other kernels in emulated machines (KERNELS, GROUPS, ARCH, KUBE_PROXY)
	@tests/tools.sh kernels
	KUBE_PROXY="$(KUBE_PROXY)" tests/kernels/run.sh "$(KERNELS)" "$(GROUPS)" "$(ARCH)"

.PHONY: install
install: build ## Install plugin, agent, kubectl podwire, manual and completions here (DESTDIR, PREFIX, CNI_BIN)
	@install -d $(addprefix $(DESTDIR),$(CNI_BIN) $(SBIN) $(BIN) $(MAN) $(COMPLETIONS_BASH) \
	    $(COMPLETIONS_ZSH) $(COMPLETIONS_FISH))
	# By rename: a runtime that starts the plugin at this moment gets the old one or the new one.
	install -m 755 $(OUT)/podwire $(DESTDIR)$(CNI_BIN)/.podwire.new
	mv $(DESTDIR)$(CNI_BIN)/.podwire.new $(DESTDIR)$(CNI_BIN)/podwire
	install -m 755 $(OUT)/podwire-agent $(DESTDIR)$(SBIN)/.podwire-agent.new
	mv $(DESTDIR)$(SBIN)/.podwire-agent.new $(DESTDIR)$(SBIN)/podwire-agent
	install -m 755 $(OUT)/kubectl-podwire $(DESTDIR)$(BIN)/.kubectl-podwire.new
	mv $(DESTDIR)$(BIN)/.kubectl-podwire.new $(DESTDIR)$(BIN)/kubectl-podwire
	$(OUT)/podwire-agent man $(DESTDIR)$(MAN)
	$(OUT)/kubectl-podwire man $(DESTDIR)$(MAN)
	$(OUT)/podwire-agent completions bash >$(DESTDIR)$(COMPLETIONS_BASH)/podwire-agent
	$(OUT)/podwire-agent completions zsh >$(DESTDIR)$(COMPLETIONS_ZSH)/_podwire-agent
	$(OUT)/podwire-agent completions fish >$(DESTDIR)$(COMPLETIONS_FISH)/podwire-agent.fish
	$(OUT)/kubectl-podwire completions bash >$(DESTDIR)$(COMPLETIONS_BASH)/kubectl-podwire
	$(OUT)/kubectl-podwire completions zsh >$(DESTDIR)$(COMPLETIONS_ZSH)/_kubectl-podwire
	$(OUT)/kubectl-podwire completions fish >$(DESTDIR)$(COMPLETIONS_FISH)/kubectl-podwire.fish
	echo "Installed $(DESTDIR)$(CNI_BIN)/podwire, $(DESTDIR)$(SBIN)/podwire-agent," \
	    "$(DESTDIR)$(BIN)/kubectl-podwire, and manual and completions below $(DESTDIR)$(PREFIX)/share."

.PHONY: version
version:
	@sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml

.PHONY: clean
clean: ## Remove everything that was built
	@cargo clean

# A toolchain, and the crates: what is missing is said in one sentence, before anything is built.
.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || {
	    echo "cargo is missing: install Rust $(RUST) or newer, see https://rustup.rs" >&2; exit 1; }
	have=$$(rustc --version | cut -d' ' -f2)
	printf '%s\n' $(RUST) "$$have" | sort -VC || {
	    echo "Rust $$have is too old: install $(RUST) or newer, for example with 'rustup update'" >&2; exit 1; }
	tests/tools.sh build
	cargo fetch --locked --offline --target $(TRIPLE) >/dev/null 2>&1 && exit
	echo "Downloading the crates that Cargo.lock names ..."
	said=$$(cargo fetch --locked --target $(TRIPLE) 2>&1) || {
	    echo "The crates cannot be downloaded ($$(tail -n1 <<<"$$said" | xargs)):" \
	        "see to a way to crates.io, or to a mirror in ~/.cargo/config.toml, and try again" >&2; exit 1; }

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || {
	    echo "This makes network namespaces, which needs root: run it again as root." >&2; exit 1; }
