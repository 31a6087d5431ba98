# Swift and Kotlin, from one crate. Included by the Makefile.

UNIFFI_SOURCES := $(shell find bindings-uniffi -name '*.rs' -o -name '*.toml')
SWIFT_FLAGS := -Xswiftc -warnings-as-errors
SWIFT_NATIVE := bindings-swift/Native/libactpass_uniffi.a
KOTLIN := target/kotlin
KOTLIN_TESTS := org.actpass.ArgumentTest org.actpass.HaltTest org.actpass.JavaTest org.actpass.JvmTest org.actpass.PermitTest org.actpass.TestingTest org.actpass.ToolTest
# JNA's folder for a platform's library in a jar.
JNA_PLATFORM := linux-$(subst _,-,$(shell uname -m))

.PHONY: swift swift-toolchain swift-tests test-swift test-swift-now outcomes-swift demo-swift outcomes-kotlin kotlin kotlin-toolchain test-kotlin test-kotlin-now test-native \
	verify-generated generate-bindings

swift-toolchain:
	@scripts/lib.sh with_swift 2>/dev/null || scripts/swift-toolchain

kotlin-toolchain:
	@scripts/kotlin-toolchain

# The toolchain, the native library in the package's search path, the tests, and a package that depends on this one.
swift: swift-toolchain $(SWIFT_NATIVE)
	$(MAKE) --no-print-directory test-swift-now target/swift/example.built
	@echo "make swift: depend on it with .package(path: \"$(CURDIR)/bindings-swift\")"

target/release/libactpass_uniffi.a: $(RUST_SOURCES) $(UNIFFI_SOURCES)
	$(CARGO) build --release --locked -p actpass-uniffi
	@touch $@

$(SWIFT_NATIVE): target/release/libactpass_uniffi.a
	@mkdir -p $(@D)
	@! grep -q 'actpass\.test\.' $< || { echo "$< holds the hooks of the tests" >&2; exit 1; }
	cp $< $@

# SwiftPM does not see that a static library changed.
target/swift/example.built: $(SWIFT_NATIVE) $(shell find bindings-swift/Sources bindings-swift/Generated examples/swift -name '*.swift')
	@rm -f target/swift/example/release/refund
	scripts/swift-build -c release --package-path examples/swift --scratch-path $(CURDIR)/target/swift/example $(SWIFT_FLAGS)
	@touch $@

demo-swift: target/release/actpass-gateway target/swift/example.built
	@echo
	@echo 'The same from Swift:'
	@scripts/lib.sh with_swift target/swift/example/release/refund target/release/actpass-gateway .actpass/demo/refunds-swift.jsonl

# Dependencies of both languages' tests: the library with calls that fail on request, and two gateways.
test-native: debug

TEST_ENVIRONMENT = RUST_BACKTRACE=0 ACTPASS_NATIVE=$(CURDIR)/target/debug ACTPASS_VECTORS=$(CURDIR)/tests/vectors \
	ACTPASS_GATEWAY=$(CURDIR)/$(GATEWAY) ACTPASS_HOSTILE_GATEWAY=$(CURDIR)/$(HOSTILE)

test-swift:
	@rm -f $(ACTPASS_OUTCOMES)/swift.jsonl
	@if scripts/lib.sh with_swift 2>/dev/null; then $(MAKE) --no-print-directory test-swift-now; \
		else scripts/lib.sh skip 'the tests of Swift' 'no Swift 6: make swift-toolchain'; fi

swift-tests: test-native
	$(TEST_ENVIRONMENT) $(TIMED) 'build: Swift tests' scripts/swift-build --build-tests --package-path bindings-swift \
		--scratch-path $(CURDIR)/target/swift/tests $(SWIFT_FLAGS)

outcomes-swift: swift-tests
	$(TEST_ENVIRONMENT) scripts/lib.sh with_swift swift test --skip-build --filter VectorTests \
		--package-path bindings-swift --scratch-path $(CURDIR)/target/swift/tests $(SWIFT_FLAGS)

test-swift-now: swift-tests
	@mkdir -p target/test-output && rm -f target/test-output/swift*.log
	$(TEST_ENVIRONMENT) $(TIMED) 'tests: Swift' scripts/lib.sh keep_output target/test-output/swift.log scripts/lib.sh with_swift swift test --skip-build \
		--package-path bindings-swift --scratch-path $(CURDIR)/target/swift/tests $(SWIFT_FLAGS)
	$(TEST_ENVIRONMENT) $(TIMED) 'build: Swift example' scripts/swift-build --package-path examples/swift \
		--scratch-path $(CURDIR)/target/swift/tests-example $(SWIFT_FLAGS)
	$(TEST_ENVIRONMENT) scripts/lib.sh keep_output target/test-output/swift-example.log \
		scripts/lib.sh with_swift target/swift/tests-example/debug/refund $(GATEWAY) target/swift/refunds.jsonl
	@printf '{"amount":4900,"charge":"ch_1"}\n{"amount":1200,"charge":"ch_5"}\n' | diff - target/swift/refunds.jsonl

