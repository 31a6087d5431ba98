package org.actpass

import java.util.concurrent.atomic.AtomicBoolean
import org.actpass.bridge.NativeLogEvent
import org.actpass.bridge.NativeLogLevel
import org.actpass.bridge.NativeLogger

/**
 * Takes the log lines of a client's calls. They hold no secret, no argument and no result.
 *
 * ```kotlin
 * import org.actpass.ActPass
 * import org.actpass.LogLevel
 * import org.actpass.Logger
 *
 * fun main() {
 *     val actpass = ActPass("apk_dev", logger = Logger { println(it) }, logLevel = LogLevel.DEBUG)
 *     println(actpass)
 * }
 * ```
 *
 * A thread of the SDK calls the logger, one line at a time. A logger that is slow delays no call: 1024 lines wait for it at most, later
 * ones are dropped, and a line says how many. What a logger throws changes nothing, and is said once, on standard error.
 */
public fun interface Logger {
    /** Takes a line. */
    public fun log(event: LogEvent)
}

/**
 * A log line. Its texts are those of `docs/telemetry.md`, the same in every language.
 *
 * @property level how important it is.
 * @property message what happened.
 * @property fields the fields, such as `tool` and `reason_code`.
 */
public data class LogEvent(
    public val level: LogLevel,
    public val message: String,
    public val fields: Map<String, String>,
) {
    /** The message, and the fields in the order of their names. */
    override fun toString(): String = fields.toSortedMap().entries.joinToString("") { (name, value) -> " $name=$value" }.let(message::plus)
}

/** How important a log line is. */
public enum class LogLevel {
    /** Each call: what may run, retries, how calls end. */
    DEBUG,

    /** What is blocked. */
    INFO,

    /** Gates that failed. */
    WARN,
    ;

    /** `debug`, `info` or `warn`. */
    override fun toString(): String = name.lowercase()

    internal val native: NativeLogLevel
        get() =
            when (this) {
                DEBUG -> NativeLogLevel.DEBUG
                INFO -> NativeLogLevel.INFO
                WARN -> NativeLogLevel.WARNING
            }

    internal companion object {
        fun of(level: NativeLogLevel): LogLevel =
            when (level) {
                NativeLogLevel.DEBUG -> DEBUG
                NativeLogLevel.INFO -> INFO
                NativeLogLevel.WARNING -> WARN
            }
    }
}

/** The logger as the native library calls it. */
internal class LogBridge(private val logger: Logger) : NativeLogger {
    override fun log(event: NativeLogEvent) {
        try {
            logger.log(LogEvent(LogLevel.of(event.level), event.message, event.fields))
        } catch (thrown: Throwable) {
            if (hasFailed.compareAndSet(false, true)) {
                System.err.println("actpass: a logger threw ${thrown.javaClass.name}; no call is affected")
            }
        }
    }

    private companion object {
        val hasFailed = AtomicBoolean()
    }
}
