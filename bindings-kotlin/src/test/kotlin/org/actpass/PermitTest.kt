package org.actpass

import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeoutOrNull
import org.actpass.testing.Answer
import org.actpass.testing.ScriptedGateway
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** `authorize` and permits. */
class PermitTest {
    private val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))

    private fun allowing(answer: Answer = Answer.allow(credential = "sk_permit_secret")) = ScriptedGateway().apply { answer(answer) }

    private suspend fun permitted(gateway: ScriptedGateway, mode: Mode = Mode.ENFORCE, recordOutcome: Boolean = false): Permit =
        gateway.client(mode).authorize(action, recordOutcome).unwrap()

    private fun ScriptedGateway.ended() = evidence.map { (it["metadata"] as Map<*, *>)["ended"] }

    @Test
    fun permitIsSpentAndReportedOnce(): Unit = runBlocking {
        val gateway = allowing()
        val permit = permitted(gateway)
        assertFalse("secret" in everythingShown(permit))
        assertEquals("test.allow", permit.decision.reasonCode)
        assertEquals(ActPassException.Kind.ARGUMENT, failure { permit.returned(1) }.kind)

        val context = permit.spend()
        assertEquals("sk_permit_secret", context.credential?.token)
        val twice = failure { permit.spend() }
        assertEquals(ActPassException.Kind.ARGUMENT, twice.kind)
        assertEquals("permit: already spent", twice.message)

        val execution = permit.returned("refunded")
        assertEquals(context.decision, execution.decision)
        assertNull(execution.evidence)
        assertEquals(0, gateway.evidence.size)
        assertEquals(ActPassException.Kind.ARGUMENT, failure { permit.cancelled() }.kind)
    }

    @Test
    fun onlyOneOfManyThreadsSpendsPermit(): Unit = runBlocking {
        val permit = permitted(allowing())
        val spent = AtomicInteger()
        List(200) { launch(Dispatchers.Default) { if (runCatching { permit.spend() }.isSuccess) spent.incrementAndGet() } }.joinAll()
        assertEquals(1, spent.get())
    }

    @Test
    fun blockedVerdictNamesReason(): Unit = runBlocking {
        val gateway = allowing(Answer.deny("refund.over_limit", "The limit is 50 dollars."))
        val verdict = gateway.client().authorize(action)
        val blocked = (verdict as Verdict.Blocked).blocked
        assertEquals(DecisionWord.Deny, verdict.decision.word)
        val why = "stripe.refund.create was not run: deny (refund.over_limit). The limit is 50 dollars."
        assertEquals(why, blocked.developerText)
        val thrown = assertThrows(ActionBlockedException::class.java) { verdict.unwrap() }
        assertEquals("$why Do not call it again with the same arguments: it would be blocked again.", thrown.message)
        assertEquals("refund.over_limit", thrown.code)
        assertEquals("stripe.refund.create", thrown.tool)
        val madeUp = ActionBlockedException(thrown.tool, thrown.decision)
        assertEquals(thrown.message to thrown.developerText, madeUp.message to madeUp.developerText)
    }

    @Test
    fun changedArgumentsBlock(): Unit = runBlocking {
        val changed = mapOf("amount" to 490_000, "currency" to "usd")
        for (mode in Mode.entries) {
            val permit = permitted(allowing(), mode)
            if (mode == Mode.MONITOR) {
                assertNull(permit.spend(changed).credential)
            } else {
                val blocked = assertThrows(ActionBlockedException::class.java) { permit.spend(changed) }
                assertEquals("actpass.arguments_changed", blocked.code)
                // It is spent for good.
                assertEquals(ActPassException.Kind.ARGUMENT, failure { permit.spend(action.args) }.kind)
            }
        }
        assertEquals(DecisionWord.Allow, permitted(allowing()).spend(action.args).decision.word)
        assertEquals("args.amount: expected a finite number, found NaN", failure {
            permitted(allowing()).spend(mapOf("amount" to Double.NaN))
        }.message)
    }

    @Test
    fun permitExpiresWithCredential(): Unit = runBlocking {
        val credential = mapOf("token" to "sk_old_secret", "expires_at" to "2001-01-01T00:00:00Z")
        val expired = allowing(Answer.decision(mapOf("decision" to "allow", "credential" to credential)))
        val permit = permitted(expired)
        assertEquals("actpass.permit_expired", assertThrows(ActionBlockedException::class.java) { permit.spend() }.code)
        val outcome = expired.client().guard(action) { 1 }
        assertEquals("actpass.permit_expired", outcome.decision.reasonCode)
        assertFalse(outcome.executed)
        val observed = permitted(expired, Mode.MONITOR).spend()
        assertNull(observed.credential)
        assertEquals("actpass.permit_expired", observed.decision.reasonCode)
    }

    @Test
    fun recordsEachOutcome(): Unit = runBlocking {
        val gateway = allowing()
        suspend fun spent() = permitted(gateway, recordOutcome = true).also { it.spend() }
        assertTrue(spent().returned("refunded").evidence!!.eventId.startsWith("ev_"))
        assertEquals(ActPass.hashPayload("refunded"), gateway.evidence[0]["response_hash"])
        spent().failed(IllegalStateException("no card"))
        // A cancellation is a failure where nothing cancelled the coroutine.
        spent().failed(CancellationException("of another job"))
        assertEquals(listOf("returned", "failed", "failed"), gateway.ended())

        spent().failed(AssertionError("stop"))
        val permit = spent()
        launch {
            try {
                cancel()
                awaitCancellation()
            } catch (error: CancellationException) {
                permit.failed(error)
                throw error
            }
        }.join()
        withTimeoutOrNull(60.seconds) { while (gateway.evidence.size < 5) delay(5) }
        assertEquals(listOf("cancelled", "cancelled"), gateway.ended().drop(3))
    }

    @Test
    fun rejectsReportOfUnrunBody(): Unit = runBlocking {
        val permit = permitted(allowing()).also { it.spend() }
        val error = failure { permit.returned(sequenceOf(1)) }
        assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
        permit.failed(error)
    }

    @Test
    fun unreportedPermitRecordsNothing(): Unit = runBlocking {
        val gateway = allowing()
        permitted(gateway, recordOutcome = true).spend()
        permitted(gateway, recordOutcome = true)
        assertEquals(0, gateway.evidence.size)
    }
}
