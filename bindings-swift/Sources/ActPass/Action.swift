internal import ActPassBridge
internal import ActPassSecret

/// What an agent is about to do, and why.
public typealias Action = ActPass.Action

/// How a guard treats the gateway's answer.
public typealias Mode = ActPass.Mode

extension ActPass {
    /// How a guard treats the gateway's answer.
    public enum Mode: String, Sendable, Hashable, CaseIterable, Codable {
        /// Runs on `allow` only. The default.
        case enforce
        /// As enforce, and only when the gateway recorded its decision and said which request it answers.
        case strict
        /// Runs on `allow` and on `warn`, with which the gateway answers where enforce would not allow.
        case warn
        /// Observes: runs always, and reports what enforce would have decided.
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

    /// What an agent is about to do, and why.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create",
    ///                     args: ["amount": 4900, "currency": "usd"], mode: .strict)
    /// print(action.args)
    /// ```
    ///
    /// Whether it can be sent is checked when it is: a call with arguments that are no JSON object, are nested more than 127
    /// deep, or hold NaN throws an ``ActPassError`` of the kind ``ActPassError/Kind/argument``, and nothing is sent or run.
    public struct Action: Sendable, Hashable {
        /// What the agent wants to achieve.
        public var goal: String
        /// The tool that it is about to use.
        public var tool: String
        /// What the tool acts on, such as `stripe:charge:ch_123`.
        public var resource: String
        /// The tool's arguments, a JSON object.
        public var args: JSONValue
        /// On whose behalf the agent acts.
        public var userID: String?
        /// The mode; that of the client if there is none.
        public var mode: Mode?
        /// What makes a repetition of this request known as one; a fresh UUIDv7 for each call, kept on its retries, if there
        /// is none.
        public var idempotencyKey: String?
        /// To whom the passport is shown.
        public var audience: String?
        /// The approved request that the action spends.
        public var approvalRequestID: String?
        /// The hash of the tool's definition as the agent sees it.
        public var toolManifestHash: String?
        /// For how long a guard holds an action that needs an approval, until somebody decided; 30 days at most. Without it,
        /// such an action is reported as blocked at once. This time comes on top of the client's timeout, which is that of
        /// each request.
        public var waitForApproval: Duration?
        var hiddenPassport: Secret?

        /// The passport that the action spends.
        public var passport: String? {
            get { hiddenPassport?.exposed }
            set { hiddenPassport = newValue.map(Secret.init) }
        }

        /// Makes an action; all but goal and tool may be left out.
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

        /// Makes an action with arguments of a type of your own, which must encode to a JSON object.
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
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` where the arguments cannot be encoded.
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

        /// Makes an action with arguments from variables, also optional ones; `nil` is `null`, and a date is ISO 8601.
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
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``, naming the argument that cannot be encoded.
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
