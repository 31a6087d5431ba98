package org.actpass

import kotlin.coroutines.resume
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.isActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine
import org.actpass.bridge.NativeHaltListener
import org.actpass.bridge.NativeHaltSignal

/**
 * Signals a running block that its action was stopped: [ExecutionContext.halt].
 *
 * The block decides what to do: it can finish, or end early. It is signalled if it has run for longer than a second, or if another
 * response shows the stop; the gateway must support stops. Nothing is cancelled unless the block uses [cancelling]. Safe to use from
 * any thread.
 */
public class HaltSignal internal constructor(private val native: NativeHaltSignal?) {
    /** Creates a signal that is never set, for tests. */
    public constructor() : this(null)

    /** Whether the action was stopped. Never becomes `false` again. */
    public val isHalted: Boolean get() = native?.isHalted() ?: false

    /**
     * Calls [listener] once when the action is stopped, immediately if it is already. The call comes from the SDK's background thread, so
     * it must not block. An exception of [listener] is ignored.
     */
    public fun onHalt(listener: Runnable) {
        native?.onHalt(
            object : NativeHaltListener {
                override fun halted() {
                    runCatching { listener.run() }
                }
            },
        )
    }

    /** Suspends until the action is stopped. */
    public suspend fun await(): Unit = suspendCancellableCoroutine { continuation -> onHalt { continuation.resume(Unit) } }

    /**
     * Runs [part], a part of the block that may be stopped at any point; cancels it if the action is stopped.
     *
     * @throws HaltedException if it was cancelled. The outcome of the guard reports it as the block's error.
     */
    public suspend fun <T> cancelling(part: suspend CoroutineScope.() -> T): T = coroutineScope {
        val running = async(block = part)
        val watch = launch {
            await()
            running.cancel()
        }
        try {
            running.await()
        } catch (error: CancellationException) {
            throw if (isHalted && isActive) HaltedException() else error
        } finally {
            watch.cancel()
        }
    }

    /** Whether the action was stopped. */
    override fun toString(): String = "HaltSignal(isHalted=$isHalted)"
}

/** A part of a block was cancelled because its action was stopped: [HaltSignal.cancelling]. */
public class HaltedException : RuntimeException("the action was stopped")
