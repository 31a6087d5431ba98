package org.actpass

/**
 * An action was blocked and did not run. [Outcome.unwrap] throws it.
 *
 * Its message is written for a model, because frameworks pass exception messages to models. Its cause is the [ActPassException] of a
 * failed gate; null if the gateway decided.
 *
 * @property outcome the blocked outcome.
 */
public class ActionBlockedException(public val outcome: Outcome.Blocked) : RuntimeException(outcome.message, outcome.error) {
    /** Creates an instance, for tests. */
    @JvmOverloads
    public constructor(tool: String, decision: Decision, error: ActPassException? = null, approval: PendingApproval? = null) :
        this(Outcome.Blocked(tool, decision, error, approval))

    /** The blocked tool. */
    public val tool: String get() = outcome.tool

    /** The gateway's decision, or the SDK's denial because the gate failed. */
    public val decision: Decision get() = outcome.decision

    /** The failure of the gate; null if the gateway decided. */
    public val error: ActPassException? get() = outcome.error

    /** Data for `resume` after a human approval; null if no approval is pending. */
    public val approval: PendingApproval? get() = outcome.approval

    /** The decision's [Decision.reasonCode]. */
    public val code: String get() = outcome.code

    /** [Outcome.Blocked.isRetryable]. */
    public val isRetryable: Boolean get() = outcome.isRetryable

    /** [Outcome.Blocked.developerText]. */
    public val developerText: String get() = outcome.developerText
}
