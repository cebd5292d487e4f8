# One command each; everything installs what it needs, before it starts to work: `make demo` on a
# fresh machine is enough. System packages, and which target needs them: tools/packages.toml.
PYTEST_ARGS ?=
prepare = @tools/bootstrap.sh

.PHONY: demo test check bench install crds clean

demo:
	$(prepare) run --no-default-groups --group lab --inexact
	@.venv/bin/egress-gateway lab demo

# Four at a time: most tests wait for packets or programs. A file's tests stay together and in order.
test:
	$(prepare) test
	@tools/kubernetes_clients.py >/dev/null || true
	@.venv/bin/pytest -n 4 $(PYTEST_ARGS)

check:
	$(prepare) install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m egress_gateway.api.crd --check
	.venv/bin/python tools/generated.py --check
	.venv/bin/zizmor --quiet --offline --no-progress .github/workflows

bench:
	$(prepare) bench
	@.venv/bin/python -m bench $(BENCH_ARGS)

# Everything that a developer's `pytest` needs.
install:
	$(prepare) test

crds:
	$(prepare) install
	.venv/bin/python -m egress_gateway.api.crd --write deploy/crds

.PHONY: docs
# The site of docs/, README.md and CHANGELOG.md, in build/docs: complete, and needs no Internet.
docs:
	$(prepare) docs --no-default-groups --group docs --inexact
	@.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going -c tools/site . build/docs
	@echo build/docs/index.html

.PHONY: manifests clients
# The chart, rendered: deploy/manifests; and what the chart repeats of the code: CRDs, settings.
manifests: crds
	@.venv/bin/python tools/generated.py --write
	@tools/manifests.py --write

# kubectl and helm, once and outside the repository: for `make manifests` and tests with real clients.
clients:
	$(prepare) install
	@tools/kubernetes_clients.py

.PHONY: kubernetes
# Real Kubernetes for `make test-kube` and `egress-gateway lab up --kubernetes real`: its programs,
# built once from the Go module proxy (ten minutes) into the user's cache. Prints the folder.
kubernetes:
	$(prepare) kube
	@.venv/bin/python tools/kubernetes/build.py

.PHONY: test-kube
# The contract once more on a real API server, and what only such a one can show: least privilege,
# admission, the chart's documents, two controllers. Skipped, in one loud line, where its programs
# cannot be had. Two processes: one has the lab of real nodes.
test-kube:
	$(prepare) kube
	@tools/kubernetes_clients.py >/dev/null || true
	@.venv/bin/python tools/kubernetes/build.py >/dev/null || true
	@.venv/bin/pytest -m kube -n 2 $(PYTEST_ARGS)

.PHONY: test-storm
# Random faults and user actions on labs, each storm written by its seed: SEEDS=3,7 or SEEDS=0-199.
# One that fails is shrunk to the fewest events. STORM_ARGS: python -m tests.storms --help.
# KUBERNETES=real: on the real programs, after `make kubernetes clients`.
SEEDS ?= 0-9
KUBERNETES ?= embedded
test-storm:
	$(prepare) kube
	@.venv/bin/pytest -q -m storm tests/storms tests/node tests/lab
	@.venv/bin/python -m tests.storms --kubernetes $(KUBERNETES) --seeds $(SEEDS) --shrink 12 $(STORM_ARGS)

.PHONY: soak
# Churn on one lab for SECONDS; our processes and the kernels hold no more in the end.
SECONDS ?= 3600
soak:
	$(prepare) test
	@.venv/bin/python -m tests.storms.soak --seconds $(SECONDS)

.PHONY: test-browser screenshots
# The live map in a real Chromium, of states made up and of a lab's controller.
test-browser:
	$(prepare) browser
	@.venv/bin/pytest -m browser tests/browser $(PYTEST_ARGS)

# The live map's pictures in docs/images, taken of a lab.
screenshots:
	$(prepare) browser
	@.venv/bin/python -m tests.browser.screenshots

.PHONY: recording
# docs/images/demo.svg, which the README shows: `make demo`, played in 30 seconds.
recording:
	$(prepare) run
	@.venv/bin/python tools/recording.py

.PHONY: test-azure-cli
# docs/install/azure-cli.md, followed with the real az and kubectl (installed once, into the user's cache).
test-azure-cli:
	$(prepare) azure-cli
	@.venv/bin/pytest -m azure_cli -s tests/azure_cli $(PYTEST_ARGS)

.PHONY: test-kernel
# The data path's tests once more, on kernel WireGuard: in a kernel that is a program, built once
# (minutes) and kept in the user's cache. tools/uml/run.sh COMMAND runs anything else there.
test-kernel:
	$(prepare) test
	@tools/uml/run.sh

.PHONY: fuzz
# The CNI plugin's scanner under sanitizers, and Python's parsers, for longer than the tests.
FUZZ_RUNS ?= 1000000
fuzz:
	$(prepare) fuzz
	@tools/fuzz.sh $(FUZZ_RUNS)

clean:
	rm -rf .venv .tools build dist

.PHONY: release
# Everything of a release in dist/, signed with RELEASE_KEY: docs/install/verify.md.
release:
	$(prepare) image
	@PYTHONPATH=tools .venv/bin/python -m release.make $(RELEASE_ARGS)

.PHONY: image image-lock test-image
# The image of all components, without a registry: an OCI archive in dist/. Minutes the first time.
image:
	$(prepare) image
	@PYTHONPATH=tools python3 -m image.build $(IMAGE_ARGS)

# What the image is built with, by hash: tools/image/requirements.txt.
image-lock:
	$(prepare) install
	@.tools/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header \
		--python-version 3.11 -o tools/image/requirements.txt tools/image/requirements.in

# The image that users get: built twice, which must be the same; what is in it; and all tests on
# real Kubernetes whose components run from it. TEST_IMAGE_ARGS chooses other tests.
TEST_IMAGE_ARGS ?= tests/kube/lab tests/kube/test_leaders.py
test-image:
	$(prepare) image
	$(prepare) kube
	@tools/kubernetes_clients.py >/dev/null
	@.venv/bin/python tools/kubernetes/build.py >/dev/null
	@PYTHONPATH=tools python3 -m image.build --twice
	@.venv/bin/pytest -m image tests/image
	@LAB_IMAGE=$$(ls dist/*-$$(dpkg --print-architecture).oci.tar) \
		.venv/bin/pytest -m kube $(TEST_IMAGE_ARGS) $(PYTEST_ARGS)
