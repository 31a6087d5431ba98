package org.actpass

import kotlin.coroutines.ContinuationInterceptor
import kotlin.coroutines.coroutineContext
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext
import org.actpass.bridge.InternalException
import org.actpass.bridge.NativeException
import org.actpass.bridge.NativeFailure
import org.actpass.bridge.NativeStep
import org.actpass.bridge.nativeArgumentError
import org.actpass.bridge.nativePanicked

// The one door to the native library.

/** Makes a call, which is dropped at once when its coroutine is cancelled. */
internal suspend fun <T> call(body: suspend () -> T): T {
    coroutineContext.ensureActive()
    // Where nothing takes the coroutine to a thread of its own, it would go on in that of the network and might block it.
    val interceptor = coroutineContext[ContinuationInterceptor]
    val isConfined = interceptor != null && interceptor !== Dispatchers.Unconfined
    try {
        return if (isConfined) body() else withContext(Dispatchers.Default) { body() }
    } catch (error: NativeException) {
        throw converted(error)
    } catch (error: InternalException) {
        throw converted(error)
    }
}

/** Makes a conversion. */
internal inline fun <T> enter(body: () -> T): T =
    try {
        body()
    } catch (error: NativeException) {
        throw converted(error)
    } catch (error: InternalException) {
        throw converted(error)
    }

/** The exception of the native library as the one that users know. */
internal fun converted(error: Exception): ActPassException =
    when (error) {
        is NativeException.Failed -> ActPassException(error.failure)
        // A panic, which the generated code caught; calls from here are never cancelled by a token.
        else -> ActPassException(nativePanicked())
    }

/** The exception of an argument that cannot be sent; [steps] lead from it to the problem. */
internal fun argumentError(member: String, problem: String, steps: List<NativeStep> = emptyList()): ActPassException =
    ActPassException(nativeArgumentError(member, steps, problem))

/** The exception of what failed here, beside the native library. */
internal fun internalError(problem: String, cause: Throwable): ActPassException =
    ActPassException(nativePanicked().copy(text = problem)).apply { initCause(cause) }

/** The text, if it is one in Unicode: the native library takes UTF-8. */
internal fun String.wellFormed(member: String, steps: List<NativeStep> = emptyList()): String {
    if (!Charsets.UTF_8.newEncoder().canEncode(this)) {
        throw argumentError(member, "expected text in Unicode, found a lone surrogate", steps)
    }
    return this
}

internal fun List<String>.wellFormed(member: String): List<String> =
    mapIndexed { at, text -> text.wellFormed(member, listOf(NativeStep.Index(at.toULong()))) }

internal fun NativeFailure.exception(): ActPassException = ActPassException(this)
