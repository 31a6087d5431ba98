package org.actpass

import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicInteger
import java.util.stream.IntStream
import java.util.stream.Stream
import kotlin.coroutines.AbstractCoroutineContextElement
import kotlin.coroutines.CoroutineContext
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineName
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.ThreadContextElement
import kotlinx.coroutines.TimeoutCancellationException
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancel
import kotlinx.coroutines.cancelChildren
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.delay
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.isActive
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.supervisorScope
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import kotlinx.coroutines.yield
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Test

/** Behaviour of the guard that the vectors do not cover. */
class GuardTest {
    private class Refused : Exception("refused")

    @Test
    fun resultAndErrorAreSameObjects(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val receipt = Any()
            val returned = client.guard(refund) { receipt }
            assertSame(receipt, (returned as Outcome.Returned).result)
            assertNull(returned.errorOrNull())

            for (refused in listOf(Refused(), InterruptedException("of a thread"), CancellationException("of another job"))) {
                val thrown = client.guard<Int>(refund) { throw refused }
                assertSame(refused, (thrown as Outcome.Failed).error)
                assertTrue(thrown.canonicalJson().endsWith(""""error":{"kind":"action","status":null},"executed":true}"""))
            }
        }
    }

    @Test
    fun blockRunsInContextOfCaller(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            Executors.newSingleThreadExecutor { Thread(it, "mine") }.asCoroutineDispatcher().use { mine ->
                withContext(mine + CoroutineName("trace-1")) {
                    val outcome = client.guard(refund) {
                        yield()
                        currentCoroutineContext()[CoroutineName]?.name to Thread.currentThread().name.substringBefore(' ')
                    }
                    assertEquals("trace-1" to "mine", outcome.resultOrNull())
                }
            }
        }
    }

    /** A block that blocks its thread does not block the network thread, even without a dispatcher. */
    @Test
    fun unconfinedBlockMayBlock(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val outcome = withTimeout(20.seconds) {
                withContext(Dispatchers.Unconfined) {
                    client.guard(refund) { runBlocking { client.guard(refund) { "inner" }.resultOrNull() } }
                }
            }
            assertEquals("inner", outcome.resultOrNull())
        }
    }

    @Test
    fun cancelledCallEndsImmediatelyAndRunsNothing(): Unit = runBlocking {
        for (mode in Mode.entries) {
            Hostile.play(mapOf("do" to "hang", "at" to "request")).use { gateway ->
                val client = quick(gateway.baseUrl, timeout = 30.seconds, mode = mode)
                val runs = AtomicInteger()
                val job = launch(Dispatchers.Default) { client.guard(refund) { runs.incrementAndGet() } }
                while (gateway.seen().isEmpty()) delay(5.milliseconds)
                within(5.seconds) {
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
    fun alreadyCancelledCoroutineSendsAndRunsNothing(): Unit = runBlocking {
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
    fun ownCancellationPropagatesAndOtherIsError(): Unit = runBlocking {
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
    fun jvmErrorsPropagate(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val stops = listOf(OutOfMemoryError(), NoClassDefFoundError(), AssertionError("stop"), NotImplementedError())
            for (stop in stops) {
                val thrown = assertThrows(Throwable::class.java) { runBlocking { client.guard(refund) { throw stop } } }
                assertEquals(stop.javaClass, thrown.javaClass)
            }
        }
    }

    /** Cancelling a job that the block created does not stop the guard. */
    @Test
    fun cancellationOfOtherJobIsError(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val dead = Job().apply { cancel(CancellationException("of another job")) }
            val blocks: List<suspend (ExecutionContext) -> Any?> = listOf(
                { withTimeout(1.milliseconds) { delay(10.seconds) } },
                { CompletableDeferred<Int>(dead).await() },
                { dead.ensureActive() },
                { async(dead) { 1 }.await() },
                { coroutineScope { cancel("of a scope within") } },
            )
            for ((at, block) in blocks.withIndex()) {
                val outcome = client.guard(refund, execute = block)
                assertTrue("$at: $outcome", (outcome as Outcome.Failed).error is CancellationException)
            }
            assertTrue(coroutineContext.isActive)
            // A timeout around the guard cancels the job of the guard.
            val around = withTimeoutOrNull(200.milliseconds) { client.guard(refund) { awaitCancellation() } }
            assertNull(around)
        }
    }

    @Test
    fun rejectsResultThatHasNotRun(): Unit = runBlocking {
        Hostile.play(answer(allow), answer(mapOf("event_id" to "ev_2")), answer(allow)).use { gateway -> unrun(gateway) }
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val closed = AtomicInteger()
            client.guard(refund) { Stream.of(1).onClose(closed::incrementAndGet) }
            client.guard(refund) { Stream.of(1).onClose { throw Refused() } }
            val job = async(start = CoroutineStart.LAZY) { fail("the action ran") }
            client.guard(refund) { job }
            assertTrue(job.isCancelled)
            assertEquals(1, closed.get())
        }
    }

    private suspend fun CoroutineScope.unrun(gateway: Played) {
        val client = quick(gateway.baseUrl)
        fun ran(): Int = fail("the action ran").let { 0 }
        val bodies: Map<String, () -> Any?> = mapOf(
            "a Sequence" to { sequence { yield(ran()) } },
            "a Sequence over a list" to { listOf(1).asSequence().map { ran() } },
            "an Iterator" to { iterator { yield(ran()) } },
            "a cold Flow" to { flow { emit(ran()) } },
            "a cold Flow over another" to { MutableStateFlow(1).map { ran() } },
            "a Stream" to { Stream.of(1).map { ran() } },
            "a Stream of numbers" to { IntStream.of(1).map { ran() } },
            "a Lazy without its value" to { lazy { ran() } },
            "a Job that was not started" to { launch(start = CoroutineStart.LAZY) { ran() } },
            "a Job that was not started, with a result" to { async(start = CoroutineStart.LAZY) { ran() } },
        )
        val first = client.guard(refund, recordOutcome = true) { sequence { yield(ran()) } }
        assertEquals("ev_2", (first as Outcome.Failed).execution.evidence?.eventId)
        val event = members(gateway.seen()[1]["body"] as String)
        assertEquals("failed", (event["metadata"] as Map<*, *>)["ended"])
        for ((name, body) in bodies) {
            val outcome = client.guard(refund) { body() }
            val error = (outcome as Outcome.Failed).error as ActPassException
            assertEquals(name, ActPassException.Kind.ARGUMENT, error.kind)
            val found = name.substringBefore(" over").substringBefore(" of").substringBefore(", with")
            assertEquals("execute: expected a result, found $found, which has not run", error.message)
            assertTrue(outcome.executed)
        }
        coroutineContext.cancelChildren()
    }

    @Test
    fun returnsRunningValues(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val running = async(Dispatchers.Default) { awaitCancellation() }
            val results = listOf(
                MutableStateFlow(1),
                MutableSharedFlow<Int>(),
                lazyOf(1),
                lazy { 1 }.also { it.value },
                CompletableDeferred<Int>(),
                CompletableDeferred(1),
                Job().apply { cancel() },
                running,
                listOf(1),
                suspend { 1 },
                { 1 },
                object : Lazy<Int> {
                    override val value: Int get() = throw Refused()

                    override fun isInitialized(): Boolean = throw Refused()
                },
            )
            for (result in results) assertSame(result, client.guard(refund) { result }.resultOrNull())
            running.cancel()
        }
    }

    /** A result that cannot be serialized or hashed is returned and recorded without a hash. */
    @Test
    fun unserializableResultIsReturned(): Unit = runBlocking {
        val cyclic = mutableListOf<Any?>()
        cyclic.add(cyclic)
        val breaking = object : AbstractList<Int>() {
            override val size: Int get() = 1

            override fun get(index: Int): Int = throw AssertionError("unreadable")
        }
        val changing = object : AbstractMap<String, Int>() {
            override val entries: Set<Map.Entry<String, Int>> get() = throw ConcurrentModificationException()
        }
        val endless = Iterable { generateSequence(1) { it + 1 }.iterator() }
        for (result in listOf<Any>(cyclic, breaking, changing, endless, Double.NaN, "\ud800", Any(), mapOf(1 to 2))) {
            Hostile.play(answer(allow), answer(mapOf("event_id" to "ev_2"))).use { gateway ->
                val outcome = quick(gateway.baseUrl).guard(refund, recordOutcome = true) { result }
                assertSame(result, (outcome as Outcome.Returned).result)
                assertEquals("ev_2", outcome.execution.evidence?.eventId)
                val event = members(gateway.seen()[1]["body"] as String)
                assertNull(event["response_hash"])
                assertEquals("returned", (event["metadata"] as Map<*, *>)["ended"])
            }
        }
    }

    /** A context element of the caller that throws once, the next time the coroutine enters a context. */
    private class Breaking : ThreadContextElement<Unit>, AbstractCoroutineContextElement(Key) {
        @Volatile var isArmed = false

        override fun updateThreadContext(context: CoroutineContext) {
            if (isArmed) {
                isArmed = false
                throw Refused()
            }
        }

        override fun restoreThreadContext(context: CoroutineContext, oldState: Unit) = Unit

        companion object Key : CoroutineContext.Key<Breaking>
    }

    @Test
    fun throwingContextElementKeepsOutcome(): Unit = runBlocking {
        Hostile.play(answer(allow), answer(mapOf("event_id" to "ev_2"))).use { gateway ->
            val client = quick(gateway.baseUrl)
            val element = Breaking()
            val receipt = Any()
            val outcome = withContext(element) {
                client.guard(refund, recordOutcome = true) { receipt.also { element.isArmed = true } }
            }
            assertSame(receipt, (outcome as Outcome.Returned).result)
            assertFalse("the element did not throw", element.isArmed)
            assertEquals(ActPassException.Kind.INTERNAL, outcome.execution.evidenceError?.kind)
            assertTrue(outcome.execution.evidenceError?.cause is Refused)
        }
    }

    /** The gateway never responds to the record, and the record does not delay the cancellation. */
    @Test
    fun cancelledActionIsRecorded(): Unit = runBlocking {
        val stops: List<suspend (CompletableDeferred<Unit>) -> Nothing> = listOf(
            { it.complete(Unit).let { awaitCancellation() } },
            { it.complete(Unit).let { throw AssertionError("stop") } },
        )
        for (stop in stops) {
            Hostile.play(answer(allow), mapOf("do" to "hang", "at" to "request")).use { gateway ->
                val client = quick(gateway.baseUrl)
                val started = CompletableDeferred<Unit>()
                supervisorScope {
                    val job = async(Dispatchers.Default) { client.guard(refund, recordOutcome = true) { stop(started) } }
                    started.await()
                    job.cancel()
                    assertThrows(Throwable::class.java) { runBlocking { job.await() } }
                }
                withTimeoutOrNull(60.seconds) { while (gateway.seen().size < 2) delay(5.milliseconds) }
                assertEquals("no outcome was recorded", 2, gateway.seen().size)
                val event = members(gateway.seen()[1]["body"] as String)
                assertEquals("action.outcome", event["event_type"])
                assertEquals("cancelled", (event["metadata"] as Map<*, *>)["ended"])
                assertNull(event["response_hash"])
            }
        }
    }

    @Test
    fun sendsSnapshotOfArguments(): Unit = runBlocking {
        Hostile.play(answer(allow) + ("delay_ms" to 40)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val items = mutableListOf(1)
            val args = mutableMapOf<String, Any?>("amount" to 4900, "items" to items)
            val call = async(start = CoroutineStart.UNDISPATCHED) { client.guard(refund.copy(args = args)) { "refunded" } }
            args["amount"] = 1_000_000
            items.add(2)
            assertEquals("refunded", call.await().resultOrNull())
            val sent = members(gateway.seen()[0]["body"] as String)["args"]
            assertEquals(mapOf("amount" to 4900L, "items" to listOf(1L)), sent)

            val changing = object : AbstractMap<String, Any?>() {
                override val entries: Set<Map.Entry<String, Any?>> get() = throw ConcurrentModificationException()
            }
            val error = failure { client.guard(refund.copy(args = mapOf("order" to changing))) { fail("the action ran") } }
            assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
            assertEquals("args.order: expected a value that does not change while it is serialized, found one that changed", error.message)
            assertEquals(1, gateway.seen().size)
        }
    }

    @Test
    fun thousandConcurrentCallsRunEachBlockOnce(): Unit = runBlocking {
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
                        assertEquals(number, outcome.resultOrNull())
                    }
                }.joinAll()
            }
            assertEquals(1_000, runs.size)
            assertTrue(runs.values.all { it.get() == 1 })
        }
    }

    @Test
    fun clientWorksAfterManyCancellations(): Unit = runBlocking {
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
            assertEquals("still", client.guard(refund) { "still" }.resultOrNull())
        }
    }

    // The native library of the tests injects panics; the released library has no test hooks.

    @Test
    fun panicBlocksExceptInMonitor(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9")
        for (mode in Mode.entries) {
            val runs = AtomicInteger()
            val outcome = client.guard(refund.copy(tool = "actpass.test.panic", mode = mode)) { runs.incrementAndGet() }
            assertEquals("$mode", if (mode == Mode.MONITOR) 1 else 0, runs.get())
            assertEquals(mode == Mode.MONITOR, outcome.executed)
            assertEquals(DecisionWord.Deny, outcome.decision.word)
            assertEquals("actpass.internal", outcome.decision.reasonCode)
            assertEquals(ActPassException.Kind.INTERNAL, (outcome.errorOrNull() as ActPassException).kind)
        }
    }

    @Test
    fun panicInConversionThrows(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9", mode = Mode.MONITOR)
        val runs = AtomicInteger()
        val error = failure { client.guard(refund.copy(tool = "actpass.test.panic_in_conversion")) { runs.incrementAndGet() } }
        assertEquals(ActPassException.Kind.INTERNAL, error.kind)
        assertEquals("actpass.internal", error.code)
        assertEquals(0, runs.get())
    }

    @Test
    fun hangingCallCanBeCancelled(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9")
        val runs = AtomicInteger()
        val job = launch(Dispatchers.Default) {
            client.guard(refund.copy(tool = "actpass.test.never_ends")) { runs.incrementAndGet() }
        }
        delay(50.milliseconds)
        assertFalse(job.isCompleted)
        within(5.seconds) {
            job.cancel()
            job.join()
        }
        assertEquals(0, runs.get())
    }
}
