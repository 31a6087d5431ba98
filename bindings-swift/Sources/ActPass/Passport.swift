internal import ActPassBridge
internal import ActPassSecret

extension ActPass {
    /// Issues a passport: a signed, short-lived, single-use token that limits an agent's requests.
    ///
    /// - Parameters:
    ///   - audience: The service to which the passport is presented, such as `mcp://stripe-production`.
    ///   - goal: The agent's goal.
    ///   - allowedTools: The tools that the passport allows.
    ///   - allowedResources: The resources that it allows. Default: none.
    ///   - resourceConstraints: Constraints on the arguments, a JSON object: `["max_amount": 10000, "currency":
    ///     "usd"]`.
    ///   - userID: The user on whose behalf the agent acts.
    ///   - ttlSeconds: Lifetime in seconds, 1 to 3600. Default: the gateway's.
    ///   - riskTier: `low`, `medium`, `high` or `critical`.
    ///   - approvalRequestID: An approved request. The passport is then valid for that action only and spends the
    ///     approval.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`. The call is not retried if the gateway
    ///   may have processed it.
    public func issuePassport(
        audience: String,
        goal: String,
        allowedTools: [String],
        allowedResources: [String] = [],
        resourceConstraints: JSONValue = [:],
        userID: String? = nil,
        ttlSeconds: Int? = nil,
        riskTier: String = "medium",
        approvalRequestID: String? = nil
    ) async throws -> IssuedPassport {
        let native = native
        let wanted = NativePassportRequest(
            audience: audience, goal: goal, allowedTools: allowedTools, allowedResources: allowedResources,
            resourceConstraints: resourceConstraints.json, userId: userID, riskTier: riskTier,
            ttlSeconds: ttlSeconds.map(Int64.init), approvalRequestId: approvalRequestID)
        return IssuedPassport(try await call { try await native.issuePassport(wanted: wanted, cancel: $0) })
    }

    /// Verifies a passport with the gateway.
    ///
    /// - Parameters:
    ///   - token: The passport.
    ///   - audience: The service that verifies it.
    ///   - agentID: The agent that it must be for. Default: any.
    ///   - userID: The user that it must be for. Default: any.
    ///   - currentToolManifestHash: The tool manifest hash that it must name. Default: any.
    ///   - policyHash: The policy hash that it must name. Default: any.
    /// - Returns: Whether it is valid. An invalid passport does not throw.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`.
    public func verifyPassport(
        _ token: String,
        audience: String,
        agentID: String? = nil,
        userID: String? = nil,
        currentToolManifestHash: String? = nil,
        policyHash: String? = nil
    ) async throws -> PassportVerification {
        let native = native
        let wanted = NativeVerifyRequest(
            token: Secret(token), audience: audience, agentId: agentID, userId: userID,
            currentToolManifestHash: currentToolManifestHash, policyHash: policyHash)
        return PassportVerification(try await call { try await native.verifyPassport(wanted: wanted, cancel: $0) })
    }

    /// Verifies a passport locally with the gateway's cached public keys.
    ///
    /// Checks the signature (EdDSA or ES256), issuer, audience, expiry and tenant, and the agent and user if given, with 10
    /// seconds of clock leeway. Revoked and spent passports are known only to the gateway. Keys are refetched
    /// after 10 minutes, and immediately for an unknown key id (at most once a second). If that fails, cached keys are
    /// used until they are one hour old.
    ///
    /// - Parameters:
    ///   - token: The passport.
    ///   - audience: The service that verifies it.
    ///   - issuer: The issuer that it must be from. Default: the key set's, else the ``baseURL``.
    ///   - agentID: The agent that it must be for. Default: any.
    ///   - userID: The user that it must be for. Default: any.
    ///   - tenantID: The tenant that it must be of. Default: the key set's, else this client's, else any.
    /// - Throws: ``ActPassError`` if no public keys are available; `CancellationError`. An invalid passport does not
    ///   throw.
    public func verifyPassportOffline(
        _ token: String,
        audience: String,
        issuer: String? = nil,
        agentID: String? = nil,
        userID: String? = nil,
        tenantID: String? = nil
    ) async throws -> PassportVerification {
        let native = native
        let wanted = NativeOfflineVerifyRequest(
            token: Secret(token), audience: audience, issuer: issuer, agentId: agentID, userId: userID,
            tenantId: tenantID)
        return PassportVerification(
            try await call { try await native.verifyPassportOffline(wanted: wanted, cancel: $0) })
    }

    /// Revokes the passport with the id `jti` (`ap_…`); the ledger records `reason`.
    ///
    /// - Returns: Whether it was revoked.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`.
    public func revokePassport(_ jti: String, reason: String? = nil) async throws -> Bool {
        let native = native
        return try await call { try await native.revokePassport(jti: jti, reason: reason, cancel: $0) }.revoked
    }

    /// An issued passport. Only ``token`` and ``members`` reveal it.
    public struct IssuedPassport: Sendable, Hashable, CustomStringConvertible {
        let hiddenToken: Secret
        let hiddenJSON: Secret

        /// The passport, a compact JWS and a secret. Pass it as ``Action/passport``.
        public var token: String { hiddenToken.exposed }
        /// The passport's id (`ap_…`), for ``ActPass/revokePassport(_:reason:)``; `nil` if the gateway sent none.
        public var jti: String? { members["jti"]?.stringValue }
        /// When it expires, as sent by the gateway; `nil` if the gateway sent none.
        public var expiresAt: String? { members["expires_at"]?.stringValue }
        /// The URL of the gateway's public keys; `nil` if the gateway sent none.
        public var jwksURI: String? { members["jwks_uri"]?.stringValue }
        /// All members of the response by wire name, including the token.
        public var members: [String: JSONValue] { JSONValue(checked: hiddenJSON.exposed).objectValue ?? [:] }
        /// `[redacted]`; never the content.
        public var description: String { "IssuedPassport([redacted])" }

        /// Creates an instance, for tests.
        public init(token: String, jti: String? = nil, expiresAt: String? = nil) {
            hiddenToken = Secret(token)
            hiddenJSON = Secret(
                JSONValue(["token": .string(token), "jti": .init(jti), "expires_at": .init(expiresAt)]).json)
        }

        init(_ native: NativeIssued) {
            hiddenToken = native.token
            hiddenJSON = native.json
        }
    }

    /// Whether a passport is valid.
    public struct PassportVerification: Sendable, Hashable {
        /// Whether it is valid.
        public let isValid: Bool
        /// The codes of its errors, such as `passport.expired`.
        public let errors: [String]
        /// The complete response, a JSON object.
        public let json: String

        /// Creates an instance, for tests.
        public init(isValid: Bool, errors: [String] = [], claims: JSONValue? = nil) {
            self.isValid = isValid
            self.errors = errors
            var members: JSONValue = ["valid": .bool(isValid), "errors": .init(errors)]
            members["claims"] = claims
            json = members.json
        }

        /// The claims, if the passport is valid.
        public var claims: [String: JSONValue]? { JSONValue(checked: json).objectValue?["claims"]?.objectValue }

        init(_ native: NativeVerification) {
            isValid = native.valid
            errors = native.errors
            json = native.json
        }
    }
}
