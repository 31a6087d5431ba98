package import ActPassBridge
internal import ActPassSecret

/// A client of an ActPass gateway: an agent acts only when it may.
///
/// ``guard(_:recordOutcome:isolation:execute:)`` asks the gateway about an action and runs your closure only when the
/// answer allows it. A denial, a pending approval, a tool that changed, a gateway that cannot be reached: the closure does
/// not run.
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
/// ``Outcome/unwrap()`` gives the value or throws.
///
/// One client serves many tasks at once; its calls share their connections. Cancelling a task ends its call at once, and
/// nothing runs: the call throws `CancellationError`.
///
/// The types of this module can be named through the client as well, as in `ActPass.Action`, where another module has a
/// type of the same name.
public final class ActPass: Sendable {
    let native: NativeClient
    /// The gateway's URL, without a trailing slash.
    public let baseURL: String
    /// The agent's name.
    public let agentID: String

    /// Makes a client. Nothing is sent, and no thread is started.
    ///
    /// - Parameters:
    ///   - apiKey: The key, which is the identity: `apk_…` or `apdv_…`. Without one, the environment variable
    ///     `ACTPASS_API_KEY` holds it.
    ///   - tenantID: The tenant, a routing hint that the gateway does not trust.
    ///   - agentID: The agent's name; `sdk` if there is none.
    ///   - baseURL: The gateway's URL. Without one, the environment variable `ACTPASS_API_BASE_URL` holds it; otherwise it is
    ///     that of the hosted gateway. Plain `http` is accepted to this machine only.
    ///   - timeout: The total deadline of a call, retries and waits included; above zero, one day at most.
    ///   - connectTimeout: The longest that one attempt may take to connect; 5 seconds, or `timeout` if that is shorter.
    ///   - maxRetries: How often a call is tried again at most, 0 to 10. Calls that are not safe to repeat are retried only
    ///     where the gateway certainly did not take them.
    ///   - circuitFailures: How many calls in a row must fail to reach the gateway for the ``circuit`` to open; 0 turns that
    ///     off. While it is open, calls fail at once as `actpass.unreachable`, with a ``ActPassError/retryAfter``.
    ///   - mode: The mode of actions that name none. Nothing in the environment can change it.
    ///   - ca: Certificates of authorities to trust besides the system's, in PEM.
    ///   - dangerAllowInsecureHTTP: Permits plain `http` to another machine, where everyone on the way can read the key and
    ///     forge decisions.
    ///   - logger: Takes the log lines of this client's calls; nobody if not given.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/config``, which names the setting and what was expected.
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
            dangerAllowInsecureHttp: dangerAllowInsecureHTTP
        )
        try self.init(settings, logger: logger, script: nil)
    }

    /// A client of a script, for `ActPassTesting`.
    package convenience init(
        script: NativeScript, agentID: String, timeout: Duration, mode: Mode, logger: Logger?
    ) throws {
        let settings = NativeSettings(
            language: .swift, apiKey: Secret("apk_scripted"), tenantId: nil, agentId: agentID,
            baseUrl: "http://127.0.0.1", timeout: timeout.inSeconds, connectTimeout: nil, maxRetries: 0,
            circuitFailures: 0, mode: mode.native, ca: nil, dangerAllowInsecureHttp: false)
        try self.init(settings, logger: logger, script: script)
    }

    /// A client of a gateway, or of a script that answers in its place.
    private init(_ settings: NativeSettings, logger: Logger?, script: NativeScript?) throws {
        let native = try enter {
            try NativeClient(
                settings: settings, logger: logger.map(LogBridge.init), logLevel: logger?.level.native ?? .info,
                script: script)
        }
        self.native = native
        self.baseURL = try enter { try native.baseUrl() }
        self.agentID = try enter { try native.agentId() }
    }

    private init(_ other: ActPass, native: NativeClient) {
        self.native = native
        baseURL = other.baseURL
        agentID = other.agentID
    }

    /// The same client, whose calls are part of a trace: they carry it to the gateway. All else is shared.
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
    /// - Parameter traceparent: The trace as W3C Trace Context (version 00) writes it:
    ///   `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` where it is not written so.
    public func inTrace(_ traceparent: String) throws -> ActPass {
        ActPass(self, native: try enter { try native.inTrace(traceparent: traceparent) })
    }

    /// The same client, whose calls have other limits; it shares the connections and the circuit with this one.
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
    ///   - timeout: The total deadline of a call, retries and waits included; above zero, one day at most. That of this
    ///     client if not given.
    ///   - maxRetries: How often a call is tried again at most, 0 to 10. That of this client if not given.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``, which names the limit and what was expected.
    public func withOptions(timeout: Duration? = nil, maxRetries: Int? = nil) throws -> ActPass {
        let (seconds, retries) = (timeout?.inSeconds, maxRetries.map(Int64.init))
        return ActPass(self, native: try enter { try native.withOptions(timeout: seconds, maxRetries: retries) })
    }

    /// Whether calls go to the gateway.
    ///
    /// The circuit opens after `circuitFailures` calls in a row that could not reach the gateway, for about a second, and twice
    /// as long each time that the gateway still cannot be reached, up to 30 seconds.
    public var circuit: Circuit {
        switch try? native.circuit() {
        case .closed, nil: .closed
        case .halfOpen: .halfOpen
        case .open(let seconds): .open(retryAfter: .seconds(seconds))
        }
    }

    /// Whether calls go to the gateway.
    public enum Circuit: Sendable, Hashable {
        /// They do.
        case closed
        /// One call tries whether the gateway is back; the others fail at once.
        case halfOpen
        /// They fail at once, for this long still.
        case open(retryAfter: Duration)
    }

    /// Asks for a decision, and runs nothing.
    ///
    /// - Returns: The decision. A 401 or 403 that explains itself with a decision other than `allow`
    ///   is that decision.
    /// - Throws: ``ActPassError``: there is no decision, and its ``ActPassError/kind`` and ``ActPassError/code`` say why;
    ///   `CancellationError`.
    public func preflight(_ action: Action) async throws -> Decision {
        let (native, asked) = (native, action.native)
        return Decision(try await call { try await native.preflight(action: asked, cancel: $0) })
    }
}

extension ActPass: CustomStringConvertible, CustomReflectable {
    /// Where it leads, and nothing secret.
    public var description: String { "ActPass(baseURL: \"\(baseURL)\", agentID: \"\(agentID)\")" }

    /// What a debugger shows: the same as ``description``.
    public var customMirror: Mirror { Mirror(self, children: ["baseURL": baseURL, "agentID": agentID]) }
}
