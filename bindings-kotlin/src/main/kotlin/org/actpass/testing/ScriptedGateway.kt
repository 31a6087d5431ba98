package org.actpass.testing

import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import org.actpass.ActPass
import org.actpass.ActPassException
import org.actpass.Approval
import org.actpass.LogLevel
import org.actpass.Logger
import org.actpass.Mode
import org.actpass.bridge.NativeAnswer
import org.actpass.bridge.NativeScript
import org.actpass.enter
import org.actpass.json
import org.actpass.members
import org.actpass.wellFormed

/**
 * A scripted gateway for tests of programs that use ActPass. It needs no network; client and guard are the real ones.
 *
 * ```kotlin
 * import org.actpass.Action
 * import org.actpass.testing.Answer
 * import org.actpass.testing.ScriptedGateway
 *
 * suspend fun main() {
 *     val gateway = ScriptedGateway()
 *     gateway.answer(Answer.allow(), tool = "stripe.refund.create")
 *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900))
 *     check(gateway.client().guard(action) { "refunded" }.unwrap() == "refunded")
 *     check(gateway.actions[0]["args"] == mapOf("amount" to 4900L))
 *     gateway.assertExecuted("stripe.refund.create", times = 1)
 * }
 * ```
 *
 * It denies tools without a scripted answer with `test.unscripted`, and records evidence. An approval is bound to its action, found by
 * it, and spent once. An idempotency key that is repeated with the same body repeats its `allow` as a replay. Passports verify as valid
 * until they are revoked. It is thread-safe.
 */
public class ScriptedGateway {
    private val script = NativeScript()

    /** Answers all following preflights of [tool]; without [tool], of every tool, in place of earlier answers. */
    @JvmOverloads
    public fun answer(answer: Answer, tool: String? = null) {
        enter { script.answer(answer.native, tool?.wellFormed("tool")) }
    }

    /** Answers the next preflights with one answer each; afterwards [answer] applies again. */
    public fun answerNext(vararg answers: Answer) {
        enter { answers.forEach { script.answerNext(it.native) } }
    }

    /**
     * Approves an approval: the next preflight of its action is allowed, once.
     *
     * @param approval the approval's id, or a tool: then the latest pending approval of the tool. An id that an answer sets may be
     *   decided before the approval is opened.
     * @return the id.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if there is no such pending approval.
     */
    @Throws(ActPassException::class)
    public fun approve(approval: String): String = enter { script.approve(approval.wellFormed("approval")) }

    /** Rejects an approval: its action stays blocked. Otherwise as [approve]. */
    @Throws(ActPassException::class)
    public fun reject(approval: String): String = enter { script.reject(approval.wellFormed("approval")) }

    /** Lets an approval expire, which may be pending, or approved and not spent. Otherwise as [approve]. */
    @Throws(ActPassException::class)
    public fun expire(approval: String): String = enter { script.expire(approval.wellFormed("approval")) }

    /**
     * Stops actions, and signals their running blocks ([org.actpass.ExecutionContext.halt]).
     *
     * @param scope `agent`, `tool` or `user`, named by [id]; or `tenant` or `all`.
     * @param id the agent, the tool or the user.
     * @param reason why; the summary of the denials contains it.
     * @return the new `halt_epoch`.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the scope is unknown, or the id is missing or superfluous.
     */
    @JvmOverloads
    @Throws(ActPassException::class)
    public fun halt(scope: String, id: String? = null, reason: String = "test"): Long =
        enter { script.halt(scope.wellFormed("scope"), id?.wellFormed("id"), reason.wellFormed("reason")).toLong() }

    /** Lifts all stops. Returns the new `halt_epoch`. */
    public fun lift(): Long = script.lift().toLong()

    /** The acknowledgements of stops so far, by wire name: `epoch`, `in_flight`, `agent_id`, `instance`. */
    public val acknowledgements: List<Map<String, Any?>> get() = script.acknowledgements().map(::members)

    /** The approvals so far, in the order in which they were opened. */
    public val approvals: List<ScriptedApproval>
        get() = script.approvals().map { ScriptedApproval(it.id, it.tool, Approval.Status.of(it.status), it.spent) }

    /** The actions of this gateway's clients that ran, in order: permits that were spent. */
    public val executions: List<ScriptedExecution> get() = script.executions().map { ScriptedExecution(it.tool, members(it.args)) }

    /**
     * Fails unless actions of [tool] ran exactly [times] times; without [times], at least once.
     *
     * @throws AssertionError they did not.
     */
    @JvmOverloads
    public fun assertExecuted(tool: String, times: Int? = null) {
        val ran = executions.map { it.tool }
        val count = ran.count { it == tool }
        if (if (times == null) count == 0 else count != times) {
            val expected = if (times == null) "at least once" else "$times times"
            throw AssertionError("expected $tool to run $expected, but it ran $count times; ran: $ran")
        }
    }

