internal import ActPassBridge
internal import ActPassSecret

extension ActPass {
    /// Returns the SHA-256, in hex, of the canonical JSON (RFC 8785) of `payload`.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// print(try ActPass.hashPayload(["currency": "usd", "amount": 4900]))
    /// // b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2
    /// ```
    ///
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if it has no canonical form: NaN, an
    ///   integer beyond ±(2^53 - 1).
    public static func hashPayload(_ payload: JSONValue) throws -> String {
        try enter { try nativeHashPayload(payload: payload.json) }
    }

    /// Overload for `Encodable` values.
    @_disfavoredOverload
    public static func hashPayload(_ payload: some Encodable) throws -> String {
        try hashPayload(try JSONValue(encoding: payload, as: "payload"))
    }

    /// Returns the HMAC-SHA256 of the canonical JSON of `payload` under `secret`, in hex.
    ///
    /// - Throws: As ``hashPayload(_:)-(JSONValue)``.
    public static func signPayload(secret: String, payload: JSONValue) throws -> String {
        try enter { try nativeSignPayload(secret: Secret(secret), payload: payload.json) }
    }

    /// Overload for `Encodable` values.
    @_disfavoredOverload
    public static func signPayload(secret: String, payload: some Encodable) throws -> String {
        try signPayload(secret: secret, payload: try JSONValue(encoding: payload, as: "payload"))
    }

    /// Returns the thumbprint of a DPoP key, to which the gateway binds an API key: the SHA-256 of the public key
    /// (RFC 7638) in base64url, 43 characters.
    ///
    /// - Parameter dpopKey: The setting `dpopKey` of a client.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if it is not a P-256 or Ed25519 private
    ///   key in PKCS#8 PEM.
    public static func dpopThumbprint(_ dpopKey: String) throws -> String {
        try enter { try nativeDpopThumbprint(dpopKey: Secret(dpopKey)) }
    }
}
