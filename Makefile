# Targets that people and CI use. The work is in scripts/; each script says what it does.
#
# PYHOOK_PYTHON=/path/to/python  use this interpreter (else one is found, or set up)
# VERSION=v1.2.3                 the version to stamp (else git describe)
# VARIANT=cuda, BASE_IMAGE=...   of the container image
# FUZZTIME=10m, MINUTES=5         how long each fuzz target and the soak run

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BENCH ?= .
CALLS ?= 20000
IMAGE ?= pyhook
FUZZTIME ?= 10m
MINUTES ?= 5

# Finds the interpreter, or sets one up, for the command that follows.
with_python = PYHOOK_PYTHON=$$(scripts/setup-python.sh) && export PYHOOK_PYTHON &&

.DEFAULT_GOAL := help
.PHONY: help build demo test test-long test-kubernetes test-adapters test-browser matrix test-deep soak lint test-go test-py test-race test-asan fmt bench bench-ddp bench-peers bench-start bench-links image test-docker release test-release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/pyhook
	@scripts/check-build.sh
	go build -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/pyhook ./cmd/pyhook

demo: ## set up, build and run the demo; its files go to out/demo
	@scripts/setup-python.sh >/dev/null
	@$(MAKE) --no-print-directory build
	@$(with_python) set -x && bin/pyhook demo --out out/demo

test: ## set up and run what every change passes: linters, Python and Go tests, race and cgocheck, ASan
	@scripts/test.sh all

test-long: ## what CI runs too: jobs by every launcher and over bad links, memory at full size, PyTorch's newest
	@scripts/test.sh long

lint: ## formats, go vet, staticcheck, ruff, mypy, words of names, spelling
	@scripts/test.sh lint

test-deep: ## race and cgocheck, ASan, valgrind, debug-GC, a soak and all fuzz targets; FUZZTIME=10m MINUTES=5
	@FUZZTIME='$(FUZZTIME)' MINUTES='$(MINUTES)' scripts/test.sh deep

soak: ## hooks of every kind for MINUTES=5, and whether memory or anything else grows
	@scripts/check-build.sh
	@$(with_python) set -x && go run -buildvcs=false ./tests/soak -minutes '$(MINUTES)'

test-go: ## Go tests, plain (the quickest)
	@scripts/test.sh go

test-py: ## Python tests
	@scripts/test.sh pytest

test-race: ## Go tests (but those of test-long) under the race detector, with each pointer between Go and C checked
	@scripts/test.sh race

test-asan: ## tests of the C code under AddressSanitizer
	@scripts/test.sh asan

fmt: ## format Go and Python
	gofmt -w .
	@tools=$$(scripts/setup-tools.sh) && export PATH="$$tools:$$PATH" && set -x && \
		ruff check --fix --exit-zero --quiet python && ruff format python && \
		ruff format --config python/pyproject.toml --extend-exclude python,testdata .

bench: ## a hook call against PyTorch's own C++ class; BENCH=regexp picks cases
	@scripts/check-build.sh
	@$(with_python) set -x && go run -buildvcs=false ./tests/bench -run '$(BENCH)'

bench-ddp: ## whole steps against stock DDP on ResNet-50's shapes; BENCH=regexp picks cases
	@scripts/check-build.sh
	@$(with_python) set -x && go run -buildvcs=false ./tests/bench/ddp -run '$(BENCH)'

bench-peers: ## a hook call against cgo as in a textbook, child processes, gRPC and MPI; CALLS=1000000
	@scripts/check-build.sh
	@$(with_python) set -x && go -C tests/bench/peers run -buildvcs=false . -run '$(BENCH)' -calls '$(CALLS)'

bench-start: ## a cold start against python -c 'import torch, torch.distributed'
	@scripts/check-build.sh
	@$(with_python) set -x && go run -buildvcs=false ./tests/bench/start

bench-links: build ## predictions of pyhook compare against links that tc shapes (as root, with iproute2)
	@$(with_python) set -x && go run -buildvcs=false ./tests/bench/links

image: ## build the container image; VARIANT=cpu|cuda|none BASE_IMAGE=... GO_IMAGE=...: docs/docker.md
	docker build --build-arg VERSION='$(VERSION)' --build-arg REVISION='$(REVISION)' \
		$(foreach v,VARIANT BASE_IMAGE GO_IMAGE TORCH TORCH_INDEX,$(if $($(v)),--build-arg $(v)='$($(v))')) -t '$(IMAGE)' .

test-docker: ## build images and test them as jobs of 2 and 4 containers; as root it installs what it needs
	@scripts/test-docker.sh

test-kubernetes: ## the manifests against the operators' published schemas and code (a Go module of its own)
	@scripts/test.sh kubernetes

test-adapters: ## go vet and the tests of the adapters to Go training libraries (Go modules of their own)
	@scripts/test.sh adapters

test-browser: ## the page of pyhook compare --html in chromium, which has to be there
	@scripts/test.sh browser

matrix: ## the tests under every Python and torch; writes docs/compatibility.md (as root; environments of 3 GB each)
	@scripts/check-build.sh
	go run -buildvcs=false ./tests/matrix

release: ## archives for linux/amd64 and arm64, a wheel, a bill of materials and checksums in out/release
	@VERSION='$(if $(filter file,$(origin VERSION)),,$(VERSION))' scripts/release.sh

test-release: ## build a release twice, compare the bytes, install and run it
	@scripts/test.sh release

clean: ## remove what was built here (not the caches outside the clone)
	rm -rf bin out
