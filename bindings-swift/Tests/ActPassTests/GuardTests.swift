import ActPass
import XCTest

/// Behaviour of the guard that the vectors do not cover.
final class GuardTests: XCTestCase {
    @TaskLocal static var trace = "none"

    final class Receipt {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    final class Refused: Error {}

    func testResultAndErrorAreSameValues() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)

        let made = await MadeReceipt()
        let returned = try await client.guard(refund) { _ in made }
        XCTAssertTrue(returned.result === made)
        XCTAssertNil(returned.error)

        let refused = Refused()
        let thrown = try await client.guard(refund) { _ -> Int in throw refused }
        guard case .failed(let error, let execution) = thrown else { return XCTFail("\(thrown)") }
        XCTAssertTrue(error as? Refused === refused)
        XCTAssertEqual(execution.decision.reasonCode, "refund.small_in_scope")
        XCTAssertTrue(thrown.executed)
        XCTAssertTrue(try thrown.canonicalJSON().hasSuffix(#""error":{"kind":"action","status":null},"executed":true}"#))
    }

    final class MadeReceipt: Sendable {
        init() async {}
    }

    func testTaskLocalsAreVisible() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let outcome = try await Self.$trace.withValue("trace-1") {
            try await client.guard(refund) { _ in
                await Task.yield()
                return Self.trace
            }
        }
        XCTAssertEqual(outcome.result, "trace-1")
    }

    func testKeepsIsolationOfCaller() async throws {
        try await Self.guardOnTheMainActor()
    }

