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
 * An error of the SDK. When in doubt, treat it as "do not execute".
 *
 * It never contains the API key, a passport or a credential.
 */
public class ActPassException internal constructor(failure: NativeFailure) :
    RuntimeException(nativeMessage(failure, NativeLanguage.KOTLIN)) {
    /**
     * Creates an exception, for tests.
     *
     * @param kind the kind of error; it determines the [code].
     * @param message one line.
     * @param operation the call that failed.
     * @param status the HTTP status of a response outside 2xx.
     * @param requestId the `x-request-id` of the response.
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

    /** The kind of error. */
    public val kind: Kind = Kind.of(failure.kind)

    /** The stable error code, such as `actpass.unreachable`: branch and alert on it. */
    public val code: String = failure.code

    /** The call that failed, such as `preflight`; null outside a call. */
    public val operation: String? = failure.operation

    /** The HTTP status of a response outside 2xx. */
    public val status: Int? = failure.status?.toInt()

    /**
     * The body of a response outside 2xx, with secrets redacted; null without one, if it is larger than 64 KiB, or if it may still
     * contain a secret.
     */
    public val body: String? = failure.body

    /** The `x-request-id` of the gateway's response. */
    public val requestId: String? = failure.requestId

    /** The value of the `Retry-After` header. Java uses [retryAfterAsJava]. */
    public val retryAfter: Duration? = failure.retryAfter?.seconds

    /** [retryAfter], for Java. */
    public fun retryAfterAsJava(): java.time.Duration? = retryAfter?.toJavaDuration()

    /** Whether the same call may succeed later. The client has already used its retries. */
    public val isRetryable: Boolean = failure.retryable

    internal val kindName: String = failure.kindName

    /** The kinds of exceptions. */
    public enum class Kind {
        /** An argument is invalid: not JSON, nested too deeply or empty. Nothing was sent or run. */
        ARGUMENT,

        /** 401: the API key is unknown. */
        AUTHENTICATION,

        /** A setting of the client is missing or invalid. Nothing was sent. */
        CONFIG,

        /** The gateway is unreachable: name resolution, connection or TLS failed, or the connection was reset. */
        CONNECTION,

        /** A bug in the SDK; please report it. */
        INTERNAL,

        /** 403: the API key lacks the permission. */
        PERMISSION,

        /** 429 after the last retry. */
        RATE_LIMIT,

        /** An invalid 2xx response: not JSON, truncated, too large, or without a required member. */
        RESPONSE,

        /** Any other status outside 2xx. Redirects are errors: the client never follows them. */
        STATUS,

        /** The deadline expired before the gateway responded. */
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
