package org.actpass

import java.util.concurrent.CompletableFuture
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import org.actpass.bridge.NativeBegun
import org.actpass.bridge.NativeEnded
import org.actpass.bridge.NativeSession
import org.actpass.bridge.NativeVerdict

/** Whether an action may run: what [ActPass.authorize] gives. */
public sealed interface Verdict {
    /** The decision: the gateway's, or the one that the SDK made. */
    public val decision: Decision

    /**
     * The permit.
     *
     * @throws ActionBlockedException if the action may not run.
     */
    public fun unwrap(): Permit

    /** The action may not run; [blocked] says why. */
    public class Blocked(
        /** Why. */
        public val blocked: Outcome.Blocked,
    ) : Verdict {
        override val decision: Decision get() = blocked.decision

        override fun unwrap(): Permit = blocked.unwrap()

        /** Why the action may not run. */
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
 * Leave to run an action, once. Only [ActPass.authorize] gives one.
 *
 * It is void five minutes after the verdict, and once its credential has expired. A permit that is not spent runs and records nothing.
 */
public class Permit internal constructor(internal val native: NativeSession, private val recordsOutcome: Boolean) {
    /** The decision under which the action may run. */
    public val decision: Decision by lazy { Decision(native.decision()) }

    /**
     * Spends the permit. Run the action now.
     *
     * @param args the arguments with which the action is about to run, if something could have changed them since they were judged.
     *   They are compared as JSON text, to which the order of the members belongs.
     * @return what the action is given: the decision, and the credential for the tool.
     * @throws ActionBlockedException if the permit is void (`actpass.permit_expired`) or [args] are not those that were judged
     *   (`actpass.arguments_changed`). Nothing may run then. In [Mode.MONITOR] the action runs, without the credential.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit was spent before. Nothing may run then.
     */
    @JvmOverloads
    @Throws(ActPassException::class)
    public fun spend(args: Map<String, Any?>? = null): ExecutionContext =
        when (val begun = enter { native.spend(args?.let { json("args", it) }) }) {
            is NativeBegun.Blocked -> throw ActionBlockedException(Outcome.Blocked(begun.blocked))
            is NativeBegun.Running -> ExecutionContext(begun.context)
        }

    /**
     * Reports that the action has returned [value], and records it if outcomes are recorded.
     *
     * If the coroutine is cancelled the recording goes on: the action has run.
     *
     * @param value what the action returned. Its hash is recorded if it is JSON.
     * @return under what the action ran. A record that fails is in [Execution.evidenceError].
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its end was reported before,
     *   and if [value] is a body that has not run: then report [failed].
     */
    public suspend fun returned(value: Any?): Execution {
        refuseUnrun(value)
        return finish(NativeEnded.RETURNED, value)
    }

    /**
     * Reports that the action has thrown [error], and records it if outcomes are recorded.
     *
     * What stops a program or the coroutine is no failure: an `Error`, and a `CancellationException` in a cancelled coroutine, are
     * reported as [cancelled].
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its end was reported before.
     */
    public suspend fun failed(error: Throwable): Execution = if (error.stops()) cancelled() else finish(NativeEnded.FAILED)

    /**
     * Reports that the action was stopped while it ran. It is recorded without waiting for it, within one second.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if the permit is not spent or its end was reported before.
     */
    @Throws(ActPassException::class)
    public fun cancelled(): Execution = Execution(enter { native.finish(NativeEnded.CANCELLED, null) })

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

    /** Nothing that fails while a record is sent, an element of the caller's context included, takes the place of the report. */
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
