import ActPass
import XCTest

/// The other calls, mostly against the real gateway.
final class CallTests: XCTestCase {
    func testRealGatewayDecidesRefunds() async throws {
        let gateway = try Gateway()
        defer { gateway.stop() }
        let client = try gateway.client()
        var reasons: [String] = []
        for (amount, runs) in [(4900, true), (25_000, false), (90_000, false)] {
            var action = refund
            action.args = ["amount": JSONValue(amount), "currency": "usd"]
            action.mode = .strict
            let outcome = try await client.guard(action) { _ in amount }
            XCTAssertEqual(outcome.executed, runs)
            XCTAssertEqual(outcome.result, runs ? amount : nil)
            XCTAssertNotNil(outcome.decision.evidenceEventID)
            reasons.append(outcome.decision.reasonCode)
        }
        XCTAssertEqual(reasons, ["refund.small_in_scope", "refund.medium_needs_approval", "refund.over_limit"])
        gateway.stop()
        let stopped = try await client.guard(refund) { _ in 1 }
        guard case .blocked(let blocked) = stopped else { return XCTFail("\(stopped)") }
        XCTAssertEqual(blocked.code, "actpass.unreachable")
        XCTAssertEqual(blocked.error?.kind, .connection)
        XCTAssertTrue(blocked.isRetryable)
        XCTAssertFalse(blocked.decision.explain.nextSteps.isEmpty)
    }

    func testPreflightReturnsDecision() async throws {
        let gateway = try Gateway()
        defer { gateway.stop() }
        let client = try gateway.client()
        let decision = try await client.preflight(refund)
        XCTAssertEqual(decision.word, .allow)
        XCTAssertEqual(decision.riskTier, "high")
        XCTAssertEqual(decision.explain.matchedRules, ["small_refund_auto_approve"])
        XCTAssertNotNil(decision["request_hash"]?.stringValue)

        let refused = try ActPass.quick(gateway.baseURL, apiKey: "apk_nobody_secret")
        let error = try await failure { try await refused.preflight(refund) }
        XCTAssertEqual(error.kind, .authentication)
        XCTAssertEqual(error.code, "actpass.unauthenticated")
        XCTAssertEqual(error.status, 401)
        XCTAssertEqual(error.operation, "preflight")
        XCTAssertFalse(everythingShown(error).contains("secret"))
    }

    func testSendsTraceparent() async throws {
        let current = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        let recorded: JSONValue = ["event_id": "ev_2", "current_event_hash": "ab"]
        let gateway = try Hostile.play(
            steps: answer(allow), answer(allow), answer(recorded), answer(recorded), answer(allow))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let traced = try client.inTrace(current)
        XCTAssertEqual("\(traced)", "\(client)")
        _ = try await traced.preflight(refund)
        let outcome = try await traced.guard(refund, recordOutcome: true) { _ in 1 }
        XCTAssertEqual(outcome.result, 1)
        _ = try await traced.recordEvidence("e", chainID: "c")
        _ = try await client.preflight(refund)
        let sent = try gateway.seen().map { request in
            (request["headers"]?.arrayValue ?? []).first { $0.arrayValue?.first == "traceparent" }?.arrayValue?.last?.stringValue
        }
        XCTAssertEqual(sent, [current, current, current, current, nil])
        for wrong in ["", "x", current.uppercased(), current + "\r\n"] {
            XCTAssertThrowsError(try client.inTrace(wrong)) { error in
                XCTAssertEqual((error as? ActPassError)?.kind, .argument)
                XCTAssertTrue("\(error)".contains("traceparent: expected"), "\(error)")
            }
        }
    }

    func testIssuesVerifiesAndRevokesPassports() async throws {
        let gateway = try Gateway()
        defer { gateway.stop() }
        let client = try ActPass(apiKey: "apk_dev", agentID: "support_agent", baseURL: gateway.baseURL)
        let audience = "mcp://stripe-production"
        let issued = try await client.issuePassport(
            audience: audience, goal: refund.goal, allowedTools: [refund.tool], allowedResources: [refund.resource],
            resourceConstraints: ["max_amount": 10_000, "currency": "usd"], ttlSeconds: 120)
        XCTAssertFalse(everythingShown(issued).contains(issued.token))
        let jti = try XCTUnwrap(issued.jti)
        XCTAssertEqual(issued.members["jti"]?.stringValue, jti)
        XCTAssertNotNil(issued.members["expires_at"]?.dateValue)
        XCTAssertEqual(issued.expiresAt, issued.members["expires_at"]?.stringValue)
        XCTAssertEqual(issued.jwksURI?.hasSuffix("/.well-known/jwks.json"), true)

        let verified = try await client.verifyPassport(issued.token, audience: audience)
        XCTAssertTrue(verified.isValid, "\(verified.errors)")
        let issuer = try XCTUnwrap(verified.claims?["iss"]?.stringValue)
        let offline = try await client.verifyPassportOffline(issued.token, audience: audience, issuer: issuer)
        XCTAssertEqual(offline.errors, [])
        XCTAssertTrue(offline.isValid)
        XCTAssertEqual(offline.claims?["jti"]?.stringValue, jti)
        let elsewhere = try await client.verifyPassportOffline(issued.token, audience: "mcp://other", issuer: issuer)
        XCTAssertEqual(elsewhere.errors, ["passport.audience"])
        XCTAssertNil(elsewhere.claims)
        let noPassport = try await client.verifyPassportOffline("not.a.passport", audience: audience)
        XCTAssertEqual(noPassport.errors, ["passport.malformed"])

        var action = refund
        action.audience = audience
        action.passport = issued.token
        XCTAssertFalse(everythingShown(action).contains(issued.token))
        let first = try await client.guard(action) { _ in 1 }
        XCTAssertTrue(first.executed, first.decision.json)
        let second = try await client.guard(action) { _ in 2 }
        XCTAssertFalse(second.executed, second.decision.json)

        let revoked = try await client.revokePassport(jti, reason: "the test ended")
        XCTAssertTrue(revoked)
        let after = try await client.verifyPassport(issued.token, audience: audience)
        XCTAssertFalse(after.isValid)
    }

