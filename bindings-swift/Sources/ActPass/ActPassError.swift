import Foundation
internal import ActPassBridge

/// An error of the SDK. When in doubt, treat it as "do not execute".
///
/// It never contains the API key, a passport or a credential.
public struct ActPassError: Error, Sendable, Hashable {
    /// The kind of error.
    public let kind: Kind
    /// The stable error code, such as `actpass.unreachable`: branch and alert on it.
    public let code: String
    /// One line.
    public let message: String
    /// The call that failed, such as `preflight`; `nil` outside a call.
    public let operation: String?
    /// The HTTP status of a response outside 2xx.
    public let status: Int?
    /// The body of a response outside 2xx, with secrets redacted; `nil` without one, if it is larger than 64 KiB, or if
    /// it may still contain a secret.
    public let body: String?
    /// The `x-request-id` of the gateway's response.
    public let requestID: String?
    /// The value of the `Retry-After` header.
    public let retryAfter: Duration?
    /// Whether the same call may succeed later. The client has already used its retries.
    public let isRetryable: Bool
    let kindName: String

    /// The kinds of errors.
    public enum Kind: Sendable, Hashable, CaseIterable {
        /// An argument is invalid: not JSON, nested too deeply or empty. Nothing was sent or run.
        case argument
        /// 401: the API key is unknown.
        case authentication
        /// A setting of the client is missing or invalid. Nothing was sent.
        case config
        /// The gateway is unreachable: name resolution, connection or TLS failed, or the connection was reset.
        case connection
        /// A bug in the SDK; please report it.
        case `internal`
        /// 403: the API key lacks the permission.
        case permission
        /// 429 after the last retry.
        case rateLimit
        /// An invalid 2xx response: not JSON, truncated, too large, or without a required member.
        case response
        /// Any other status outside 2xx. Redirects are errors: the client never follows them.
        case status
        /// The deadline expired before the gateway responded.
        case timeout
    }
}

extension ActPassError {
    /// Creates an error, for tests.
    ///
    /// - Parameters:
    ///   - kind: The kind of error; it determines the ``code``.
    ///   - message: One line.
    ///   - operation: The call that failed.
    ///   - status: The HTTP status of a response outside 2xx.
    ///   - requestID: The `x-request-id` of the response.
    ///   - retryAfter: The value of the `Retry-After` header.
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
    /// One line: the call, if any, and the problem.
    public var description: String { message }

    /// The same text, for user interfaces.
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
