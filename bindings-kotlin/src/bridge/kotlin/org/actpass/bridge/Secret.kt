package org.actpass.bridge

/** A text that no form of printing shows: a key, a passport or a credential. Only [exposed] gives it. */
public class Secret(
    /** The text. */
    public val exposed: String,
) {
    override fun equals(other: Any?): Boolean = other is Secret && other.exposed == exposed

    override fun hashCode(): Int = exposed.hashCode()

    /** `[redacted]` */
    override fun toString(): String = "[redacted]"
}
