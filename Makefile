# Everything a person runs. Each target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE := 1

PYTEST := $(BIN)/python -m pytest

# Five processes on two cores: most tests wait. Those that share a cluster or a broker stay in one of them (tests/groups.py).
PARALLEL := --numprocesses 5

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "== Python environment (about 30 s the first time)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: venv
venv: $(VENV)/.ready ## the Python environment in .venv

.PHONY: packages
packages: ## the Debian packages of the tests, where they are missing
	cluster/kube packages

.PHONY: demo
demo: venv ## boot a Kubernetes, install Greenfleet, run the feed hub under load (KUBECONFIG=… to use another cluster)
	$(BIN)/python -m demo run $(if $(filter command line,$(origin KUBECONFIG)),--kubeconfig '$(KUBECONFIG)',) $(if $(IMAGE_PREFIX),--image-prefix '$(IMAGE_PREFIX)',)

.PHONY: demo-images
demo-images: ## build the demo's images for another cluster (IMAGE_PREFIX=registry.example/team/, or TO='kind load docker-image')
	IMAGE_PREFIX='$(IMAGE_PREFIX)' TO='$(TO)' ENGINE='$(ENGINE)' demo/images.sh

.PHONY: demo-down
demo-down: ## remove every process, mount, bridge and file that the demo and the tests made (caches stay)
	cluster/kube down --all

.PHONY: cluster
cluster: ## this machine's own Kubernetes, started or repaired (about 10 min the first time: it is compiled)
	cluster/kube up

# The tools that the tests need are there now: a test that misses one has to fail, not to skip.
test test-full: export GREENFLEET_TOOLS_REQUIRED := 1

# The tests start a thousand workers and operators, and would compile them each time.
.PHONY: compiled
compiled: venv
	$(BIN)/python -m compileall -q operator worker

.PHONY: test
test: compiled packages cluster ## every tier of tests in its short form
	$(PYTEST) $(PARALLEL) -m 'not slow'

.PHONY: test-full
test-full: compiled packages cluster ## every tier of tests, slow ones included
	$(PYTEST) $(PARALLEL)

.PHONY: test-fast
test-fast: venv ## unit, property and golden tests on all cores: no cluster, no broker
	$(PYTEST) -n auto tests/unit tests/property tests/golden

.PHONY: test-kind
test-kind: ## the README's two commands on a new kind cluster, with the images of this tree (needs docker, kind, kubectl, helm)
	tools/kind.sh

.PHONY: test-faults
test-faults: venv packages ## every kind of fault once, on Redis and on quorum queues: nothing lost (4 min; SEED=… repeats a run)
	$(PYTEST) -s -m 'not slow' tests/faults tests/unit/faults --ignore tests/faults/operator --ignore tests/faults/cluster

.PHONY: faults
faults: venv packages ## the same for hours, on all brokers (HOURS=1 SEED=1); the last line is one JSON object
	$(BIN)/python -m tests.faults.long --hours $(or $(HOURS),1) --seed $(or $(SEED),1)

.PHONY: faults-cluster
faults-cluster: venv packages cluster ## evictions, drains, kills, a lost API server on the cluster, on Redis, then on a quorum queue (SEED=1; 20 min); one JSON object each
	failed=0; for broker in redis quorum; do \
	  $(BIN)/python -m tests.faults.cluster.run --broker $$broker --seed $(or $(SEED),1) $(ARGS) || failed=1; \
	done; exit $$failed

.PHONY: faults-operator
faults-operator: venv packages ## 500 crash points, stale state and 1,000 wrong specs for the operator (SEED=1; 1 h); the last line is one JSON object
	$(BIN)/python -m tests.faults.operator.long --seed $(or $(SEED),1) $(ARGS)

.PHONY: test-matrix
test-matrix: venv packages ## the worker's tests on the oldest and newest Python and Celery, docs/compatibility.md from it (50 min; ARGS=--all: every pair)
	$(BIN)/python tools/worker_matrix.py $(ARGS)

