package org.actpass

import kotlin.time.Duration
import kotlin.time.toKotlinDuration
import org.actpass.bridge.NativeAction
import org.actpass.bridge.NativeMode
import org.actpass.bridge.Secret

/** The guard's mode: the decisions on which an action runs. */
public enum class Mode(
    /** The wire name of the mode. */
    public val wire: String,
) {
    /** Runs on `allow` only. The default. */
    ENFORCE("enforce"),

    /** Runs on an `allow` that the gateway recorded for this request. */
    STRICT("strict"),

    /** Runs on `allow` and `warn`; `warn` means that enforce would have blocked the action. */
    WARN("warn"),

    /** Always runs, and reports what enforce would have decided. */
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

    /** The wire name of the mode. */
    override fun toString(): String = wire
}

/**
 * An action of an agent, with its goal. Java uses [Action.builder].
 *
 * A call validates the action. It throws an [ActPassException] of the kind [ActPassException.Kind.ARGUMENT] if the arguments are not
 * JSON, are nested more than 127 levels deep, or contain NaN; nothing is sent or run.
 *
 * @property goal the agent's goal.
 * @property tool the tool that the action uses.
 * @property resource the target of the action, such as `stripe:charge:ch_123`.
 * @property args the tool's arguments: maps with string keys, lists, sets, arrays, strings, numbers (including unsigned ones,
 *   [java.math.BigDecimal] and [java.math.BigInteger]), booleans and null. Enums are sent as their names, [java.util.UUID] and URI as
 *   text, dates, times and durations of `java.time` and `kotlin.time` as ISO 8601. For other classes use [parseArgs].
 * @property userId the user on whose behalf the agent acts.
 * @property passport the passport that the action spends.
 * @property mode the mode. Default: the client's.
 * @property idempotencyKey identifies repetitions of the request: a second call with the same key runs nothing. Default: a new UUIDv7
 *   per call, reused by retries.
 * @property audience the service to which the passport is presented.
 * @property approvalRequestId the approved request that the action spends.
 * @property toolManifestHash the hash of the tool's definition as the agent sees it.
 * @property waitForApproval how long a guard waits for a human decision if the action needs approval, at most 30 days; the client's
 *   timeout applies to each request separately. Default: no waiting; the action is blocked.
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
    /** Omits the passport. */
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
         * Creates a builder, for Java.
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
         * Parses arguments from the JSON text of an object, such as the output of a JSON library.
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
         * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the text is not one JSON object.
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun parseArgs(json: String): Map<String, Any?> {
            @Suppress("UNCHECKED_CAST")
            return parse("args", json) as? Map<String, Any?> ?: throw argumentError("args", "expected an object")
        }
    }

    /** Builds an [Action], for Java. */
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
