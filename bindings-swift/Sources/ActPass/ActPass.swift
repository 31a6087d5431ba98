package import ActPassBridge
internal import ActPassSecret

/// Client of an ActPass gateway: authorizes every action of an agent before it runs.
///
/// ``guard(_:recordOutcome:isolation:execute:)`` requests a decision about an action and runs your closure only if the
/// decision allows it. After a denial, a pending approval, a changed tool definition or an unreachable gateway, the
/// closure does not run.
///
/// ```swift
/// import ActPass
///
/// func refund(_ charge: String, _ cents: Int, credential: Credential?) async throws -> String {
///     "refunded \(cents) of \(charge)"
/// }
///
/// let actpass = try ActPass(apiKey: "apk_dev", agentID: "support_agent", baseURL: "http://127.0.0.1:8787")
/// let outcome = try await actpass.guard(
///     Action(goal: "resolve_refund_request", tool: "stripe.refund.create", resource: "stripe:charge:ch_123",
///            args: ["amount": 4900, "currency": "usd"])
/// ) { context in
///     try await refund("ch_123", 4900, credential: context.credential)
/// }
/// switch outcome {
/// case .returned(let receipt, _): print(receipt)
/// case .blocked(let blocked): print(blocked.code)
/// case .failed(let error, _): throw error
/// }
/// ```
///
/// ``Outcome/unwrap()`` returns the result or throws.
///
/// Create one client and share it: concurrent calls share its pooled connections. Cancelling a task ends its call
/// immediately with `CancellationError`, and nothing runs.
///
/// If another module has a type of the same name, qualify the types of this module with the client: `ActPass.Action`.
public final class ActPass: Sendable {
    let native: NativeClient
    let family: Family
    /// The gateway's URL, without a trailing slash.
    public let baseURL: String
    /// The agent's name.
    public let agentID: String

    /// Creates a client. Sends nothing and starts no thread.
    ///
    /// - Parameters:
    ///   - apiKey: The API key, which is the client's identity: `apk_…` or `apdv_…`. Default: the environment variable
    ///     `ACTPASS_API_KEY`.
    ///   - tenantID: The tenant: a routing hint that the gateway does not trust.
    ///   - agentID: The agent's name. Default: `sdk`.
    ///   - baseURL: The gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else the hosted
    ///     gateway. Plain `http` is accepted for loopback addresses only.
    ///   - timeout: The total deadline of a call, including retries and backoff; above zero, at most one day. Default:
    ///     30 seconds.
    ///   - connectTimeout: The deadline of one connection attempt. Default: 5 seconds, or `timeout` if shorter.
    ///   - maxRetries: The maximum number of retries of a call, 0 to 10. A call that is not idempotent is retried only
    ///     if the gateway certainly did not process it. Default: 2.
    ///   - circuitFailures: Number of consecutive calls that must fail to reach the gateway before the ``circuit``
    ///     opens; 0 disables it. While open, calls fail immediately with `actpass.unreachable` and a
    ///     ``ActPassError/retryAfter``. Default: 5.
    ///   - mode: The default mode of actions. No environment variable changes it. Default: enforce.
    ///   - ca: Additional trusted CA certificates, in PEM.
    ///   - approvalKeys: The passkeys that must sign approvals, as JSON text with `rp_id`, `origins` and `keys`. An
    ///     approved action without a valid signature is blocked (`actpass.approval_unsigned`). Default: none.
    ///   - dpopKey: The private key that the API key is bound to (DPoP, RFC 9449), P-256 or Ed25519 in PKCS#8 PEM; see
    ///     ``dpopThumbprint(_:)``. Default: the file in the environment variable `ACTPASS_DPOP_KEY_FILE`, else none.
    ///   - dangerAllowInsecureHTTP: Permits plain `http` to other machines. Anyone on the network path can then read
    ///     the key and forge decisions.
    ///   - logger: Receives the log lines of this client's calls. Default: none.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/config``: a setting is missing or invalid; the
    ///   message names it.
    public convenience init(
        apiKey: String? = nil,
        tenantID: String? = nil,
        agentID: String? = nil,
        baseURL: String? = nil,
        timeout: Duration = .seconds(30),
        connectTimeout: Duration? = nil,
        maxRetries: Int = 2,
        circuitFailures: Int = 5,
        mode: Mode = .enforce,
        ca: String? = nil,
        approvalKeys: String? = nil,
        dpopKey: String? = nil,
        dangerAllowInsecureHTTP: Bool = false,
        logger: Logger? = nil
    ) throws {
        let settings = NativeSettings(
            language: .swift,
            apiKey: apiKey.map(Secret.init),
            tenantId: tenantID,
            agentId: agentID,
            baseUrl: baseURL,
            timeout: timeout.inSeconds,
            connectTimeout: connectTimeout?.inSeconds,
            maxRetries: Int64(maxRetries),
            circuitFailures: Int64(circuitFailures),
            mode: mode.native,
            ca: ca,
            approvalKeys: approvalKeys,
            dpopKey: dpopKey.map(Secret.init),
            dangerAllowInsecureHttp: dangerAllowInsecureHTTP
        )
        try self.init(settings, logger: logger, script: nil)
    }

