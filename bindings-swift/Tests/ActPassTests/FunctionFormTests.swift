import ActPass
import ActPassTesting
import XCTest

/// A guard accepts every form of a Swift function.
final class FunctionFormTests: XCTestCase {
    struct Receipt: Sendable, Equatable { var id: String }

    final class Unsendable {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    struct Refused: Error {}

    private static let allowing: ActPass = {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        return try! gateway.client()
    }()

    private func asked() throws -> (ActPass, Action) {
        (Self.allowing, Action(goal: "resolve_refund_request", tool: "stripe.refund.create"))
    }

    static func refund(_ context: ExecutionContext) async throws -> Receipt { Receipt(id: "named") }
    static func refundNow(_ context: ExecutionContext) -> Receipt { Receipt(id: "sync") }
    static func refuse(_ context: ExecutionContext) throws -> Receipt { throw Refused() }
    static func nothing(_ context: ExecutionContext) async {}
    @MainActor static func onMain(_ context: ExecutionContext) async throws -> Receipt {
        MainActor.assertIsolated()
        return Receipt(id: "main")
    }

    protocol Paying: Sendable {
        func pay(_ context: ExecutionContext) async throws -> Receipt
    }

    struct Payer: Paying {
        func pay(_ context: ExecutionContext) async throws -> Receipt { Receipt(id: "of a protocol") }
    }

    struct Shop: Sendable {
        var charge: @Sendable (ExecutionContext) async throws -> Receipt = { _ in Receipt(id: "stored") }
        func pay(_ context: ExecutionContext) async throws -> Receipt { Receipt(id: "struct") }
    }

    final class Desk: Sendable {
        func pay(_ context: ExecutionContext) async throws -> Receipt { Receipt(id: "class") }
    }

    actor Bank {
        private(set) var paid = 0

        func pay(_ context: ExecutionContext) async throws -> Receipt {
            assertIsolated()
            paid += 4900
            return Receipt(id: "actor")
        }

        func payNow(_ context: ExecutionContext) -> Receipt {
            assertIsolated()
            paid += 4900
            return Receipt(id: "own")
        }

        /// An actor that guards its own methods.
        func serve(_ client: ActPass, _ action: Action) async throws -> [Receipt] {
            let outcomes = [
                try await client.guard(action, execute: pay),
                try await client.guard(action, execute: self.payNow),
            ]
            return try outcomes.map { try $0.unwrap() }
        }
    }

    @MainActor final class Screen {
        private var taps = 0

        func pay(_ context: ExecutionContext) async throws -> Receipt {
            MainActor.assertIsolated()
            taps += 1
            return Receipt(id: "screen \(taps)")
        }

        func tap(_ client: ActPass, _ action: Action) async throws -> [Receipt] {
            let stored: @MainActor (ExecutionContext) async throws -> Receipt = { context in
                try await self.pay(context)
            }
            let outcomes = [
                try await client.guard(action, execute: pay),
                try await client.guard(action, execute: stored),
            ]
            return try outcomes.map { try $0.unwrap() }
        }
    }

    func testAcceptsNamedFunctions() async throws {
        let (client, action) = try asked()
        var outcomes = [
            try await client.guard(action, execute: Self.refund),
            try await client.guard(action, execute: Self.refundNow),
            try await client.guard(action, execute: Self.onMain),
        ]
        func local(_ context: ExecutionContext) async -> Receipt { Receipt(id: "local") }
        outcomes.append(try await client.guard(action, execute: local))
        XCTAssertEqual(outcomes.compactMap(\.result?.id), ["named", "sync", "main", "local"])
        let refused = try await client.guard(action, execute: Self.refuse)
        XCTAssertTrue(refused.error is Refused)
        let nothing = try await client.guard(action, execute: Self.nothing)
        XCTAssertTrue(nothing.executed)
    }

    func testAcceptsStoredClosuresAndMethods() async throws {
        let (client, action) = try asked()
        let stored: (ExecutionContext) async throws -> Receipt = { _ in Receipt(id: "let") }
        let sendable: @Sendable (ExecutionContext) async throws -> Receipt = { _ in Receipt(id: "sendable") }
        let inferred = { (_: ExecutionContext) in Receipt(id: "inferred") }
        let outcomes = [
            try await client.guard(action, execute: stored),
            try await client.guard(action, execute: sendable),
            try await client.guard(action, execute: inferred),
            try await client.guard(action, execute: Shop().charge),
            try await client.guard(action, execute: Shop().pay),
            try await client.guard(action, execute: Desk().pay),
        ]
        XCTAssertEqual(
            outcomes.compactMap(\.result?.id), ["let", "sendable", "inferred", "stored", "struct", "class"])
    }

