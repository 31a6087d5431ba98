public import ActPass
internal import ActPassBridge

/// A scripted gateway for tests of programs that use ActPass. It needs no network; client and guard are the real ones.
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
/// It denies tools without a scripted answer with `test.unscripted`, records evidence, and issues passports that verify
/// as valid. It is safe for concurrent use.
public final class ScriptedGateway: Sendable {
    private let script = NativeScript()

    /// Creates a gateway that denies every action.
    public init() {}

    /// Answers all following preflights of `tool`; without `tool`, the preflights of every tool without its own answer.
    ///
    /// - Precondition: The decision of `answer` is JSON.
    public func answer(_ answer: Answer, tool: String? = nil) {
        do {
            try script.answer(answer: answer.native, tool: tool)
        } catch {
            preconditionFailure("\(error)")
        }
    }

    /// Answers the next preflights with one answer each; afterwards ``answer(_:tool:)`` applies again.
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

    /// Approves an approval request. A waiting guard then sends its preflight again: script an answer that allows it.
    public func approve(_ approvalRequestID: String) { script.decide(id: approvalRequestID, approved: true) }

    /// Rejects an approval request.
    public func reject(_ approvalRequestID: String) { script.decide(id: approvalRequestID, approved: false) }

    /// The preflights so far, by wire name: `tool`, `args`, `user_id`.
    public var actions: [JSONValue] { bodies { $0 == "/api/v1/actions/preflight" } }

    /// The evidence so far, by wire name: `event_type`, `metadata`.
    public var evidence: [JSONValue] { bodies { $0 == "/api/v1/evidence/events" } }

    private func bodies(_ isWanted: (String) -> Bool) -> [JSONValue] {
        script.requests().filter { isWanted($0.path) }.compactMap { try? JSONValue(parsing: $0.body) }
    }

    /// Creates a client of this gateway.
    ///
    /// - Parameters:
    ///   - agentID: The agent's name.
    ///   - timeout: The total deadline of a call.
    ///   - mode: The default mode of actions.
    ///   - logger: Receives the log lines of the client's calls.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/config`` for a wrong setting.
    public func client(
        agentID: String = "tests", timeout: Duration = .seconds(30), mode: Mode = .enforce,
        logger: ActPass.Logger? = nil
    ) throws -> ActPass {
        try ActPass(script: script, agentID: agentID, timeout: timeout, mode: mode, logger: logger)
    }

    /// A scripted response to a preflight.
    public struct Answer: Sendable, Hashable {
        /// The HTTP status.
        public let status: Int
        /// The decision; `nil` for an unreachable gateway.
        public let decision: JSONValue?

        private init(status: Int, decision: JSONValue?) {
            self.status = status
            self.decision = decision
        }

        /// Any decision; missing `evidence_event_id` and `request_hash` are added.
        public static func decision(_ decision: JSONValue, status: Int = 200) -> Answer {
            Answer(status: status, decision: decision)
        }

        /// `allow`, with a vaulted credential if given.
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

        /// `warn`: enforce would block the action.
        public static func warn(reasonCode: String = "test.warn") -> Answer {
            .decision(["decision": "warn", "reason_code": .string(reasonCode)])
        }

        /// `require_approval`: the action needs human approval.
        public static func requireApproval(
            id: String = "apr_test", reasonCode: String = "test.require_approval"
        ) -> Answer {
            .decision([
                "decision": "require_approval", "reason_code": .string(reasonCode), "approval_request_id": .string(id),
            ])
        }

        /// A response with an error status.
        public static func failure(status: Int) -> Answer { Answer(status: status, decision: [:]) }

        /// An unreachable gateway.
        public static let unreachable = Answer(status: 0, decision: nil)

        var native: NativeAnswer {
            NativeAnswer(status: UInt16(clamping: status), decision: decision?.json)
        }
    }
}
