package org.actpass

import org.actpass.bridge.NativeRecorded

/** An event that is in the ledger. */
public class RecordedEvidence internal constructor(native: NativeRecorded) {
    /** Makes one, for tests. */
    @JvmOverloads
    public constructor(eventId: String, currentEventHash: String? = null) : this(
        NativeRecorded(
            eventId,
            currentEventHash,
            json("evidence", mapOf("event_id" to eventId, "current_event_hash" to currentEventHash)),
        ),
    )

    /** Its name there. */
    public val eventId: String = native.eventId

    /** Its hash, which the next event of the chain covers. */
    public val currentEventHash: String? = native.currentEventHash

    /** The whole answer, a JSON object. */
    public val json: String = native.json

    override fun toString(): String = "RecordedEvidence($json)"
}
