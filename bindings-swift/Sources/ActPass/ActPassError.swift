import Foundation
internal import ActPassBridge

/// What went wrong at the gate, or on the way to it. When in doubt, take it for "do not execute".
///
/// Nothing in it shows the API key, a passport or a credential.
public struct ActPassError: Error, Sendable, Hashable {
    /// What kind of thing went wrong.
    public let kind: Kind
    /// The stable name of what happened, such as `actpass.unreachable`: branch and alert on it.
    public let code: String
    /// One line.
    public let message: String
    /// The call that failed, such as `preflight`; `nil` before there was one.
    public let operation: String?
    /// The HTTP status of an answer outside 2xx.
    public let status: Int?
    /// The text of an answer outside 2xx, every secret taken out; `nil` where there was none, where it was larger than
    /// 64 KiB, or where a secret in it could not be ruled out.
    public let body: String?
    /// The `x-request-id` that the gateway gave the call.
    public let requestID: String?
    /// How long the gateway asked to be left alone.
    public let retryAfter: Duration?
    /// Whether the same call may succeed later. The client has already retried what it could.
    public let isRetryable: Bool
    let kindName: String

    /// The kinds of errors.
    public enum Kind: Sendable, Hashable, CaseIterable {
        /// An argument cannot be sent: not JSON, nested too deep, empty where something is needed. Nothing was sent or run.
        case argument
        /// 401: the gateway does not know the API key.
        case authentication
        /// A setting of the client is missing or wrong. Nothing was sent.
        case config
        /// The gateway could not be reached: name, connection, TLS, or a connection that was reset.
        case connection
        /// A defect of the SDK; please report it.
        case `internal`
        /// 403: the API key may not do this.
        case permission
        /// 429, still so after the last retry.
        case rateLimit
        /// A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold.
        case response
        /// Any other status outside 2xx. Redirects count as such: they are never followed.
        case status
        /// The deadline passed before there was an answer.
        case timeout
    }
}

extension ActPassError {
    /// Makes an error, for tests.
    ///
    /// - Parameters:
    ///   - kind: What kind of thing went wrong; ``code`` follows from it.
    ///   - message: One line.
    ///   - operation: The call that failed.
    ///   - status: The HTTP status of an answer outside 2xx.
    ///   - requestID: The `x-request-id` of the answer.
    ///   - retryAfter: How long the gateway asked to wait.
    public init(
        _ kind: Kind, _ message: String, operation: String? = nil, status: Int? = nil, requestID: String? = nil,
        retryAfter: Duration? = nil
    ) {
        let failure = nativeFailure(kind: kind.native, text: message)
        self.init(
            kind: kind, code: failure.code, message: message, operation: operation, status: status, body: nil,
            requestID: requestID, retryAfter: retryAfter, isRetryable: failure.retryable, kindName: failure.kindName)
    }
}

extension ActPassError: CustomStringConvertible, LocalizedError {
    /// One line: the call, if there was one, and what went wrong.
    public var description: String { message }

    /// The same, for what shows errors to people.
    public var errorDescription: String? { message }
}

extension ActPassError {
    init(_ failure: NativeFailure) {
        self.init(
            kind: Kind(failure.kind),
            code: failure.code,
            message: nativeMessage(failure: failure, language: .swift),
            operation: failure.operation,
            status: failure.status.map(Int.init),
            body: failure.body,
            requestID: failure.requestId,
            retryAfter: failure.retryAfter.map { .seconds($0) },
            isRetryable: failure.retryable,
            kindName: failure.kindName
        )
    }
}

extension ActPassError.Kind {
    var native: NativeErrorKind {
        switch self {
        case .argument: .argument
        case .authentication: .authentication
        case .config: .config
        case .connection: .connection
        case .internal: .internal
        case .permission: .permission
        case .rateLimit: .rateLimit
        case .response: .response
        case .status: .status
        case .timeout: .timeout
        }
    }

    init(_ kind: NativeErrorKind) {
        switch kind {
        case .argument: self = .argument
        case .authentication: self = .authentication
        case .config: self = .config
        case .connection: self = .connection
        case .internal: self = .internal
        case .permission: self = .permission
        case .rateLimit: self = .rateLimit
        case .response: self = .response
        case .status: self = .status
        case .timeout: self = .timeout
        }
    }
}