    /// Creates a client of a scripted gateway, for `ActPassTesting`.
    package convenience init(
        script: NativeScript, agentID: String, timeout: Duration, mode: Mode, logger: Logger?
    ) throws {
        let settings = NativeSettings(
            language: .swift, apiKey: Secret("apk_scripted"), tenantId: nil, agentId: agentID,
            baseUrl: "http://127.0.0.1", timeout: timeout.inSeconds, connectTimeout: nil, maxRetries: 0,
            circuitFailures: 0, mode: mode.native, ca: nil, approvalKeys: nil, dpopKey: nil,
            dangerAllowInsecureHttp: false)
        try self.init(settings, logger: logger, script: script)
    }

    /// Creates a client of a gateway or of a scripted gateway.
    private init(_ settings: NativeSettings, logger: Logger?, script: NativeScript?) throws {
        let native = try enter {
            try NativeClient(
                settings: settings, logger: logger.map(LogBridge.init), logLevel: logger?.level.native ?? .info,
                script: script)
        }
        self.native = native
        self.family = Family()
        self.baseURL = try enter { try native.baseUrl() }
        self.agentID = try enter { try native.agentId() }
    }

    private init(_ other: ActPass, native: NativeClient) {
        self.native = native
        family = other.family
        baseURL = other.baseURL
        agentID = other.agentID
    }

    /// Returns a client whose calls are part of a trace and send it to the gateway. Connections and settings are
    /// shared.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// let outcome = try await actpass.inTrace(traceparent).guard(action) { _ in "refunded" }
    /// print(outcome)
    /// ```
    ///
    /// - Parameter traceparent: The trace in W3C Trace Context format, version 00:
    ///   `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``: the trace is malformed.
    public func inTrace(_ traceparent: String) throws -> ActPass {
        ActPass(self, native: try enter { try native.inTrace(traceparent: traceparent) })
    }

    /// Returns a client with other limits that shares this client's connections and circuit breaker.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", baseURL: "http://127.0.0.1:8787")
    /// let action = Action(goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])
    /// let decision = try await actpass.withOptions(timeout: .seconds(2), maxRetries: 0).preflight(action)
    /// print(decision)
    /// ```
    ///
    /// - Parameters:
    ///   - timeout: The total deadline of a call, including retries and backoff; above zero, at most one day. Default:
    ///     this client's.
    ///   - maxRetries: The maximum number of retries, 0 to 10. Default: this client's.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``: a limit is invalid; the message names it.
    public func withOptions(timeout: Duration? = nil, maxRetries: Int? = nil) throws -> ActPass {
        let (seconds, retries) = (timeout?.inSeconds, maxRetries.map(Int64.init))
        return ActPass(self, native: try enter { try native.withOptions(timeout: seconds, maxRetries: retries) })
    }

    /// State of the circuit breaker.
    ///
    /// The circuit opens after `circuitFailures` consecutive calls that could not reach the gateway, first for about a
    /// second, then twice as long after each failed probe, up to 30 seconds.
    public var circuit: Circuit {
        switch try? native.circuit() {
        case .closed, nil: .closed
        case .halfOpen: .halfOpen
        case .open(let seconds): .open(retryAfter: .seconds(seconds))
        }
    }

    /// State of the circuit breaker.
    public enum Circuit: Sendable, Hashable {
        /// Calls go to the gateway.
        case closed
        /// One call probes the gateway; the others fail immediately.
        case halfOpen
        /// Calls fail immediately, until this duration has passed.
        case open(retryAfter: Duration)
    }

    /// Requests a decision without running anything.
    ///
    /// - Returns: The decision. A 401 or 403 response whose body is a decision other than `allow` counts as a decision.
    /// - Throws: ``ActPassError`` if the request failed; its ``ActPassError/kind`` and ``ActPassError/code`` name the
    ///   cause. `CancellationError`.
    public func preflight(_ action: Action) async throws -> Decision {
        let (native, asked) = (native, bound.completing(action).native)
        return Decision(try await call { try await native.preflight(action: asked, cancel: $0) })
    }
}

extension ActPass: CustomStringConvertible, CustomReflectable {
    /// The URL and the agent; no secrets.
    public var description: String { "ActPass(baseURL: \"\(baseURL)\", agentID: \"\(agentID)\")" }

    /// The same as ``description``, for debuggers.
    public var customMirror: Mirror { Mirror(self, children: ["baseURL": baseURL, "agentID": agentID]) }
}
