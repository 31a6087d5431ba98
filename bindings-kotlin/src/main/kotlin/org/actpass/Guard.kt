package org.actpass

import java.util.stream.BaseStream
import kotlin.coroutines.coroutineContext
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext
import org.actpass.bridge.NativeBlocked
import org.actpass.bridge.NativeContext
import org.actpass.bridge.NativePermit
import org.actpass.bridge.NativeSettled
import org.actpass.bridge.NativeVerdict
import org.actpass.bridge.nativeCanonicalOutcome

/** Runs what the verdict permits, and reports. */
internal suspend fun <T> ActPass.settle(
    verdict: NativeVerdict,
    tool: String,
    recordOutcome: Boolean,
    execute: suspend (ExecutionContext) -> T,
): Outcome<T> =
    when (verdict) {
        is NativeVerdict.Blocked -> Outcome.Blocked(verdict.blocked, tool)
        is NativeVerdict.Proceed -> verdict.permit.use { permit -> run(permit, recordOutcome, execute) }
    }

private suspend fun <T> ActPass.run(
    permit: NativePermit,
    recordOutcome: Boolean,
    execute: suspend (ExecutionContext) -> T,
): Outcome<T> {
    // A coroutine that was cancelled while the verdict was on its way runs nothing either.
    coroutineContext.ensureActive()
    val context = ExecutionContext(enter { permit.spend() })
    val value =
        try {
            execute(context).also(::refuseUnrun)
        } catch (error: Throwable) {
            if (error.stops()) {
                // Nothing waits for this record, and its failure does not replace what stops the action.
                if (recordOutcome) quietly { native.recordStop(permit) }
                throw error
            }
            val evidence = if (recordOutcome) record(permit, returned = false, response = null) else null
            return Outcome.Failed(error, Execution(enter { permit.settle(returned = false) }, evidence))
        }
    val evidence = if (recordOutcome) record(permit, returned = true, response = jsonOrNull(value)) else null
    return Outcome.Executed(value, Execution(enter { permit.settle(returned = true) }, evidence))
}

/** Whether it stops the coroutine or the program, and is no way in which an action fails. */
private suspend fun Throwable.stops(): Boolean =
    when (this) {
        is CancellationException -> !coroutineContext.isActive
        else -> this is Error
    }

/** Refuses a result whose body runs only when somebody iterates, collects or starts it: nothing has run. */
private fun refuseUnrun(value: Any?) {
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
 * Records how an action ended. This goes on where the coroutine is cancelled: the action has run. For the same reason nothing that
 * fails here, an element of the caller's context included, takes the place of the outcome.
 */
private suspend fun ActPass.record(permit: NativePermit, returned: Boolean, response: String?): Result<RecordedEvidence> =
    try {
        withContext(NonCancellable) {
            Result.success(RecordedEvidence(call { native.recordOutcome(permit, returned, response, null) }))
        }
    } catch (error: Throwable) {
        Result.failure(error as? ActPassException ?: internalError("the outcome was not recorded: $error", error))
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

    /** The block ran and returned [value], the very object. */
    public class Executed<out T>(
        /** What it returned. */
        public val value: T,
        /** Under what it ran. */
        public val execution: Execution,
    ) : Outcome<T>() {
        override val decision: Decision get() = execution.decision

        /** The value, and under which decision: `executed re_1: allow (refund.small_in_scope)`. */
        override fun toString(): String = "executed $value: $execution"
    }

    /** The block did not run. */
    public class Blocked
    @JvmOverloads
    constructor(
        /** The tool that was not used. */
        public val tool: String,
        override val decision: Decision,
        /** How the gate failed; null where the gateway decided. */
        public val error: ActPassException? = null,
        /** What to keep in order to run the action once a person has approved it; null where nothing can be waited for. */
        public val approval: PendingApproval? = null,
    ) : Outcome<Nothing>() {
        internal constructor(native: NativeBlocked, tool: String) : this(
            tool,
            Decision(native.decision),
            native.failure?.exception(),
            native.approval?.let(::PendingApproval),
        )

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
    public val wasExecuted: Boolean
        get() =
            when (this) {
                is Blocked -> false
                is Executed, is Failed -> true
            }

    /**
     * What the block returned.
     *
     * @throws ActionBlocked if the block did not run.
     * @throws Throwable the same object that the block threw, if it threw.
     */
    @Throws(Exception::class)
    public fun unwrap(): T =
        when (this) {
            is Executed -> value
            is Blocked -> throw ActionBlocked(tool, decision, error, approval)
            is Failed -> throw error
        }

    /** What the block returned, where it did. */
    public fun valueOrNull(): T? =
        when (this) {
            is Executed -> value
            is Blocked, is Failed -> null
        }

    /**
     * What the block threw; else how the gate failed, an [ActPassException], also if [Mode.MONITOR] ran the block despite the failure.
     */
    public fun errorOrNull(): Throwable? =
        when (this) {
            is Blocked -> error
            is Executed -> execution.gateError
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
                is Executed -> execution.gateError
                is Failed -> null
            }
        val kind = if (this is Failed) "action" else gateError?.kindName
        return enter { nativeCanonicalOutcome(wasExecuted, decision.json, kind, gateError?.status?.toUShort()) }
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
    internal constructor(settled: NativeSettled, recorded: Result<RecordedEvidence>?) : this(
        Decision(settled.decision),
        settled.failure?.exception(),
        recorded?.getOrNull(),
        recorded?.exceptionOrNull() as ActPassException?,
    )

    /** The decision, how the gate failed, and the ledger entry. */
    override fun toString(): String =
        "$decision" + (gateError?.let { " [${it.message}]" } ?: "") + (evidence?.let { ", recorded as ${it.eventId}" } ?: "") +
            (evidenceError?.let { ", not recorded: ${it.message}" } ?: "")
}
