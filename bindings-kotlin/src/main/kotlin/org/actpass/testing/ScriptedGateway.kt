package org.actpass.testing

import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import org.actpass.ActPass
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
 * A gateway by script, for the tests of programs that use ActPass. It needs no network; the guard over it is the real one.
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
 * }
 * ```
 *
 * A tool without an answer is denied, `test.unscripted`. Evidence is recorded, and passports are issued and valid. A scripted gateway is
 * safe for use from many threads at once.
 */
public class ScriptedGateway {
    private val script = NativeScript()

    /** Answers each action with [tool] so from now on; each action whose tool has no answer if none is named. */
    @JvmOverloads
    public fun answer(answer: Answer, tool: String? = null) {
        enter { script.answer(answer.native, tool?.wellFormed("tool")) }
    }

    /** Answers the next actions so, one answer each, before [answer] counts. */
    public fun answerNext(vararg answers: Answer) {
        enter { answers.forEach { script.answerNext(it.native) } }
    }

    /** Approves, as an operator does. A guard that waits for the approval asks again: give it an answer that allows. */
    public fun approve(approvalRequestId: String): Unit = script.decide(approvalRequestId, true)

    /** Rejects, as an operator does. */
    public fun reject(approvalRequestId: String): Unit = script.decide(approvalRequestId, false)

    /** The actions that were asked about so far, by the names of the wire: `tool`, `args`, `user_id`. */
    public val actions: List<Map<String, Any?>> get() = bodies("/api/v1/actions/preflight")

    /** The evidence that was recorded so far, by the names of the wire: `event_type`, `metadata`. */
    public val evidence: List<Map<String, Any?>> get() = bodies("/api/v1/evidence/events")

    private fun bodies(path: String) = script.requests().filter { it.path == path }.map { members(it.body) }

    /** A client of this gateway, with the defaults. */
    public fun client(): ActPass = client(agentId = "tests")

    /**
     * A client of this gateway.
     *
     * @param agentId the agent's name.
     * @param timeout the total deadline of a call.
     * @param mode the mode of actions that name none.
     * @param logger takes the log lines of the client's calls.
     * @param logLevel the lowest level that is logged.
     */
    public fun client(
        agentId: String = "tests",
        timeout: Duration = 30.seconds,
        mode: Mode = Mode.ENFORCE,
        logger: Logger? = null,
        logLevel: LogLevel = LogLevel.INFO,
    ): ActPass = ActPass(script, agentId, timeout, mode, logger, logLevel)

    /** A client of this gateway in a mode, for Java. */
    public fun client(mode: Mode): ActPass = client(agentId = "tests", mode = mode)
}

/** The answer of a [ScriptedGateway] to the question whether an action may run. */
public class Answer private constructor(private val status: Int, private val json: String?, private val name: String) {
    internal val native: NativeAnswer get() = NativeAnswer(status.toUShort(), json)

    /** The name of what made it. */
    override fun toString(): String = "Answer.$name"

    public companion object {
        /** A decision as it stands. `evidence_event_id` and `request_hash` are added if they are missing. */
        @JvmStatic
        @JvmOverloads
        public fun decision(members: Map<String, Any?>, status: Int = 200): Answer = Answer(status, json("decision", members), "decision")

        /** The action may run, with this secret if one is given. */
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

        /** Enforce would not allow the action. */
        @JvmStatic
        @JvmOverloads
        public fun warn(reasonCode: String = "test.warn"): Answer = decision(mapOf("decision" to "warn", "reason_code" to reasonCode))

        /** A person has to approve the action. */
        @JvmStatic
        @JvmOverloads
        public fun requireApproval(id: String = "apr_test", reasonCode: String = "test.require_approval"): Answer =
            decision(mapOf("decision" to "require_approval", "reason_code" to reasonCode, "approval_request_id" to id))

        /** The gateway fails with a status. */
        @JvmStatic
        public fun failure(status: Int): Answer = Answer(status.coerceIn(100, 999), "{}", "failure")

        /** The gateway cannot be reached. */
        @JvmStatic
        public fun unreachable(): Answer = Answer(0, null, "unreachable")
    }
}
