import Foundation
internal import ActPassBridge

/// An action did not run. ``ActPass/Outcome/unwrap()`` throws it.
///
/// ```swift
/// import ActPass
///
/// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
/// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
/// do {
///     let receipt = try await actpass.guard(action) { _ in "refunded" }.unwrap()
///     print(receipt)
/// } catch let blocked as ActionBlocked {
///     print(blocked.decision.reasonCode, blocked.approval?.id ?? "no approval to wait for")
/// }
/// ```
public struct ActionBlocked: Error, Sendable, Hashable {
    /// The tool that was not used.
    public let tool: String
    /// The gateway's decision, or the one that the SDK made because the gate failed.
    public let decision: Decision
    /// How the gate failed; `nil` if the gateway decided.
    public let error: ActPassError?
    /// What to keep in order to run the action once a person has approved it; `nil` if there is nothing to wait for.
    public let approval: PendingApproval?

    /// Makes one, for tests.
    public init(tool: String, decision: Decision, error: ActPassError? = nil, approval: PendingApproval? = nil) {
        self.tool = tool
        self.decision = decision
        self.error = error
        self.approval = approval
    }

    /// Whether the same call may succeed later without any change: the gate failed in a way that may pass. A decision is
    /// no such failure.
    public var isRetryable: Bool { error?.isRetryable ?? false }
}

extension ActionBlocked: CustomStringConvertible, LocalizedError {
    /// One line: the tool, the decision, its reason code and why.
    public var description: String {
        nativeBlockedText(
            tool: tool, word: decision.word.rawValue, reasonCode: decision.reasonCode,
            why: error?.message ?? decision.explain.summary)
    }

    /// The same, for what shows errors to people.
    public var errorDescription: String? { description }
}