    @MainActor
    private static func guardOnTheMainActor() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        // Not Sendable; the closure uses both on the main actor.
        var count = 0
        let receipt = Receipt(7)
        let outcome = try await client.guard(refund) { context in
            MainActor.assertIsolated()
            count += receipt.number
            await Task.yield()
            MainActor.assertIsolated()
            return context.decision.word
        }
        XCTAssertEqual(count, 7)
        XCTAssertEqual(outcome.result, .allow)
        let bank = Bank()
        let total = try await bank.pay(client)
        XCTAssertEqual(total, 4900)
    }

    actor Bank {
        private var paid = 0
        private var last: Receipt?

        func pay(_ client: ActPass) async throws -> Int {
            _ = try await client.guard(refund) { _ in
                assertIsolated()
                paid += 4900
                last = Receipt(paid)
            }
            return last?.number ?? 0
        }
    }

    /// A nonisolated caller receives a result that is not Sendable.
    func testAcceptsNonSendableResult() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let outcome = try await ActPass.quick(gateway.baseURL).guard(refund) { _ in Receipt(1) }
        XCTAssertEqual(outcome.result?.number, 1)
    }

    func testCancelledCallEndsImmediatelyAndRunsNothing() async throws {
        for mode in Mode.allCases {
            let gateway = try Hostile.play(steps: ["do": "hang", "at": "request"])
            defer { gateway.stop() }
            let client = try ActPass.quick(gateway.baseURL, timeout: .seconds(30), mode: mode)
            let runs = Counter()
            let task = Task { try await client.guard(refund) { _ in runs.count() } }
            while try gateway.seen().isEmpty { try await Task.sleep(for: .milliseconds(5)) }
            let ended = await within(.seconds(5)) {
                task.cancel()
                return await task.result
            }
            XCTAssertThrowsError(try ended.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }
            try await Task.sleep(for: .milliseconds(50))
            XCTAssertEqual(runs.total, 0)
        }
    }

    func testAlreadyCancelledTaskSendsAndRunsNothing() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL, mode: .monitor)
        let runs = Counter()
        let task = Task {
            while !Task.isCancelled { await Task.yield() }
            _ = try await client.guard(refund) { _ in runs.count() }
        }
        task.cancel()
        let ended = await task.result
        XCTAssertThrowsError(try ended.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }
        XCTAssertEqual(runs.total, 0)
        XCTAssertEqual(try gateway.seen().count, 0)
    }

    func testOwnCancellationPropagatesAndOtherIsError() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let started = Counter()
        let task = Task {
            try await client.guard(refund) { _ in
                started.count()
                try await Task.sleep(for: .seconds(30))
            }
        }
        while started.total == 0 { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        let ended = await task.result
        XCTAssertThrowsError(try ended.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }

        let own = try await client.guard(refund) { _ -> Int in throw CancellationError() }
        guard case .failed(let error, _) = own else { return XCTFail("\(own)") }
        XCTAssertTrue(error is CancellationError)
    }

    /// The cancellation of another task is an error; only a cancellation of the guard's task stops the guard.
    func testCancellationOfOtherTaskIsError() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let other = try await client.guard(refund) { _ -> Int in
            let task = Task<Int, any Error> {
                try await Task.sleep(for: .seconds(30))
                return 1
            }
            task.cancel()
            return try await task.value
        }
        guard case .failed(let error, _) = other else { return XCTFail("\(other)") }
        XCTAssertTrue(error is CancellationError)

        let started = Counter()
        let own = Task {
            try await client.guard(refund) { _ -> Int in
                started.count()
                while !Task.isCancelled { await Task.yield() }
                throw Refused()
            }
        }
        while started.total == 0 { try await Task.sleep(for: .milliseconds(5)) }
        own.cancel()
        let outcome = try await own.value
        XCTAssertTrue(outcome.error is Refused)
    }

    func testRejectsResultThatHasNotRun() async throws {
        let gateway = try Hostile.play(steps: answer(allow), answer(["event_id": "ev_2"]), answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let runs = Counter()
        let run: @Sendable (Int) -> Int = {
            runs.count()
            return $0
        }
        let recorded = try await client.guard(refund, recordOutcome: true) { _ in [1].lazy.map(run) }
        guard case .failed(_, let execution) = recorded else { return XCTFail("\(recorded)") }
        XCTAssertEqual(execution.evidence?.eventID, "ev_2")
        let event = try JSONValue(parsing: gateway.seen()[1]["body"]?.stringValue ?? "")
        XCTAssertEqual(event["metadata"]?["ended"], "failed")

        let stream: @Sendable () -> AsyncStream<Int> = { AsyncStream { $0.finish() } }
        try await assertUnrun(client, "LazyMapSequence") { [1].lazy.map(run) }
        try await assertUnrun(client, "LazyMapSequence") { Set([1]).lazy.compactMap { run($0) as Int? } }
        try await assertUnrun(client, "LazyFilterSequence") { [1].lazy.filter { run($0) > 0 } }
        try await assertUnrun(client, "LazySequence") { [1].lazy.flatMap { [run($0)] } }
        try await assertUnrun(client, "LazyPrefixWhileSequence") { [1].lazy.prefix { run($0) > 0 } }
        try await assertUnrun(client, "LazyDropWhileSequence") { [1].lazy.drop { run($0) > 0 } }
        try await assertUnrun(client, "UnfoldSequence") { sequence(state: 1) { run($0) as Int? } }
        try await assertUnrun(client, "AsyncMapSequence") { stream().map { run($0) } }
        try await assertUnrun(client, "AsyncThrowingMapSequence") { stream().map { try Self.failing(run($0)) } }
        try await assertUnrun(client, "AsyncFilterSequence") { stream().filter { run($0) > 0 } }
        try await assertUnrun(client, "AsyncCompactMapSequence") { stream().compactMap { run($0) as Int? } }
        try await assertUnrun(client, "AsyncFlatMapSequence") { stream().flatMap { _ in stream() } }
        try await assertUnrun(client, "AsyncPrefixWhileSequence") { stream().prefix { run($0) > 0 } }
        try await assertUnrun(client, "AsyncDropWhileSequence") { stream().drop { run($0) > 0 } }
        try await assertUnrun(client, "LazyMapSequence") { Optional([1].lazy.map(run)) }
        XCTAssertEqual(runs.total, 0)
    }

    private func assertUnrun<Value>(
        _ client: ActPass, _ name: String, line: UInt = #line, _ body: @Sendable () -> sending Value
    ) async throws {
        let outcome = try await client.guard(refund) { _ in body() }
        guard case .failed(let error as ActPassError, _) = outcome else {
            return XCTFail("\(outcome)", line: line)
        }
        XCTAssertEqual(error.kind, .argument, line: line)
        XCTAssertEqual(
            error.message, "execute: expected a result, found a \(name), which has not run",
            line: line)
        XCTAssertTrue(outcome.executed, line: line)
    }

    private static func failing(_ number: Int) throws -> Int { number }

    func testReturnsRunningValues() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let numbers = try await client.guard(refund) { _ in [1, 2] }
        XCTAssertEqual(numbers.result, [1, 2])
        let stream = try await client.guard(refund) { _ in
            AsyncStream<Int> {
                $0.yield(7)
                $0.finish()
            }
        }
        var seen: [Int] = []
        for await number in try XCTUnwrap(stream.result) { seen.append(number) }
        XCTAssertEqual(seen, [7])
        let closure = try await client.guard(refund) { _ in { @Sendable in 7 } }
        XCTAssertEqual(closure.result?(), 7)
        let task = try await client.guard(refund) { _ in Task { 7 } }
        let awaited = await task.result?.value
        XCTAssertEqual(awaited, 7)
    }

    /// A result that cannot be encoded is returned and recorded without a hash.
    func testUnserializableResultIsReturned() async throws {
        struct Unwritable: Encodable, Equatable {
            let number: Double
            func encode(to encoder: any Encoder) throws { throw Refused() }
        }
        let results: [any Encodable & Equatable & Sendable] = [
            Unwritable(number: 1), Double.nan, Double.infinity, [Double.nan], ["a": Double.infinity],
        ]
        for result in results {
            let gateway = try Hostile.play(steps: answer(allow), answer(["event_id": "ev_2"]))
            defer { gateway.stop() }
            let outcome = try await ActPass.quick(gateway.baseURL)
                .guard(refund, recordOutcome: true) { _ in result }
            guard case .returned(let value, let execution) = outcome else { return XCTFail("\(outcome)") }
            XCTAssertEqual("\(value)", "\(result)")
            XCTAssertEqual(execution.evidence?.eventID, "ev_2")
            let event = try JSONValue(parsing: gateway.seen()[1]["body"]?.stringValue ?? "")
            XCTAssertEqual(event["response_hash"], .null)
            XCTAssertEqual(event["metadata"]?["ended"], "returned")
        }
    }

    /// The gateway never responds to the record, and the record does not delay the cancellation.
    func testCancelledActionIsRecorded() async throws {
        let gateway = try Hostile.play(steps: answer(allow), ["do": "hang", "at": "request"])
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let started = Counter()
        let task = Task {
            try await client.guard(refund, recordOutcome: true) { _ in
                started.count()
                try await Task.sleep(for: .seconds(60))
            }
        }
        while started.total == 0 { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        let ended = await task.result
        XCTAssertThrowsError(try ended.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }
        for _ in 0..<6_000 where try gateway.seen().count < 2 { try await Task.sleep(for: .milliseconds(10)) }
        guard try gateway.seen().count == 2 else { return XCTFail("no outcome was recorded") }
        let event = try JSONValue(parsing: gateway.seen()[1]["body"]?.stringValue ?? "")
        XCTAssertEqual(event["event_type"], "action.outcome")
        XCTAssertEqual(event["metadata"]?["ended"], "cancelled")
        XCTAssertEqual(event["response_hash"], .null)
    }

    /// An action that ran is reported, even if the task was cancelled while it ran.
    func testActionFinishedAfterCancellationIsReported() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let started = Counter()
        let task = Task {
            try await client.guard(refund) { _ in
                started.count()
                while !Task.isCancelled { await Task.yield() }
                return "refunded"
            }
        }
        while started.total == 0 { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        let outcome = try await task.value
        XCTAssertEqual(outcome.result, "refunded")
    }

    func testTenThousandCallsRunEachClosureOnce() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL, timeout: .seconds(60))
        let runs = Counter()
        try await concurrently(10_000, width: 64) { number in
            let outcome = try await client.guard(refund) { _ in
                runs.count(number)
                return number
            }
            XCTAssertEqual(outcome.result, number)
        }
        XCTAssertEqual(runs.total, 10_000)
        XCTAssertEqual(runs.all.count, 10_000)
        XCTAssertTrue(runs.all.values.allSatisfy { $0 == 1 })
    }

    func testClientWorksAfterManyCancellations() async throws {
        let gateway = try Hostile.play(steps: ["do": "respond", "json": allow, "delay_ms": 20])
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let runs = Counter()
        try await concurrently(300, width: 16) { number in
            let task = Task { try await client.guard(refund) { _ in runs.count(number) } }
            try await Task.sleep(for: .milliseconds(number % 40))
            task.cancel()
            _ = await task.result
        }
        XCTAssertTrue(runs.all.values.allSatisfy { $0 == 1 })
        let outcome = try await client.guard(refund) { _ in "still" }
        XCTAssertEqual(outcome.result, "still")
    }

    /// By default, SIGPIPE from a write to a closed connection ends a process.
    func testBrokenPipeFailsOnlyTheCall() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let client = try ActPass(apiKey: apiKey, baseURL: gateway.baseURL, maxRetries: 0, circuitFailures: 0)
        var action = refund
        // Larger than the gateway reads: it closes the connection during the request.
        action.args = ["note": .string(String(repeating: "x", count: 10_000_000))]
        for _ in 0..<3 {
            let outcome = try await client.guard(action) { _ in 1 }
            XCTAssertEqual(outcome.decision.reasonCode, "actpass.unreachable")
        }
    }

    // The native library of the tests injects panics; the released library has no test hooks.

    func testPanicBlocksExceptInMonitor() async throws {
        let client = try ActPass.quick("http://127.0.0.1:9")
        for mode in Mode.allCases {
            var action = refund
            action.tool = "actpass.test.panic"
            action.mode = mode
            let runs = Counter()
            let outcome = try await client.guard(action) { _ in runs.count() }
            XCTAssertEqual(runs.total, mode == .monitor ? 1 : 0, "\(mode)")
            XCTAssertEqual(outcome.executed, mode == .monitor)
            XCTAssertEqual(outcome.decision.word, .deny)
            XCTAssertEqual(outcome.decision.reasonCode, "actpass.internal")
            XCTAssertEqual((outcome.error as? ActPassError)?.kind, .internal)
        }
    }

    func testPanicInConversionThrows() async throws {
        let client = try ActPass.quick("http://127.0.0.1:9", mode: .monitor)
        var action = refund
        action.tool = "actpass.test.panic_in_conversion"
        let runs = Counter()
        let error = try await failure { try await client.guard(action) { _ in runs.count() } }
        XCTAssertEqual(error.kind, .internal)
        XCTAssertEqual(error.code, "actpass.internal")
        XCTAssertEqual(runs.total, 0)
    }

    func testHangingCallCanBeCancelled() async throws {
        let client = try ActPass.quick("http://127.0.0.1:9")
        var action = refund
        action.tool = "actpass.test.never_ends"
        let asked = action
        let runs = Counter()
        let task = Task { try await client.guard(asked) { _ in runs.count() } }
        try await Task.sleep(for: .milliseconds(50))
        await within(.seconds(5)) {
            task.cancel()
            _ = await task.result
        }
        XCTAssertEqual(runs.total, 0)
    }
}
