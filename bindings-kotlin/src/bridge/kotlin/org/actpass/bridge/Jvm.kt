package org.actpass.bridge

import com.sun.jna.JNIEnv
import com.sun.jna.Library
import com.sun.jna.NativeLibrary
import java.nio.ByteBuffer
import kotlin.coroutines.resume
import kotlinx.coroutines.suspendCancellableCoroutine

// The calls of a guard, through JNI: each takes about a microsecond, a call through JNA 10 to 40. Records and errors are encoded as
// in the generated code.

/**
 * The native methods, which `bindings-uniffi/src/jvm.rs` implements.
 *
 * An object of the library is a number, which is never reused; an unknown number is an error. The `owner` is the Kotlin object that
 * removes the number: as an argument, it is reachable until the method returns. A method returns null or 0 if the library failed.
 */
internal object Jvm {
    init {
        UniffiLib.ensureInitialized()
        val name = System.getProperty("uniffi.component.actpass_native.libraryOverride") ?: "actpass_uniffi"
        // The generated code loads it by the same name and class loader, so JNA returns the loaded library.
        val library = NativeLibrary.getInstance(name, Jvm::class.java.classLoader)
        val objects = mapOf(Library.OPTION_ALLOW_OBJECTS to true)
        val status =
            library.getFunction("actpass_jvm_register").invoke(Int::class.java, arrayOf(JNIEnv.CURRENT, Jvm::class.java), objects)
        check(status == 0) { "the native library did not register its methods" }
    }

    /** Starts a call, and runs [done] once it has completed, on the thread of the network or on this one. */
    @JvmStatic
    external fun authorize(owner: Any, client: Long, action: ByteArray, recordOutcome: Boolean, done: Runnable): Long

    @JvmStatic
    external fun preflight(owner: Any, client: Long, action: ByteArray, done: Runnable): Long

    @JvmStatic
    external fun send(owner: Any, recording: Long, done: Runnable): Long

    /** Removes a completed call, and returns its result. */
    @JvmStatic
    external fun take(call: Long): ByteArray?

    @JvmStatic
    external fun decision(owner: Any, session: Long): ByteArray?

    @JvmStatic
    external fun spend(owner: Any, session: Long, args: ByteArray): ByteArray?

    @JvmStatic
    external fun finish(owner: Any, session: Long, end: ByteArray): ByteArray?

    @JvmStatic
    external fun isHalted(owner: Any, signal: Long): Boolean

    @JvmStatic
    external fun onHalt(owner: Any, signal: Long, listener: Runnable)

    /** Removes an object. Cancels a call. Does nothing for an unknown number. */
    @JvmStatic
    external fun remove(number: Long)

    /** The number of permits, recordings, signals and calls that the library keeps, for tests. */
    @JvmStatic
    external fun count(): Long
}

/** The client whose calls of the guard use [Jvm]. */
class JvmClient : NativeClient {
    constructor(settings: NativeSettings, logger: NativeLogger?, logLevel: NativeLogLevel, script: NativeScript?) :
        super(settings, logger, logLevel, script)

    private constructor(client: NativeClient) : super(UniffiWithHandle, client.uniffiCloneHandle())

    private val number: Long = jvmNumber()

    init {
        Jvm
    }

    override fun inTrace(traceparent: String): NativeClient = super.inTrace(traceparent).use(::JvmClient)

    override fun withOptions(timeout: Double?, maxRetries: Long?): NativeClient = super.withOptions(timeout, maxRetries).use(::JvmClient)

    override suspend fun preflight(action: NativeAction, cancel: NativeCancel?): NativeDecision =
        await({ Jvm.preflight(this, number, FfiConverterTypeNativeAction.bytes(action), it) }, FfiConverterTypeNativeDecision::read)