.PHONY: soak-worker
soak-worker: venv packages ## 200,000 tasks and 100 broken connections on Redis and RabbitMQ, and the memory of green threads (10 min)
	$(PYTEST) -s -q tests/integration/worker/test_worker_soak.py

.PHONY: test-property-long
test-property-long: venv ## 10,000 traces and more against the autoscaler
	HYPOTHESIS_PROFILE=long $(PYTEST) tests/property --timeout 3600

BENCH := out/bench-venv

$(BENCH)/.ready: requirements/bench.lock
	@echo "== Python environment of the benches: all workers that are compared, from one lock"
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	touch $@

.PHONY: bench-worker
bench-worker: $(BENCH)/.ready packages ## no-op tasks: this worker, stock Celery, dramatiq in turn; JSON last (10 min; ARGS=--quick: 2 min)
	$(BENCH)/bin/python -m bench.worker $(ARGS)

.PHONY: bench-feedhub
bench-feedhub: $(BENCH)/.ready packages ## the feed hub: this worker, stock Celery, dramatiq, raw GreenPool; JSON last (10 min; ARGS=--quick: 2 min)
	$(BENCH)/bin/python -m bench.feedhub --plot docs/feedhub.png $(ARGS)

.PHONY: bench-operator
bench-operator: venv packages ## the operator with 1, 100, 1,000 and 3,000 pools (about 10 min); the last line is one JSON object
	$(BIN)/python -m bench.operator

.PHONY: bench-scaling
bench-scaling: venv packages cluster ## the autoscaler against KEDA and the HPA side by side on the cluster (40 min, resumable; TRACES=a,b); the last line is one JSON object
	$(BIN)/python -m bench.scaling $(if $(TRACES),--traces '$(TRACES)',)

.PHONY: simulate
simulate: venv ## the autoscaler against KEDA on all traces, simulated (about 15 min); the last line is one JSON object
	$(BIN)/python -m greenfleet.simulator --trace all --autoscaler greenfleet,keda-default,keda-grid --seeds 2

.PHONY: evidence
evidence: venv ## what each part of the autoscaler is worth: SET=tuning, holdout or known, SCRAPE=2 (an hour a set, resumable); JSON last
	$(BIN)/python -m bench.evidence --set $(or $(SET),tuning) --scrape $(or $(SCRAPE),2)

.PHONY: check
check: venv ## formatting, lint, types, layers, generated files; the charts by helm, kubeconform and checkov
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 worker/greenworker
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check
	$(BIN)/python -m charts.gates

.PHONY: fmt
fmt: venv ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: generate
generate: venv ## write the generated files: CRD, chart values schema and README
	$(BIN)/python tools/generate.py

.PHONY: lock
lock: venv ## resolve the dependencies anew (hashes, no URLs)
	$(BIN)/python tools/lock.py

.PHONY: audit
audit: venv ## ask the advisory databases about every pinned Python dependency (says what could not be asked)
	$(BIN)/python -m tools.audit

.PHONY: sbom
sbom: venv ## what both images hold, as CycloneDX, from the build: out/sbom/{operator,worker}.cdx.json
	mkdir -p out/sbom
	for image in operator worker; do cluster/kube image file $$image /opt/greenfleet/sbom.cdx.json > out/sbom/$$image.cdx.json; done
	$(BIN)/python -m tools.audit sbom

.PHONY: release
release: venv ## build and publish both images and the chart (VERSION=X.Y.Z REGISTRY=HOST/PATH); the last line is one JSON object
	$(BIN)/python -m tools.release --version '$(VERSION)' --registry '$(REGISTRY)' $(ARGS)

.PHONY: clean
clean: ## remove what the build and the tests left in the checkout
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find operator worker -name __pycache__ -prune -exec rm -rf {} +
