# SPDX-License-Identifier: Apache-2.0

# Everything that is done to this tree; `make` alone says what there is.

PREFIX  ?= /usr
DESTDIR ?=
KERNELS ?= 6.1 6.12 latest
KERNEL  ?=
RUN     ?=
FUZZTIME ?= 30s
CLANG   ?= clang
BUF     := go tool -modfile=tools/go.mod buf
WORK    := .cache
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
# The objects are committed as this major version of clang makes them; another one's differ.
OBJECTS_CLANG := 14

GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)'

.DEFAULT_GOAL := help
.PHONY: help build demo test test-unit fuzz test-kernel test-vm test-systemd check generate generate-bpf generate-proto generate-docs \
	generate-check lint fmt install uninstall clean deps dispatcher-object

help: ## Say what there is
	@echo 'make TARGET [VARIABLE=VALUE…]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo 'Variables: KERNEL=6.12 (demo), KERNELS="6.1 6.12 latest" and RUN=pattern (test…), FUZZTIME=30s (test, fuzz), PREFIX and DESTDIR (install)'

build: ## Build bin/xdpd and bin/xdpctl
	$(GOBUILD) -o bin/ ./cmd/xdpd ./cmd/xdpctl

demo: build ## Show xdpd at work, on this kernel or in a VM with KERNEL=6.12
	@$(if $(KERNEL),scripts/deps.sh vm)
	@CGO_ENABLED=0 go build -trimpath -o $(WORK)/demo ./test/demo
	@$(if $(KERNEL),test/vm/run -m 768 -a bin:/t/bin -e XDPD_BIN_DIR=/t/bin $(KERNEL) $(WORK)/demo,$(SUDO) env XDPD_BIN_DIR=$(CURDIR)/bin $(WORK)/demo)

# --- tests ---

SUITE = go run ./test/suite -work $(WORK)/test -fuzztime $(FUZZTIME) $(if $(RUN),-run '$(RUN)')

test: deps check generate-check ## Run all tests: units, kernel tests here and in VMs
	@$(SUITE) -kernels '$(KERNELS)'

test-unit: ## Run the tests that need no kernel of their own
	@$(SUITE) -parts unit

fuzz: ## Fuzz each fuzz test for FUZZTIME
	@$(SUITE) -parts fuzz

test-kernel: ## Run the kernel tests as root on this machine's kernel
	@$(SUITE) -parts kernel

test-vm: ## Run the kernel tests in VMs, on each of KERNELS, with both linkers
	@scripts/deps.sh vm
	@$(SUITE) -parts vm -kernels '$(KERNELS)'

test-systemd: ## Run the tests of the units in a VM whose init is systemd, on the first of KERNELS
	@scripts/deps.sh systemd
	@$(SUITE) -parts systemd -kernels '$(KERNELS)'

deps: ## Install what the tests need
	@scripts/deps.sh test

check: ## Check formatting, go vet and buf lint
	@unformatted=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...)); if [ "$$unformatted" ]; then echo "not as gofmt has it: $$unformatted" >&2; exit 1; fi
	go vet ./...
	go vet -tags failpoint ./...
	$(BUF) lint

lint: ## Run golangci-lint and buf lint
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run
	$(BUF) lint

fmt: ## Format Go and protobuf
	gofmt -w $$(go list -f '{{.Dir}}' ./...)
	$(BUF) format -w

# --- generated files, all committed ---

# Each build.mk has a target of the name of its folder.
BUILD_MK := $(wildcard */build.mk */*/build.mk)
include $(BUILD_MK)

generate: generate-bpf generate-proto generate-docs ## Make all generated files anew
generate-bpf: dispatcher-object $(patsubst %/build.mk,%,$(BUILD_MK))

dispatcher-object: bpf/dispatcher.o bpf/dispatcher_trace.o

bpf/dispatcher_trace.o: TRACE := -DTRACE
bpf/dispatcher.o bpf/dispatcher_trace.o: FORCE
	$(CLANG) -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -ffile-prefix-map=$(CURDIR)=. $(TRACE) \
		-Ibpf/include -idirafter /usr/include/$(shell uname -m)-linux-gnu -c bpf/dispatcher.c -o $@
	llvm-strip -g $@

generate-proto:
	$(BUF) generate

generate-docs:
	@mkdir -p $(WORK)
	$(BUF) build --as-file-descriptor-set -o $(WORK)/api.binpb
	go run ./api/apidoc $(WORK)/api.binpb >$(WORK)/api.md
	mv $(WORK)/api.md docs/api.md

CLANG_MAJOR = $(shell $(CLANG) -dumpversion 2>/dev/null | cut -d. -f1)
GENERATED   = $(wildcard api/proto/xdpd/v1/*.pb.go) docs/api.md
BPF_OBJECTS = $(shell find bpf examples dispatcher test -name '*.o')

generate-check: ## Fail if a generated file is not up to date
	@if [ '$(CLANG_MAJOR)' = $(OBJECTS_CLANG) ]; then \
		scripts/generate-check.sh generate -- $(GENERATED) $(BPF_OBJECTS); \
	else \
		echo 'generate-check: the BPF objects are made with clang $(OBJECTS_CLANG), here is $(or $(CLANG_MAJOR),none): they are NOT checked' >&2; \
		scripts/generate-check.sh generate-proto generate-docs -- $(GENERATED); \
	fi

# --- installation ---

COMPLETIONS := share/bash-completion/completions/xdpctl:bash share/zsh/vendor-completions/_xdpctl:zsh share/fish/vendor_completions.d/xdpctl.fish:fish
UNITS       := $(notdir $(wildcard deploy/systemd/*.service))
EXAMPLES    := $(notdir $(wildcard deploy/systemd/*.conf))
ROOT         = $(DESTDIR)$(PREFIX)

install: build ## Install into PREFIX, below DESTDIR if given
	install -D -m 0755 -t $(ROOT)/bin bin/xdpd bin/xdpctl
	for unit in $(UNITS); do \
		install -d $(ROOT)/lib/systemd/system && \
		sed 's|/usr/bin/xdpd|$(PREFIX)/bin/xdpd|' deploy/systemd/$$unit >$(ROOT)/lib/systemd/system/$$unit || exit; \
	done
	install -D -m 0644 -t $(ROOT)/share/doc/xdpd $(addprefix deploy/systemd/,$(EXAMPLES))
	for completion in $(COMPLETIONS); do \
		file=$(ROOT)/$${completion%:*}; \
		install -d "$${file%/*}" && bin/xdpctl completion $${completion#*:} >"$$file" || exit; \
	done
	[ -e $(DESTDIR)/etc/xdpd/config.yaml ] || install -D -m 0644 deploy/config.yaml $(DESTDIR)/etc/xdpd/config.yaml

uninstall: ## Remove what install put there, but the configuration
	rm -f $(ROOT)/bin/xdpd $(ROOT)/bin/xdpctl $(addprefix $(ROOT)/lib/systemd/system/,$(UNITS)) \
		$(addprefix $(ROOT)/share/doc/xdpd/,$(EXAMPLES)) \
		$(addprefix $(ROOT)/,$(foreach c,$(COMPLETIONS),$(firstword $(subst :, ,$c))))

clean: ## Remove what was built
	rm -rf bin $(WORK)
