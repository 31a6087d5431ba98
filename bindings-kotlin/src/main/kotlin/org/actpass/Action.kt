package org.actpass

import kotlin.time.Duration
import kotlin.time.toKotlinDuration
import org.actpass.bridge.NativeAction
import org.actpass.bridge.NativeMode
import org.actpass.bridge.Secret

/** How a guard treats the gateway's answer. */
public enum class Mode(
    /** The mode's name on the wire. */
    public val wire: String,
) {
    /** Runs on `allow` only. The default. */
    ENFORCE("enforce"),

    /** As enforce, and only when the gateway recorded its decision and said which request it answers. */
    STRICT("strict"),

    /** Runs on `allow` and on `warn`, with which the gateway answers where enforce would not allow. */
    WARN("warn"),

    /** Observes: runs always, and reports what enforce would have decided. */
    MONITOR("monitor"),
    ;

    internal val native: NativeMode
        get() =
            when (this) {
                ENFORCE -> NativeMode.ENFORCE
                STRICT -> NativeMode.STRICT
                WARN -> NativeMode.WARN
                MONITOR -> NativeMode.MONITOR
            }

    /** The mode's name on the wire. */
    override fun toString(): String = wire
}

/**
 * What an agent is about to do, and why. From Java: [Action.builder].
 *
 * Whether it can be sent is checked when it is: a call with arguments that are not JSON, are nested more than 127 deep, or hold NaN
 * throws an [ActPassException] of the kind [ActPassException.Kind.ARGUMENT], and nothing is sent or run.
 *
 * @property goal what the agent wants to achieve.
 * @property tool the tool that it is about to use.
 * @property resource what the tool acts on, such as `stripe:charge:ch_123`.
 * @property args the tool's arguments: maps with strings as keys, lists, sets, arrays, strings, numbers (unsigned ones, [java.math.BigDecimal]
 *   and [java.math.BigInteger] among them), booleans and null. An enum is its name; a [java.util.UUID] or URI its text; what `java.time`
 *   and `kotlin.time` have for points in time, dates and durations its ISO 8601 text. For an object of another class use [parseArgs].
 * @property userId on whose behalf the agent acts.
 * @property passport the passport that the action spends.
 * @property mode the mode; that of the client if there is none.
 * @property idempotencyKey what makes a repetition of this request known as one; a fresh UUIDv7 for each call, kept on its retries,
 *   if there is none.
 * @property audience to whom the passport is shown.
 * @property approvalRequestId the approved request that the action spends.
 * @property toolManifestHash the hash of the tool's definition as the agent sees it.
 * @property waitForApproval for how long a guard holds an action that needs an approval, until somebody decided; 30 days at most.
 *   Without it, such an action is reported as blocked at once. This time comes on top of the client's timeout, which is that of
 *   each request.
 */
public data class Action(
    public val goal: String,
    public val tool: String,
    public val resource: String = "",
    public val args: Map<String, Any?> = emptyMap(),
    public val userId: String? = null,
    public val passport: String? = null,
    public val mode: Mode? = null,
    public val idempotencyKey: String? = null,
    public val audience: String? = null,
    public val approvalRequestId: String? = null,
    public val toolManifestHash: String? = null,
    public val waitForApproval: Duration? = null,
) {
    /** Without the passport. */
    override fun toString(): String =
        "Action(goal=$goal, tool=$tool, resource=$resource, args=$args, userId=$userId, mode=$mode, " +
            "idempotencyKey=$idempotencyKey, audience=$audience, approvalRequestId=$approvalRequestId, " +
            "toolManifestHash=$toolManifestHash, waitForApproval=$waitForApproval)"

    internal fun native(): NativeAction =
        NativeAction(
            goal = goal.wellFormed("goal"),
            tool = tool.wellFormed("tool"),
            resource = resource.wellFormed("resource"),
            args = json("args", args),
            userId = userId?.wellFormed("user_id"),
            passport = passport?.wellFormed("passport")?.let(::Secret),
            mode = mode?.native,
            idempotencyKey = idempotencyKey?.wellFormed("idempotency_key"),
            audience = audience?.wellFormed("audience"),
            approvalRequestId = approvalRequestId?.wellFormed("approval_request_id"),
            toolManifestHash = toolManifestHash?.wellFormed("tool_manifest_hash"),
            waitForApproval = waitForApproval?.inSeconds,
        )

    public companion object {
        /**
         * A builder, for Java.
         *
         * ```java
         * import java.util.Map;
         * import org.actpass.Action;
         *
         * public final class MakeAction {
         *     public static void main(String[] arguments) throws Exception {
         *         Action action = Action.builder("resolve_refund_request", "stripe.refund.create")
         *             .args(Map.of("amount", 4900, "currency", "usd"))
         *             .build();
         *         System.out.println(action);
         *     }
         * }
         * ```
         */
        @JvmStatic
        public fun builder(goal: String, tool: String): Builder = Builder(goal, tool)

        /**
         * Arguments from the text of a JSON object, as a JSON library writes it for a class of your own.
         *
         * ```kotlin
         * import org.actpass.Action
         *
         * fun main() {
         *     val action = Action("resolve_refund_request", "stripe.refund.create", args = Action.parseArgs("""{"amount": 4900}"""))
         *     println(action.args)
         * }
         * ```
         *
         * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] for what is not one JSON object.
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun parseArgs(json: String): Map<String, Any?> {
            @Suppress("UNCHECKED_CAST")
            return parse("args", json) as? Map<String, Any?> ?: throw argumentError("args", "expected an object")
        }
    }

    /** Makes an [Action], for Java. What is not set is left out. */
    public class Builder internal constructor(goal: String, tool: String) {
        private var action = Action(goal, tool)

        /** Sets [Action.resource]. */
        public fun resource(resource: String): Builder = set { copy(resource = resource) }

        /** Sets [Action.args]. */
        public fun args(args: Map<String, Any?>): Builder = set { copy(args = args) }

        /** Sets [Action.userId]. */
        public fun userId(userId: String?): Builder = set { copy(userId = userId) }

        /** Sets [Action.passport]. */
        public fun passport(passport: String?): Builder = set { copy(passport = passport) }

        /** Sets [Action.mode]. */
        public fun mode(mode: Mode?): Builder = set { copy(mode = mode) }

        /** Sets [Action.idempotencyKey]. */
        public fun idempotencyKey(key: String?): Builder = set { copy(idempotencyKey = key) }

        /** Sets [Action.audience]. */
        public fun audience(audience: String?): Builder = set { copy(audience = audience) }

        /** Sets [Action.approvalRequestId]. */
        public fun approvalRequestId(id: String?): Builder = set { copy(approvalRequestId = id) }

        /** Sets [Action.toolManifestHash]. */
        public fun toolManifestHash(hash: String?): Builder = set { copy(toolManifestHash = hash) }

        /** Sets [Action.waitForApproval]. */
        public fun waitForApproval(wait: java.time.Duration?): Builder = set { copy(waitForApproval = wait?.toKotlinDuration()) }

        /** The action. */
        public fun build(): Action = action

        private inline fun set(change: Action.() -> Action): Builder = apply { action = action.change() }
    }
}
