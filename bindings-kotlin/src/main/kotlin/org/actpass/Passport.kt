package org.actpass

import org.actpass.bridge.NativeIssued
import org.actpass.bridge.NativeVerification
import org.actpass.bridge.Secret

/** An issued passport. Only [token] and [members] reveal it. */
public class IssuedPassport internal constructor(private val native: NativeIssued) {
    /** Creates an instance, for tests. */
    @JvmOverloads
    public constructor(token: String, jti: String? = null, expiresAt: String? = null) : this(
        NativeIssued(Secret(token), Secret(json("passport", mapOf("token" to token, "jti" to jti, "expires_at" to expiresAt)))),
    )

    /** The passport, a compact JWS and a secret. Pass it as [Action.passport]. */
    public val token: String get() = native.token.exposed

    /** The passport's id (`ap_…`), for [ActPass.revokePassport]; null if the gateway sent none. */
    public val jti: String? get() = members["jti"] as? String

    /** When it expires, as sent by the gateway; null if the gateway sent none. */
    public val expiresAt: String? get() = members["expires_at"] as? String

    /** The URL of the gateway's public keys; null if the gateway sent none. */
    public val jwksUri: String? get() = members["jwks_uri"] as? String

    /** All members of the response by wire name, including the token. */
    public val members: Map<String, Any?> get() = members(native.json.exposed)

    /** `[redacted]`; never the content. */
    override fun toString(): String = "IssuedPassport([redacted])"
}

/** Whether a passport is valid. */
public class PassportVerification internal constructor(native: NativeVerification) {
    /** Creates an instance, for tests. */
    @JvmOverloads
    public constructor(isValid: Boolean, errors: List<String> = emptyList(), claims: Map<String, Any?>? = null) : this(
        NativeVerification(
            isValid,
            errors,
            json("verification", mapOf("valid" to isValid, "errors" to errors) + (claims?.let { mapOf("claims" to it) } ?: emptyMap())),
        ),
    )

    /** Whether it is valid. */
    public val isValid: Boolean = native.valid

    /** The codes of its errors, such as `passport.expired`. */
    public val errors: List<String> = native.errors

    /** The complete response, a JSON object. */
    public val json: String = native.json

    /** The claims, if the passport is valid. */
    public val claims: Map<String, Any?>? by lazy {
        @Suppress("UNCHECKED_CAST")
        members(json)["claims"] as? Map<String, Any?>
    }

    override fun toString(): String = "PassportVerification($json)"
}
