package org.actpass

import java.util.concurrent.CompletableFuture
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import org.actpass.bridge.NativeBegun
import org.actpass.bridge.NativeEnded
import org.actpass.bridge.NativeSession
import org.actpass.bridge.NativeVerdict

/** Whether an action may run: the result of [ActPass.authorize]. */
public sealed interface Verdict {
    /** The gateway's decision, or the SDK's denial because the gate failed. */
    public val decision: Decision

    /**
     * The permit.
     *
     * @throws ActionBlockedException if the action is blocked.
     */
    public fun unwrap(): Permit

    /** The action may not run; [blocked] contains the reason. */
    public class Blocked(
        /** The blocked outcome. */
        public val blocked: Outcome.Blocked,
    ) : Verdict {
        override val decision: Decision get() = blocked.decision

        override fun unwrap(): Permit = blocked.unwrap()

        /** The reason. */
        override fun toString(): String = "$blocked"
    }

    /** The action may run, once. */
    public class Permitted internal constructor(
        /** The permit to run it, once. */
        public val permit: Permit,
    ) : Verdict {
        override val decision: Decision get() = permit.decision

        override fun unwrap(): Permit = permit

        /** The permit. */
        override fun toString(): String = "$permit"
    }
}

internal fun verdict(native: NativeVerdict, recordsOutcome: Boolean): Verdict =
    when (native) {
        is NativeVerdict.Blocked -> Verdict.Blocked(Outcome.Blocked(native.blocked))
        is NativeVerdict.Permitted -> Verdict.Permitted(Permit(native.session, recordsOutcome))
    }

/**
 * Single-use permission to run an action; only [ActPass.authorize] creates one.
 *
 * It expires five minutes after the decision, or earlier with its credential. An unspent permit records nothing.
 */
public class Permit internal constructor(internal val native: NativeSession, private val recordsOutcome: Boolean) {
    /** The decision about the action. */
    public val decision: Decision by lazy { Decision(native.decision()) }

    /**
     * Spends the permit and returns the execution context. Run the action immediately afterwards.
     *
     * @param args the current arguments. If they differ from the evaluated arguments, the action is blocked. They are compared as JSON
     *   text, including the order of members. Default: no comparison.
     * @return the decision and the vaulted credential of the tool.
     * @throws ActionBlockedException if the permit expired (`actpass.permit_expired`) or [args] changed (`actpass.arguments_changed`).
     *   Do not run the action. In [Mode.MONITOR] it may still run, without the credential.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit was already spent. Do not run the action.
     */
    @JvmOverloads
    @Throws(ActPassException::class)
    public fun spend(args: Map<String, Any?>? = null): ExecutionContext =
        when (val begun = enter { native.spend(args?.let { json("args", it) }) }) {
            is NativeBegun.Blocked -> throw ActionBlockedException(Outcome.Blocked(begun.blocked))
            is NativeBegun.Running -> ExecutionContext(begun.context)
        }

    /**
     * Reports that the action returned [value]; with `recordOutcome`, records it.
     *
     * Cancelling the coroutine does not stop the recording, because the action ran.
     *
     * @param value the action's result. Its hash is recorded if it is JSON.
     * @return the circumstances of the execution. A failed recording is in [Execution.evidenceError].
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent, its outcome was already
     *   reported, or [value] is a body that has not run: then report [failed].
     */
    public suspend fun returned(value: Any?): Execution {
        refuseUnrun(value)
        return finish(NativeEnded.RETURNED, value)
    }

    /**
     * Reports that the action threw [error]; with `recordOutcome`, records it.
     *
     * An `Error`, and a `CancellationException` in a cancelled coroutine, are reported as [cancelled].
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its outcome was already
     *   reported.
     */
    public suspend fun failed(error: Throwable): Execution = if (error.stops()) cancelled() else finish(NativeEnded.FAILED)

    /**
     * Reports that the action was cancelled while it ran. Recording happens in the background, within one second.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its outcome was already
     *   reported.
     */
    @Throws(ActPassException::class)
    public fun cancelled(): Execution = Execution(enter { native.finish(NativeEnded.CANCELLED, null) })

    /**
     * Reports that a framework's control-flow signal ended the action while it ran, such as a pause for a person. Recording happens in
     * the background, within one second.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its outcome was already
     *   reported.
     */
    @Throws(ActPassException::class)
    public fun suspended(): Execution = Execution(enter { native.finish(NativeEnded.SUSPENDED, null) })

    /** [returned], on this thread, for Java. */
    @Throws(ActPassException::class, InterruptedException::class)
    public fun returnedBlocking(value: Any?): Execution = runBlocking { returned(value) }

    /** [returned], as a future, for Java. */
    public fun returnedAsync(value: Any?): CompletableFuture<Execution> = later { returned(value) }

    /** [failed], on this thread, for Java. */
    @Throws(ActPassException::class, InterruptedException::class)
    public fun failedBlocking(error: Throwable): Execution = runBlocking { failed(error) }

    /** [failed], as a future, for Java. */
    public fun failedAsync(error: Throwable): CompletableFuture<Execution> = later { failed(error) }

    /** Its decision: `Permit(allow (refund.small_in_scope))`. */
    override fun toString(): String = "Permit($decision)"

    /** Failures while recording, including errors of the caller's context elements, never replace the report. */
    internal suspend fun finish(ended: NativeEnded, value: Any? = null): Execution {
        val response = if (recordsOutcome && ended == NativeEnded.RETURNED) jsonOrNull(value) else null
        val report = enter { native.finish(ended, response) }
        val recording = report.recording ?: return Execution(report)
        return try {
            recording.use { withContext(NonCancellable) { Execution(report, RecordedEvidence(call { recording.send() })) } }
        } catch (error: Throwable) {
            val cause = error as? ActPassException ?: internalError("the outcome was not recorded: $error", error)
            Execution(report, evidenceError = cause)
        }
    }
}
