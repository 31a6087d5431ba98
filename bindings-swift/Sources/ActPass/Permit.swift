internal import ActPassBridge

/// Whether an action may run.
public typealias Verdict = ActPass.Verdict

/// Leave to run an action, once.
public typealias Permit = ActPass.Permit

extension ActPass {
    /// Asks whether an action may run, and leaves it to the caller to run it.
    ///
    /// ``guard(_:recordOutcome:isolation:execute:)`` is made of this. Use it where the action is no closure, as in an adapter of a
    /// framework: spend the permit right before the action runs, and report how the action ended.
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
    ///   - action: What the agent is about to do.
    ///   - recordOutcome: As for ``guard(_:recordOutcome:isolation:execute:)``; what the permit is told is recorded.
    /// - Throws: As ``guard(_:recordOutcome:isolation:execute:)``. A gate that fails throws nothing: it blocks, or, in
    ///   ``Mode/monitor``, permits.
    public func authorize(_ action: Action, recordOutcome: Bool = false) async throws -> Verdict {
        let (native, asked) = (native, action.native)
        let verdict = try await call {
            try await native.authorize(action: asked, recordOutcome: recordOutcome, cancel: $0)
        }
        return Verdict(verdict, recordsOutcome: recordOutcome)
    }

    /// Whether an action may run.
    // Indirect for the same reason as `Outcome`.
    public indirect enum Verdict: Sendable {
        /// It may not.
        case blocked(ActionBlockedError)
        /// It may, once.
        case permitted(Permit)

        init(_ native: NativeVerdict, recordsOutcome: Bool) {
            switch native {
            case .blocked(let blocked): self = .blocked(ActionBlockedError(blocked))
            case .permitted(let session): self = .permitted(Permit(session, recordsOutcome: recordsOutcome))
            }
        }

        /// The decision: the gateway's, or the one that the SDK made.
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

    /// Leave to run an action, once. Only ``authorize(_:recordOutcome:)`` gives one.
    ///
    /// It is void five minutes after the verdict, and once its credential has expired. A permit that is not spent runs and
    /// records nothing.
    public final class Permit: Sendable, CustomStringConvertible {
        private let native: NativeSession
        private let recordsOutcome: Bool

        init(_ native: NativeSession, recordsOutcome: Bool) {
            self.native = native
            self.recordsOutcome = recordsOutcome
        }

        /// The decision under which the action may run.
        public var decision: Decision { Decision(native.decision()) }

        /// Its decision: `Permit(allow (refund.small_in_scope))`.
        public var description: String { "Permit(\(decision))" }

        /// Spends the permit. Run the action now.
        ///
        /// - Parameter args: The arguments with which the action is about to run, if something could have changed them since
        ///   they were judged.
        /// - Returns: What the action is given: the decision, and the credential for the tool.
        /// - Throws: ``ActionBlockedError`` if the permit is void (`actpass.permit_expired`) or `args` are not those that were judged
        ///   (`actpass.arguments_changed`); in ``Mode/monitor`` the action runs, without the credential. ``ActPassError`` of the
        ///   kind ``ActPassError/Kind/argument`` if the permit was spent before. Nothing may run then.
        public func spend(args: JSONValue? = nil) throws -> ExecutionContext {
            switch try enter({ try native.spend(args: args?.json) }) {
            case .blocked(let blocked): throw ActionBlockedError(blocked)
            case .running(let context): return ExecutionContext(context)
            }
        }

        /// Reports that the action has returned `value`, and records it if outcomes are recorded.
        ///
        /// Where the task is cancelled the recording goes on: the action has run.
        ///
        /// - Parameters:
        ///   - value: What the action returned. Its hash is recorded if it is `Encodable` and has a canonical form.
        ///   - isolation: The actor that `value` belongs to: the caller's, without any doing.
        /// - Returns: Under what the action ran. A record that fails is in ``Execution/evidenceError``.
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its end was reported
        ///   before, and if `value` is a lazy sequence, whose body has not run: then report ``failed(_:)``.
        @discardableResult
        public func returned<Value>(
            _ value: Value, isolation: isolated (any Actor)? = #isolation
        ) async throws -> Execution {
            try refuseUnrun(value)
            return try await finish(returning: value)
        }

        /// Reports that the action has thrown `error`, and records it if outcomes are recorded.
        ///
        /// A `CancellationError` in a cancelled task is no failure: it is reported as ``cancelled()``.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its end was
        ///   reported before.
        @discardableResult
        public func failed(_ error: any Error) async throws -> Execution {
            stops(error) ? try cancelled() : try await finish(.failed)
        }

        /// Reports that the action was stopped while it ran. It is recorded without waiting for it, within one second.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the permit is not spent or its end was
        ///   reported before.
        @discardableResult
        public func cancelled() throws -> Execution {
            Execution(try enter { try native.finish(ended: .cancelled, response: nil) })
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

/// Whether the error stops the task, and is no way in which an action fails.
func stops(_ error: any Error) -> Bool { error is CancellationError && Task.isCancelled }

/// The JSON text of a result that has one.
private func text<Value>(of value: Value) -> String? {
    guard let encodable = value as? any Encodable else { return nil }
    return try? JSONValue(encoding: encodable, as: "result").json
}
