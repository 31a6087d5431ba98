package org.actpass

import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineName
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.TimeoutCancellationException
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.delay
import kotlinx.coroutines.isActive
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.supervisorScope
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.yield
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What a guard promises besides the table, which the vectors hold. */
class GuardTest {
    private class Refused : Exception("refused")

    @Test
    fun whatItReturnsAndThrowsIsTheVeryObject(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val receipt = Any()
            val returned = client.guard(refund) { receipt }
            assertSame(receipt, (returned as Outcome.Executed).value)
            assertNull(returned.errorOrNull())

            for (refused in listOf(Refused(), AssertionError("an Error too"), NotImplementedError())) {
                val thrown = client.guard<Int>(refund) { throw refused }
                assertSame(refused, (thrown as Outcome.Failed).error)
                assertTrue(thrown.canonicalJson().endsWith(""""error":{"kind":"action","status":null},"executed":true}"""))
            }
        }
    }

    @Test
    fun theBlockRunsInTheCallersContext(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            Executors.newSingleThreadExecutor { Thread(it, "mine") }.asCoroutineDispatcher().use { mine ->
                withContext(mine + CoroutineName("trace-1")) {
                    val outcome = client.guard(refund) {
                        yield()
                        currentCoroutineContext()[CoroutineName]?.name to Thread.currentThread().name.substringBefore(' ')
                    }
                    assertEquals("trace-1" to "mine", outcome.valueOrNull())
                }
            }
        }
    }

    /** A block that blocks does not hold up the thread of the network, not even where nothing dispatches it. */
    @Test
    fun anUnconfinedBlockMayBlock(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val outcome = withTimeout(20.seconds) {
                withContext(Dispatchers.Unconfined) {
                    client.guard(refund) { runBlocking { client.guard(refund) { "inner" }.valueOrNull() } }
                }
            }
            assertEquals("inner", outcome.valueOrNull())
        }
    }

    @Test
    fun aCancelledCallEndsAtOnceAndRunsNothing(): Unit = runBlocking {
        for (mode in Mode.entries) {
            Hostile.play(mapOf("do" to "hang", "at" to "request")).use { gateway ->
                val client = quick(gateway.baseUrl, timeout = 30.seconds, mode = mode)
                val runs = AtomicInteger()
                val job = launch(Dispatchers.Default) { client.guard(refund) { runs.incrementAndGet() } }
                while (gateway.seen().isEmpty()) delay(5.milliseconds)
                within(100.milliseconds) {
                    job.cancel()
                    job.join()
                }
                assertTrue(job.isCancelled)
                delay(50.milliseconds)
                assertEquals(0, runs.get())
            }
        }
    }

    @Test
    fun aCoroutineThatIsCancelledAlreadySendsAndRunsNothing(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl, mode = Mode.MONITOR)
            val runs = AtomicInteger()
            val job = launch(Dispatchers.Default) {
                while (isActive) yield2()
                client.guard(refund) { runs.incrementAndGet() }
            }
            job.cancel()
            job.join()
            assertEquals(0, runs.get())
            assertEquals(0, gateway.seen().size)
        }
    }

    private fun yield2() = Thread.yield()

    @Test
    fun theCancellationOfTheOwnCoroutineIsPassedOnAndAnotherIsAnError(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val started = CompletableDeferred<Unit>()
            val ended = CompletableDeferred<Outcome<Nothing>?>()
            val job = launch(Dispatchers.Default) {
                try {
                    ended.complete(client.guard(refund) { started.complete(Unit).let { awaitCancellation() } })
                } catch (error: CancellationException) {
                    ended.complete(null)
                    throw error
                }
            }
            started.await()
            job.cancel()
            job.join()
            assertNull("the cancellation was swallowed", ended.await())

            val own = client.guard<Int>(refund) { throw CancellationException("mine") }
            assertEquals("mine", (own as Outcome.Failed).error.message)
            val slow = client.guard(refund) { withTimeout(10.milliseconds) { delay(10.seconds) } }
            assertTrue((slow as Outcome.Failed).error is TimeoutCancellationException)
        }
    }

    @Test
    fun whatStopsAProgramIsPassedOn(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            for (stop in listOf(InterruptedException("stop"), OutOfMemoryError("stop"), NoClassDefFoundError("stop"))) {
                val thrown = assertThrows(Throwable::class.java) { runBlocking { client.guard(refund) { throw stop } } }
                assertEquals(stop.javaClass, thrown.javaClass)
            }
        }
    }

    @Test
    fun aThousandCallsInParallelRunEachBlockOnce(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl, timeout = 60.seconds)
            val runs = ConcurrentHashMap<Int, AtomicInteger>()
            withContext(Dispatchers.Default) {
                List(1_000) { number ->
                    launch {
                        val outcome = client.guard(refund) {
                            runs.computeIfAbsent(number) { AtomicInteger() }.incrementAndGet()
                            number
                        }
                        assertEquals(number, outcome.valueOrNull())
                    }
                }.joinAll()
            }
            assertEquals(1_000, runs.size)
            assertTrue(runs.values.all { it.get() == 1 })
        }
    }

    @Test
    fun aManyTimesCancelledClientStillWorks(): Unit = runBlocking {
        Hostile.play(answer(allow) + ("delay_ms" to 20)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val runs = ConcurrentHashMap<Int, AtomicInteger>()
            supervisorScope {
                List(300) { number ->
                    launch(Dispatchers.Default) {
                        val call = async { client.guard(refund) { runs.computeIfAbsent(number) { AtomicInteger() }.incrementAndGet() } }
                        delay((number % 40).milliseconds)
                        call.cancel()
                    }
                }.joinAll()
            }
            assertTrue(runs.values.all { it.get() == 1 })
            assertEquals("still", client.guard(refund) { "still" }.valueOrNull())
        }
    }

    // The library of the tests breaks on request; that of a package cannot.

    @Test
    fun aPanicDeniesAndMonitorRuns(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9")
        for (mode in Mode.entries) {
            val runs = AtomicInteger()
            val outcome = client.guard(refund.copy(tool = "actpass.test.panic", mode = mode)) { runs.incrementAndGet() }
            assertEquals("$mode", if (mode == Mode.MONITOR) 1 else 0, runs.get())
            assertEquals(mode == Mode.MONITOR, outcome.wasExecuted)
            assertEquals(DecisionWord.Deny, outcome.decision.word)
            assertEquals("actpass.internal", outcome.decision.reasonCode)
            assertEquals(ActPassException.Kind.INTERNAL, (outcome.errorOrNull() as ActPassException).kind)
        }
    }

    @Test
    fun aPanicInAConversionIsAnError(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9", mode = Mode.MONITOR)
        val runs = AtomicInteger()
        val error = failure { client.guard(refund.copy(tool = "actpass.test.panic_in_conversion")) { runs.incrementAndGet() } }
        assertEquals(ActPassException.Kind.INTERNAL, error.kind)
        assertEquals("actpass.internal", error.code)
        assertEquals(0, runs.get())
    }

    @Test
    fun aCallThatNeverEndsCanBeCancelled(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9")
        val runs = AtomicInteger()
        val job = launch(Dispatchers.Default) {
            client.guard(refund.copy(tool = "actpass.test.never_ends")) { runs.incrementAndGet() }
        }
        delay(50.milliseconds)
        assertFalse(job.isCompleted)
        within(100.milliseconds) {
            job.cancel()
            job.join()
        }
        assertEquals(0, runs.get())
    }
}
