package org.actpass

import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlin.time.toJavaDuration
import org.actpass.bridge.NativeErrorKind
import org.actpass.bridge.NativeFailure
import org.actpass.bridge.NativeLanguage
import org.actpass.bridge.nativeFailure
import org.actpass.bridge.nativeMessage

/**
 * What went wrong at the gate, or on the way to it. When in doubt, take it for "do not execute".
 *
 * Nothing in it shows the API key, a passport or a credential.
 */
public class ActPassException internal constructor(failure: NativeFailure) :
    RuntimeException(nativeMessage(failure, NativeLanguage.KOTLIN)) {
    /**
     * Makes an exception, for tests.
     *
     * @param kind what kind of thing went wrong; the [code] follows from it.
     * @param message one line.
     * @param operation the call that failed.
     * @param status the HTTP status of an answer outside 2xx.
     * @param requestId the `x-request-id` of the answer.
     */
    @JvmOverloads
    public constructor(
        kind: Kind,
        message: String,
        operation: String? = null,
        status: Int? = null,
        requestId: String? = null,
    ) : this(
        nativeFailure(kind.native, message).copy(operation = operation, status = status?.toUShort(), requestId = requestId),
    )

    /** What kind of thing went wrong. */
    public val kind: Kind = Kind.of(failure.kind)

    /** The stable name of what happened, such as `actpass.unreachable`: branch and alert on it. */
    public val code: String = failure.code

    /** The call that failed, such as `preflight`; null before there was one. */
    public val operation: String? = failure.operation

    /** The HTTP status of an answer outside 2xx. */
    public val status: Int? = failure.status?.toInt()

    /**
     * The text of an answer outside 2xx, every secret taken out; null where there was none, where it was larger than 64 KiB, or
     * where a secret in it could not be ruled out.
     */
    public val body: String? = failure.body

    /** The `x-request-id` that the gateway gave the call. */
    public val requestId: String? = failure.requestId

    /** How long the gateway asked to be left alone. From Java: [retryAfterAsJava]. */
    public val retryAfter: Duration? = failure.retryAfter?.seconds

    /** [retryAfter], for Java. */
    public fun retryAfterAsJava(): java.time.Duration? = retryAfter?.toJavaDuration()

    /** Whether the same call may succeed later. The client has already retried what it could. */
    public val isRetryable: Boolean = failure.retryable

    internal val kindName: String = failure.kindName

    /** The kinds of exceptions. */
    public enum class Kind {
        /** An argument cannot be sent: not JSON, nested too deep, empty where something is needed. Nothing was sent or run. */
        ARGUMENT,

        /** 401: the gateway does not know the API key. */
        AUTHENTICATION,

        /** A setting of the client is missing or wrong. Nothing was sent. */
        CONFIG,

        /** The gateway could not be reached: name, connection, TLS, or a connection that was reset. */
        CONNECTION,

        /** A defect of the SDK; please report it. */
        INTERNAL,

        /** 403: the API key may not do this. */
        PERMISSION,

        /** 429, still so after the last retry. */
        RATE_LIMIT,

        /** A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold. */
        RESPONSE,

        /** Any other status outside 2xx. Redirects count as such: they are never followed. */
        STATUS,

        /** The deadline passed before there was an answer. */
        TIMEOUT,
        ;

        /** The kind's name, the same in every language: `rate_limit`. */
        override fun toString(): String = name.lowercase()

        internal val native: NativeErrorKind
            get() =
                when (this) {
                    ARGUMENT -> NativeErrorKind.ARGUMENT
                    AUTHENTICATION -> NativeErrorKind.AUTHENTICATION
                    CONFIG -> NativeErrorKind.CONFIG
                    CONNECTION -> NativeErrorKind.CONNECTION
                    INTERNAL -> NativeErrorKind.INTERNAL
                    PERMISSION -> NativeErrorKind.PERMISSION
                    RATE_LIMIT -> NativeErrorKind.RATE_LIMIT
                    RESPONSE -> NativeErrorKind.RESPONSE
                    STATUS -> NativeErrorKind.STATUS
                    TIMEOUT -> NativeErrorKind.TIMEOUT
                }

        internal companion object {
            fun of(kind: NativeErrorKind): Kind =
                when (kind) {
                    NativeErrorKind.ARGUMENT -> ARGUMENT
                    NativeErrorKind.AUTHENTICATION -> AUTHENTICATION
                    NativeErrorKind.CONFIG -> CONFIG
                    NativeErrorKind.CONNECTION -> CONNECTION
                    NativeErrorKind.INTERNAL -> INTERNAL
                    NativeErrorKind.PERMISSION -> PERMISSION
                    NativeErrorKind.RATE_LIMIT -> RATE_LIMIT
                    NativeErrorKind.RESPONSE -> RESPONSE
                    NativeErrorKind.STATUS -> STATUS
                    NativeErrorKind.TIMEOUT -> TIMEOUT
                }
        }
    }
}
