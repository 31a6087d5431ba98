package org.actpass

import java.util.concurrent.atomic.AtomicInteger
import kotlin.coroutines.CoroutineContext
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.DelicateCoroutinesApi
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.GlobalScope
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import org.actpass.bridge.JvmClient
import org.actpass.bridge.NativeHaltListener
import org.actpass.testing.Answer
import org.actpass.testing.ScriptedGateway
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** The calls through JNI: objects that they leave behind, and failures that the vectors do not cover. */
class JvmTest {
    private fun allowing() = ScriptedGateway().apply { answer(Answer.allow()) }

    /** Fails unless the library drops every permit, recording, signal and call. */
    private suspend fun assertNothingKept(): Unit = withTimeout(60.seconds) {
        while (JvmClient.objects() > 0) {
            // Of permits and signals that are unreachable.
            System.gc()
            delay(20.milliseconds)
        }
    }

    @Test
    fun manyCoroutinesGetTheirOwnResults(): Unit = runBlocking {
        val client = allowing().client()
        val results = withContext(Dispatchers.Default) {
            List(2000) { at ->
                async {
                    val action = refund.copy(args = mapOf("amount" to at))
                    client.guard(action, recordOutcome = at % 2 == 0) {
                        delay(1.milliseconds)
                        at
                    }.unwrap()
                }
            }.awaitAll()
        }
        assertEquals(List(2000) { it }, results)
        assertNothingKept()
    }

    @Test
    fun cancelledCallsRunAndLeaveNothing(): Unit = runBlocking {
        Hostile.play(mapOf("do" to "hang", "at" to "request")).use { gateway ->
            val client = quick(gateway.baseUrl, timeout = 30.seconds, mode = Mode.MONITOR)
            val runs = AtomicInteger()
            val jobs = List(50) { launch(Dispatchers.Default) { client.guard(refund) { runs.incrementAndGet() } } }
            while (gateway.seen().size < 50) delay(5.milliseconds)
            within(10.seconds) {
                jobs.forEach { it.cancel() }
                jobs.joinAll()
            }
            assertNothingKept()
            assertEquals(0, runs.get())
            assertTrue(jobs.all { it.isCancelled })
        }
    }

    /** A result arrives for a coroutine that was cancelled before it resumed: the permit is dropped, unspent. */
    @Test
    fun resultForCancelledCoroutineIsDropped(): Unit = runBlocking {
        Hostile.play(answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val runs = AtomicInteger()
            val job = launch(start = CoroutineStart.UNDISPATCHED) { client.guard(refund) { runs.incrementAndGet() } }
            // Blocks the only thread on which the coroutine could resume.
            while (gateway.seen().isEmpty()) Thread.sleep(5)
            Thread.sleep(100)
            job.cancelAndJoin()
            assertEquals(0, runs.get())
            assertNothingKept()
        }
    }

    /** A dispatcher that throws loses its own coroutine, and no other. */
    @OptIn(DelicateCoroutinesApi::class)
    @Test
    fun throwingDispatcherDoesNotStopTheNetworkThread(): Unit = runBlocking {
        // A result that arrives before the coroutine suspends is not dispatched.
        Hostile.play(answer(allow) + mapOf("delay_ms" to 200)).use { gateway ->
            val client = quick(gateway.baseUrl, timeout = 30.seconds)
            val refused = CompletableDeferred<Runnable>()
            val refusing = object : CoroutineDispatcher() {
                override fun dispatch(context: CoroutineContext, block: Runnable) {
                    refused.complete(block)
                    error("dispatched on ${Thread.currentThread().name}")
                }
            }
            val runs = AtomicInteger()
            val lost = GlobalScope.launch(refusing, CoroutineStart.UNDISPATCHED) { client.guard(refund) { runs.incrementAndGet() } }
            val block = withTimeout(20.seconds) { refused.await() }
            repeat(3) { assertEquals("re_1", client.guard(refund) { "re_1" }.unwrap()) }
            lost.cancel()
            block.run()
            assertEquals(0, runs.get())
            assertNothingKept()
        }
    }

    @Test
    fun throwingListenerOfStopDoesNotStopTheOthers(): Unit = runBlocking {
        val gateway = allowing()
        val client = gateway.client()
        val calls = AtomicInteger()
        val throwing = object : NativeHaltListener {
            override fun halted() {
                calls.incrementAndGet()
                error("a listener that fails")
            }
        }
        val halted = client.guard(refund) { context ->
            val signal = nativeSignal(context.halt)
            signal.onHalt(throwing)
            assertFalse(context.halt.isHalted)
            delay(1100.milliseconds)
            gateway.halt("tool", "stripe.refund.create")
            withTimeout(20.seconds) { context.halt.await() }
            // Immediately, on this thread.
            signal.onHalt(throwing)
            context.halt.isHalted
        }
        assertEquals(true, halted.unwrap())
        assertEquals(2, calls.get())
        gateway.lift()
        assertEquals("re_1", client.guard(refund) { "re_1" }.unwrap())
    }

    private fun nativeSignal(signal: HaltSignal) =
        HaltSignal::class.java.getDeclaredField("native").apply { isAccessible = true }[signal] as org.actpass.bridge.NativeHaltSignal

    @Test
    fun closedClientRunsNothing(): Unit = runBlocking {
        val gateway = allowing()
        for (mode in Mode.entries) {
            val client = gateway.client()
            client.native.close()
            val runs = AtomicInteger()
            for (call in listOf<suspend () -> Any>({ client.guard(refund.copy(mode = mode)) { runs.incrementAndGet() } }, { client.preflight(refund) })) {
                val error = failure { call() }
                assertEquals(ActPassException.Kind.INTERNAL, error.kind)
                assertEquals("the client is closed", error.message)
            }
            assertEquals(0, runs.get())
        }
        assertEquals(0, gateway.actions.size)
        assertNothingKept()
    }

    @Test
    fun callOutlivesItsClient(): Unit = runBlocking {
        Hostile.play(answer(allow) + ("delay_ms" to 300)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val outcome = async(start = CoroutineStart.UNDISPATCHED) { client.guard(refund) { 1 } }
            client.native.close()
            assertEquals(1, outcome.await().resultOrNull())
        }
    }

    @Test
    fun permitsOfDerivedClientsWork(): Unit = runBlocking {
        val client = allowing().client().withOptions(maxRetries = 0)
        assertTrue(client.native is JvmClient)
        val permit = client.authorize(refund).unwrap()
        assertEquals(DecisionWord.Allow, permit.decision.word)
        permit.spend(refund.args)
        assertEquals(ActPassException.Kind.ARGUMENT, failure { permit.spend() }.kind)
        assertEquals(DecisionWord.Allow, permit.returned(1).decision.word)
        assertEquals(ActPassException.Kind.ARGUMENT, failure { permit.returned(1) }.kind)
    }
}
