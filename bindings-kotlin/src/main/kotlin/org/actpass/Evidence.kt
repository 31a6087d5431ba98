package org.actpass

import org.actpass.bridge.NativeRecorded

/** An event that is in the ledger. */
public class RecordedEvidence internal constructor(native: NativeRecorded) {
    /** Its name there. */
    public val eventId: String = native.eventId

    /** Its hash, which the next event of the chain covers. */
    public val currentEventHash: String? = native.currentEventHash

    /** The whole answer, a JSON object. */
    public val json: String = native.json

    override fun toString(): String = "RecordedEvidence($json)"
}
