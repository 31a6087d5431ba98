internal import ActPassBridge

/// Whether an action may run.
public typealias Verdict = ActPass.Verdict

/// Single-use permission to run an action.
public typealias Permit = ActPass.Permit

extension ActPass {
    /// Requests a decision and returns a permit if the action may run.
    ///
    /// The steps of ``guard(_:recordOutcome:isolation:execute:)``, for code that cannot pass its action as a closure,
    /// such as a framework adapter: spend the permit right before the action runs, then report how it ended.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// func refund(_ cents: Int, credential: Credential?) async throws -> String { "refunded \(cents)" }
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// switch try await actpass.authorize(action, recordOutcome: true) {
    /// case .blocked(let blocked): print(blocked.message)
    /// case .permitted(let permit):
    ///     let context = try permit.spend()
    ///     do {
    ///         let receipt = try await refund(4900, credential: context.credential)
    ///         print(receipt, try await permit.returned(receipt))
    ///     } catch {
    ///         try await permit.failed(error)
    ///         throw error
    ///     }
    /// }
    /// ```
    ///
    /// - Parameters:
    ///   - action: The action.
    ///   - recordOutcome: As for ``guard(_:recordOutcome:isolation:execute:)``; the reported end is recorded.
    /// - Throws: As ``guard(_:recordOutcome:isolation:execute:)``. A failed gate does not throw: it blocks, or permits
    ///   in ``Mode/monitor``.
    public func authorize(_ action: Action, recordOutcome: Bool = false) async throws -> Verdict {
        let (native, asked) = (native, bound.completing(action).native)
        let verdict = try await call {
            try await native.authorize(action: asked, recordOutcome: recordOutcome, cancel: $0)
        }
        return Verdict(verdict, recordsOutcome: recordOutcome)
    }

    /// Whether an action may run.
    // Indirect for the same reason as `Outcome`.
    public indirect enum Verdict: Sendable {
        /// The action may not run.
        case blocked(ActionBlockedError)
        /// The action may run, once.
        case permitted(Permit)

        init(_ native: NativeVerdict, recordsOutcome: Bool) {
            switch native {
            case .blocked(let blocked): self = .blocked(ActionBlockedError(blocked))
            case .permitted(let session): self = .permitted(Permit(session, recordsOutcome: recordsOutcome))
            }
        }

        /// The gateway's decision, or the SDK's denial because the gate failed.
        public var decision: Decision {
            switch self {
            case .blocked(let blocked): blocked.decision
            case .permitted(let permit): permit.decision
            }
        }

        /// The permit.
        ///
        /// - Throws: ``ActionBlockedError`` if the action may not run.
        public func unwrap() throws -> Permit {
            switch self {
            case .blocked(let blocked): throw blocked
            case .permitted(let permit): return permit
            }
        }
    }

    /// Single-use permission to run an action; only ``authorize(_:recordOutcome:)`` creates one.
    ///
    /// It expires five minutes after the decision, or earlier with its credential. An unspent permit records nothing.
    public final class Permit: Sendable, CustomStringConvertible {
        private let native: NativeSession
        private let recordsOutcome: Bool

        init(_ native: NativeSession, recordsOutcome: Bool) {
            self.native = native
            self.recordsOutcome = recordsOutcome
        }

        /// The decision about the action.
        public var decision: Decision { Decision(native.decision()) }

        /// Its decision: `Permit(allow (refund.small_in_scope))`.
        public var description: String { "Permit(\(decision))" }

        /// Spends the permit and returns the execution context. Run the action immediately afterwards.
        ///
        /// - Parameter args: The current arguments. If they differ from the evaluated arguments, the action is blocked.
        ///   Default: no comparison.
        /// - Returns: The decision and the vaulted credential of the tool.
        /// - Throws: ``ActionBlockedError`` if the permit expired (`actpass.permit_expired`) or `args` changed
        ///   (`actpass.arguments_changed`); in ``Mode/monitor`` the action may still run, without the credential.
        ///   ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit was already spent; do not run
        ///   the action.
        public func spend(args: JSONValue? = nil) throws -> ExecutionContext {
            switch try enter({ try native.spend(args: args?.json) }) {
            case .blocked(let blocked): throw ActionBlockedError(blocked)
            case .running(let context): return ExecutionContext(context)
            }
        }

        /// Reports that the action returned `value`; with `recordOutcome`, records it.
        ///
        /// Cancelling the task does not stop the recording, because the action ran.
        ///
        /// - Parameters:
        ///   - value: The action's result. Its hash is recorded if it is `Encodable` and has a canonical form.
        ///   - isolation: The actor that `value` belongs to. Default: the caller's.
        /// - Returns: The circumstances of the execution. A failed recording is in ``Execution/evidenceError``.
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent, its
        ///   outcome was already reported, or `value` is a lazy sequence, whose body has not run: then report
        ///   ``failed(_:)``.
        @discardableResult
        public func returned<Value>(
            _ value: Value, isolation: isolated (any Actor)? = #isolation
        ) async throws -> Execution {
            try refuseUnrun(value)
            return try await finish(returning: value)
        }

        /// Reports that the action threw `error`; with `recordOutcome`, records it.
        ///
        /// A `CancellationError` in a cancelled task is reported as ``cancelled()``.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its
        ///   outcome was already reported.
        @discardableResult
        public func failed(_ error: any Error) async throws -> Execution {
            stops(error) ? try cancelled() : try await finish(.failed)
        }

        /// Reports that the action was cancelled while it ran. Recording happens in the background, within one second.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its
        ///   outcome was already reported.
        @discardableResult
        public func cancelled() throws -> Execution {
            Execution(try enter { try native.finish(ended: .cancelled, response: nil) })
        }

        /// Reports that a framework's control-flow signal ended the action while it ran, such as a pause for a person.
        /// Recording happens in the background, within one second.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its
        ///   outcome was already reported.
        @discardableResult
        public func suspended() throws -> Execution {
            Execution(try enter { try native.finish(ended: .suspended, response: nil) })
        }

        func finish<Value>(returning value: Value, isolation: isolated (any Actor)? = #isolation) async throws -> Execution {
            try await finish(.returned, response: recordsOutcome ? text(of: value) : nil)
        }

        func finish(_ ended: NativeEnded, response: String? = nil) async throws -> Execution {
            let report = try enter { try native.finish(ended: ended, response: response) }
            guard let recording = report.recording else { return Execution(report) }
            do {
                return Execution(report, evidence: RecordedEvidence(try await recording.send()))
            } catch {
                return Execution(report, evidenceError: failure(of: error))
            }
        }
    }
}

/// Whether the error is the cancellation of the current task rather than a failure of the action.
func stops(_ error: any Error) -> Bool { error is CancellationError && Task.isCancelled }

/// The JSON text of a result; `nil` if it cannot be encoded.
private func text<Value>(of value: Value) -> String? {
    guard let encodable = value as? any Encodable else { return nil }
    return try? JSONValue(encoding: encodable, as: "result").json
}
