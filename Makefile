# make demo    builds what it needs, starts a gateway and runs guarded refunds
# make test    everything, every language; prints the counts
# make lint    formatting, clippy, rustdoc, ruff, mypy, licences
# make python  builds the Python package and installs it into .venv/
# make wheels  the wheel for CPython 3.9 and later, checked; make test-pythons runs the suite with it on each CPython here
# make node    builds, tests and packs the Node package, into target/npm/
# make swift   brings Swift where there is none, builds and tests the Swift package; make kotlin: the same for Kotlin
# make bench   what the client adds to a call, side by side
# make bench-gateway  what the gateway records in a second, on each store
# make soak    real clients over a bad network to gateways that are killed, 30 minutes or SOAK_SECONDS
# make fuzz    looks for bytes that break something: FUZZ_SECONDS (300) for each target
# make break   removes the checks of the guard one by one: each removal must turn vectors red
# make verify  files that are generated or repeated are what they should be
# make generate writes those that are generated

PYTHON ?= python3
CARGO ?= cargo
VENV := .venv
TEST_VENV := target/test-venv
GATEWAY := target/debug/actpass-gateway
HOSTILE := target/debug/actpass-hostile-gateway
MATURIN := maturin>=1.16,<2
NODE_VERSIONS ?= 20 22 24
# What the Python suite needs, on each CPython; what is not there is skipped by name.
SUITE_TOOLS := pytest>=8,<10 mypy>=1.15,<3 pyright>=1.1.390,<2 anyio>=4 gunicorn>=22 opentelemetry-sdk>=1.25 trio>=0.27 uvloop>=0.19
TEST_TOOLS := $(SUITE_TOOLS) playwright>=1.55,<2 ruff>=0.12,<1 schemathesis>=4.32,<5
PYTHON_SOURCES := $(shell find bindings-python/src bindings-python/python -name '*.rs' -o -name '*.py' -o -name '*.pyi') \
	bindings-python/Cargo.toml bindings-python/pyproject.toml
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find core/src gateway/src gateway/templates policies -type f)

.DELETE_ON_ERROR:
.PHONY: demo test test-rust test-python wheels test-pythons test-page test-api test-soak soak leaks lint python bench bench-gateway fuzz break verify generate clean demo-node test-node test-node-here lint-node lint-node-here node node-face node-debug node-release

demo: python target/release/actpass-gateway
	@echo
	@$(VENV)/bin/python examples/python/refund.py target/release/actpass-gateway .actpass/demo/refunds.jsonl
	@echo
	@echo 'A passport of at most 100 dollars:'
	@$(VENV)/bin/python examples/python/passport.py target/release/actpass-gateway
	@echo
	@echo 'A refund that a person must approve:'
	@$(VENV)/bin/python examples/python/approval.py target/release/actpass-gateway --approve
	@$(MAKE) --no-print-directory demo-node
	@if scripts/with-swift 2>/dev/null; then $(MAKE) --no-print-directory demo-swift; fi

# Where Node is not there, the demo goes without it.
demo-node: target/release/actpass-gateway
	@if scripts/have-node; then \
		$(MAKE) --no-print-directory node-release && \
		npm install --silent --no-audit --no-fund --no-package-lock --prefix examples/node && echo && \
		node examples/node/refund.mjs target/release/actpass-gateway .actpass/demo/refunds-node.jsonl; \
	elif [ $$? = 1 ]; then echo "SKIPPED: the demo of the Node package"; else exit 1; fi

python: $(VENV)/installed

include bindings-uniffi/rules.mk

target/release/actpass-gateway: $(RUST_SOURCES)
	$(CARGO) build --release --locked -p actpass-gateway
	@touch $@

$(VENV)/bin/maturin:
	@scripts/need-python $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet '$(MATURIN)'

$(VENV)/installed: $(VENV)/bin/maturin $(PYTHON_SOURCES) $(RUST_SOURCES)
	rm -rf target/wheels/release
	$(VENV)/bin/maturin build --release --locked --quiet -m bindings-python/Cargo.toml -o target/wheels/release
	$(VENV)/bin/pip install --quiet --force-reinstall target/wheels/release/actpass-*.whl
	@touch $@

