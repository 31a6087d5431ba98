package org.actpass.bridge

/** A secret text (key, passport, credential) that printing redacts. Only [exposed] reveals it. */
public class Secret(
    /** The text. */
    public val exposed: String,
) {
    override fun equals(other: Any?): Boolean = other is Secret && other.exposed == exposed

    override fun hashCode(): Int = exposed.hashCode()

    /** `[redacted]` */
    override fun toString(): String = "[redacted]"
}
