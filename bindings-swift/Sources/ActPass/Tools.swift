internal import ActPassBridge
internal import ActPassSecret

/// The policy options of one tool of an agent.
public typealias ToolAction = ActPass.ToolAction

extension ActPass {
    /// The policy options of one tool of an agent; ``protectTools(_:actions:onBlocked:)`` takes one for each tool.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let refund = ToolAction("stripe.refund.create", goal: "refund for {customer}", resource: "stripe:charge:{charge}")
    /// let transfer = ToolAction("bank.transfer", goal: .function { "transfer to \($0["iban"] ?? "nobody")" })
    /// print(refund.tool, transfer.tool)
    /// ```
    public struct ToolAction: Sendable {
        /// The tool's name in the policy, which may differ from its name in the agent.
        public var tool: String
        /// The agent's goal; `nil` for the goal of the surrounding ``ActPass/bind(goal:userID:passport:mode:audience:isolation:operation:)``.
        public var goal: Text?
        /// The target of the action.
        public var resource: Text
        /// Returns the arguments to send, such as a part of them. Default: all. The tool runs with all.
        public var args: (@Sendable (_ args: JSONValue) throws -> JSONValue)?
        /// The user on whose behalf the agent acts.
        public var userID: String?
        /// The mode. Default: the client's.
        public var mode: Mode?
        /// The service to which the passport is presented.
        public var audience: String?
        /// The approved request that the action spends. Default: the gateway finds an approval by its action.
        public var approvalRequestID: (@Sendable (_ args: JSONValue) throws -> String?)?
        /// The hash of the tool's definition as the agent sees it.
        public var toolManifestHash: String?
        /// As ``Action/waitForApproval``.
        public var waitForApproval: Duration?
        /// Whether to record in the ledger how each action ended.
        public var recordOutcome: Bool
        private var hiddenPassport: Secret?

        /// The passport that each action spends.
        public var passport: String? {
            get { hiddenPassport?.exposed }
            set { hiddenPassport = newValue.map(Secret.init) }
        }

        /// Creates the options of a tool; only its name in the policy is required.
        public init(
            _ tool: String,
            goal: Text? = nil,
            resource: Text = "",
            args: (@Sendable (_ args: JSONValue) throws -> JSONValue)? = nil,
            userID: String? = nil,
            passport: String? = nil,
            mode: Mode? = nil,
            audience: String? = nil,
            approvalRequestID: (@Sendable (_ args: JSONValue) throws -> String?)? = nil,
            toolManifestHash: String? = nil,
            waitForApproval: Duration? = nil,
            recordOutcome: Bool = false
        ) {
            self.tool = tool
            self.goal = goal
            self.resource = resource
            self.args = args
            self.userID = userID
            self.mode = mode
            self.audience = audience
            self.approvalRequestID = approvalRequestID
            self.toolManifestHash = toolManifestHash
            self.waitForApproval = waitForApproval
            self.recordOutcome = recordOutcome
            self.passport = passport
        }

        func check() throws {
            try goal?.check("goal")
            try resource.check("resource")
        }

        func action(_ args: JSONValue) throws -> Action {
            Action(
                goal: try goal?.text("goal", args) ?? "", tool: tool, resource: try resource.text("resource", args),
                args: try self.args?(args) ?? args, userID: userID, passport: passport, mode: mode, audience: audience,
                approvalRequestID: try approvalRequestID?(args), toolManifestHash: toolManifestHash,
                waitForApproval: waitForApproval)
        }

        /// A text that may depend on the arguments of the call. A string literal is a template.
        public enum Text: Sendable, ExpressibleByStringLiteral {
            /// Text with names of arguments in braces, such as `stripe:charge:{charge}`; `{{` and `}}` are braces. The
            /// arguments are strings or integers.
            case template(String)
            /// The result of a function of the arguments.
            case function(@Sendable (_ args: JSONValue) throws -> String)

            /// A template.
            public init(stringLiteral value: String) { self = .template(value) }

            func check(_ member: String) throws {
                guard case .template(let template) = self else { return }
                try enter { try nativeCheckTemplate(member: member, template: template) }
            }