test: test-rust test-python test-node test-swift test-kotlin test-page test-api test-soak leaks
	@echo "make test: all passed"

# Whatever the tests print, passing or not, is kept, so that `leaks` can look for secrets in it.
test-rust:
	@mkdir -p target/test-output && rm -f target/test-output/rust*.log
	scripts/keep-output target/test-output/rust.log $(CARGO) test --workspace --locked -- --nocapture

# Again when the list of tools is another.
$(TEST_VENV)/bin/maturin: Makefile
	@scripts/need-python $(PYTHON)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install --quiet '$(MATURIN)' $(foreach tool,$(TEST_TOOLS),'$(tool)')
	@touch $@

# For an environment that was made before this tool was needed.
$(TEST_VENV)/bin/schemathesis: | $(TEST_VENV)/bin/maturin
	$(TEST_VENV)/bin/pip install --quiet $(foreach tool,$(TEST_TOOLS),'$(tool)')

# The wheel as a stranger gets it, but for the optimisation.
$(TEST_VENV)/installed: $(TEST_VENV)/bin/maturin $(PYTHON_SOURCES) $(RUST_SOURCES)
	rm -rf target/wheels/dev
	$(TEST_VENV)/bin/maturin build --profile dev --locked --quiet -m bindings-python/Cargo.toml -o target/wheels/dev
	$(TEST_VENV)/bin/pip install --quiet --force-reinstall target/wheels/dev/actpass-*.whl
	@touch $@

test-python: $(TEST_VENV)/installed
	@mkdir -p target/test-output && rm -f target/test-output/python*.log
	$(CARGO) build --locked -p actpass-gateway -p actpass-hostile-gateway
	cd bindings-python/tests && \
		ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) \
		ACTPASS_TEST_LOG=$(CURDIR)/target/test-output/python-events.log \
		$(CURDIR)/scripts/keep-output $(CURDIR)/target/test-output/python.log $(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q

wheels: $(VENV)/bin/maturin
	rm -rf target/wheels/dist
	$(VENV)/bin/maturin build --release --locked --quiet -m bindings-python/Cargo.toml -o target/wheels/dist
	$(foreach python,$(FREE_THREADED),$(VENV)/bin/maturin build --release --locked --quiet -i $(python) \
		-m bindings-python/Cargo.toml -o target/wheels/dist &&) true
	scripts/check-wheel target/wheels/dist/actpass-*-abi3-*.whl

# PYTHONS names the interpreters; otherwise those in PATH and under pyenv are taken.
test-pythons: wheels
	$(CARGO) build --locked -p actpass-gateway -p actpass-hostile-gateway
	ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) \
		scripts/each-python target/wheels/dist/actpass-*-abi3-*.whl target/pythons $(foreach tool,$(SUITE_TOOLS),'$(tool)')

bindings-node/node_modules/.installed: bindings-node/package.json bindings-node/package-lock.json
	cd bindings-node && npm ci --silent --no-audit --no-fund
	@touch $@

