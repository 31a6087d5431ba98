import ActPass
import ActPassTesting
import XCTest

private let action = Action(
    goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])

private func allowing(_ answer: ScriptedGateway.Answer = .allow(credential: "sk_permit_secret")) -> ScriptedGateway {
    let gateway = ScriptedGateway()
    gateway.answer(answer)
    return gateway
}

private func permitted(
    _ gateway: ScriptedGateway, mode: Mode = .enforce, recordOutcome: Bool = false
) async throws -> Permit {
    try await gateway.client(mode: mode).authorize(action, recordOutcome: recordOutcome).unwrap()
}

/// `authorize` and permits.
final class PermitTests: XCTestCase {
    private func blocked(_ body: () throws -> some Any) throws -> ActionBlockedError {
        do {
            throw Problem("not blocked: \(try body())")
        } catch let blocked as ActionBlockedError {
            return blocked
        }
    }

    func testPermitIsSpentAndReportedOnce() async throws {
        let gateway = allowing()
        let permit = try await permitted(gateway)
        XCTAssertEqual(permit.decision.reasonCode, "test.allow")
        XCTAssertFalse(everythingShown(permit).contains("secret"))
        let early = try await failure { try await permit.returned(1) }
        XCTAssertEqual(early.kind, .argument)

        let context = try permit.spend()
        XCTAssertEqual(context.credential?.token, "sk_permit_secret")
        let twice = try await failure { try permit.spend() }
        XCTAssertEqual(twice.kind, .argument)
        XCTAssertEqual(twice.message, "permit: already spent")

        let execution = try await permit.returned("refunded")
        XCTAssertEqual(execution.decision, context.decision)
        XCTAssertEqual(permit.decision, context.decision)
        XCTAssertNil(execution.evidence)
        XCTAssertEqual(gateway.evidence.count, 0)
        let again = try await failure { try permit.cancelled() }
        XCTAssertEqual(again.kind, .argument)
    }

    func testOnlyOneOfManyTasksSpendsPermit() async throws {
        let permit = try await permitted(allowing())
        let spent = Counter()
        try await concurrently(200, width: 16) { _ in
            if (try? permit.spend()) != nil { spent.count() }
        }
        XCTAssertEqual(spent.total, 1)
    }

    func testBlockedVerdictNamesReason() async throws {
        let gateway = allowing(.deny(reasonCode: "refund.over_limit", summary: "The limit is 50 dollars."))
        let verdict = try await gateway.client().authorize(action)
        guard case .blocked(let blocked) = verdict else { return XCTFail("\(verdict)") }
        XCTAssertEqual(verdict.decision.word, .deny)
        XCTAssertEqual(blocked.code, "refund.over_limit")
        XCTAssertEqual(blocked.tool, "stripe.refund.create")
        let why = "stripe.refund.create was not run: deny (refund.over_limit). The limit is 50 dollars."
        XCTAssertEqual(blocked.developerText, why)
        XCTAssertEqual(
            blocked.message, "\(why) Do not call it again with the same arguments: it would be blocked again.")
        XCTAssertEqual(try self.blocked { try verdict.unwrap() }, blocked)
        XCTAssertEqual(
            ActionBlockedError(tool: blocked.tool, decision: blocked.decision), blocked, "a constructed error has the same texts")
    }

    func testChangedArgumentsBlock() async throws {
        for mode in Mode.allCases {
            let permit = try await permitted(allowing(), mode: mode)
            if mode == .monitor {
                XCTAssertNil(try permit.spend(args: ["amount": 490_000, "currency": "usd"]).credential)
            } else {
                let blocked = try blocked { try permit.spend(args: ["amount": 490_000, "currency": "usd"]) }
                XCTAssertEqual(blocked.code, "actpass.arguments_changed")
                // The permit stays spent.
                let again = try await failure { try permit.spend(args: action.args) }
                XCTAssertEqual(again.kind, .argument)
            }
        }
        let same = try await permitted(allowing()).spend(args: ["currency": "usd", "amount": 4900])
        XCTAssertEqual(same.decision.word, .allow)
    }

    func testPermitExpiresWithCredential() async throws {
        let expired = allowing(
            .decision(["decision": "allow", "credential": ["token": "sk_old_secret", "expires_at": "2001-01-01T00:00:00Z"]]))
        let permit = try await permitted(expired)
        XCTAssertEqual(try blocked { try permit.spend() }.code, "actpass.permit_expired")
        let outcome = try await expired.client().guard(action) { _ in 1 }
        XCTAssertEqual(outcome.decision.reasonCode, "actpass.permit_expired")
        XCTAssertFalse(outcome.executed)
        let observed = try await permitted(expired, mode: .monitor).spend()
        XCTAssertNil(observed.credential)
        XCTAssertEqual(observed.decision.reasonCode, "actpass.permit_expired")
    }

    func testRecordsEachOutcome() async throws {
        struct Refused: Error {}
        let gateway = allowing()
        let returning = try await permitted(gateway, recordOutcome: true)
        _ = try returning.spend()
        let returned = try await returning.returned("refunded")
        XCTAssertEqual(returned.evidence?.eventID.hasPrefix("ev_"), true)
        XCTAssertEqual(gateway.evidence[0]["response_hash"]?.stringValue, try ActPass.hashPayload("refunded"))

        let empty = try await permitted(gateway, recordOutcome: true)
        _ = try empty.spend()
        try await empty.returned(String?.none)
        XCTAssertEqual(gateway.evidence[1]["response_hash"]?.stringValue, try ActPass.hashPayload(.null))

        let failing = try await permitted(gateway, recordOutcome: true)
        _ = try failing.spend()
        try await failing.failed(Refused())
        // A CancellationError is a failure if the task was not cancelled.
        let other = try await permitted(gateway, recordOutcome: true)
        _ = try other.spend()
        try await other.failed(CancellationError())
        XCTAssertEqual(
            gateway.evidence.map { $0["metadata"]?["ended"] }, ["returned", "returned", "failed", "failed"])

        let stopped = try await permitted(gateway, recordOutcome: true)
        let task = Task {
            _ = try stopped.spend()
            withUnsafeCurrentTask { $0?.cancel() }
            do {
                try Task.checkCancellation()
            } catch {
                try await stopped.failed(error)
            }
        }
        try await task.value
        for _ in 0..<6_000 where gateway.evidence.count < 5 { try await Task.sleep(for: .milliseconds(10)) }
        XCTAssertEqual(gateway.evidence.last?["metadata"]?["ended"], "cancelled")
    }

    func testRejectsReportOfUnrunBody() async throws {
        let permit = try await permitted(allowing())
        _ = try permit.spend()
        let error = try await failure { try await permit.returned([1].lazy.map { $0 }) }
        XCTAssertEqual(error.kind, .argument)
        try await permit.failed(error)
    }

    /// The result may belong to the caller's actor.
    func testPermitAcceptsNonSendableResult() async throws {
        try await Self.reportOnTheMainActor()
    }

    @MainActor private static func reportOnTheMainActor() async throws {
        final class Receipt {
            var number = 1
        }
        let permit = try await permitted(allowing(), recordOutcome: true)
        _ = try permit.spend()
        let receipt = Receipt()
        try await permit.returned(receipt)
        receipt.number += 1
        XCTAssertEqual(receipt.number, 2)
    }

    func testUnreportedPermitRecordsNothing() async throws {
        let gateway = allowing()
        do {
            let permit = try await permitted(gateway, recordOutcome: true)
            _ = try permit.spend()
        }
        _ = try await permitted(gateway, recordOutcome: true)
        XCTAssertEqual(gateway.evidence.count, 0)
    }
}
