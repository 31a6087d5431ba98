package org.actpass

import java.util.stream.BaseStream
import kotlin.coroutines.coroutineContext
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.isActive
import org.actpass.bridge.NativeBlockFailure
import org.actpass.bridge.NativeBlockTexts
import org.actpass.bridge.NativeBlocked
import org.actpass.bridge.NativeContext
import org.actpass.bridge.NativeEnded
import org.actpass.bridge.NativeReport
import org.actpass.bridge.nativeBlockTexts
import org.actpass.bridge.nativeCanonicalOutcome

/** Runs what the verdict permits, and reports. */
internal suspend fun <T> Verdict.run(execute: suspend (ExecutionContext) -> T): Outcome<T> =
    when (this) {
        is Verdict.Blocked -> blocked
        is Verdict.Permitted -> permit.native.use { permit.run(execute) }
    }

private suspend fun <T> Permit.run(execute: suspend (ExecutionContext) -> T): Outcome<T> {
    // A coroutine that was cancelled while the verdict was on its way runs nothing either.
    coroutineContext.ensureActive()
    val context =
        try {
            spend()
        } catch (blocked: ActionBlockedException) {
            return blocked.outcome
        }
    val value =
        try {
            execute(context).also(::refuseUnrun)
        } catch (error: Throwable) {
            if (error.stops()) {
                // A failure to record must not replace the stop.
                quietly { cancelled() }
                throw error
            }
            return Outcome.Failed(error, finish(NativeEnded.FAILED))
        }
    return Outcome.Returned(value, finish(NativeEnded.RETURNED, value))
}

/** Whether it stops the coroutine or the program, and is no way in which an action fails. */
internal suspend fun Throwable.stops(): Boolean =
    when (this) {
        is CancellationException -> !coroutineContext.isActive
        else -> this is Error
    }

/** Refuses a result whose body runs only when somebody iterates, collects or starts it: nothing has run. */
internal fun refuseUnrun(value: Any?) {
    val found =
        when (value) {
            is Sequence<*> -> "a Sequence"
            is Iterator<*> -> "an Iterator"
            is SharedFlow<*> -> return
            is Flow<*> -> "a cold Flow"
            is BaseStream<*, *> -> "a Stream".also { quietly(value::close) }
            is Lazy<*> -> if (quietly(value::isInitialized) == false) "a Lazy without its value" else return
            is Job -> if (value.isNew) "a Job that was not started".also { quietly(value::cancel) } else return
            else -> return
        }
    throw argumentError("execute", "expected a result, found $found, whose body has not run and never will")
}

private val Job.isNew: Boolean get() = quietly { !isActive && !isCompleted && !isCancelled } == true

/** What [body] returns, or null where it throws: it only looks at a result, or lets go of it. */
private inline fun <T> quietly(body: () -> T): T? =
    try {
        body()
    } catch (_: Throwable) {
        null
    }

/**
 * What a permitted block is given.
 *
 * @property decision the decision under which the block runs.
 * @property credential the secret that the gateway's vault holds for the tool; null where it holds none.
 */
public class ExecutionContext
@JvmOverloads
constructor(public val decision: Decision, public val credential: Credential? = null) {
    internal constructor(native: NativeContext) : this(Decision(native.decision), native.credential?.let(::Credential))

    /** Without the credential. */
    override fun toString(): String = "ExecutionContext(credential=$credential, decision=$decision)"
}

/** What a guard reports. */
public sealed class Outcome<out T> {
    /** The decision: the gateway's, or the one that the SDK made. */
    public abstract val decision: Decision

    /** The block ran and returned [result], the very object. */
    public class Returned<out T>(
        /** What it returned. */
        public val result: T,
        /** Under what it ran. */
        public val execution: Execution,
    ) : Outcome<T>() {
        override val decision: Decision get() = execution.decision

        /** The value, and under which decision: `returned re_1: allow (refund.small_in_scope)`. */
        override fun toString(): String = "returned $result: $execution"
    }

