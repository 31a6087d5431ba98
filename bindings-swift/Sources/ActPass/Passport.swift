internal import ActPassBridge
internal import ActPassSecret

extension ActPass {
    /// Asks for a passport: signed leave to ask for certain actions for a few minutes, once.
    ///
    /// - Parameters:
    ///   - audience: Whom it is shown to, such as `mcp://stripe-production`.
    ///   - goal: What the agent is to achieve.
    ///   - allowedTools: The tools that it may ask for.
    ///   - allowedResources: The resources that it may ask for.
    ///   - resourceConstraints: Values that bound the arguments, a JSON object: `["max_amount": 10000, "currency": "usd"]`.
    ///   - userID: Who delegated.
    ///   - ttlSeconds: For how many seconds it holds; the gateway's default if not given.
    ///   - riskTier: `low`, `medium`, `high` or `critical`.
    ///   - approvalRequestID: The approval that it stands for: it is then for that one action, and using it spends the approval.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`. The call is not repeated where the gateway may have
    ///   taken it.
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

    /// Has the gateway verify a passport.
    ///
    /// - Parameters:
    ///   - token: The passport.
    ///   - audience: The service that verifies it.
    ///   - agentID: The agent that it must be for; any if not given.
    ///   - userID: The user that it must be for; any if not given.
    ///   - currentToolManifestHash: The tool manifest hash that it must name; any if not given.
    ///   - policyHash: The policy hash that it must name; any if not given.
    /// - Returns: Whether it is valid. One that is not throws nothing.
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

    /// Verifies a passport with the gateway's public keys, which are fetched once and kept.
    ///
    /// The signature (Ed25519), the issuer, the audience, the tenant and the time are checked, and the agent and the user if
    /// given. Clocks may differ by 10 seconds. That a passport was revoked or spent only the gateway knows. The keys are
    /// fetched again after 10 minutes, and for a key that is not among them (at most once a second); if that fails, those at
    /// hand serve until they are an hour old.
    ///
    /// - Parameters:
    ///   - token: The passport.
    ///   - audience: Whom it is shown to.
    ///   - issuer: Who must have issued it; the issuer that the key set names if not given, else the ``baseURL``.
    ///   - agentID: The agent that it must be made out to.
    ///   - userID: Who must have delegated.
    ///   - tenantID: The tenant that it must be of; that of the key set if not given, else that of this client, else any.
    /// - Throws: ``ActPassError`` where there are no keys to verify with; `CancellationError`. A passport that is not valid throws
    ///   nothing.
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

    /// Revokes the passport named `jti` (`ap_…`).
    ///
    /// - Returns: Whether it was.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`.
    public func revokePassport(_ jti: String, reason: String? = nil) async throws -> Bool {
        let native = native
        return try await call { try await native.revokePassport(jti: jti, reason: reason, cancel: $0) }.revoked
    }

    /// A passport that was issued. It shows itself to nobody who does not ask for ``token``.
    public struct IssuedPassport: Sendable, Hashable, CustomStringConvertible {
        let hiddenToken: Secret
        let hiddenJSON: Secret

        /// The passport itself, a compact JWS; a secret. Give it to ``Action/passport``.
        public var token: String { hiddenToken.exposed }
        /// The passport's id (`ap_…`), by which ``ActPass/revokePassport(_:reason:)`` knows it; `nil` if the gateway sent none.
        public var jti: String? { members["jti"]?.stringValue }
        /// When it expires, as the gateway wrote it; `nil` if the gateway sent none.
        public var expiresAt: String? { members["expires_at"]?.stringValue }
        /// Where the gateway's public keys are; `nil` if the gateway sent none.
        public var jwksURI: String? { members["jwks_uri"]?.stringValue }
        /// All members of the answer, in the wire's names; the token is among them.
        public var members: [String: JSONValue] { JSONValue(checked: hiddenJSON.exposed).objectValue ?? [:] }
        /// Nothing of it.
        public var description: String { "IssuedPassport([redacted])" }

        /// Makes one, for tests.
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
        /// Whether it is.
        public let isValid: Bool
        /// What is wrong with it, codes such as `passport.expired`.
        public let errors: [String]
        /// The whole answer, a JSON object.
        public let json: String

        /// Makes one, for tests.
        public init(isValid: Bool, errors: [String] = [], claims: JSONValue? = nil) {
            self.isValid = isValid
            self.errors = errors
            var members: JSONValue = ["valid": .bool(isValid), "errors": .init(errors)]
            members["claims"] = claims
            json = members.json
        }

        /// What the passport says, if it is valid.
        public var claims: [String: JSONValue]? { JSONValue(checked: json).objectValue?["claims"]?.objectValue }

        init(_ native: NativeVerification) {
            isValid = native.valid
            errors = native.errors
            json = native.json
        }
    }
}
