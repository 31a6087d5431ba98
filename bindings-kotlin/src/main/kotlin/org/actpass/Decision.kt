package org.actpass

import org.actpass.bridge.NativeCredential
import org.actpass.bridge.NativeDecision
import org.actpass.bridge.Secret
import org.actpass.bridge.nativeDecision

/** What the gateway decided, kept whole: the members that have no property of their own are in [members]. */
public class Decision internal constructor(native: NativeDecision) {
    /**
     * Reads a decision as an answer of a gateway is read, for tests: `Decision("""{"decision": "deny"}""")`.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] for what is not a decision.
     */
    @Throws(ActPassException::class)
    public constructor(json: String) : this(enter { nativeDecision(json.wellFormed("json")) })

    /** The decision itself. */
    public val word: DecisionWord = DecisionWord.of(native.word)

    /** The stable, dotted reason, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the gateway sent none. */
    public val reasonCode: String = native.reasonCode

    /** How much the action could damage: `low`, `medium`, `high` or `critical`; null if the gateway sent none. */
    public val riskTier: String? = native.riskTier

    /** Why it is as it is. */
    public val explain: Explain = Explain(native.summary, native.matchedRules, native.nextSteps)

    /** The ledger entry of this decision. */
    public val evidenceEventId: String? = native.evidenceEventId

    /** The approval that can be waited for. */
    public val approvalRequestId: String? = native.approvalRequestId

    /** The `x-request-id` of the gateway's answer; null if it sent none. */
    public val requestId: String? = native.requestId

    /** The whole decision as it came, a JSON object; a credential was taken out. */
    public val json: String = native.json

    /**
     * All members, also those that this version does not know: maps, lists, strings, booleans and null; a whole number is a [Long],
     * or a [java.math.BigInteger] where it does not fit, any other a [java.math.BigDecimal], so that nothing of it is lost.
     */
    public val members: Map<String, Any?> by lazy { members(json) }

    /** A member by its name on the wire. */
    public operator fun get(name: String): Any? = members[name]

    /** The word, the reason code and the summary: `deny (refund.too_large): the amount is over the limit`. */
    override fun toString(): String = "$word ($reasonCode)" + if (explain.summary.isEmpty()) "" else ": ${explain.summary}"

    override fun equals(other: Any?): Boolean = other is Decision && other.json == json

    override fun hashCode(): Int = json.hashCode()
}

/** The word of a decision. A gateway may send one that this version does not know; it runs nothing outside `monitor`. */
public sealed class DecisionWord(
    /** The word as it stands on the wire. */
    public val wire: String,
) {
    /** It may run. */
    public data object Allow : DecisionWord("allow")

    /** It may not. */
    public data object Deny : DecisionWord("deny")

    /** A person has to approve it first. */
    public data object RequireApproval : DecisionWord("require_approval")

    /** The tool's definition changed since it was approved. */
    public data object RequireToolReapproval : DecisionWord("require_tool_reapproval")

    /** Enforce would not allow it; the request was in the mode `warn`. */
    public data object Warn : DecisionWord("warn")

    /** Another word, as it came. */
    public data class Other(private val word: String) : DecisionWord(word)

    /** The word as it stands on the wire. */
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
 * Why a decision is as it is.
 *
 * @property summary a sentence; empty where there is none.
 * @property matchedRules the rules that matched; empty if the gateway sent none.
 * @property nextSteps what can be done about it, in sentences; empty if the gateway sent none.
 */
public data class Explain(
    public val summary: String,
    public val matchedRules: List<String>,
    public val nextSteps: List<String>,
)

/** A secret that the gateway's vault holds for a tool. It shows itself to nobody who does not ask for [token]. */
public class Credential internal constructor(private val native: NativeCredential) {
    /** Makes a credential, for tests. */
    @JvmOverloads
    public constructor(token: String, expiresAt: String? = null) : this(
        NativeCredential(Secret(token), expiresAt, Secret(json("credential", mapOf("token" to token, "expires_at" to expiresAt)))),
    )

    /** The secret. */
    public val token: String get() = native.token.exposed

    /** When it ends, as the gateway wrote it. */
    public val expiresAt: String? get() = native.expiresAt

    /** All members; the token is among them. */
    public val members: Map<String, Any?> get() = members(native.json.exposed)

    /** Nothing of it. */
    override fun toString(): String = "Credential([redacted])"
}
