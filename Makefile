# The two that matter: `make up` and `make test`. What CI runs is `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
GOLANGCI ?= v2.15.0
TOOLS    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hactl/tools
LINT     := $(TOOLS)/golangci-lint-$(GOLANGCI)
KUBEBIN  := $(GO) run ./internal/kubebin/cmd/kubebin
TAGS     := e2e,lab,faults,systemd

# One way of compiling for all but the race detector, which needs cgo: what one
# target has compiled, the others find in the cache.
export CGO_ENABLED := 0
export GOFLAGS := $(shell $(GO) env GOFLAGS) -trimpath

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/hactl and bin/podmaster
	@mkdir -p bin
	$(GO) build -ldflags "-s -w" -o bin/ ./cmd/hactl
	@# Many podmasters wait on a host: without gRPC's request traces and cli's manual pages, 0.9 MB less each.
	$(GO) build -tags grpcnotrace,urfave_cli_no_docs -ldflags "-s -w" -o bin/ ./cmd/podmaster

.PHONY: kube
kube: ## bin/kube: the Kubernetes components (built from source once, then cached)
	@$(KUBEBIN) --link bin/kube

.PHONY: up
up: build kube ## start three masters on this machine
	@bin/hactl dev up

.PHONY: down
down: build ## stop them
	@bin/hactl dev down

# Outside the clone, so that it is built once a machine.
$(LINT):
	@echo "golangci-lint $(GOLANGCI): building it once" >&2
	@mkdir -p $(TOOLS)/new
	@GOBIN=$(TOOLS)/new GOFLAGS="$(GOFLAGS) -mod=mod" $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@mv $(TOOLS)/new/golangci-lint $@

.PHONY: check
check: $(LINT) ## the quick loop: format, vet, lint, floors, unit tests with the race detector
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "$$bad"; echo "run: gofmt -w on these" >&2; exit 1; }
	$(GO) vet -tags $(TAGS) ./...
	$(LINT) run --build-tags $(TAGS) ./...
	CGO_ENABLED=1 $(GO) test -race -p 4 ./... # most of them wait: for elections, for time-outs

.PHONY: e2e
e2e: build kube ## the end-to-end tests, on real Kubernetes components
	@$(KUBEBIN) kwok >/dev/null
	$(GO) test -tags e2e -count=1 -timeout 20m ./test/e2e

.PHONY: faults
faults: build kube ## faults on real processes, each once; HACTL_FAULT_REPEATS=50, HACTL_FAULT_LONG=1 for more
	$(GO) test -tags faults -count=1 -timeout 60m ./test/faults/...

.PHONY: nightly
nightly: build kube ## more faults than CI has time for: podmaster's 50 times each, on hosts 25 times, the model 20,000 times; the balancer's long ones (a night; root)
	@$(KUBEBIN) peers >/dev/null
	@$(KUBEBIN) node >/dev/null
	HACTL_MODEL_RUNS=20000 $(GO) test -count=1 -timeout 4h -run TestModel ./internal/lease
	HACTL_FAULT_LONG=1 $(GO) test -tags faults -count=1 -timeout 2h ./test/faults/lb
	HACTL_FAULT_REPEATS=50 $(GO) test -tags faults -count=1 -timeout 8h ./test/faults/lease
	HACTL_FAULT_REPEATS=25 $(GO) test -tags lab -count=1 -timeout 16h ./test/faults/lease

.PHONY: lab
lab: build kube ## tests on systemd hosts (root, Debian packages)
	@$(KUBEBIN) peers >/dev/null
	@$(KUBEBIN) node >/dev/null
	$(GO) test -tags lab -count=1 -timeout 90m -p 1 ./test/hosts/... ./test/faults/... ./test/masters/...

.PHONY: masters
masters: build kube ## hactl bootstrap on three systemd hosts: the short part of the lab (root, Debian packages)
	$(GO) test -tags lab -count=1 -timeout 15m -run '^(TestThreeAtOnce|TestUnits)$$' ./test/masters

.PHONY: kubelet
kubelet: build kube ## a real kubelet and containerd on systemd hosts: the part of the lab that needs them (root, Debian packages)
	@$(KUBEBIN) peers >/dev/null
	@$(KUBEBIN) node >/dev/null
	$(GO) test -tags lab -count=1 -timeout 40m -p 1 -run '^(TestKubelet|TestLabPod)$$' ./test/masters ./test/faults/lease

.PHONY: vagrant
vagrant: build kube ## three masters and a worker by Vagrant on LXC, for real, with the smoke test (root, Debian packages)
	deploy/vagrant/lxc/run

.PHONY: vagrant-validate
vagrant-validate: build # the Vagrantfile and its scripts; starts nothing
	deploy/vagrant/validate

.PHONY: test
test: build kube check vagrant-validate faults e2e ## everything that needs no systemd hosts: what CI runs (make lab has the rest)

.PHONY: bench
bench: build kube ## print the measures
	@$(KUBEBIN) kwok >/dev/null
	$(GO) run ./bench/dev

.PHONY: bench-lease
bench-lease: build kube ## podmaster beside etcdctl lock and kube-scheduler's own election, 50 times each (40 min); BENCH='-repeats 5 -only planned'
	@$(KUBEBIN) peers >/dev/null
	@peers=$$($(KUBEBIN) --where peers); $(GO) run ./bench/lease -podmaster bin/podmaster -etcd "$$peers/etcd" -etcdctl "$$peers/etcdctl" \
		-kube bin/kube -out bench-lease $(BENCH)

.PHONY: clean
clean: ## remove bin/ (not the caches)
	rm -rf bin
