internal import ActPassBridge
internal import ActPassSecret

/// An action of an agent, with its goal.
public typealias Action = ActPass.Action

/// The guard's mode: the decisions on which an action runs.
public typealias Mode = ActPass.Mode

extension ActPass {
    /// The guard's mode: the decisions on which an action runs.
    public enum Mode: String, Sendable, Hashable, CaseIterable, Codable {
        /// Runs on `allow` only. The default.
        case enforce
        /// Runs on an `allow` that the gateway recorded for this request.
        case strict
        /// Runs on `allow` and `warn`; `warn` means that enforce would have blocked the action.
        case warn
        /// Always runs, and reports what enforce would have decided.
        case monitor

        var native: NativeMode {
            switch self {
            case .enforce: .enforce
            case .strict: .strict
            case .warn: .warn
            case .monitor: .monitor
            }
        }
    }

    /// An action of an agent, with its goal.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create",
    ///                     args: ["amount": 4900, "currency": "usd"], mode: .strict)
    /// print(action.args)
    /// ```
    ///
    /// A call validates the action. It throws an ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the
    /// arguments are not a JSON object, are nested more than 127 levels deep, or contain NaN; nothing is sent or run.
    public struct Action: Sendable, Hashable {
        /// The agent's goal.
        public var goal: String
        /// The tool that the action uses.
        public var tool: String
        /// The target of the action, such as `stripe:charge:ch_123`.
        public var resource: String
        /// The tool's arguments, a JSON object.
        public var args: JSONValue
        /// The user on whose behalf the agent acts.
        public var userID: String?
        /// The mode. Default: the client's.
        public var mode: Mode?
        /// Identifies repetitions of the request: a second call with the same key runs nothing. Default: a new UUIDv7
        /// per call, reused by retries.
        public var idempotencyKey: String?
        /// The service to which the passport is presented.
        public var audience: String?
        /// The approved request that the action spends.
        public var approvalRequestID: String?
        /// The hash of the tool's definition as the agent sees it.
        public var toolManifestHash: String?
        /// Time that a guard waits for a human decision if the action needs approval, at most 30 days; the client's
        /// timeout applies to each request separately. Default: no waiting; the action is blocked.
        public var waitForApproval: Duration?
        var hiddenPassport: Secret?

        /// The passport that the action spends.
        public var passport: String? {
            get { hiddenPassport?.exposed }
            set { hiddenPassport = newValue.map(Secret.init) }
        }

        /// Creates an action; only goal and tool are required.
        public init(
            goal: String,
            tool: String,
            resource: String = "",
            args: JSONValue = [:],
            userID: String? = nil,
            passport: String? = nil,
            mode: Mode? = nil,
            idempotencyKey: String? = nil,
            audience: String? = nil,
            approvalRequestID: String? = nil,
            toolManifestHash: String? = nil,
            waitForApproval: Duration? = nil
        ) {
            self.goal = goal
            self.tool = tool
            self.resource = resource
            self.args = args
            self.userID = userID
            self.mode = mode
            self.idempotencyKey = idempotencyKey
            self.audience = audience
            self.approvalRequestID = approvalRequestID
            self.toolManifestHash = toolManifestHash
            self.waitForApproval = waitForApproval
            self.hiddenPassport = passport.map(Secret.init)
        }

        /// Creates an action with arguments of an `Encodable` type, which must encode to a JSON object.
        ///
        /// ```swift
        /// import ActPass
        ///
        /// struct Refund: Encodable { var amount: Int; var currency: String }
        /// let action = try Action(goal: "resolve_refund_request", tool: "stripe.refund.create",
        ///                         args: Refund(amount: 4900, currency: "usd"))
        /// print(action.args)
        /// ```
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the arguments cannot be encoded.
        @_disfavoredOverload
        public init(
            goal: String,
            tool: String,
            resource: String = "",
            args: some Encodable,
            userID: String? = nil,
            passport: String? = nil,
            mode: Mode? = nil,
            idempotencyKey: String? = nil,
            audience: String? = nil,
            approvalRequestID: String? = nil,
            toolManifestHash: String? = nil,
            waitForApproval: Duration? = nil
        ) throws {
            self.init(
                goal: goal, tool: tool, resource: resource, args: try JSONValue(encoding: args, as: "args"),
                userID: userID, passport: passport, mode: mode, idempotencyKey: idempotencyKey, audience: audience,
                approvalRequestID: approvalRequestID, toolManifestHash: toolManifestHash,
                waitForApproval: waitForApproval
            )
        }

        /// Creates an action with arguments from variables, which may be optional; `nil` becomes `null`, a date becomes
        /// ISO 8601.
        ///
        /// ```swift
        /// import ActPass
        ///
        /// let (cents, currency, note) = (4900, "usd", String?.none)
        /// let action = try Action(goal: "resolve_refund_request", tool: "stripe.refund.create",
        ///                         args: ["amount": cents, "currency": currency, "note": note])
        /// print(action.args)
        /// ```
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``, if an argument cannot be encoded; the
        ///   message names it.
        @_disfavoredOverload
        public init(
            goal: String,
            tool: String,
            resource: String = "",
            args: [String: (any Encodable)?],
            userID: String? = nil,
            passport: String? = nil,
            mode: Mode? = nil,
            idempotencyKey: String? = nil,
            audience: String? = nil,
            approvalRequestID: String? = nil,
            toolManifestHash: String? = nil,
            waitForApproval: Duration? = nil
        ) throws {
            var members: [String: JSONValue] = [:]
            for (name, value) in args {
                members[name] = try value.map { try JSONValue(encoding: $0, as: "args.\(name)") } ?? .null
            }
            self.init(
                goal: goal, tool: tool, resource: resource, args: .object(members),
                userID: userID, passport: passport, mode: mode, idempotencyKey: idempotencyKey, audience: audience,
                approvalRequestID: approvalRequestID, toolManifestHash: toolManifestHash,
                waitForApproval: waitForApproval
            )
        }

        var native: NativeAction {
            NativeAction(
                goal: goal,
                tool: tool,
                resource: resource,
                args: args.json,
                userId: userID,
                passport: hiddenPassport,
                mode: mode?.native,
                idempotencyKey: idempotencyKey,
                audience: audience,
                approvalRequestId: approvalRequestID,
                toolManifestHash: toolManifestHash,
                waitForApproval: waitForApproval?.inSeconds
            )
        }
    }
}