# The TypeScript face, compiled beside the types that users read.
node-face: bindings-node/node_modules/.installed
	rm -rf bindings-node/dist/*.js bindings-node/dist/*.ts bindings-node/dist/*.mjs bindings-node/dist/*.mts
	cd bindings-node && npm run --silent build

node-debug: node-face
	$(CARGO) build --locked -p actpass-node
	node bindings-node/scripts/place.mjs target/debug

node-release: node-face
	$(CARGO) build --release --locked -p actpass-node
	node bindings-node/scripts/place.mjs target/release

node:
	@scripts/have-node
	$(MAKE) --no-print-directory node-release
	$(CARGO) build --locked -p actpass-gateway -p actpass-hostile-gateway
	NODE_VERSIONS='$(NODE_VERSIONS)' scripts/test-node release
	mkdir -p target/npm && cd bindings-node && npm pack --silent --pack-destination ../target/npm

test-node:
	@if scripts/have-node; then $(MAKE) --no-print-directory test-node-here; \
	elif [ $$? = 1 ]; then echo "SKIPPED: the tests of the Node package"; else exit 1; fi

test-node-here: node-face
	@mkdir -p target/test-output && rm -f target/test-output/node*.log
	$(CARGO) build --locked -p actpass-gateway -p actpass-hostile-gateway -p actpass-node
	NODE_VERSIONS='$(NODE_VERSIONS)' scripts/test-node debug

# The page in Chromium, with and without JavaScript. Where there is no Chromium it says so, and fails if CI=true.
test-page: $(TEST_VENV)/bin/maturin
	@mkdir -p target/test-output && rm -f target/test-output/page*
	$(CARGO) build --locked -p actpass-gateway
	cd tests/page && \
		ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_TEST_OUTPUT=$(CURDIR)/target/test-output \
		$(CURDIR)/scripts/keep-output $(CURDIR)/target/test-output/page.log $(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q -rs

# What the gateway answers to requests that its own description allows and forbids.
test-api: $(TEST_VENV)/bin/schemathesis
	@mkdir -p target/test-output && rm -f target/test-output/api*.log
	$(CARGO) build --locked -p actpass-gateway
	scripts/keep-output target/test-output/api.log \
		scripts/check-api $(GATEWAY) $(TEST_VENV)/bin/schemathesis target/test-output/api-gateway.log

# Two minutes of what `make soak` does for long.
test-soak: $(TEST_VENV)/installed
	@mkdir -p target/test-output && rm -f target/test-output/soak*.log
	$(CARGO) build --locked -p actpass-gateway -p actpass-soak
	@if scripts/have-node 2>/dev/null; then $(MAKE) --no-print-directory node-debug; fi
	scripts/keep-output target/test-output/soak.log scripts/soak debug $(or $(SOAK_SECONDS),120) $(TEST_VENV)/bin/python

leaks: test-rust test-python test-node test-swift test-kotlin test-page test-api test-soak
	scripts/find-leaks tests/secrets.txt target/test-output

lint: $(TEST_VENV)/bin/maturin lint-node
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked
	$(TEST_VENV)/bin/ruff check bindings-python examples benches tests/page tests/soak
	$(TEST_VENV)/bin/ruff format --check bindings-python examples benches tests/page tests/soak
	$(TEST_VENV)/bin/mypy --config-file bindings-python/pyproject.toml bindings-python/python/actpass
	scripts/deny $(CARGO)

lint-node:
	@if scripts/have-node; then $(MAKE) --no-print-directory lint-node-here; \
	elif [ $$? = 1 ]; then echo "SKIPPED: lint of the Node package"; else exit 1; fi

lint-node-here: node-face
	cd bindings-node && npm run --silent lint

# On one core, so that where the scheduler puts server and client is not what is measured.
PIN := $(shell command -v taskset >/dev/null && echo taskset -c 0)
bench: python
	$(CARGO) build --release --locked -p actpass-benches
	$(PIN) target/release/actpass-benches
	$(PIN) $(VENV)/bin/python benches/python.py target/release/actpass-benches
	@if scripts/have-node; then $(MAKE) --no-print-directory node-release && \
		$(PIN) node benches/node.mjs bindings-node target/release/actpass-benches; \
	elif [ $$? = 1 ]; then echo "SKIPPED: the Node package beside its peers"; else exit 1; fi

bench-gateway: target/release/actpass-gateway
	$(CARGO) build --release --locked -p actpass-benches
	target/release/actpass-bench-gateway target/release/actpass-gateway policies/refunds.json

soak: python target/release/actpass-gateway
	$(CARGO) build --release --locked -p actpass-soak
	@if scripts/have-node 2>/dev/null; then $(MAKE) --no-print-directory node-release; fi
	scripts/soak release $(or $(SOAK_SECONDS),1800) $(VENV)/bin/python

FUZZ_SECONDS ?= 300
fuzz:
	scripts/fuzz $(FUZZ_SECONDS)

break:
	scripts/break-the-guard

verify: verify-generated
	scripts/check-paths
	scripts/check-promises
	$(CARGO) run --quiet --locked -p actpass-gateway -- openapi | diff docs/openapi.json -

generate: generate-bindings
	$(CARGO) run --quiet --locked -p actpass-gateway -- openapi > docs/openapi.json

clean:
	rm -rf target $(VENV) .actpass bindings-node/dist bindings-node/node_modules examples/node/node_modules
