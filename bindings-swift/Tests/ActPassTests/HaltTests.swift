import ActPass
import ActPassTesting
import XCTest

private let stoppedRefund = Action(
    goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900])
private let note = Action(goal: "resolve_refund_request", tool: "crm.note.add")

private func allowing() -> ScriptedGateway {
    let gateway = ScriptedGateway()
    gateway.answer(.allow())
    return gateway
}

/// Waits until the gateway has received this many acknowledgements.
private func acknowledged(_ gateway: ScriptedGateway, _ count: Int) async throws -> [[JSONValue?]] {
    for _ in 0..<2000 where gateway.acknowledgements.count < count { try await Task.sleep(for: .milliseconds(10)) }
    return gateway.acknowledgements.map { [$0["epoch"], $0["in_flight"]] }
}

/// Stops: the signal of a running closure, refused permits, and the test kit.
final class HaltTests: XCTestCase {
    func testStopSignalsRunningClosuresOfItsTool() async throws {
        let gateway = allowing()
        let client = try gateway.client()
        let calls = Counter()
        async let noted = client.guard(note) { context in
            _ = try await acknowledged(gateway, 1)
            return context.halt.isHalted
        }.unwrap()
        let refunded = try await client.guard(stoppedRefund) { context in
            XCTAssertFalse(context.halt.isHalted)
            context.halt.onHalt { calls.count() }
            try await Task.sleep(for: .milliseconds(1100))
            try gateway.halt("tool", id: "stripe.refund.create", reason: "wrong amounts")
            try await context.halt.wait()
            return context.halt.isHalted
        }.unwrap()
        XCTAssertTrue(refunded)
        let other = try await noted
        XCTAssertFalse(other)
        XCTAssertEqual(calls.total, 1)
        let sent = try await acknowledged(gateway, 2)
        XCTAssertEqual(sent, [[1, 2], [1, 0]])
    }

    func testCancellingEndsWithHaltedError() async throws {
        let gateway = allowing()
        let outcome = try await gateway.client().guard(stoppedRefund) { context in
            try await context.halt.cancelling {
                try await Task.sleep(for: .milliseconds(1100))
                try gateway.halt("all")
                try await Task.sleep(for: .seconds(60))
            }
        }
        guard case .failed(let error, _) = outcome else { return XCTFail("\(outcome)") }
        XCTAssertEqual(error as? HaltedError, HaltedError())
    }

    func testCancellingReturnsResultAndThrowsItsError() async throws {
        let signal = HaltSignal()
        let result = try await signal.cancelling { 7 }
        XCTAssertEqual(result, 7)
        do {
            try await signal.cancelling { throw Problem("its own") }
            XCTFail("nothing was thrown")
        } catch let problem as Problem {
            XCTAssertEqual("\(problem)", "\(Problem("its own"))")
        }
        let waiting = Task { try await signal.wait() }
        waiting.cancel()
        do {
            try await waiting.value
            XCTFail("the wait ended")
        } catch is CancellationError {}
    }

    func testPermitOfOlderEpochIsRefused() async throws {
        let gateway = allowing()
        let client = try gateway.client()
        let permit = try await client.authorize(stoppedRefund).unwrap()
        try gateway.halt("tool", id: "crm.note.add")
        let decision = try await client.preflight(note)
        XCTAssertEqual(decision.reasonCode, "halted")
        do {
            _ = try permit.spend()
            XCTFail("not blocked")
        } catch let blocked as ActionBlockedError {
            XCTAssertEqual(blocked.code, "actpass.halted")
            XCTAssertTrue(blocked.isRetryable)
        }
        let receipt = try await client.guard(stoppedRefund) { _ in "re_1" }.unwrap()
        XCTAssertEqual(receipt, "re_1")
    }

    func testStopEndsWaitAndKeepsHandle() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.requireApproval())
        let client = try gateway.client()
        var action = stoppedRefund
        action.waitForApproval = .seconds(60)
        let waiting = action
        let held = Task { try await client.guard(waiting) { _ in "re_1" } }
        while gateway.approvals.isEmpty { try await Task.sleep(for: .milliseconds(10)) }
        try gateway.halt("all", reason: "wrong amounts")
        guard case .blocked(let blocked) = try await held.value else { return XCTFail("not blocked") }
        XCTAssertEqual(blocked.code, "halted")
        XCTAssertEqual(blocked.decision.explain.summary, "Stopped by test: wrong amounts")
        gateway.lift()
        try gateway.approve("stripe.refund.create")
        let pending = try XCTUnwrap(blocked.approval)
        let receipt = try await client.resume(pending) { _ in "re_1" }.unwrap()
        XCTAssertEqual(receipt, "re_1")
    }

    func testRejectsInvalidStop() async throws {
        let error = try await failure { try ScriptedGateway().halt("tool") }
        XCTAssertEqual(error.message, "id: expected a name, found nothing")
    }
}
