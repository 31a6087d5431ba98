package org.actpass

import org.actpass.bridge.NativeApproval
import org.actpass.bridge.NativeApprovalStatus
import org.actpass.bridge.NativePending
import org.actpass.bridge.nativePendingApproval

/**
 * An action that waits for a person: small, without secrets, and made to be kept until somebody decided, also in another process.
 * [ActPass.resume] guards it again.
 */
public class PendingApproval internal constructor(native: NativePending) {
    /** The approval's id. */
    public val id: String = native.id

    /** All of it as a JSON object, to keep. */
    public val json: String = native.json

    /** All members; `args` holds the action's arguments, for the block to use what was approved. */
    public val members: Map<String, Any?> by lazy { members(json) }

    /**
     * Reads what [json] was.
     *
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT], naming the member that is missing, unknown or not what it
     *   must be.
     */
    @Throws(ActPassException::class)
    public constructor(json: String) : this(enter { nativePendingApproval(json.wellFormed("pending")) })

    /** Its id. */
    override fun toString(): String = "PendingApproval($id)"

    override fun equals(other: Any?): Boolean = other is PendingApproval && other.json == json

    override fun hashCode(): Int = json.hashCode()
}

/** Where an approval stands. */
public class Approval internal constructor(native: NativeApproval) {
    /** Makes one, for tests. */
    @JvmOverloads
    public constructor(id: String, status: Status, decidedBy: String? = null) : this(
        NativeApproval(
            status.native,
            decidedBy,
            json("approval", mapOf("id" to id, "status" to status.wire, "decided_by" to decidedBy)),
        ),
    )

    /** What became of it. */
    public val status: Status = Status.of(native.status)

    /** Who decided; null if nobody did. */
    public val decidedBy: String? = native.decidedBy

    /** The whole answer, a JSON object. */
    public val json: String = native.json

    /** All members, as in [Decision.members]. */
    public val members: Map<String, Any?> by lazy { members(json) }

    override fun toString(): String = "Approval($json)"

    /** What became of an approval. */
    public enum class Status {
        /** A person approved it. */
        APPROVED,

        /** Its deadline passed. */
        EXPIRED,

        /** Nobody has decided yet. */
        PENDING,

        /** A person rejected it. */
        REJECTED,
        ;

        /** The word as it stands on the wire. */
        public val wire: String get() = name.lowercase()

        /** The word as it stands on the wire. */
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