    func testActorMethodsKeepIsolation() async throws {
        let (client, action) = try asked()
        let bank = Bank()
        let outcome = try await client.guard(action, execute: bank.pay)
        XCTAssertEqual(outcome.result, Receipt(id: "actor"))
        let own = try await bank.serve(client, action)
        XCTAssertEqual(own.map(\.id), ["actor", "own"])
        let paid = await bank.paid
        XCTAssertEqual(paid, 3 * 4900)
        let taps = try await Screen().tap(client, action)
        XCTAssertEqual(taps.map(\.id), ["screen 1", "screen 2"])
    }

    func testAcceptsFunctionParameters() async throws {
        let (client, action) = try asked()
        func wrapped<Value: Sendable>(
            _ body: (ExecutionContext) async throws -> Value
        ) async throws -> Outcome<Value> {
            try await client.guard(action, execute: body)
        }
        func passedOn<Value>(
            _ body: (ExecutionContext) async throws -> sending Value
        ) async throws -> Outcome<Value> {
            try await client.guard(action, execute: body)
        }
        let wrap = try await wrapped { _ in 1 }
        XCTAssertEqual(wrap.result, 1)
        let pass = try await passedOn { _ in Unsendable(2) }
        XCTAssertEqual(pass.result?.number, 2)
    }

    func testAcceptsClosureLiterals() async throws {
        let (client, action) = try asked()
        var count = 0
        let outcome = try await client.guard(action) { _ in
            for _ in 0..<3 { count += 1 }
            return Unsendable(count)
        }
        XCTAssertEqual(outcome.result?.number, 3)
        let void = try await client.guard(action) { _ in }
        XCTAssertTrue(void.executed)
        let single = try await client.guard(action) { try await Self.refund($0) }
        XCTAssertEqual(single.result?.id, "named")
    }

    func testAcceptsOtherFunctionForms() async throws {
        let (client, action) = try asked()
        let some: any Paying = Payer()
        let typed: (ExecutionContext) async throws(Refused) -> Receipt = { _ throws(Refused) in throw Refused() }
        let several: [@Sendable (ExecutionContext) async -> Receipt] = [{ _ in Receipt(id: "of an array") }]
        let maybe: ((ExecutionContext) async throws -> Receipt)? = { _ in Receipt(id: "of an optional") }
        func made<Value: Sendable>(_ value: Value) -> (ExecutionContext) async throws -> Value { { _ in value } }
        let outcomes = [
            try await client.guard(action, execute: some.pay),
            try await client.guard(action, execute: several[0]),
            try await client.guard(action, execute: XCTUnwrap(maybe)),
            try await client.guard(action, execute: made(Receipt(id: "made"))),
        ]
        XCTAssertEqual(outcomes.compactMap(\.result?.id), ["of a protocol", "of an array", "of an optional", "made"])
        let refused = try await client.guard(action, execute: typed)
        XCTAssertTrue(refused.error is Refused)
        let nested = try await client.guard(action) { _ in try await client.guard(action, execute: Self.refund) }
        XCTAssertEqual(nested.result?.result?.id, "named")
    }

    /// Swift 6.0 crashes here if the outcome is large.
    func testGuardRunsInAsyncLetAndTaskGroup() async throws {
        let (client, action) = try asked()
        async let early = client.guard(action) { _ in 5 }
        let grouped = try await withThrowingTaskGroup(of: Outcome<Int>.self) { group in
            group.addTask { try await client.guard(action) { _ in 1 } }
            return try await group.next()
        }
        let value = try await early.result
        XCTAssertEqual(value, 5)
        XCTAssertEqual(grouped?.result, 1)
    }

    func testResumeAcceptsSameForms() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.requireApproval(id: "apr_1"))
        let client = try gateway.client()
        let action = Action(goal: "g", tool: "stripe.refund.create")
        guard case .blocked(let blocked) = try await client.guard(action, execute: Self.refund) else {
            return XCTFail("the action ran")
        }
        let pending = try XCTUnwrap(blocked.approval)
        gateway.answer(.allow())
        let bank = Bank()
        let stored: (ExecutionContext) async throws -> Receipt = { _ in Receipt(id: "let") }
        let outcomes = [
            try await client.resume(pending, execute: Self.refund),
            try await client.resume(pending, execute: stored),
            try await client.resume(pending, execute: bank.pay),
            try await client.resume(pending) { _ in Receipt(id: "literal") },
        ]
        XCTAssertEqual(outcomes.compactMap(\.result?.id), ["named", "let", "actor", "literal"])
    }
}
