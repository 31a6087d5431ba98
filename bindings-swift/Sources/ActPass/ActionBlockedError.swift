import Foundation
internal import ActPassBridge

/// An action was blocked and did not run. ``ActPass/Outcome/unwrap()`` throws it.
///
/// Its description is written for a model, because frameworks pass error messages to models.
///
/// ```swift
/// import ActPass
///
/// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
/// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
/// do {
///     let receipt = try await actpass.guard(action) { _ in "refunded" }.unwrap()
///     print(receipt)
/// } catch let blocked as ActionBlockedError {
///     print(blocked.message, blocked.approval?.id ?? "no approval to wait for")
///     print(blocked.developerText)
/// }
/// ```
public struct ActionBlockedError: Error, Sendable, Hashable {
    /// The blocked tool.
    public let tool: String
    /// The gateway's decision, or the SDK's denial because the gate failed.
    public let decision: Decision
    /// The failure of the gate; `nil` if the gateway decided.
    public let error: ActPassError?
    /// Data for `resume` after a human approval; `nil` if no approval is pending.
    public let approval: PendingApproval?
    /// The message for a model: the blocked tool, the reason, whether to retry and what to do instead. One line, without
    /// infrastructure details.
    public let message: String
    /// The message for a developer: the failure with its context, and what to check. One line.
    public let developerText: String

    /// The decision's ``Decision/reasonCode``.
    public var code: String { decision.reasonCode }

    /// Whether the same call may succeed later unchanged, because the gate failed temporarily, or because a stop was
    /// issued between the decision and the run (`actpass.halted`). `false` for a decision of the gateway.
    public let isRetryable: Bool

    /// Creates an instance, for tests.
    public init(tool: String, decision: Decision, error: ActPassError? = nil, approval: PendingApproval? = nil) {
        let texts = nativeBlockTexts(
            tool: tool, decision: decision.json,
            failure: error.map { .init(kind: $0.kind.native, message: $0.message, retryable: $0.isRetryable) },
            approval: approval?.id)
        self.init(tool: tool, decision: decision, error: error, approval: approval, texts: texts)
    }

    init(_ native: NativeBlocked) {
        self.init(
            tool: native.tool, decision: Decision(native.decision), error: native.failure.map { ActPassError($0) },
            approval: native.approval.map(PendingApproval.init), texts: native.texts)
    }

    private init(
        tool: String, decision: Decision, error: ActPassError?, approval: PendingApproval?, texts: NativeBlockTexts
    ) {
        self.tool = tool
        self.decision = decision
        self.error = error
        self.approval = approval
        message = texts.model
        developerText = texts.developer
        isRetryable = texts.retryable
    }
}

extension ActionBlockedError: CustomStringConvertible, LocalizedError {
    /// The ``message``.
    public var description: String { message }

    /// The ``message``, for user interfaces.
    public var errorDescription: String? { message }
}
