package org.actpass

import org.actpass.bridge.NativeCredential
import org.actpass.bridge.NativeDecision
import org.actpass.bridge.Secret
import org.actpass.bridge.nativeDecision

/** A decision of the gateway. Members without a property are in [members]. */
public class Decision internal constructor(native: NativeDecision) {
    /**
     * Parses a decision like a response of the gateway, for tests: `Decision("""{"decision": "deny"}""")`.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if it is not a decision.
     */
    @Throws(ActPassException::class)
    public constructor(json: String) : this(enter { nativeDecision(json.wellFormed("json")) })

    /** The value of the decision. */
    public val word: DecisionWord = DecisionWord.of(native.word)

    /** The stable, dotted reason, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the gateway sent none. */
    public val reasonCode: String = native.reasonCode

    /** The risk tier: `low`, `medium`, `high` or `critical`; null if the gateway sent none. */
    public val riskTier: String? = native.riskTier

    /** The explanation. */
    public val explain: Explain = Explain(native.summary, native.matchedRules, native.nextSteps)

    /** The ledger entry of this decision. */
    public val evidenceEventId: String? = native.evidenceEventId

    /** The id of the approval request, if the action needs approval. */
    public val approvalRequestId: String? = native.approvalRequestId

    /** The `x-request-id` of the gateway's response; null if it sent none. */
    public val requestId: String? = native.requestId

    /** The complete decision, a JSON object without the credential. */
    public val json: String = native.json

    /**
     * All members, including unknown ones: maps, lists, strings, booleans and null. Whole numbers are [Long] or, if too large,
     * [java.math.BigInteger]; other numbers are [java.math.BigDecimal]; all are exact.
     */
    public val members: Map<String, Any?> by lazy { members(json) }

    /** Returns a member by its wire name. */
    public operator fun get(name: String): Any? = members[name]

    /** Decision, reason code and summary: `deny (refund.too_large): the amount is over the limit`. */
    override fun toString(): String = "$word ($reasonCode)" + if (explain.summary.isEmpty()) "" else ": ${explain.summary}"

    override fun equals(other: Any?): Boolean = other is Decision && other.json == json

    override fun hashCode(): Int = json.hashCode()
}

/** The value of a decision. An unknown value blocks the action except in `monitor`. */
public sealed class DecisionWord(
    /** The value on the wire. */
    public val wire: String,
) {
    /** The action may run. */
    public data object Allow : DecisionWord("allow")

    /** The action may not run. */
    public data object Deny : DecisionWord("deny")

    /** The action needs human approval. */
    public data object RequireApproval : DecisionWord("require_approval")

    /** The tool's definition changed since it was approved. */
    public data object RequireToolReapproval : DecisionWord("require_tool_reapproval")

    /** Enforce would block the action; the request was in the mode `warn`. */
    public data object Warn : DecisionWord("warn")

    /** An unknown value. */
    public data class Other(private val word: String) : DecisionWord(word)

    /** The value on the wire. */
    final override fun toString(): String = wire

    internal companion object {
        fun of(word: String): DecisionWord =
            when (word) {
                "allow" -> Allow
                "deny" -> Deny
                "require_approval" -> RequireApproval
                "require_tool_reapproval" -> RequireToolReapproval
                "warn" -> Warn
                else -> Other(word)
            }
    }
}

/**
 * The explanation of a decision.
 *
 * @property summary a sentence; empty if the gateway sent none.
 * @property matchedRules the rules that matched; empty if the gateway sent none.
 * @property nextSteps what to do next, in sentences; empty if the gateway sent none.
 */
public data class Explain(
    public val summary: String,
    public val matchedRules: List<String>,
    public val nextSteps: List<String>,
)

/** A credential from the gateway's vault. Only [token] and [members] reveal it. */
public class Credential internal constructor(private val native: NativeCredential) {
    /** Creates a credential, for tests. */
    @JvmOverloads
    public constructor(token: String, expiresAt: String? = null) : this(
        NativeCredential(Secret(token), expiresAt, Secret(json("credential", mapOf("token" to token, "expires_at" to expiresAt)))),
    )

    /** The secret. */
    public val token: String get() = native.token.exposed

    /** When it expires, as sent by the gateway. */
    public val expiresAt: String? get() = native.expiresAt

    /** All members, including the token. */
    public val members: Map<String, Any?> get() = members(native.json.exposed)

    /** `[redacted]`; never the content. */
    override fun toString(): String = "Credential([redacted])"
}
