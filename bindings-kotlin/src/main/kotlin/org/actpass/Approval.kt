package org.actpass

import org.actpass.bridge.NativeApproval
import org.actpass.bridge.NativeApprovalStatus
import org.actpass.bridge.NativePending
import org.actpass.bridge.nativePendingApproval

/**
 * An action that waits for human approval: JSON without secrets, to store until the decision, also in another process. [ActPass.resume]
 * guards it again.
 */
public class PendingApproval internal constructor(native: NativePending) {
    /** The approval's id. */
    public val id: String = native.id

    /** The JSON object to store. */
    public val json: String = native.json

    /** All members; `args` contains the approved arguments for the block. */
    public val members: Map<String, Any?> by lazy { members(json) }

    /**
     * Parses the [json] of a stored approval.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if a member is missing, unknown or invalid; the message
     *   names it.
     */
    @Throws(ActPassException::class)
    public constructor(json: String) : this(enter { nativePendingApproval(json.wellFormed("pending")) })

    /** Its id. */
    override fun toString(): String = "PendingApproval($id)"

    override fun equals(other: Any?): Boolean = other is PendingApproval && other.json == json

    override fun hashCode(): Int = json.hashCode()
}

/** The state of an approval. */
public class Approval internal constructor(native: NativeApproval) {
    /** Creates an instance, for tests. */
    @JvmOverloads
    public constructor(id: String, status: Status, decidedBy: String? = null) : this(
        NativeApproval(
            status.native,
            decidedBy,
            json("approval", mapOf("id" to id, "status" to status.wire, "decided_by" to decidedBy)),
        ),
    )

    /** The status. */
    public val status: Status = Status.of(native.status)

    /** The person who decided; null while pending. */
    public val decidedBy: String? = native.decidedBy

    /** The complete response, a JSON object. */
    public val json: String = native.json

    /** All members, as in [Decision.members]. */
    public val members: Map<String, Any?> by lazy { members(json) }

    override fun toString(): String = "Approval($json)"

    /** The status of an approval. */
    public enum class Status {
        /** A person approved it. */
        APPROVED,

        /** The deadline expired. */
        EXPIRED,

        /** No decision yet. */
        PENDING,

        /** A person rejected it. */
        REJECTED,
        ;

        /** The value on the wire. */
        public val wire: String get() = name.lowercase()

        /** The value on the wire. */
        override fun toString(): String = wire

        internal val native: NativeApprovalStatus
            get() =
                when (this) {
                    APPROVED -> NativeApprovalStatus.APPROVED
                    EXPIRED -> NativeApprovalStatus.EXPIRED
                    PENDING -> NativeApprovalStatus.PENDING
                    REJECTED -> NativeApprovalStatus.REJECTED
                }

        internal companion object {
            fun of(status: NativeApprovalStatus): Status =
                when (status) {
                    NativeApprovalStatus.APPROVED -> APPROVED
                    NativeApprovalStatus.EXPIRED -> EXPIRED
                    NativeApprovalStatus.PENDING -> PENDING
                    NativeApprovalStatus.REJECTED -> REJECTED
                }
        }
    }
}
