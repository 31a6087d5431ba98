package org.actpass

import org.actpass.bridge.NativeRecorded

/** A recorded event of the ledger. */
public class RecordedEvidence internal constructor(native: NativeRecorded) {
    /** Creates an instance, for tests. */
    @JvmOverloads
    public constructor(eventId: String, currentEventHash: String? = null) : this(
        NativeRecorded(
            eventId,
            currentEventHash,
            json("evidence", mapOf("event_id" to eventId, "current_event_hash" to currentEventHash)),
        ),
    )

    /** Its id in the ledger. */
    public val eventId: String = native.eventId

    /** Its hash, which the next event of the chain includes. */
    public val currentEventHash: String? = native.currentEventHash

    /** The complete response, a JSON object. */
    public val json: String = native.json

    override fun toString(): String = "RecordedEvidence($json)"
}
