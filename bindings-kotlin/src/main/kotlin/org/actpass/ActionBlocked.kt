package org.actpass

import org.actpass.bridge.nativeBlockedText

/**
 * An action did not run. [Outcome.unwrap] throws it.
 *
 * Its cause is how the gate failed, an [ActPassException]; null if the gateway decided.
 *
 * @property tool the tool that was not used.
 * @property decision the gateway's decision, or the one that the SDK made because the gate failed.
 * @property approval what to keep in order to run the action once a person has approved it; null if there is nothing to wait for.
 */
public class ActionBlocked
    @JvmOverloads
    constructor(
        public val tool: String,
        public val decision: Decision,
        error: ActPassException? = null,
        public val approval: PendingApproval? = null,
    ) : RuntimeException(
            nativeBlockedText(tool, decision.word.wire, decision.reasonCode, error?.message ?: decision.explain.summary),
            error,
        ) {
        /** How the gate failed; null if the gateway decided. */
        public val error: ActPassException? get() = cause as ActPassException?

        /**
         * Whether the same call may succeed later without any change: the gate failed in a way that may pass. A decision is no such
         * failure.
         */
        public val isRetryable: Boolean get() = error?.isRetryable ?: false
    }