    func testRecordsEvidence() async throws {
        let gateway = try Gateway()
        defer { gateway.stop() }
        let client = try gateway.client()
        let recorded = try await client.recordEvidence(
            "refund.sent", chainID: "case_42", toolID: refund.tool, metadata: ["receipt": "re_1"],
            responseHash: ActPass.hashPayload("re_1"))
        XCTAssertTrue(recorded.eventID.hasPrefix("ev_"))
        XCTAssertEqual(recorded.currentEventHash?.count, 64)
        let error = try await failure { try await client.recordEvidence("refund.sent", chainID: "c", metadata: [1]) }
        XCTAssertTrue(error.message.contains("metadata: expected an object"), error.message)
    }

    /// An operator approves while the guard waits; the outcome is recorded.
    func testWaitsForApproval() async throws {
        let gateway = try Gateway()
        defer { gateway.stop() }
        let client = try gateway.client()
        var action = refund
        action.args = ["amount": 25_000, "currency": "usd"]
        let asked = try await client.guard(action) { _ in 1 }
        guard case .blocked(let blocked) = asked else { return XCTFail("\(asked)") }
        XCTAssertEqual(blocked.decision.word, .requireApproval)
        let pending = try XCTUnwrap(blocked.approval)
        XCTAssertEqual(pending.id, blocked.decision.approvalRequestID)
        let looked = try await client.waitForApproval(pending.id, timeout: .zero)
        XCTAssertEqual(looked.status, .pending)

        XCTAssertEqual(pending.members["args"], action.args)
        // Another client resumes the stored approval.
        let kept = try JSONDecoder().decode([PendingApproval].self, from: JSONEncoder().encode([pending]))[0]
        XCTAssertEqual(kept, pending)
        async let resumed = gateway.client().resume(kept, waitForApproval: .seconds(20), recordOutcome: true) { _ in
            ["receipt": "re_1"]
        }
        try await Task.sleep(for: .milliseconds(200))
        try await gateway.operate("/api/v1/approvals/\(pending.id)/approve")
        let outcome = try await resumed
        guard case .returned(let value, let execution) = outcome else { return XCTFail("\(outcome)") }
        XCTAssertEqual(value, ["receipt": "re_1"])
        XCTAssertNil(execution.evidenceError)
        XCTAssertEqual(execution.evidence?.eventID.hasPrefix("ev_"), true)
        let approval = try await client.waitForApproval(pending.id, timeout: .seconds(5))
        XCTAssertEqual(approval.status, .approved)

        let again = try await client.resume(pending) { _ in 2 }
        XCTAssertFalse(again.executed, "an approval is spent once: \(again.decision.json)")
    }

    func testDerivedClientHasItsOwnLimits() async throws {
        let gateway = try Hostile.play(steps: ["do": "respond", "status": 503, "body": ""])
        defer { gateway.stop() }
        let client = try ActPass(apiKey: apiKey, baseURL: gateway.baseURL, maxRetries: 0, circuitFailures: 0)
        _ = try await client.guard(refund) { _ in 1 }
        XCTAssertEqual(try gateway.seen().count, 1)
        _ = try await client.withOptions(maxRetries: 1).guard(refund) { _ in 1 }
        XCTAssertEqual(try gateway.seen().count, 3)

        let silent = try Hostile.play(steps: ["do": "hang", "at": "request"])
        defer { silent.stop() }
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        let quick = try ActPass.quick(silent.baseURL, timeout: .seconds(600)).withOptions(timeout: .milliseconds(200))
        let outcome = try await quick.inTrace(trace).guard(refund) { _ in 1 }
        XCTAssertEqual(outcome.decision.reasonCode, "actpass.timeout")
        for (member, make) in [
            ("timeout", { try client.withOptions(timeout: .zero) }), ("timeout", { try client.withOptions(timeout: .seconds(-1)) }),
            ("maxRetries", { try client.withOptions(maxRetries: 11) }), ("maxRetries", { try client.withOptions(maxRetries: -1) }),
        ] as [(String, () throws -> ActPass)] {
            XCTAssertThrowsError(try make()) {
                XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
                XCTAssertTrue("\($0)".hasPrefix("\(member): "), "\($0)")
            }
        }
    }

