package org.actpass

import java.util.concurrent.atomic.AtomicBoolean
import org.actpass.bridge.NativeLogEvent
import org.actpass.bridge.NativeLogLevel
import org.actpass.bridge.NativeLogger

/**
 * Receives the log lines of a client's calls, which contain no secrets, arguments or results.
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
 * A thread of the SDK calls the logger, one line at a time. A slow logger does not delay calls: up to 1024 lines are queued, later ones
 * are dropped, and a line reports their number. Exceptions of a logger are ignored and reported once on standard error.
 */
public fun interface Logger {
    /** Logs a line. */
    public fun log(event: LogEvent)
}

/**
 * A log line. `docs/telemetry.md` lists the texts, which are the same in every language.
 *
 * @property level the level.
 * @property message the message text.
 * @property fields the fields, such as `tool` and `reason_code`.
 */
public data class LogEvent(
    public val level: LogLevel,
    public val message: String,
    public val fields: Map<String, String>,
) {
    /** The message and the fields, sorted by name. */
    override fun toString(): String = fields.toSortedMap().entries.joinToString("") { (name, value) -> " $name=$value" }.let(message::plus)
}

/** The level of a log line. */
public enum class LogLevel {
    /** Each call, retry and permitted action. */
    DEBUG,

    /** Blocked actions. */
    INFO,

    /** Failures of the gate. */
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

/** The logger that the native library calls. */
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