            func text(_ member: String, _ args: JSONValue) throws -> String {
                switch self {
                case .template(let template):
                    try enter { try nativeFillTemplate(member: member, template: template, args: args.json) }
                case .function(let function): try function(args)
                }
            }
        }
    }

    /// The action of a tool, or its exemption.
    public enum ToolMapping: Sendable {
        /// The tool runs only if a decision about this action allows it.
        case action(ToolAction)
        /// The tool runs without a decision.
        case unguarded
    }

    /// A tool of an agent: a function of its arguments. The context is `nil` for an unguarded tool.
    public typealias Tool<Value> = @Sendable (_ args: JSONValue, _ context: ExecutionContext?) async throws -> Value

    /// Returns the tools of an agent, each guarded by its action. A name that is not in `tools` is denied with
    /// `actpass.unmapped_tool`, in every mode, and nothing is sent.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let tools = try actpass.protectTools(
    ///     [
    ///         "refund": { args, _ in "refunded \(args["amount"] ?? 0)" },
    ///         "time": { _, _ in "12:00" },
    ///     ],
    ///     actions: [
    ///         "refund": .action(ToolAction("stripe.refund.create", goal: "refund for {customer}")),
    ///         "time": .unguarded,
    ///     ],
    ///     onBlocked: { $0.message }
    /// )
    /// // With the name and the arguments that the model chose:
    /// print(try await tools.call("refund", ["amount": 4900, "customer": "c_1"]))
    /// ```
    ///
    /// A guarded tool runs with the arguments of the call. Its action is made of the same ones.
    ///
    /// - Parameters:
    ///   - tools: The tools by their names in the agent.
    ///   - actions: The action of each tool, or `unguarded`, by the same names.
    ///   - onBlocked: Returns the value for a blocked call. Default: the call throws the ``ActionBlockedError``.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if a tool has no action, or an action has
    ///   no tool, which names them all; or if a template is malformed.
    public func protectTools<Value: Sendable>(
        _ tools: [String: Tool<Value>],
        actions: [String: ToolMapping],
        onBlocked: (@Sendable (ActionBlockedError) async throws -> Value)? = nil
    ) throws -> ProtectedTools<Value> {
        try enter { try nativeCheckMapping(tools: Array(tools.keys), actions: Array(actions.keys)) }
        for case .action(let action) in actions.values { try action.check() }
        return ProtectedTools(client: self, tools: tools, actions: actions, onBlocked: onBlocked)
    }

    /// The guarded tools of an agent; see ``protectTools(_:actions:onBlocked:)``.
    public struct ProtectedTools<Value: Sendable>: Sendable {
        let client: ActPass
        let tools: [String: Tool<Value>]
        let actions: [String: ToolMapping]
        let onBlocked: (@Sendable (ActionBlockedError) async throws -> Value)?

        /// The names of the tools, sorted.
        public var names: [String] { tools.keys.sorted() }

        /// Calls the tool `name` with `args`, if its action is allowed.
        ///
        /// - Throws: The tool's own error. ``ActionBlockedError`` if the call is blocked and there is no `onBlocked`.
        ///   ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if an argument is invalid. `CancellationError`.
        public func call(_ name: String, _ args: JSONValue) async throws -> Value {
            guard let tool = tools[name], let mapping = actions[name] else {
                return try await blocked(ActionBlockedError(try enter { try nativeUnmappedTool(tool: name) }))
            }
            guard case .action(let action) = mapping else { return try await tool(args, nil) }
            let outcome = try await client.guard(try action.action(args), recordOutcome: action.recordOutcome) {
                try await tool(args, $0)
            }
            switch outcome {
            case .returned(let result, _): return result
            case .blocked(let error): return try await blocked(error)
            case .failed(let error, _): throw error
            }
        }

        /// The function of the tool `name`, for a framework that takes functions. An unknown name is denied when it is
        /// called.
        public subscript(name: String) -> @Sendable (_ args: JSONValue) async throws -> Value {
            { args in try await call(name, args) }
        }

        private func blocked(_ error: ActionBlockedError) async throws -> Value {
            guard let onBlocked else { throw error }
            return try await onBlocked(error)
        }
    }
}
