public import ActPass
internal import ActPassBridge

/// A gateway by script, for the tests of programs that use ActPass. It needs no network; the guard over it is the real one.
///
/// ```swift
/// import ActPass
/// import ActPassTesting
///
/// let gateway = ScriptedGateway()
/// gateway.answer(.allow(), tool: "stripe.refund.create")
/// let outcome = try await gateway.client().guard(
///     Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900])
/// ) { _ in "refunded" }
/// let receipt = try outcome.unwrap()
/// assert(receipt == "refunded")
/// assert(gateway.actions[0]["args"]?["amount"] == 4900)
/// ```
///
/// A tool without an answer is denied, `test.unscripted`. Evidence is recorded, and passports are issued and valid. A scripted
/// gateway is safe for use from many tasks at once.
public final class ScriptedGateway: Sendable {
    private let script = NativeScript()

    /// Makes a gateway that denies every action.
    public init() {}

    /// Answers each action with `tool` so from now on; each action whose tool has no answer if none is named.
    ///
    /// - Precondition: The decision of `answer` is JSON.
    public func answer(_ answer: Answer, tool: String? = nil) {
        do {
            try script.answer(answer: answer.native, tool: tool)
        } catch {
            preconditionFailure("\(error)")
        }
    }

    /// Answers the next actions so, one answer each, before ``answer(_:tool:)`` counts.
    ///
    /// - Precondition: The decisions of `answers` are JSON.
    public func answerNext(_ answers: Answer...) {
        for answer in answers {
            do {
                try script.answerNext(answer: answer.native)
            } catch {
                preconditionFailure("\(error)")
            }
        }
    }

    /// Approves, as an operator does. A guard that waits for the approval asks again: give it an answer that allows.
    public func approve(_ approvalRequestID: String) { script.decide(id: approvalRequestID, approved: true) }

    /// Rejects, as an operator does.
    public func reject(_ approvalRequestID: String) { script.decide(id: approvalRequestID, approved: false) }

    /// The actions that were asked about so far, by the names of the wire: `tool`, `args`, `user_id`.
    public var actions: [JSONValue] { bodies { $0 == "/api/v1/actions/preflight" } }

    /// The evidence that was recorded so far, by the names of the wire: `event_type`, `metadata`.
    public var evidence: [JSONValue] { bodies { $0 == "/api/v1/evidence/events" } }

    private func bodies(_ isWanted: (String) -> Bool) -> [JSONValue] {
        script.requests().filter { isWanted($0.path) }.compactMap { try? JSONValue(parsing: $0.body) }
    }

    /// A client of this gateway.
    ///
    /// - Parameters:
    ///   - agentID: The agent's name.
    ///   - timeout: The total deadline of a call.
    ///   - mode: The mode of actions that name none.
    ///   - logger: Takes the log lines of the client's calls.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/config`` for a wrong setting.
    public func client(
        agentID: String = "tests", timeout: Duration = .seconds(30), mode: Mode = .enforce,
        logger: ActPass.Logger? = nil
    ) throws -> ActPass {
        try ActPass(script: script, agentID: agentID, timeout: timeout, mode: mode, logger: logger)
    }

    /// The answer to the question whether an action may run.
    public struct Answer: Sendable, Hashable {
        /// The HTTP status.
        public let status: Int
        /// The decision; `nil` for a gateway that cannot be reached.
        public let decision: JSONValue?

        private init(status: Int, decision: JSONValue?) {
            self.status = status
            self.decision = decision
        }

        /// A decision as it stands. `evidence_event_id` and `request_hash` are added if they are missing.
        public static func decision(_ decision: JSONValue, status: Int = 200) -> Answer {
            Answer(status: status, decision: decision)
        }

        /// The action may run, with this secret if one is given.
        public static func allow(reasonCode: String = "test.allow", credential: String? = nil) -> Answer {
            var decision: JSONValue = ["decision": "allow", "reason_code": .string(reasonCode)]
            if let credential {
                decision["credential"] = ["token": .string(credential), "expires_at": "2099-01-01T00:00:00Z"]
            }
            return .decision(decision)
        }

        /// The action may not run.
        public static func deny(reasonCode: String = "test.deny", summary: String = "") -> Answer {
            .decision([
                "decision": "deny", "reason_code": .string(reasonCode), "explain": ["summary": .string(summary)],
            ])
        }

        /// Enforce would not allow the action.
        public static func warn(reasonCode: String = "test.warn") -> Answer {
            .decision(["decision": "warn", "reason_code": .string(reasonCode)])
        }

        /// A person has to approve the action.
        public static func requireApproval(
            id: String = "apr_test", reasonCode: String = "test.require_approval"
        ) -> Answer {
            .decision([
                "decision": "require_approval", "reason_code": .string(reasonCode), "approval_request_id": .string(id),
            ])
        }

        /// The gateway fails with a status.
        public static func failure(status: Int) -> Answer { Answer(status: status, decision: [:]) }

        /// The gateway cannot be reached.
        public static let unreachable = Answer(status: 0, decision: nil)

        var native: NativeAnswer {
            NativeAnswer(status: UInt16(clamping: status), decision: decision?.json)
        }
    }
}