# The compiler, a jar with the native library, the tests, and the jar's tests that need no failing calls.
kotlin: kotlin-toolchain $(KOTLIN)/actpass.jar
	$(MAKE) --no-print-directory test-kotlin-now
	$(TEST_ENVIRONMENT) scripts/test-kotlin $(KOTLIN)/actpass.jar:$(KOTLIN)/tests $(KOTLIN_TESTS)
	@echo "make kotlin: $(KOTLIN)/actpass.jar"

$(KOTLIN)/bridge.built: $(shell find bindings-kotlin/Generated bindings-kotlin/src/bridge -type f)
	rm -rf $(KOTLIN)/bridge
	$(TIMED) 'build: Kotlin bridge' scripts/kotlinc -nowarn -jvm-target 11 -d $(KOTLIN)/bridge bindings-kotlin/Generated \
		bindings-kotlin/src/bridge/kotlin
	@touch $@

$(KOTLIN)/main.built: $(KOTLIN)/bridge.built $(shell find bindings-kotlin/src/main -name '*.kt')
	rm -rf $(KOTLIN)/main
	CP=$(KOTLIN)/bridge $(TIMED) 'build: Kotlin' scripts/kotlinc -Werror -Xexplicit-api=strict -module-name actpass -jvm-target 11 -d $(KOTLIN)/main \
		bindings-kotlin/src/main/kotlin
	@touch $@

$(KOTLIN)/tests.built: $(KOTLIN)/main.built $(shell find bindings-kotlin/src/test examples/java -name '*.kt' -o -name '*.java')
	rm -rf $(KOTLIN)/tests
	CP=$(KOTLIN)/bridge:$(KOTLIN)/main:$$(scripts/kotlin-toolchain path junit) $(TIMED) 'build: Kotlin tests' scripts/kotlinc -Werror -module-name actpass-tests \
		-Xfriend-paths=$(KOTLIN)/main -jvm-target 17 -d $(KOTLIN)/tests bindings-kotlin/src/test/kotlin
	javac --release 17 -Xlint:all,-classfile -Werror -d $(KOTLIN)/tests -cp $(KOTLIN)/bridge:$(KOTLIN)/main:$(KOTLIN)/tests:$$(scripts/kotlin-toolchain path \
		stdlib):$$(scripts/kotlin-toolchain path junit) $$(find bindings-kotlin/src/test/java examples/java -name '*.java')
	@touch $@

$(KOTLIN)/actpass.jar: $(KOTLIN)/main.built target/release/libactpass_uniffi.a
	@mkdir -p $(KOTLIN)/native/$(JNA_PLATFORM)
	cp target/release/libactpass_uniffi.so $(KOTLIN)/native/$(JNA_PLATFORM)/
	jar --create --file $@ -C $(KOTLIN)/bridge . -C $(KOTLIN)/main . -C $(KOTLIN)/native .

outcomes-kotlin: test-native $(KOTLIN)/tests.built
	$(TEST_ENVIRONMENT) NATIVE=$(CURDIR)/target/debug scripts/test-kotlin $(KOTLIN)/bridge:$(KOTLIN)/main:$(KOTLIN)/tests \
		org.actpass.VectorTest

test-kotlin:
	@rm -f $(ACTPASS_OUTCOMES)/kotlin.jsonl
	@if scripts/kotlin-toolchain installed; then $(MAKE) --no-print-directory test-kotlin-now; \
		else scripts/lib.sh skip 'the tests of Kotlin' 'no compiler, JNA or JUnit: make kotlin-toolchain'; fi

test-kotlin-now: test-native $(KOTLIN)/tests.built
	@mkdir -p target/test-output && rm -f target/test-output/kotlin*.log
	$(TEST_ENVIRONMENT) NATIVE=$(CURDIR)/target/debug $(TIMED) 'tests: Kotlin' scripts/lib.sh keep_output target/test-output/kotlin.log \
		scripts/test-kotlin $(KOTLIN)/bridge:$(KOTLIN)/main:$(KOTLIN)/tests \
		$(KOTLIN_TESTS) org.actpass.CallTest org.actpass.GuardTest org.actpass.SecretTest org.actpass.VectorTest
	$(TEST_ENVIRONMENT) NATIVE=$(CURDIR)/target/debug scripts/lib.sh keep_output target/test-output/kotlin-java-example.log \
		scripts/test-kotlin --main $(KOTLIN)/bridge:$(KOTLIN)/main:$(KOTLIN)/tests Refund $(GATEWAY) $(KOTLIN)/refunds-java.jsonl
	@printf '{"amount":4900,"charge":"ch_1"}\n{"amount":1200,"charge":"ch_5"}\n' | diff - $(KOTLIN)/refunds-java.jsonl

verify-generated: test-native
	rm -rf target/generated
	target/debug/actpass-bindgen target/debug/libactpass_uniffi.so target/generated/swift target/generated/kotlin
	diff -r target/generated/swift bindings-swift/Generated
	diff -r target/generated/kotlin bindings-kotlin/Generated
	scripts/features --check

generate-bindings: test-native
	rm -rf bindings-swift/Generated bindings-kotlin/Generated
	target/debug/actpass-bindgen target/debug/libactpass_uniffi.so bindings-swift/Generated bindings-kotlin/Generated
	scripts/features