    override suspend fun authorize(action: NativeAction, recordOutcome: Boolean, cancel: NativeCancel?): NativeVerdict =
        await({ Jvm.authorize(this, number, FfiConverterTypeNativeAction.bytes(action), recordOutcome, it) }) { reply ->
            if (reply.isSet()) {
                NativeVerdict.Permitted(JvmSession(reply.getLong()))
            } else {
                NativeVerdict.Blocked(FfiConverterTypeNativeBlocked.read(reply))
            }
        }

    companion object {
        /** The number of permits, recordings, signals and calls that the library keeps, for tests. */
        fun objects(): Long = Jvm.count()
    }
}

private class JvmSession(private val number: Long) : NativeSession(NoHandle) {
    private val removal = UniffiLib.CLEANER.register(this, Removal(number))

    override fun decision(): NativeDecision = Jvm.decision(this, number).reply(FfiConverterTypeNativeDecision::read)

    override fun spend(args: String?): NativeBegun =
        Jvm.spend(this, number, FfiConverterOptionalString.bytes(args)).reply { reply ->
            if (reply.isSet()) {
                val decision = FfiConverterTypeNativeDecision.read(reply)
                val credential = FfiConverterOptionalTypeNativeCredential.read(reply)
                NativeBegun.Running(NativeContext(decision, credential, JvmHaltSignal(reply.getLong())))
            } else {
                NativeBegun.Blocked(FfiConverterTypeNativeBlocked.read(reply))
            }
        }

    override fun finish(ended: NativeEnded, response: String?): NativeReport {
        val end = FfiConverterTypeNativeEnded.bytes(ended) + FfiConverterOptionalString.bytes(response)
        return Jvm.finish(this, number, end).reply { reply ->
            val decision = FfiConverterTypeNativeDecision.read(reply)
            val failure = FfiConverterOptionalTypeNativeFailure.read(reply)
            NativeReport(decision, failure, if (reply.isSet()) JvmRecording(reply.getLong()) else null)
        }
    }

    override fun destroy() = removal.clean()
}

private class JvmRecording(private val number: Long) : NativeRecording(NoHandle) {
    private val removal = UniffiLib.CLEANER.register(this, Removal(number))

    override suspend fun send(): NativeRecorded = await({ Jvm.send(this, number, it) }, FfiConverterTypeNativeRecorded::read)

    override fun destroy() = removal.clean()
}

private class JvmHaltSignal(private val number: Long) : NativeHaltSignal(NoHandle) {
    private val removal = UniffiLib.CLEANER.register(this, Removal(number))

    override fun isHalted(): Boolean = Jvm.isHalted(this, number)

    override fun onHalt(listener: NativeHaltListener) = Jvm.onHalt(this, number) { listener.halted() }

    override fun destroy() = removal.clean()
}

/** Removes an object of the library. Does not refer to its Kotlin object, which could not become unreachable otherwise. */
private class Removal(private val number: Long) : Runnable {
    override fun run() = Jvm.remove(number)
}

/** Waits for a call. Cancelling the coroutine cancels it, and removes a result that was not read. */
private suspend fun <T> await(start: (done: Runnable) -> Long, read: (ByteBuffer) -> T): T {
    var call = 0L
    try {
        suspendCancellableCoroutine { continuation ->
            call = start { continuation.resume(Unit) }
            if (call == 0L) throw failed()
        }
        val reply = Jvm.take(call)
        call = 0L
        return reply.reply(read)
    } finally {
        if (call != 0L) Jvm.remove(call)
    }
}

private inline fun <T> ByteArray?.reply(read: (ByteBuffer) -> T): T {
    val reply = ByteBuffer.wrap(this ?: throw failed())
    if (reply.isSet()) return read(reply)
    throw FfiConverterTypeNativeError.read(reply)
}

private fun failed() = InternalException("a native call failed")

private fun ByteBuffer.isSet() = get() != 0.toByte()

private fun <T> FfiConverter<T, *>.bytes(value: T): ByteArray {
    val buffer = ByteBuffer.allocate(allocationSize(value).toInt())
    write(value, buffer)
    return buffer.array().copyOf(buffer.position())
}
