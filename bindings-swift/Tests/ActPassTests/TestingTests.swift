import ActPass
import ActPassTesting
import XCTest

/// The test kit, and the public types that users construct and print in tests.
final class TestingTests: XCTestCase {
    private let action = Action(
        goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900])

    func testScriptedGatewayAnswersRealGuard() async throws {
        let gateway = ScriptedGateway()
        let client = try gateway.client()
        let unscripted = try await client.guard(action) { _ in 1 }
        XCTAssertEqual(unscripted.decision.reasonCode, "test.unscripted")
        XCTAssertFalse(unscripted.executed)

        gateway.answer(.allow(credential: "sk_test_secret"), tool: "stripe.refund.create")
        gateway.answerNext(.deny(reasonCode: "refund.too_large", summary: "the amount is over the limit"), .unreachable)
        let denied = try await client.guard(action) { _ in 1 }
        XCTAssertEqual(denied.decision.reasonCode, "refund.too_large")
        let lost = try await client.guard(action) { _ in 1 }
        XCTAssertEqual(lost.decision.reasonCode, "actpass.unreachable")
        XCTAssertEqual((lost.error as? ActPassError)?.kind, .connection)
        for mode in Mode.allCases {
            let allowed = try await gateway.client(mode: mode).guard(action) { $0.credential?.token }
            XCTAssertEqual(try allowed.unwrap(), "sk_test_secret", "\(mode)")
        }
        XCTAssertEqual(gateway.actions.count, 3 + Mode.allCases.count)
        XCTAssertEqual(gateway.actions[0]["args"]?["amount"], 4900)
        let other = try await client.guard(Action(goal: "g", tool: "other")) { _ in 1 }
        XCTAssertFalse(other.executed)
    }

    func testScriptedAnswersDetermineExecution() async throws {
        let expected: [(ScriptedGateway.Answer, Mode, String, Bool)] = [
            (.allow(), .strict, "test.allow", true),
            (.deny(), .warn, "test.deny", false),
            (.warn(), .enforce, "test.warn", false),
            (.warn(), .warn, "test.warn", true),
            (.requireApproval(), .enforce, "test.require_approval", false),
            (.failure(status: 500), .enforce, "actpass.gateway_error", false),
            (.failure(status: 500), .monitor, "actpass.gateway_error", true),
            (.unreachable, .monitor, "actpass.unreachable", true),
            (.decision(["decision": "maybe", "reason_code": "x.y"]), .enforce, "x.y", false),
        ]
        for (answer, mode, reason, executed) in expected {
            let gateway = ScriptedGateway()
            gateway.answer(answer)
            let outcome = try await gateway.client(mode: mode).guard(action) { _ in 1 }
            XCTAssertEqual(outcome.decision.reasonCode, reason)
            XCTAssertEqual(outcome.executed, executed, reason)
        }
    }

    func testGuardWaitsForScriptedApproval() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.requireApproval(id: "apr_1"))
        let client = try gateway.client()
        var held = action
        held.waitForApproval = .seconds(20)
        try gateway.approve("apr_1")
        let approved = try await client.guard(held) { _ in "refunded" }
        XCTAssertEqual(approved.result, "refunded")
        gateway.answer(.requireApproval(id: "apr_2"))
        try gateway.reject("apr_2")
        let rejected = try await client.guard(held) { _ in "refunded" }
        XCTAssertEqual(rejected.decision.reasonCode, "approval.rejected")
        XCTAssertFalse(rejected.executed)
    }

    func testAnApprovalAllowsItsActionOnce() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.requireApproval(reasonCode: "refund.medium"))
        let client = try gateway.client()
        func guarded(_ amount: Int, approval: String? = nil) async throws -> String {
            var action = action
            action.args = ["amount": .init(amount)]
            action.approvalRequestID = approval
            return try await client.guard(action) { _ in 1 }.decision.reasonCode
        }
        var said = [try await guarded(1), try await guarded(1), try await guarded(2)]
        XCTAssertEqual(said, Array(repeating: "refund.medium", count: 3))
        XCTAssertEqual(gateway.approvals.map(\.id), ["apr_1", "apr_2"])
        XCTAssertEqual(try gateway.approve("apr_1"), "apr_1")
        said = [try await guarded(2, approval: "apr_1"), try await guarded(1), try await guarded(1, approval: "apr_1")]
        XCTAssertEqual(said, ["approval.action_mismatch", "approval.approved", "approval.spent"])
        XCTAssertEqual(gateway.approvals.map(\.isSpent), [true, false])
        try gateway.assertExecuted("stripe.refund.create", times: 1)
        XCTAssertEqual(gateway.executions.map { $0.args["amount"] }, [1])

        XCTAssertEqual(try gateway.reject("stripe.refund.create"), "apr_2")
        _ = try await guarded(3)
        XCTAssertEqual(try gateway.expire("stripe.refund.create"), "apr_3")
        said = [try await guarded(2, approval: "apr_2"), try await guarded(3, approval: "apr_3")]
        XCTAssertEqual(said, ["approval.rejected", "approval.expired"])
        XCTAssertEqual(gateway.approvals.map(\.status), [.approved, .rejected, .expired])
        XCTAssertThrowsError(try gateway.approve("stripe.refund.create")) {
            XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
            XCTAssertTrue("\($0)".hasSuffix("apr_3 of stripe.refund.create is expired"), "\($0)")
        }
    }

    func testExecutionsAreAsserted() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        try gateway.assertNotExecuted("stripe.refund.create")
        XCTAssertThrowsError(try gateway.assertExecuted("stripe.refund.create"))
        _ = try await client.authorize(action)
        try gateway.assertNotExecuted("stripe.refund.create")
        for _ in 0..<2 { _ = try await client.guard(action) { _ in 1 } }
        try gateway.assertExecuted("stripe.refund.create")
        try gateway.assertExecuted("stripe.refund.create", times: 2)
        XCTAssertThrowsError(try gateway.assertExecuted("stripe.refund.create", times: 1)) {
            XCTAssertEqual(
                "\($0)",
                "expected stripe.refund.create to run 1 times, but it ran 2 times; "
                    + #"ran: ["stripe.refund.create", "stripe.refund.create"]"#)
        }
        XCTAssertThrowsError(try gateway.assertNotExecuted("stripe.refund.create"))
    }

    func testScriptedGatewayAnswersOtherCalls() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        let passport = try await client.issuePassport(audience: "a", goal: "g", allowedTools: ["t"])
        XCTAssertEqual(passport.jti?.hasPrefix("ap_"), true)
        let verified = try await client.verifyPassport(passport.token, audience: "a")
        XCTAssertTrue(verified.isValid)
        let revoked = try await client.revokePassport("ap_1")
        XCTAssertTrue(revoked)
        _ = try await client.guard(action, recordOutcome: true) { _ in 1 }
        XCTAssertEqual(gateway.evidence.count, 1)
        XCTAssertEqual(gateway.evidence[0]["metadata"]?["ended"], "returned")
    }

    func testUnwrapReturnsResultOrThrows() async throws {
        struct Refused: Error, Equatable {}
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        let receipt = try await client.guard(action) { _ in "re_1" }.unwrap()
        XCTAssertEqual(receipt, "re_1")
        do {
            _ = try await client.guard(action) { _ -> Int in throw Refused() }.unwrap()
            XCTFail("the action returned")
        } catch let error as Refused {
            XCTAssertEqual(error, Refused())
        }
        gateway.answer(.requireApproval(id: "apr_7", reasonCode: "refund.medium"))
        let blocked = try await blockedBy { try await client.guard(self.action) { _ in 1 }.unwrap() }
        XCTAssertEqual(blocked.tool, "stripe.refund.create")
        XCTAssertEqual(blocked.approval?.id, "apr_7")
        XCTAssertFalse(blocked.isRetryable)
        XCTAssertEqual(
            "\(blocked)",
            "stripe.refund.create was not run: require_approval (refund.medium). "
                + "A person must approve this first (approval apr_7): do not call it again before that.")
        let resumed = try await blockedBy { try await client.resume(blocked.approval!) { _ in 1 }.unwrap() }
        XCTAssertEqual(resumed.tool, "stripe.refund.create")

        gateway.answer(.unreachable)
        let lost = try await blockedBy { try await client.guard(self.action) { _ in 1 }.unwrap() }
        XCTAssertEqual(lost.error?.kind, .connection)
        XCTAssertTrue(lost.isRetryable)
        XCTAssertEqual(lost.localizedDescription, lost.message)
        XCTAssertEqual(lost.description, lost.message)
        XCTAssertEqual(
            lost.message,
            "stripe.refund.create was not run: deny (actpass.unreachable). The policy decision could not be obtained. "
                + "The failure may be temporary: retry the same call later.")
        XCTAssertTrue(lost.developerText.contains(lost.error!.message), lost.developerText)
        XCTAssertEqual(
            ActionBlockedError(tool: lost.tool, decision: lost.decision, error: lost.error), lost,
            "a constructed error has the same texts")
        let observed = try await gateway.client(mode: .monitor).guard(action) { _ in 1 }.unwrap()
        XCTAssertEqual(observed, 1)
    }

    private func blockedBy(_ body: () async throws -> Int) async throws -> ActionBlockedError {
        do {
            let value = try await body()
            throw Problem("returned \(value)")
        } catch let blocked as ActionBlockedError {
            return blocked
        }
    }

    func testDescribesOutcomes() async throws {
        let gateway = ScriptedGateway()
        gateway.answerNext(.allow(), .deny(reasonCode: "refund.too_large", summary: "the amount is over the limit"))
        let client = try gateway.client()
        let executed = try await client.guard(action) { _ in ["receipt": "re_1"] }
        XCTAssertEqual("\(executed)", #"returned ["receipt": "re_1"]: allow (test.allow)"#)
        let denied = try await client.guard(action) { _ in 1 }
        XCTAssertEqual("\(denied)", "blocked: deny (refund.too_large): the amount is over the limit")
        XCTAssertEqual(String(reflecting: denied), "\(denied)")
        gateway.answerNext(.requireApproval(id: "apr_1"), .allow())
        let asked = try await client.guard(action) { _ in 1 }
        XCTAssertEqual("\(asked)", "blocked: require_approval (test.require_approval), PendingApproval(apr_1)")
        let failed = try await client.guard(action) { _ -> Int in throw Problem("no card") }
        XCTAssertEqual("\(failed)", "failed with no card: allow (test.allow)")
        gateway.answerNext(.failure(status: 500))
        let lost = try await client.guard(action) { _ in 1 }
        XCTAssertTrue("\(lost)".hasPrefix("blocked: deny (actpass.gateway_error): "), "\(lost)")
        XCTAssertTrue("\(lost)".contains("500"), "\(lost)")
    }

    /// Functions over these types can be tested without a client.
    func testEveryPublicTypeHasInitializer() throws {
        let decision = try Decision(["decision": "deny", "reason_code": "refund.too_large", "risk_tier": "high"])
        XCTAssertEqual(decision.word, .deny)
        XCTAssertEqual(decision.riskTier, "high")
        let bare = try Decision(["decision": "deny"])
        XCTAssertEqual(bare.reasonCode, "unspecified")
        XCTAssertEqual(bare.explain.matchedRules + bare.explain.nextSteps, [])
        XCTAssertThrowsError(try Decision(["reason_code": "x"]))
        let error = ActPassError(.timeout, "no answer", operation: "preflight")
        XCTAssertEqual(error.code, "actpass.timeout")
        XCTAssertTrue(error.isRetryable)
        let outcome: Outcome<Int> = .blocked(.init(tool: "t", decision: decision, error: error))
        XCTAssertThrowsError(try outcome.unwrap()) {
            XCTAssertEqual($0 as? ActionBlockedError, ActionBlockedError(tool: "t", decision: decision, error: error))
        }
        XCTAssertEqual(
            try outcome.canonicalJSON(),
            #"{"decision":{"decision":"deny","explain":{"matched_rules":[],"next_steps":[],"summary":""},"#
                + #""reason_code":"refund.too_large","risk_tier":"high"},"error":{"kind":"timeout","status":null},"executed":false}"#)
        let context = ExecutionContext(decision: decision, credential: Credential(token: "sk_made_secret"))
        XCTAssertEqual(context.credential?.token, "sk_made_secret")
        XCTAssertFalse(everythingShown(context).contains("secret"))
        let execution = ActPass.Execution(decision: decision, evidence: .init(eventID: "ev_1"))
        XCTAssertEqual(Outcome.returned(7, execution).result, 7)
        XCTAssertEqual(Approval(id: "apr_1", status: .rejected, decidedBy: "ada").members["status"], "rejected")
        let passport = ActPass.IssuedPassport(token: "made_secret", jti: "ap_1", expiresAt: "2099-01-01T00:00:00Z")
        XCTAssertEqual(passport.jti, "ap_1")
        XCTAssertEqual(passport.expiresAt, "2099-01-01T00:00:00Z")
        XCTAssertFalse(everythingShown(passport).contains("secret"))
        let verification = ActPass.PassportVerification(isValid: true, claims: ["jti": "ap_1"])
        XCTAssertEqual(verification.claims?["jti"], "ap_1")
    }

    func testLoggerReceivesLines() async throws {
        let lines = AsyncStream.makeStream(of: ActPass.Logger.Event.self)
        let gateway = ScriptedGateway()
        gateway.answerNext(.deny(reasonCode: "refund.too_large"), .unreachable, .allow(credential: "sk_log_secret"))
        let client = try gateway.client(logger: .init(level: .debug) { lines.continuation.yield($0) })
        var secretive = action
        secretive.passport = passport
        for _ in 0..<3 { _ = try await client.guard(secretive) { _ in 1 } }
        var seen: [ActPass.Logger.Event] = []
        for await line in lines.stream {
            seen.append(line)
            if line.message == "may run" { break }
        }
        let denied = try XCTUnwrap(seen.first { $0.message == "blocked" })
        XCTAssertEqual(denied.level, .info)
        XCTAssertEqual(denied.fields["reason_code"], "refund.too_large")
        XCTAssertEqual(denied.description, "blocked decision=deny reason_code=refund.too_large tool=stripe.refund.create")
        XCTAssertTrue(seen.contains { $0.level == .warn && $0.fields["code"] == "actpass.unreachable" })
        XCTAssertFalse(everythingShown(seen).contains("secret"))
    }

    func testLoggerReceivesLinesOfItsLevelAndClient() async throws {
        let lines = AsyncStream.makeStream(of: ActPass.Logger.Event.self)
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client(logger: .init(level: .warn) { lines.continuation.yield($0) })
        _ = try await client.guard(action) { _ in 1 }
        gateway.answerNext(.unreachable)
        _ = try await gateway.client().guard(action) { _ in 1 }
        gateway.answerNext(.deny(), .failure(status: 418))
        for _ in 0..<2 { _ = try await client.guard(action) { _ in 1 } }
        var first: ActPass.Logger.Event?
        for await line in lines.stream {
            first = line
            break
        }
        XCTAssertEqual(first?.fields["code"], "actpass.gateway_error")
    }

    /// A logger that never returns does not delay calls.
    func testBlockingLoggerDoesNotDelayCalls() async throws {
        let release = DispatchSemaphore(value: 0)
        defer { release.signal() }
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client(logger: .init(level: .debug) { _ in release.wait(); release.signal() })
        for number in 0..<2_000 {
            let outcome = try await client.guard(action) { _ in number }
            XCTAssertEqual(outcome.result, number)
        }
    }
}
