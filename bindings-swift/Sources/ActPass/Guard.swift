internal import ActPassBridge
internal import ActPassSecret

/// What a guard reports.
public typealias Outcome<Value> = ActPass.Outcome<Value>

/// What a permitted closure is given.
public typealias ExecutionContext = ActPass.ExecutionContext

extension ActPass {
    /// Asks for a decision, and runs `execute` only when the decision allows it.
    ///
    /// `execute` runs at most once, after the verdict, in the task and the isolation of the caller: task-local values are
    /// visible in it, and it may use what belongs to the caller's actor. In the mode ``Mode/enforce`` it runs on `allow` only,
    /// in ``Mode/strict`` only if the decision is recorded as well, in ``Mode/warn`` also on `warn`, in ``Mode/monitor`` always.
    ///
    /// A gate that fails throws nothing: it is reported as blocked, with a decision that the SDK made: `deny` with a reason
    /// such as `actpass.unreachable`, and what to check in its ``Decision/explain``.
    ///
    /// - Parameters:
    ///   - action: What the agent is about to do.
    ///   - recordOutcome: Whether to record in the gateway's ledger how the closure ended. What came of it is in
    ///     ``Execution/evidence`` or ``Execution/evidenceError``, and changes nothing else. A hash of the result is recorded
    ///     with it where the result is `Encodable` and has a canonical form. An action that is cancelled while it runs is
    ///     recorded as `cancelled`, within one second and without delaying the cancellation.
    ///   - isolation: The actor that `execute` runs on: the caller's, without any doing.
    ///   - execute: What to run. What it returns and what it throws is reported as it is, the very value. A lazy sequence of the
    ///     standard library (`lazy.map`, `AsyncMapSequence` and their like) is no result, because its body has not run: it is
    ///     reported as ``Outcome/failed(_:_:)``, of the kind ``ActPassError/Kind/argument``.
    /// - Returns: What happened.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` for what cannot be sent: nothing was sent or run, in
    ///   any mode. `CancellationError` where the task was cancelled: before the verdict nothing was run, and one that
    ///   `execute` throws in a cancelled task is passed on.
    public func `guard`<Value>(
        _ action: Action,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Outcome<Value> {
        let verdict = try await authorize(action, recordOutcome: recordOutcome)
        return try await run(verdict, execute: execute)
    }

    /// The same for a function by its name, a stored closure or a method, which return what is `Sendable`.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// actor Bank {
    ///     func refund(_ context: ExecutionContext) async throws -> String { "refunded" }
    /// }
    ///
    /// let bank = Bank()
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// let outcome = try await actpass.guard(action, execute: bank.refund)
    /// print(outcome)
    /// ```
    @_disfavoredOverload
    public func `guard`<Value: Sendable>(
        _ action: Action,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> Value
    ) async throws -> Outcome<Value> {
        try await self.guard(action, recordOutcome: recordOutcome, isolation: isolation) { context in
            try await execute(context)
        }
    }

    /// Guards an action that was blocked because a person had to approve it, once somebody decided: in this process or
    /// another.
    ///
    /// The gateway holds the action against the one that was approved, so a changed copy runs nothing. The rest is as with
    /// ``guard(_:recordOutcome:isolation:execute:)``.
    ///
    /// - Parameters:
    ///   - pending: What ``ActionBlockedError/approval`` was then.
    ///   - passport: The passport that the action spends, if it needs one; it is not kept.
    ///   - waitForApproval: As ``Action/waitForApproval``.
    ///   - recordOutcome: As for ``guard(_:recordOutcome:isolation:execute:)``.
    ///   - isolation: As for ``guard(_:recordOutcome:isolation:execute:)``.
    ///   - execute: As for ``guard(_:recordOutcome:isolation:execute:)``.
    public func resume<Value>(
        _ pending: PendingApproval,
        passport: String? = nil,
        waitForApproval: Duration? = nil,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Outcome<Value> {
        let (native, kept, wait) = (native, pending.json, waitForApproval?.inSeconds)
        let spent = passport.map(Secret.init)
        let verdict = try await call {
            try await native.authorizePending(
                pending: kept, passport: spent, waitForApproval: wait, recordOutcome: recordOutcome, cancel: $0)
        }
        return try await run(Verdict(verdict, recordsOutcome: recordOutcome), execute: execute)
    }

    /// The same for a function by its name, a stored closure or a method, which return what is `Sendable`.
    @_disfavoredOverload
    public func resume<Value: Sendable>(
        _ pending: PendingApproval,
        passport: String? = nil,
        waitForApproval: Duration? = nil,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> Value
    ) async throws -> Outcome<Value> {
        try await resume(
            pending, passport: passport, waitForApproval: waitForApproval, recordOutcome: recordOutcome,
            isolation: isolation
        ) { context in
            try await execute(context)
        }
    }

    /// Runs what the verdict permits, and reports.
    private func run<Value>(
        _ verdict: Verdict,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Outcome<Value> {
        switch verdict {
        case .blocked(let blocked):
            return .blocked(blocked)
        case .permitted(let permit):
            // A task that was cancelled while the verdict was on its way runs nothing either.
            try Task.checkCancellation()
            let context: ExecutionContext
            do {
                context = try permit.spend()
            } catch let blocked as ActionBlockedError {
                return .blocked(blocked)
            }
            let value: Value
            do {
                value = try await execute(context)
                try refuseUnrun(value)
            } catch where stops(error) {
                // A failure to record must not replace the stop.
                _ = try? permit.cancelled()
                throw error
            } catch {
                return .failed(error, try await permit.finish(.failed))
            }
            return .returned(value, try await permit.finish(returning: value))
        }
    }

    /// What a permitted closure is given.
    public struct ExecutionContext: Sendable, Hashable {
        /// The secret that the gateway's vault holds for the tool; `nil` where it holds none.
        public let credential: Credential?
        /// The decision under which the closure runs.
        public let decision: Decision

        /// Makes one, for tests of a function that a guard runs.
        public init(decision: Decision, credential: Credential? = nil) {
            self.decision = decision
            self.credential = credential
        }

        init(_ native: NativeContext) {
            credential = native.credential.map(Credential.init)
            decision = Decision(native.decision)
        }
    }

    /// What a guard reports.
    // Indirect, so that it is small: Swift 6.0 miscompiles an `async let` of a large result beside a task group.
    public indirect enum Outcome<Value> {
        /// The closure ran and returned this, the very value.
        case returned(Value, Execution)
        /// The closure did not run: the gateway decided so, or the gate failed. ``unwrap()`` throws this.
        case blocked(ActionBlockedError)
        /// The closure ran and threw this, the very error.
        case failed(any Error, Execution)

        /// The decision: the gateway's, or the one that the SDK made.
        public var decision: Decision {
            switch self {
            case .blocked(let blocked): blocked.decision
            case .returned(_, let execution), .failed(_, let execution): execution.decision
            }
        }

        /// Whether the closure ran.
        public var executed: Bool {
            switch self {
            case .blocked: false
            case .returned, .failed: true
            }
        }

        /// What the closure returned, or the reason why there is nothing.
        ///
        /// ```swift
        /// import ActPass
        ///
        /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
        /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
        /// let receipt = try await actpass.guard(action) { _ in "refunded" }.unwrap()
        /// print(receipt)
        /// ```
        ///
        /// - Throws: ``ActionBlockedError`` if the closure did not run; the same error that the closure threw, if it threw.
        public func unwrap() throws -> Value {
            switch self {
            case .returned(let result, _): return result
            case .blocked(let blocked): throw blocked
            case .failed(let error, _): throw error
            }
        }

        /// What the closure returned, where it did.
        public var result: Value? {
            switch self {
            case .returned(let result, _): result
            case .blocked, .failed: nil
            }
        }

        /// What the closure threw; else how the gate failed, an ``ActPassError``, also where ``Mode/monitor`` ran the closure
        /// all the same.
        public var error: (any Error)? {
            switch self {
            case .returned(_, let execution): execution.gateError
            case .blocked(let blocked): blocked.error
            case .failed(let error, _): error
            }
        }

        /// `{"decision", "error", "executed"}` in canonical JSON, equal in every language. `error` is `null` or `{"kind",
        /// "status"}`, the kind being `action` for an error of the closure.
        ///
        /// - Throws: ``ActPassError`` where the decision holds an integer that canonical JSON cannot carry.
        public func canonicalJSON() throws -> String {
            let (kind, status): (String?, Int?) =
                switch self {
                case .returned(_, let execution): (execution.gateError?.kindName, execution.gateError?.status)
                case .blocked(let blocked): (blocked.error?.kindName, blocked.error?.status)
                case .failed: ("action", nil)
                }
            return try enter {
                try nativeCanonicalOutcome(
                    executed: executed, decision: decision.json, error: kind,
                    status: status.flatMap(UInt16.init(exactly:)))
            }
        }
    }

    /// Under what a closure ran.
    public struct Execution: Sendable, Hashable {
        /// The decision.
        public let decision: Decision
        /// How the gate failed, where ``Mode/monitor`` ran the closure all the same.
        public let gateError: ActPassError?
        /// The ledger entry of how it ended, where that was to be recorded and was.
        public let evidence: RecordedEvidence?
        /// Why it was not, where it was to be.
        public let evidenceError: ActPassError?

        /// Makes one, for tests.
        public init(
            decision: Decision, gateError: ActPassError? = nil, evidence: RecordedEvidence? = nil,
            evidenceError: ActPassError? = nil
        ) {
            self.decision = decision
            self.gateError = gateError
            self.evidence = evidence
            self.evidenceError = evidenceError
        }

        init(_ report: NativeReport, evidence: RecordedEvidence? = nil, evidenceError: ActPassError? = nil) {
            decision = Decision(report.decision)
            gateError = report.failure.map { ActPassError($0) }
            self.evidence = evidence
            self.evidenceError = evidenceError
        }
    }
}

extension ActPass.Outcome: Sendable where Value: Sendable {}

extension ActPass.Outcome: CustomStringConvertible, CustomDebugStringConvertible {
    /// What happened, and under which decision: `blocked: deny (refund.too_large): the amount is over the limit`.
    public var description: String {
        switch self {
        case .returned(let result, let execution):
            "returned \(String(reflecting: result)): \(execution)"
        case .blocked(let blocked):
            "blocked: \(blocked.decision)\(blocked.error.map { " [\($0)]" } ?? "")\(blocked.approval.map { ", \($0)" } ?? "")"
        case .failed(let error, let execution):
            "failed with \(String(reflecting: error)): \(execution)"
        }
    }

    /// The same, for debuggers.
    public var debugDescription: String { description }
}

extension ActPass.Execution: CustomStringConvertible {
    /// The decision, how the gate failed, and the ledger entry.
    public var description: String {
        "\(decision)\(gateError.map { " [\($0)]" } ?? "")"
            + "\(evidence.map { ", recorded as \($0.eventID)" } ?? "")"
            + "\(evidenceError.map { ", not recorded: \($0)" } ?? "")"
    }
}
