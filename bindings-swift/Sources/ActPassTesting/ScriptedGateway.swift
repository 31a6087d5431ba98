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
/// try gateway.assertExecuted("stripe.refund.create", times: 1)
/// ```
///
/// It denies tools without a scripted answer with `test.unscripted`, and records evidence. An approval is bound to its
/// action, found by it, and spent once. An idempotency key that is repeated with the same body repeats its `allow` as a
/// replay. Passports verify as valid until they are revoked. It is safe for concurrent use.
public final class ScriptedGateway: Sendable {
    private let script = NativeScript()

    /// Creates a gateway that denies every action.
    public init() {}

    /// Answers all following preflights of `tool`; without `tool`, of every tool, in place of earlier answers.
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

    /// Approves an approval: the next preflight of its action is allowed, once.
    ///
    /// - Parameter approval: The approval's id, or a tool: then the latest pending approval of the tool. An id that an
    ///   answer sets may be decided before the approval is opened.
    /// - Returns: The id.
    /// - Throws: ``ActPass/ActPassError`` of the kind `argument` if there is no such pending approval.
    @discardableResult
    public func approve(_ approval: String) throws -> String { try settled { try script.approve(approval: approval) } }

    /// Rejects an approval: its action stays blocked. Otherwise as ``approve(_:)``.
    @discardableResult
    public func reject(_ approval: String) throws -> String { try settled { try script.reject(approval: approval) } }

    /// Lets an approval expire, which may be pending, or approved and not spent. Otherwise as ``approve(_:)``.
    @discardableResult
    public func expire(_ approval: String) throws -> String { try settled { try script.expire(approval: approval) } }

    /// Stops actions, and signals their running closures (``ActPass/ExecutionContext/halt``).
    ///
    /// - Parameters:
    ///   - scope: `agent`, `tool` or `user`, named by `id`; or `tenant` or `all`.
    ///   - id: The agent, the tool or the user.
    ///   - reason: Why; the summary of the denials contains it.
    /// - Returns: The new `halt_epoch`.
    /// - Throws: ``ActPass/ActPassError`` of the kind `argument` if the scope is unknown, or the id is missing or
    ///   superfluous.
    @discardableResult
    public func halt(_ scope: String, id: String? = nil, reason: String = "test") throws -> UInt64 {
        try settled { try script.halt(scope: scope, id: id, reason: reason) }
    }

    /// Lifts all stops. Returns the new `halt_epoch`.
    @discardableResult
    public func lift() -> UInt64 { script.lift() }

    /// The acknowledgements of stops so far, by wire name: `epoch`, `in_flight`, `agent_id`, `instance`.
    public var acknowledgements: [JSONValue] {
        script.acknowledgements().compactMap { try? JSONValue(parsing: $0) }
    }

    private func settled<Value>(_ decide: () throws -> Value) throws -> Value {
        do {
            return try decide()
        } catch NativeError.Failed(let failure) {
            throw ActPassError(.argument, failure.text)
        }
    }

    /// The approvals so far, in the order in which they were opened.
    public var approvals: [ScriptedApproval] { script.approvals().map(ScriptedApproval.init) }

    /// The actions of this gateway's clients that ran, in order: permits that were spent.
    public var executions: [Execution] {
        script.executions().map { Execution(tool: $0.tool, args: (try? JSONValue(parsing: $0.args)) ?? .null) }
    }

    /// Throws unless actions of `tool` ran exactly `times` times; without `times`, at least once.
    ///
    /// - Throws: ``ExecutionMismatch``, which fails a test of any framework.
    public func assertExecuted(_ tool: String, times: Int? = nil) throws {
        let ran = executions.map(\.tool)
        let count = ran.filter { $0 == tool }.count
        guard times.map({ count == $0 }) ?? (count > 0) else {
            throw ExecutionMismatch(tool: tool, expected: times, count: count, ran: ran)
        }
    }

    /// Throws if an action of `tool` ran.
    ///
    /// - Throws: ``ExecutionMismatch``, which fails a test of any framework.
    public func assertNotExecuted(_ tool: String) throws { try assertExecuted(tool, times: 0) }

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

    /// An approval that the gateway opened.
    public struct ScriptedApproval: Sendable, Hashable {
        /// The id.
        public let id: String
        /// The tool of the action.
        public let tool: String
        /// The status.
        public let status: ActPass.Approval.Status
        /// Whether the action was allowed with it.
        public let isSpent: Bool

        init(_ native: NativeScriptedApproval) {
            id = native.id
            tool = native.tool
            isSpent = native.spent
            status =
                switch native.status {
                case .approved: .approved
                case .expired: .expired
                case .pending: .pending
                case .rejected: .rejected
                }
        }
    }

    /// An action that ran.
    public struct Execution: Sendable, Hashable {
        /// The tool.
        public let tool: String
        /// The arguments that the gateway evaluated.
        public let args: JSONValue
    }

    /// Actions ran more or less often than a test expects.
    public struct ExecutionMismatch: Error, Sendable, Hashable, CustomStringConvertible {
        /// The tool.
        public let tool: String
        /// The expected number of runs; `nil` for at least one.
        public let expected: Int?
        /// The number of runs.
        public let count: Int
        /// The tools of all actions that ran, in order.
        public let ran: [String]

        /// The expected and the actual number of runs.
        public var description: String {
            "expected \(tool) to run \(expected.map { "\($0) times" } ?? "at least once"), but it ran \(count) times; ran: \(ran)"
        }
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

        /// `require_approval`: opens an approval in the modes `enforce` and `strict`. Without `id`, the gateway numbers
        /// the approvals: `apr_1`, `apr_2`; an `id` that is in use gets a number too.
        public static func requireApproval(
            id: String? = nil, reasonCode: String = "test.require_approval"
        ) -> Answer {
            var decision: JSONValue = ["decision": "require_approval", "reason_code": .string(reasonCode)]
            if let id {
                decision["approval_request_id"] = .string(id)
            }
            return .decision(decision)
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