    /** The block did not run. */
    public class Blocked
    private constructor(
        /** The tool that was not used. */
        public val tool: String,
        override val decision: Decision,
        /** How the gate failed; null where the gateway decided. */
        public val error: ActPassException?,
        /** What to keep in order to run the action once a person has approved it; null where nothing can be waited for. */
        public val approval: PendingApproval?,
        texts: NativeBlockTexts,
    ) : Outcome<Nothing>() {
        /** Makes one, for tests. */
        @JvmOverloads
        public constructor(tool: String, decision: Decision, error: ActPassException? = null, approval: PendingApproval? = null) : this(
            tool,
            decision,
            error,
            approval,
            nativeBlockTexts(
                tool.wellFormed("tool"),
                decision.json,
                error?.run { NativeBlockFailure(kind.native, message.orEmpty(), isRetryable) },
                approval?.id,
            ),
        )

        internal constructor(native: NativeBlocked) : this(
            native.tool,
            Decision(native.decision),
            native.failure?.exception(),
            native.approval?.let(::PendingApproval),
            native.texts,
        )

        /**
         * For a model: what was not done and why, whether the same call can help, and what to do instead. It has one line and says
         * nothing of how the gateway is reached or run.
         */
        public val message: String = texts.model

        /** For a developer: what failed, at which hop, and what to check. It has one line. */
        public val developerText: String = texts.developer

        /** The decision's [Decision.reasonCode]. */
        public val code: String get() = decision.reasonCode

        /**
         * Whether the same call may succeed later without any change: the gate failed in a way that may pass. A decision is no such
         * failure.
         */
        public val isRetryable: Boolean get() = error?.isRetryable ?: false

        /** Why it did not run: `blocked: deny (refund.too_large): the amount is over the limit`. */
        override fun toString(): String =
            "blocked: $decision" + (error?.let { " [${it.message}]" } ?: "") + (approval?.let { ", $it" } ?: "")
    }

    /** The block ran and threw [error], the very object. */
    public class Failed(
        /** What it threw. */
        public val error: Throwable,
        /** Under what it ran. */
        public val execution: Execution,
    ) : Outcome<Nothing>() {
        override val decision: Decision get() = execution.decision

        /** The error, and under which decision. */
        override fun toString(): String = "failed with $error: $execution"
    }

    /** Whether the block ran. */
    public val executed: Boolean
        get() =
            when (this) {
                is Blocked -> false
                is Returned, is Failed -> true
            }

    /**
     * What the block returned.
     *
     * @throws ActionBlockedException if the block did not run.
     * @throws Throwable the same object that the block threw, if it threw.
     */
    @Throws(Exception::class)
    public fun unwrap(): T =
        when (this) {
            is Returned -> result
            is Blocked -> throw ActionBlockedException(this)
            is Failed -> throw error
        }

    /** What the block returned, where it did. */
    public fun resultOrNull(): T? =
        when (this) {
            is Returned -> result
            is Blocked, is Failed -> null
        }

    /**
     * What the block threw; else how the gate failed, an [ActPassException], also if [Mode.MONITOR] ran the block despite the failure.
     */
    public fun errorOrNull(): Throwable? =
        when (this) {
            is Blocked -> error
            is Returned -> execution.gateError
            is Failed -> error
        }

    /**
     * `{"decision", "error", "executed"}` in canonical JSON, equal in every language. `error` is `null` or `{"kind", "status"}`, the
     * kind being `action` for what the block threw.
     *
     * @throws ActPassException where the decision holds an integer that canonical JSON cannot carry.
     */
    @Throws(ActPassException::class)
    public fun canonicalJson(): String {
        val gateError =
            when (this) {
                is Blocked -> error
                is Returned -> execution.gateError
                is Failed -> null
            }
        val kind = if (this is Failed) "action" else gateError?.kindName
        return enter { nativeCanonicalOutcome(executed, decision.json, kind, gateError?.status?.toUShort()) }
    }
}

/**
 * Under what a block ran.
 *
 * @property decision the decision.
 * @property gateError how the gate failed, if [Mode.MONITOR] ran the block despite the failure.
 * @property evidence the ledger entry of how it ended, where that was to be recorded and was.
 * @property evidenceError why it was not, where it was to be.
 */
public class Execution
@JvmOverloads
constructor(
    public val decision: Decision,
    public val gateError: ActPassException? = null,
    public val evidence: RecordedEvidence? = null,
    public val evidenceError: ActPassException? = null,
) {
    internal constructor(report: NativeReport, evidence: RecordedEvidence? = null, evidenceError: ActPassException? = null) : this(
        Decision(report.decision),
        report.failure?.exception(),
        evidence,
        evidenceError,
    )

    /** The decision, how the gate failed, and the ledger entry. */
    override fun toString(): String =
        "$decision" + (gateError?.let { " [${it.message}]" } ?: "") + (evidence?.let { ", recorded as ${it.eventId}" } ?: "") +
            (evidenceError?.let { ", not recorded: ${it.message}" } ?: "")
}
