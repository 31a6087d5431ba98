package org.actpass

import kotlin.time.Duration
import org.actpass.bridge.NativeAction
import org.actpass.bridge.NativeMode

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
}

/**
 * What an agent is about to do, and why.
 *
 * Whether it can be sent is checked when it is: a call with arguments that are not JSON, are nested more than 127 deep, or hold NaN
 * throws an [ActPassException] of the kind [ActPassException.Kind.ARGUMENT], and nothing is sent or run.
 *
 * @property goal what the agent wants to achieve.
 * @property tool the tool that it is about to use.
 * @property resource what the tool acts on, such as `stripe:charge:ch_123`.
 * @property args the tool's arguments: maps, lists, strings, numbers, booleans and null.
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
            passport = passport?.wellFormed("passport"),
            mode = mode?.native,
            idempotencyKey = idempotencyKey?.wellFormed("idempotency_key"),
            audience = audience?.wellFormed("audience"),
            approvalRequestId = approvalRequestId?.wellFormed("approval_request_id"),
            toolManifestHash = toolManifestHash?.wellFormed("tool_manifest_hash"),
            waitForApproval = waitForApproval?.inSeconds,
        )
}
