import Foundation
internal import ActPassBridge

/// An action did not run, and why. ``ActPass/Outcome/unwrap()`` throws it.
///
/// Its description is the text for a model, because frameworks hand the texts of errors to models.
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
    /// The tool that was not used.
    public let tool: String
    /// The gateway's decision, or the one that the SDK made because the gate failed.
    public let decision: Decision
    /// How the gate failed; `nil` if the gateway decided.
    public let error: ActPassError?
    /// What to keep in order to run the action once a person has approved it; `nil` if there is nothing to wait for.
    public let approval: PendingApproval?
    /// For a model: what was not done and why, whether the same call can help, and what to do instead. It has one line and says
    /// nothing of how the gateway is reached or run.
    public let message: String
    /// For a developer: what failed, at which hop, and what to check. It has one line.
    public let developerText: String

    /// The decision's ``Decision/reasonCode``.
    public var code: String { decision.reasonCode }

    /// Whether the same call may succeed later without any change: the gate failed in a way that may pass. A decision is
    /// no such failure.
    public var isRetryable: Bool { error?.isRetryable ?? false }

    /// Makes one, for tests.
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
    }
}

extension ActionBlockedError: CustomStringConvertible, LocalizedError {
    /// The ``message``.
    public var description: String { message }

    /// The ``message``, for what shows errors to people.
    public var errorDescription: String? { message }
}
