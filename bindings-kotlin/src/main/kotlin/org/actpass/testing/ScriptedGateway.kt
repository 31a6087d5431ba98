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
 * }
 * ```
 *
 * It denies tools without a scripted answer with `test.unscripted`, records evidence, and issues passports that verify as valid. It is
 * thread-safe.
 */
public class ScriptedGateway {
    private val script = NativeScript()

    /** Answers all following preflights of [tool]; without [tool], the preflights of every tool without its own answer. */
    @JvmOverloads
    public fun answer(answer: Answer, tool: String? = null) {
        enter { script.answer(answer.native, tool?.wellFormed("tool")) }
    }

    /** Answers the next preflights with one answer each; afterwards [answer] applies again. */
    public fun answerNext(vararg answers: Answer) {
        enter { answers.forEach { script.answerNext(it.native) } }
    }

    /** Approves an approval request. A waiting guard then sends its preflight again: script an answer that allows it. */
    public fun approve(approvalRequestId: String): Unit = script.decide(approvalRequestId, true)

    /** Rejects an approval request. */
    public fun reject(approvalRequestId: String): Unit = script.decide(approvalRequestId, false)

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

        /** `require_approval`: the action needs human approval. */
        @JvmStatic
        @JvmOverloads
        public fun requireApproval(id: String = "apr_test", reasonCode: String = "test.require_approval"): Answer =
            decision(mapOf("decision" to "require_approval", "reason_code" to reasonCode, "approval_request_id" to id))

        /** A response with an error status. */
        @JvmStatic
        public fun failure(status: Int): Answer = Answer(status.coerceIn(100, 999), "{}", "failure")

        /** An unreachable gateway. */
        @JvmStatic
        public fun unreachable(): Answer = Answer(0, null, "unreachable")
    }
}
