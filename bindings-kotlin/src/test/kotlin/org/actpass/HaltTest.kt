package org.actpass

import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.actpass.testing.Answer
import org.actpass.testing.ScriptedGateway
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Stops: the signal of a running block, refused permits, and the test kit. */
class HaltTest {
    private val refund = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900))
    private val note = Action("resolve_refund_request", "crm.note.add")

    private fun allowing() = ScriptedGateway().apply { answer(Answer.allow()) }

    private suspend fun ScriptedGateway.acknowledged(count: Int): List<List<Any?>> {
        withTimeout(20.seconds) { while (acknowledgements.size < count) delay(10.milliseconds) }
        return acknowledgements.map { listOf(it["epoch"], it["in_flight"]) }
    }

    @Test
    fun stopSignalsRunningBlocksOfItsTool(): Unit = runBlocking {
        val gateway = allowing()
        val client = gateway.client()
        val calls = AtomicInteger()
        val refunding = async {
            client.guard(refund) { context ->
                assertFalse(context.halt.isHalted)
                context.halt.onHalt { calls.incrementAndGet() }
                context.halt.onHalt { error("a listener that fails") }
                delay(1100.milliseconds)
                gateway.halt("tool", "stripe.refund.create", "wrong amounts")
                withTimeout(20.seconds) { context.halt.await() }
                context.halt.isHalted
            }
        }
        val noting = async {
            client.guard(note) { context ->
                gateway.acknowledged(1)
                context.halt.isHalted
            }
        }
        assertEquals(true, refunding.await().unwrap())
        assertEquals(false, noting.await().unwrap())
        assertEquals(1, calls.get())
        assertEquals(listOf(listOf(1L, 2L), listOf(1L, 0L)), gateway.acknowledged(2))
    }

    @Test
    fun cancellingEndsWithHaltedException(): Unit = runBlocking {
        val gateway = allowing()
        val outcome =
            gateway.client().guard(refund) { context ->
                context.halt.cancelling {
                    delay(1100.milliseconds)
                    gateway.halt("all")
                    awaitCancellation()
                }
            }
        assertTrue((outcome as Outcome.Failed).error is HaltedException)
    }

    @Test
    fun cancellingReturnsResultAndThrowsItsError(): Unit = runBlocking {
        val signal = HaltSignal()
        assertEquals(7, signal.cancelling { 7 })
        val thrown = runCatching { signal.cancelling { error("its own") } }
        assertEquals("its own", thrown.exceptionOrNull()?.message)
        assertNull(withTimeoutOrNull(10.milliseconds) { signal.await() })
        assertNull(withTimeoutOrNull<Unit>(10.milliseconds) { signal.cancelling { awaitCancellation() } })
        assertEquals("HaltSignal(isHalted=false)", signal.toString())
    }

    @Test
    fun permitOfOlderEpochIsRefused(): Unit = runBlocking {
        val gateway = allowing()
        val client = gateway.client()
        val permit = client.authorize(refund).unwrap()
        gateway.halt("tool", "crm.note.add")
        assertEquals("halted", client.preflight(note).reasonCode)
        val blocked = assertThrows(ActionBlockedException::class.java) { permit.spend() }
        assertEquals("actpass.halted", blocked.code)
        assertTrue(blocked.isRetryable)
        assertEquals("re_1", client.guard(refund) { "re_1" }.unwrap())
    }

    @Test
    fun stopEndsWaitAndKeepsHandle(): Unit = runBlocking {
        val gateway = ScriptedGateway().apply { answer(Answer.requireApproval()) }
        val client = gateway.client()
        val held = async { client.guard(refund.copy(waitForApproval = 60.seconds)) { "re_1" } }
        withTimeout(20.seconds) { while (gateway.approvals.isEmpty()) delay(10.milliseconds) }
        gateway.halt("all", reason = "wrong amounts")
        val blocked = held.await() as Outcome.Blocked
        assertEquals("halted", blocked.code)
        assertEquals("Stopped by test: wrong amounts", blocked.decision.explain.summary)
        gateway.lift()
        gateway.approve("stripe.refund.create")
        assertEquals("re_1", client.resume(checkNotNull(blocked.approval)) { "re_1" }.unwrap())
    }

    @Test
    fun rejectsInvalidStop() {
        val thrown = assertThrows(ActPassException::class.java) { ScriptedGateway().halt("tool") }
        assertEquals("id: expected a name, found nothing", thrown.message)
    }
}
