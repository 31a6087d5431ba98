internal import ActPassBridge
internal import ActPassSecret

/// The outcome of a guard.
public typealias Outcome<Value> = ActPass.Outcome<Value>

/// The argument of a guarded closure.
public typealias ExecutionContext = ActPass.ExecutionContext

extension ActPass {
    /// Requests a decision and runs `execute` only if the decision allows it.
    ///
    /// `execute` runs at most once, after the decision, in the caller's task and actor isolation; task-local values are
    /// visible. In the mode ``Mode/enforce`` it runs on `allow` only, in ``Mode/strict`` only if the decision is also
    /// recorded for this request, in ``Mode/warn`` also on `warn`, in ``Mode/monitor`` always.
    ///
    /// A failed gate does not throw: the outcome is blocked by a `deny` that the SDK made, with a reason such as
    /// `actpass.unreachable` and advice in its ``Decision/explain``.
    ///
    /// - Parameters:
    ///   - action: The action.
    ///   - recordOutcome: Whether to record in the gateway's ledger how the closure ended, with the hash of its result
    ///     if that is `Encodable` and has a canonical form. ``Execution/evidence`` or ``Execution/evidenceError``
    ///     reports the recording. A closure that is cancelled while it runs is recorded as `cancelled`, within one
    ///     second and without delaying the cancellation.
    ///   - isolation: The actor that `execute` runs on. Default: the caller's.
    ///   - execute: The closure to run. The outcome contains its result or error itself, not a copy. A returned lazy
    ///     sequence of the standard library (such as `lazy.map` or `AsyncMapSequence`), whose body has not run, is
    ///     reported as ``Outcome/failed(_:_:)`` with an error of the kind ``ActPassError/Kind/argument``.
    /// - Returns: The outcome.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if an argument is invalid: nothing was
    ///   sent or run, in any mode. `CancellationError` if the task was cancelled before the decision, and nothing ran;
    ///   one that `execute` throws in a cancelled task propagates.
    public func `guard`<Value>(
        _ action: Action,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Outcome<Value> {
        let verdict = try await authorize(action, recordOutcome: recordOutcome)
        return try await run(verdict, execute: execute)
    }

    /// Overload for function references, stored closures and methods, whose result is `Sendable`.
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

    /// Requests a decision, runs `execute` only if the decision allows it, and returns its result; if the action is
    /// blocked, returns the result of `onBlocked` instead.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// // The model gets the receipt, or why there is none.
    /// let text = try await actpass.guard(action, onBlocked: { $0.message }) { _ in "refunded" }
    /// print(text)
    /// ```
    ///
    /// - Parameters:
    ///   - action: As for ``guard(_:recordOutcome:isolation:execute:)``.
    ///   - recordOutcome: As for ``guard(_:recordOutcome:isolation:execute:)``.
    ///   - isolation: As for ``guard(_:recordOutcome:isolation:execute:)``.
    ///   - onBlocked: Returns the value for a blocked action, which did not run, or throws.
    ///   - execute: As for ``guard(_:recordOutcome:isolation:execute:)``.
    /// - Throws: The error that `execute` or `onBlocked` threw; otherwise as
    ///   ``guard(_:recordOutcome:isolation:execute:)``.
    public func `guard`<Value>(
        _ action: Action,
        recordOutcome: Bool = false,
        isolation: isolated (any Actor)? = #isolation,
        onBlocked: (ActionBlockedError) async throws -> sending Value,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Value {
        switch try await self.guard(action, recordOutcome: recordOutcome, isolation: isolation, execute: execute) {
        case .returned(let result, _): return result
        case .blocked(let blocked): return try await onBlocked(blocked)
        case .failed(let error, _): throw error
        }
    }

    /// Guards an action again after its approval was decided, in this process or another.
    ///
    /// The gateway compares it with the approved action, so a changed copy does not run. Otherwise as
    /// ``guard(_:recordOutcome:isolation:execute:)``.
    ///
    /// - Parameters:
    ///   - pending: The ``ActionBlockedError/approval`` of the blocked call.
    ///   - passport: The passport that the action spends, if it needs one; a pending approval does not store it.
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
        let spent = (passport ?? bound.passport).map(Secret.init)
        let verdict = try await call {
            try await native.authorizePending(
                pending: kept, passport: spent, waitForApproval: wait, recordOutcome: recordOutcome, cancel: $0)
        }
        return try await run(Verdict(verdict, recordsOutcome: recordOutcome), execute: execute)
    }

    /// Overload for function references, stored closures and methods, whose result is `Sendable`.
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

    /// Runs a permitted action and returns the outcome.
    private func run<Value>(
        _ verdict: Verdict,
        isolation: isolated (any Actor)? = #isolation,
        execute: (ExecutionContext) async throws -> sending Value
    ) async throws -> Outcome<Value> {
        switch verdict {
        case .blocked(let blocked):
            return .blocked(blocked)
        case .permitted(let permit):
            // Nothing runs if the task was cancelled while waiting for the verdict.
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
                // A recording error must not replace the cancellation.
                _ = try? permit.cancelled()
                throw error
            } catch {
                return .failed(error, try await permit.finish(.failed))
            }
            return .returned(value, try await permit.finish(returning: value))
        }
    }