    func testDecisionsAndErrorsHaveRequestID() async throws {
        let headers: JSONValue = ["x-request-id": "req_7"]
        let gateway = try Hostile.play(
            steps: ["do": "respond", "json": ["decision": "deny"], "headers": headers],
            ["do": "respond", "status": 500, "json": [:], "headers": headers])
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let denied = try await client.guard(refund) { _ in 1 }
        XCTAssertEqual(denied.decision.requestID, "req_7")
        let failed = try await client.guard(refund) { _ in 1 }
        XCTAssertEqual((failed.error as? ActPassError)?.requestID, "req_7")
        XCTAssertEqual(failed.decision.requestID, "req_7")
    }

    func testCircuitOpensForUnreachableGateway() async throws {
        let client = try ActPass(apiKey: apiKey, baseURL: "http://127.0.0.1:9", maxRetries: 0, circuitFailures: 1)
        XCTAssertEqual(client.circuit, .closed)
        _ = try await failure { try await client.preflight(refund) }
        guard case .open = client.circuit else { return XCTFail("\(client.circuit)") }
        let outcome = try await client.guard(refund) { _ in 1 }
        XCTAssertEqual(outcome.decision.reasonCode, "actpass.unreachable")
        XCTAssertNotNil((outcome.error as? ActPassError)?.retryAfter)
    }

    func testRejectedOrPendingActionDoesNotRun() async throws {
        let asked: JSONValue = [
            "decision": "require_approval", "reason_code": "refund.medium", "approval_request_id": "apr_1",
        ]
        for (status, reason) in [("rejected", "approval.rejected"), ("pending", "actpass.approval_timeout")] {
            let gateway = try Hostile.play(steps: answer(asked), answer(["id": "apr_1", "status": .string(status)]))
            defer { gateway.stop() }
            var action = refund
            action.waitForApproval = .milliseconds(300)
            let outcome = try await ActPass.quick(gateway.baseURL).guard(action) { _ in 1 }
            guard case .blocked(let blocked) = outcome else { return XCTFail("\(outcome)") }
            XCTAssertEqual(blocked.code, reason)
            XCTAssertNil(blocked.error)
            XCTAssertEqual(blocked.approval == nil, status == "rejected")
        }
    }

    func testApprovalWaitCanBeCancelled() async throws {
        let asked: JSONValue = ["decision": "require_approval", "approval_request_id": "apr_1"]
        let gateway = try Hostile.play(steps: answer(asked), answer(["id": "apr_1", "status": "pending"]))
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        var action = refund
        action.waitForApproval = .seconds(600)
        let (held, runs) = (action, Counter())
        let task = Task { try await client.guard(held) { _ in runs.count() } }
        while try gateway.seen().count < 2 { try await Task.sleep(for: .milliseconds(5)) }
        let ended = await within(.seconds(5)) {
            task.cancel()
            return await task.result
        }
        XCTAssertThrowsError(try ended.get()) { XCTAssertTrue($0 is CancellationError, "\($0)") }
        XCTAssertEqual(runs.total, 0)
    }

    func testRecordsOutcome() async throws {
        let recorded: JSONValue = ["event_id": "ev_2", "current_event_hash": "ab"]
        let gateway = try Hostile.play(
            steps: answer(allow), answer(recorded), answer(allow), answer(recorded), answer(allow),
            ["do": "respond", "status": 500])
        defer { gateway.stop() }
        let client = try ActPass.quick(gateway.baseURL)
        let returned = try await client.guard(refund, recordOutcome: true) { _ in ["receipt": 7] }
        guard case .returned(_, let execution) = returned else { return XCTFail("\(returned)") }
        XCTAssertEqual(execution.evidence?.eventID, "ev_2")
        let failed = try await client.guard(refund, recordOutcome: true) { _ -> Int in throw Problem("no") }
        guard case .failed(_, let ran) = failed else { return XCTFail("\(failed)") }
        XCTAssertEqual(ran.evidence?.currentEventHash, "ab")
        let unrecorded = try await client.guard(refund, recordOutcome: true) { _ in 1 }
        guard case .returned(1, let lost) = unrecorded else { return XCTFail("\(unrecorded)") }
        XCTAssertNil(lost.evidence)
        XCTAssertEqual(lost.evidenceError?.kind, .status)

        let bodies = try gateway.seen().map { try JSONValue(parsing: $0["body"]?.stringValue ?? "") }
        XCTAssertEqual(bodies[1]["metadata"]?["ended"], "returned")
        XCTAssertEqual(bodies[1]["response_hash"]?.stringValue, try ActPass.hashPayload(["receipt": 7]))
        XCTAssertEqual(bodies[1]["request_hash"]?.stringValue, try ActPass.hashPayload(bodies[0]))
        XCTAssertEqual(bodies[3]["metadata"]?["ended"], "failed")
        XCTAssertEqual(bodies[3]["response_hash"], .null)
    }
}
