package org.actpass

import org.actpass.bridge.NativeIssued
import org.actpass.bridge.NativeVerification

/** A passport that was issued. It shows itself to nobody who does not ask for [token]. */
public class IssuedPassport internal constructor(private val native: NativeIssued) {
    /** The passport itself, a compact JWS; a secret. Give it to [Action.passport]. */
    public val token: String get() = native.token

    /** All members of the answer, such as `jwks_uri`, `jti` and `expires_at`; the token is among them. */
    public val members: Map<String, Any?> get() = members(native.json)

    /** Nothing of it. */
    override fun toString(): String = "IssuedPassport([redacted])"
}

/** Whether a passport is valid. */
public class PassportVerification internal constructor(native: NativeVerification) {
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
