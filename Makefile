# The two that matter: `make up` and `make test`. What CI runs is `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO        ?= go
GOLANGCI  ?= v2.15.0
TOOLS     := bin/tools
E2E_FLAGS ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/hactl and bin/podmaster
	@mkdir -p bin
	$(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: kube
kube: ## bin/kube: the Kubernetes components (built from source once, then cached)
	@$(GO) run ./internal/kubebin/cmd/kubebin --link bin/kube

.PHONY: up
up: build kube ## start three masters on this machine
	@bin/hactl dev up

.PHONY: down
down: build ## stop them
	@bin/hactl dev down

$(TOOLS)/golangci-lint-$(GOLANGCI):
	@echo "golangci-lint $(GOLANGCI): building it once" >&2
	@mkdir -p $(TOOLS)
	@GOBIN=$(abspath $(TOOLS)) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@mv $(TOOLS)/golangci-lint $@

.PHONY: check
check: $(TOOLS)/golangci-lint-$(GOLANGCI) ## the quick loop: format, vet, lint, floors, unit tests with the race detector
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run: gofmt -w FILE" >&2; exit 1; }
	$(GO) vet ./...
	$(TOOLS)/golangci-lint-$(GOLANGCI) run ./...
	$(GO) test -race -short ./...

.PHONY: test
test: build kube check ## everything: check, the longer suites, and the end-to-end tests on real components
	$(GO) test -count=1 -timeout 20m ./...

.PHONY: bench
bench: build kube ## print the measures of docs/benchmarks.md
	$(GO) run ./bench

.PHONY: clean
clean: ## remove bin/ (not the caches)
	rm -rf bin
