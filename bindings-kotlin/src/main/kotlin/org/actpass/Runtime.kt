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

// The bridge to the native library.

/** Runs a native call; cancelling the coroutine cancels it immediately. */
internal suspend fun <T> call(body: suspend () -> T): T {
    coroutineContext.ensureActive()
    // Without a dispatcher, the coroutine would resume on the network thread and might block it.
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

/** Runs a synchronous native call. */
internal inline fun <T> enter(body: () -> T): T =
    try {
        body()
    } catch (error: NativeException) {
        throw converted(error)
    } catch (error: InternalException) {
        throw converted(error)
    }

/** Converts an exception of the native library to the public exception. */
internal fun converted(error: Exception): ActPassException =
    when (error) {
        is NativeException.Failed -> ActPassException(error.failure)
        // A panic, caught by the generated code; these calls are never cancelled by a token.
        else -> ActPassException(nativePanicked())
    }

/** Creates the exception of an invalid argument; [steps] are the path to the problem. */
internal fun argumentError(member: String, problem: String, steps: List<NativeStep> = emptyList()): ActPassException =
    ActPassException(nativeArgumentError(member, steps, problem))

/** Creates the exception of a failure outside the native library. */
internal fun internalError(problem: String, cause: Throwable): ActPassException =
    ActPassException(nativePanicked().copy(text = problem)).apply { initCause(cause) }

/** Returns the text if it is well-formed Unicode, because the native library takes UTF-8. */
internal fun String.wellFormed(member: String, steps: List<NativeStep> = emptyList()): String {
    // An encoder costs more than a look at a short text.
    if (any(Char::isSurrogate) && !Charsets.UTF_8.newEncoder().canEncode(this)) {
        throw argumentError(member, "expected text in Unicode, found a lone surrogate", steps)
    }
    return this
}

internal fun List<String>.wellFormed(member: String): List<String> =
    mapIndexed { at, text -> text.wellFormed(member, listOf(NativeStep.Index(at.toULong()))) }

internal fun NativeFailure.exception(): ActPassException = ActPassException(this)