    /**
     * Fails if an action of [tool] ran.
     *
     * @throws AssertionError it ran.
     */
    public fun assertNotExecuted(tool: String): Unit = assertExecuted(tool, times = 0)

    /** The preflights so far, by wire name: `tool`, `args`, `user_id`. */
    public val actions: List<Map<String, Any?>> get() = bodies("/api/v1/actions/preflight")

    /** The evidence so far, by wire name: `event_type`, `metadata`. */
    public val evidence: List<Map<String, Any?>> get() = bodies("/api/v1/evidence/events")

    private fun bodies(path: String) = script.requests().filter { it.path == path }.map { members(it.body) }

    /** Creates a client of this gateway with defaults. */
    public fun client(): ActPass = client(agentId = "tests")

    /**
     * Creates a client of this gateway.
     *
     * @param agentId the agent's name.
     * @param timeout the total deadline of a call.
     * @param mode the default mode of actions.
     * @param logger receives the log lines of the client's calls.
     * @param logLevel the lowest level to log.
     */
    public fun client(
        agentId: String = "tests",
        timeout: Duration = 30.seconds,
        mode: Mode = Mode.ENFORCE,
        logger: Logger? = null,
        logLevel: LogLevel = LogLevel.INFO,
    ): ActPass = ActPass(script, agentId, timeout, mode, logger, logLevel)

    /** Creates a client of this gateway with a mode, for Java. */
    public fun client(mode: Mode): ActPass = client(agentId = "tests", mode = mode)
}

/**
 * An approval that a [ScriptedGateway] opened.
 *
 * @property id the id.
 * @property tool the tool of the action.
 * @property status the status.
 * @property isSpent whether the action was allowed with it.
 */
public data class ScriptedApproval(
    public val id: String,
    public val tool: String,
    public val status: Approval.Status,
    public val isSpent: Boolean,
)

/**
 * An action that ran.
 *
 * @property tool the tool.
 * @property args the arguments that the gateway evaluated.
 */
public data class ScriptedExecution(public val tool: String, public val args: Map<String, Any?>)

/** A scripted response of a [ScriptedGateway] to a preflight. */
public class Answer private constructor(private val status: Int, private val json: String?, private val name: String) {
    internal val native: NativeAnswer get() = NativeAnswer(status.toUShort(), json)

    /** The name of its factory function. */
    override fun toString(): String = "Answer.$name"

    public companion object {
        /** Any decision; missing `evidence_event_id` and `request_hash` are added. */
        @JvmStatic
        @JvmOverloads
        public fun decision(members: Map<String, Any?>, status: Int = 200): Answer = Answer(status, json("decision", members), "decision")

        /** `allow`, with a vaulted credential if given. */
        @JvmStatic
        @JvmOverloads
        public fun allow(reasonCode: String = "test.allow", credential: String? = null): Answer =
            decision(
                mapOf("decision" to "allow", "reason_code" to reasonCode) +
                    (credential?.let { mapOf("credential" to mapOf("token" to it, "expires_at" to "2099-01-01T00:00:00Z")) } ?: emptyMap()),
            )

        /** The action may not run. */
        @JvmStatic
        @JvmOverloads
        public fun deny(reasonCode: String = "test.deny", summary: String = ""): Answer =
            decision(mapOf("decision" to "deny", "reason_code" to reasonCode, "explain" to mapOf("summary" to summary)))

        /** `warn`: enforce would block the action. */
        @JvmStatic
        @JvmOverloads
        public fun warn(reasonCode: String = "test.warn"): Answer = decision(mapOf("decision" to "warn", "reason_code" to reasonCode))

        /**
         * `require_approval`: opens an approval in the modes `enforce` and `strict`. Without [id], the gateway numbers the approvals:
         * `apr_1`, `apr_2`; an [id] that is in use gets a number too.
         */
        @JvmStatic
        @JvmOverloads
        public fun requireApproval(id: String? = null, reasonCode: String = "test.require_approval"): Answer =
            decision(
                mapOf("decision" to "require_approval", "reason_code" to reasonCode) +
                    (id?.let { mapOf("approval_request_id" to it) } ?: emptyMap()),
            )

        /** A response with an error status. */
        @JvmStatic
        public fun failure(status: Int): Answer = Answer(status.coerceIn(100, 999), "{}", "failure")

        /** An unreachable gateway. */
        @JvmStatic
        public fun unreachable(): Answer = Answer(0, null, "unreachable")
    }
}
