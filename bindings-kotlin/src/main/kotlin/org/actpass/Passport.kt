package org.actpass

import org.actpass.bridge.NativeIssued
import org.actpass.bridge.NativeVerification
import org.actpass.bridge.Secret

/** A passport that was issued. It shows itself to nobody who does not ask for [token]. */
public class IssuedPassport internal constructor(private val native: NativeIssued) {
    /** Makes one, for tests. */
    @JvmOverloads
    public constructor(token: String, jti: String? = null, expiresAt: String? = null) : this(
        NativeIssued(Secret(token), Secret(json("passport", mapOf("token" to token, "jti" to jti, "expires_at" to expiresAt)))),
    )

    /** The passport itself, a compact JWS; a secret. Give it to [Action.passport]. */
    public val token: String get() = native.token.exposed

    /** The passport's id (`ap_…`), by which [ActPass.revokePassport] knows it; null if the gateway sent none. */
    public val jti: String? get() = members["jti"] as? String

    /** When it expires, as the gateway wrote it; null if the gateway sent none. */
    public val expiresAt: String? get() = members["expires_at"] as? String

    /** Where the gateway's public keys are; null if the gateway sent none. */
    public val jwksUri: String? get() = members["jwks_uri"] as? String

    /** All members of the answer, by the names of the wire; the token is among them. */
    public val members: Map<String, Any?> get() = members(native.json.exposed)

    /** Nothing of it. */
    override fun toString(): String = "IssuedPassport([redacted])"
}

/** Whether a passport is valid. */
public class PassportVerification internal constructor(native: NativeVerification) {
    /** Makes one, for tests. */
    @JvmOverloads
    public constructor(isValid: Boolean, errors: List<String> = emptyList(), claims: Map<String, Any?>? = null) : this(
        NativeVerification(
            isValid,
            errors,
            json("verification", mapOf("valid" to isValid, "errors" to errors) + (claims?.let { mapOf("claims" to it) } ?: emptyMap())),
        ),
    )

    /** Whether it is. */
    public val isValid: Boolean = native.valid

    /** What is wrong with it, codes such as `passport.expired`. */
    public val errors: List<String> = native.errors

    /** The whole answer, a JSON object. */
    public val json: String = native.json

    /** What the passport says, if it is valid. */
    public val claims: Map<String, Any?>? by lazy {
        @Suppress("UNCHECKED_CAST")
        members(json)["claims"] as? Map<String, Any?>
    }

    override fun toString(): String = "PassportVerification($json)"
}
