/// The goal, user, passport, mode and audience of a scope.
struct Bound: Sendable {
    @TaskLocal static var scopes: [ObjectIdentifier: Bound] = [:]

    var goal: String?
    var userID: String?
    var passport: String?
    var mode: ActPass.Mode?
    var audience: String?

    /// The action with the members of this scope that it does not set.
    func completing(_ action: ActPass.Action) -> ActPass.Action {
        var action = action
        // A tool without its own goal.
        if action.goal.isEmpty { action.goal = goal ?? "" }
        action.userID = action.userID ?? userID
        action.passport = action.passport ?? passport
        action.mode = action.mode ?? mode
        action.audience = action.audience ?? audience
        return action
    }
}

/// Identifies a client and the clients derived from it.
final class Family: Sendable {}

extension ActPass {
    /// Runs `operation` with defaults for the actions of this client, and of clients derived from it.
    ///
    /// The defaults apply to all calls in the current task and its child tasks: ``guard(_:recordOutcome:isolation:execute:)``,
    /// ``authorize(_:recordOutcome:)``, ``preflight(_:)``, protected tools, and `resume` for the passport. An action or a
    /// ``ToolAction`` that sets a member keeps it. An inner scope replaces only the members that it sets.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// try await actpass.bind(userID: "u_7") {
    ///     print(try await actpass.guard(action) { _ in "refunded" })
    /// }
    /// ```
    ///
    /// - Parameters:
    ///   - goal: The agent's goal, for tools without their own.
    ///   - userID: The user on whose behalf the agent acts.
    ///   - passport: The passport that the actions spend.
    ///   - mode: The mode.
    ///   - audience: The service to which the passport is presented.
    ///   - isolation: The actor that `operation` runs on. Default: the caller's.
    ///   - operation: The code of the scope.
    /// - Returns: The result of `operation`.
    public func bind<Value>(
        goal: String? = nil,
        userID: String? = nil,
        passport: String? = nil,
        mode: Mode? = nil,
        audience: String? = nil,
        isolation: isolated (any Actor)? = #isolation,
        operation: () async throws -> Value
    ) async rethrows -> Value {
        var scopes = Bound.scopes
        let outer = bound
        scopes[ObjectIdentifier(family)] = Bound(
            goal: goal ?? outer.goal, userID: userID ?? outer.userID, passport: passport ?? outer.passport,
            mode: mode ?? outer.mode, audience: audience ?? outer.audience)
        return try await Bound.$scopes.withValue(scopes, operation: operation, isolation: isolation)
    }

    /// The defaults of the current scope.
    var bound: Bound { Bound.scopes[ObjectIdentifier(family)] ?? Bound() }
}
