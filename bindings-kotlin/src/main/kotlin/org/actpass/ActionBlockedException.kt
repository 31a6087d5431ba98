package org.actpass

/**
 * An action did not run. [Outcome.unwrap] throws it.
 *
 * Its message is the text for a model, because frameworks hand the messages of exceptions to models. Its cause is how the gate failed,
 * an [ActPassException]; null if the gateway decided.
 *
 * @property outcome what was blocked, and why.
 */
public class ActionBlockedException(public val outcome: Outcome.Blocked) : RuntimeException(outcome.message, outcome.error) {
    /** Makes one, for tests. */
    @JvmOverloads
    public constructor(tool: String, decision: Decision, error: ActPassException? = null, approval: PendingApproval? = null) :
        this(Outcome.Blocked(tool, decision, error, approval))

    /** The tool that was not used. */
    public val tool: String get() = outcome.tool

    /** The gateway's decision, or the one that the SDK made because the gate failed. */
    public val decision: Decision get() = outcome.decision

    /** How the gate failed; null if the gateway decided. */
    public val error: ActPassException? get() = outcome.error

    /** What to keep in order to run the action once a person has approved it; null if there is nothing to wait for. */
    public val approval: PendingApproval? get() = outcome.approval

    /** The decision's [Decision.reasonCode]. */
    public val code: String get() = outcome.code

    /** [Outcome.Blocked.isRetryable]. */
    public val isRetryable: Boolean get() = outcome.isRetryable

    /** [Outcome.Blocked.developerText]. */
    public val developerText: String get() = outcome.developerText
}
