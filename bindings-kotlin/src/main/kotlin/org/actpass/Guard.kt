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

/** Runs a permitted action and returns the outcome. */
internal suspend fun <T> Verdict.run(execute: suspend (ExecutionContext) -> T): Outcome<T> =
    when (this) {
        is Verdict.Blocked -> blocked
        is Verdict.Permitted -> permit.native.use { permit.run(execute) }
    }

private suspend fun <T> Permit.run(execute: suspend (ExecutionContext) -> T): Outcome<T> {
    // Nothing runs if the coroutine was cancelled while waiting for the verdict.
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
                // A recording error must not replace the cancellation.
                quietly { cancelled() }
                throw error
            }
            return Outcome.Failed(error, finish(NativeEnded.FAILED))
        }
    return Outcome.Returned(value, finish(NativeEnded.RETURNED, value))
}

/** Whether it is a cancellation or an `Error` rather than a failure of the action. */
internal suspend fun Throwable.stops(): Boolean =
    when (this) {
        is CancellationException -> !coroutineContext.isActive
        else -> this is Error
    }

/** Rejects a result whose body runs only when iterated, collected or started, because nothing ran. */
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
    throw argumentError("execute", "expected a result, found $found, which has not run")
}

private val Job.isNew: Boolean get() = quietly { !isActive && !isCompleted && !isCancelled } == true

/** Returns the result of [body], or null if it throws. For inspecting or closing a result only. */
private inline fun <T> quietly(body: () -> T): T? =
    try {
        body()
    } catch (_: Throwable) {
        null
    }

/**
 * The argument of a guarded block.
 *
 * @property decision the decision about the action.
 * @property credential the vaulted credential of the tool; null without one.
 * @property halt signals that the action was stopped while the block runs.
 */
public class ExecutionContext
@JvmOverloads
constructor(
    public val decision: Decision,
    public val credential: Credential? = null,
    public val halt: HaltSignal = HaltSignal(),
) {
    internal constructor(native: NativeContext) :
        this(Decision(native.decision), native.credential?.let(::Credential), HaltSignal(native.halt))

    /** Without the credential. */
    override fun toString(): String = "ExecutionContext(credential=$credential, decision=$decision, halt=$halt)"
}

/** The outcome of a guard. */
public sealed class Outcome<out T> {
    /** The gateway's decision, or the SDK's denial because the gate failed. */
    public abstract val decision: Decision

    /** The block ran and returned [result]. */
    public class Returned<out T>(
        /** The result. */
        public val result: T,
        /** The circumstances of the execution. */
        public val execution: Execution,
    ) : Outcome<T>() {
        override val decision: Decision get() = execution.decision

        /** The result and the decision: `returned re_1: allow (refund.small_in_scope)`. */
        override fun toString(): String = "returned $result: $execution"
    }

    /** The block did not run. */
    public class Blocked
    private constructor(
        /** The blocked tool. */
        public val tool: String,
        override val decision: Decision,
        /** The failure of the gate; null if the gateway decided. */
        public val error: ActPassException?,
        /** Data for `resume` after a human approval; null if no approval is pending. */
        public val approval: PendingApproval?,
        texts: NativeBlockTexts,
    ) : Outcome<Nothing>() {
        /** Creates an instance, for tests. */
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
         * The message for a model: the blocked tool, the reason, whether to retry and what to do instead. One line, without infrastructure
         * details.
         */
        public val message: String = texts.model

        /** The message for a developer: the failure with its context, and what to check. One line. */
        public val developerText: String = texts.developer

        /** The decision's [Decision.reasonCode]. */
        public val code: String get() = decision.reasonCode

        /**
         * Whether the same call may succeed later unchanged, because the gate failed temporarily, or because a stop was issued between the
         * decision and the run (`actpass.halted`). `false` for a decision of the gateway.
         */
        public val isRetryable: Boolean = texts.retryable

        /** Why it did not run: `blocked: deny (refund.too_large): the amount is over the limit`. */
        override fun toString(): String =
            "blocked: $decision" + (error?.let { " [${it.message}]" } ?: "") + (approval?.let { ", $it" } ?: "")
    }

    /** The block ran and threw [error]. */
    public class Failed(
        /** The exception. */
        public val error: Throwable,
        /** The circumstances of the execution. */
        public val execution: Execution,
    ) : Outcome<Nothing>() {
        override val decision: Decision get() = execution.decision

        /** The exception and the decision. */
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
     * Returns the result of the block or throws.
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

    /** Returns the result of the block; null if it did not return. */
    public fun resultOrNull(): T? =
        when (this) {
            is Returned -> result
            is Blocked, is Failed -> null
        }

    /**
     * Returns the exception of the block; else the [ActPassException] of a failed gate, also if [Mode.MONITOR] ran the block.
     */
    public fun errorOrNull(): Throwable? =
        when (this) {
            is Blocked -> error
            is Returned -> execution.gateError
            is Failed -> error
        }

    /**
     * Returns `{"decision", "error", "executed"}` as canonical JSON, identical in every language. `error` is `null` or `{"kind",
     * "status"}`; the kind is `action` for an exception of the block.
     *
     * @throws ActPassException if the decision contains an integer that canonical JSON cannot represent.
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
 * The circumstances of an execution: decision, gate failure, recording.
 *
 * @property decision the decision.
 * @property gateError the failure of the gate, if [Mode.MONITOR] ran the block despite it.
 * @property evidence the ledger entry of the outcome, if recorded.
 * @property evidenceError why recording failed.
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

    /** The decision, the failure of the gate, and the ledger entry. */
    override fun toString(): String =
        "$decision" + (gateError?.let { " [${it.message}]" } ?: "") + (evidence?.let { ", recorded as ${it.eventId}" } ?: "") +
            (evidenceError?.let { ", not recorded: ${it.message}" } ?: "")
}