    /// The argument of a guarded closure.
    public struct ExecutionContext: Sendable, Hashable {
        /// The vaulted credential of the tool; `nil` without one.
        public let credential: Credential?
        /// The decision about the action.
        public let decision: Decision
        /// Signals that the action was stopped while the closure runs.
        public let halt: HaltSignal

        /// Creates a context, for tests of guarded functions.
        public init(decision: Decision, credential: Credential? = nil, halt: HaltSignal = HaltSignal()) {
            self.decision = decision
            self.credential = credential
            self.halt = halt
        }

        init(_ native: NativeContext) {
            credential = native.credential.map(Credential.init)
            decision = Decision(native.decision)
            halt = HaltSignal(native.halt)
        }
    }

    /// The outcome of a guard.
    // Indirect, so that it is small: Swift 6.0 miscompiles an `async let` of a large result next to a task group.
    public indirect enum Outcome<Value> {
        /// The closure ran and returned this value.
        case returned(Value, Execution)
        /// The closure did not run: the gateway decided so, or the gate failed. ``unwrap()`` throws this error.
        case blocked(ActionBlockedError)
        /// The closure ran and threw this error.
        case failed(any Error, Execution)

        /// The gateway's decision, or the SDK's denial because the gate failed.
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

        /// Returns the result of the closure or throws.
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
        /// - Throws: ``ActionBlockedError`` if the closure did not run; the same error that the closure threw, if it
        ///   threw.
        public func unwrap() throws -> Value {
            switch self {
            case .returned(let result, _): return result
            case .blocked(let blocked): throw blocked
            case .failed(let error, _): throw error
            }
        }

        /// The result of the closure; `nil` if it did not return.
        public var result: Value? {
            switch self {
            case .returned(let result, _): result
            case .blocked, .failed: nil
            }
        }

        /// The error of the closure; else the ``ActPassError`` of a failed gate, also if ``Mode/monitor`` ran the
        /// closure.
        public var error: (any Error)? {
            switch self {
            case .returned(_, let execution): execution.gateError
            case .blocked(let blocked): blocked.error
            case .failed(let error, _): error
            }
        }

        /// Returns `{"decision", "error", "executed"}` as canonical JSON, identical in every language. `error` is
        /// `null` or `{"kind", "status"}`; the kind is `action` for an error of the closure.
        ///
        /// - Throws: ``ActPassError`` if the decision contains an integer that canonical JSON cannot represent.
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

    /// The circumstances of an execution: decision, gate failure, recording.
    public struct Execution: Sendable, Hashable {
        /// The decision.
        public let decision: Decision
        /// The failure of the gate, if ``Mode/monitor`` ran the closure despite it.
        public let gateError: ActPassError?
        /// The ledger entry of the outcome, if recorded.
        public let evidence: RecordedEvidence?
        /// Why recording failed.
        public let evidenceError: ActPassError?

        /// Creates an instance, for tests.
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
    /// The outcome and its decision: `blocked: deny (refund.too_large): the amount is over the limit`.
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

    /// The same text, for debuggers.
    public var debugDescription: String { description }
}

extension ActPass.Execution: CustomStringConvertible {
    /// The decision, the failure of the gate, and the ledger entry.
    public var description: String {
        "\(decision)\(gateError.map { " [\($0)]" } ?? "")"
            + "\(evidence.map { ", recorded as \($0.eventID)" } ?? "")"
            + "\(evidenceError.map { ", not recorded: \($0)" } ?? "")"
    }
}
