package org.actpass

import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** The other calls, mostly against the real gateway. */
class CallTest {
    @Test
    fun realGatewayDecidesRefunds(): Unit = runBlocking {
        val gateway = Gateway()
        val client = gateway.client()
        val reasons = gateway.use {
            listOf(4900 to true, 25_000 to false, 90_000 to false).map { (amount, runs) ->
                val action = refund.copy(args = mapOf("amount" to amount, "currency" to "usd"), mode = Mode.STRICT)
                val outcome = client.guard(action) { amount }
                assertEquals(runs, outcome.executed)
                assertEquals(if (runs) amount else null, outcome.resultOrNull())
                assertNotNull(outcome.decision.evidenceEventId)
                outcome.decision.reasonCode
            }
        }
        assertEquals(listOf("refund.small_in_scope", "refund.medium_needs_approval", "refund.over_limit"), reasons)
        val stopped = client.guard(refund) { 1 } as Outcome.Blocked
        assertEquals("actpass.unreachable", stopped.decision.reasonCode)
        assertEquals(ActPassException.Kind.CONNECTION, stopped.error?.kind)
        assertEquals(true, stopped.error?.isRetryable)
        assertTrue(stopped.decision.explain.nextSteps.isNotEmpty())
    }

    @Test
    fun sendsTraceparent(): Unit = runBlocking {
        val current = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        val recorded = answer(mapOf("event_id" to "ev_2", "current_event_hash" to "ab"))
        Hostile.play(answer(allow), answer(allow), recorded, recorded, answer(allow)).use { gateway ->
            val client = quick(gateway.baseUrl)
            val traced = client.inTrace(current)
            assertEquals(client.baseUrl to client.agentId, traced.baseUrl to traced.agentId)
            traced.preflight(refund)
            assertEquals(1, traced.guard(refund, recordOutcome = true) { 1 }.resultOrNull())
            traced.recordEvidence(eventType = "e", chainId = "c")
            client.preflight(refund)
            val sent = gateway.seen().map { request ->
                (request["headers"] as List<*>).map { it as List<*> }.firstOrNull { it[0] == "traceparent" }?.get(1)
            }
            assertEquals(listOf(current, current, current, current, null), sent)
            for (wrong in listOf("", "x", current.uppercase(), "$current\r\n", "\ud800")) {
                val error = runCatching { client.inTrace(wrong) }.exceptionOrNull() as ActPassException
                assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
                assertTrue(error.message, "traceparent: expected" in error.message.orEmpty())
            }
        }
    }

    @Test
    fun preflightReturnsDecision(): Unit = runBlocking {
        Gateway().use { gateway ->
            val decision = gateway.client().preflight(refund)
            assertEquals(DecisionWord.Allow, decision.word)
            assertEquals("high", decision.riskTier)
            assertEquals(listOf("small_refund_auto_approve"), decision.explain.matchedRules)
            assertTrue(decision["request_hash"] is String)

            val error = failure { quick(gateway.baseUrl, apiKey = "apk_nobody_secret").preflight(refund) }
            assertEquals(ActPassException.Kind.AUTHENTICATION, error.kind)
            assertEquals("actpass.unauthenticated", error.code)
            assertEquals(401, error.status)
            assertEquals("preflight", error.operation)
            assertFalse("secret" in everythingShown(error))
        }
    }

    @Test
    fun issuesVerifiesAndRevokesPassports(): Unit = runBlocking {
        Gateway().use { gateway ->
            val client = ActPass("apk_dev", agentId = "support_agent", baseUrl = gateway.baseUrl)
            val audience = "mcp://stripe-production"
            val issued = client.issuePassport(
                audience, refund.goal, listOf(refund.tool), listOf(refund.resource),
                mapOf("max_amount" to 10_000, "currency" to "usd"), ttlSeconds = 120,
            )
            assertFalse(issued.token in everythingShown(issued))
            val jti = issued.members["jti"] as String

            val verified = client.verifyPassport(issued.token, audience)
            assertTrue("${verified.errors}", verified.isValid)
            val issuer = verified.claims?.get("iss") as String
            val offline = client.verifyPassportOffline(issued.token, audience, issuer)
            assertEquals(emptyList<String>(), offline.errors)
            assertTrue(offline.isValid)
            assertEquals(jti, offline.claims?.get("jti"))
            val elsewhere = client.verifyPassportOffline(issued.token, "mcp://other", issuer)
            assertEquals(listOf("passport.audience"), elsewhere.errors)
            assertNull(elsewhere.claims)
            assertEquals(listOf("passport.malformed"), client.verifyPassportOffline("not.a.passport", audience).errors)

            val action = refund.copy(audience = audience, passport = issued.token)
            assertFalse(issued.token in action.toString())
            assertTrue(client.guard(action) { 1 }.executed)
            assertFalse(client.guard(action) { 2 }.executed)

            assertTrue(client.revokePassport(jti, "the test ended"))
            assertFalse(client.verifyPassport(issued.token, audience).isValid)
        }
    }

    @Test
    fun recordsEvidence(): Unit = runBlocking {
        Gateway().use { gateway ->
            val client = gateway.client()
            val recorded = client.recordEvidence(
                "refund.sent", "case_42", toolId = refund.tool, metadata = mapOf("receipt" to "re_1"),
                responseHash = ActPass.hashPayload("re_1"),
            )
            assertTrue(recorded.eventId.startsWith("ev_"))
            assertEquals(64, recorded.currentEventHash?.length)
            val error = failure { client.recordEvidence("", "case_42") }
            assertEquals("eventType: expected a non-empty string", error.message)
        }
    }

    /** An operator approves while the guard waits; the outcome is recorded. */
    @Test
    fun waitsForApproval(): Unit = runBlocking {
        Gateway().use { gateway ->
            val client = gateway.client()
            val action = refund.copy(args = mapOf("amount" to 25_000, "currency" to "usd"))
            val blocked = client.guard(action) { 1 } as Outcome.Blocked
            assertEquals(DecisionWord.RequireApproval, blocked.decision.word)
            val pending = blocked.approval!!
            assertEquals(blocked.decision.approvalRequestId, pending.id)
            assertEquals(Approval.Status.PENDING, client.waitForApproval(pending.id, Duration.ZERO).status)

            assertEquals(mapOf("amount" to 25_000L, "currency" to "usd"), pending.members["args"])
            // Another client resumes the stored approval.
            val kept = PendingApproval(pending.json)
            assertEquals(pending, kept)
            val resumed = async(Dispatchers.Default) {
                gateway.client().resume(kept, waitForApproval = 20.seconds, recordOutcome = true) { mapOf("receipt" to "re_1") }
            }
            delay(200.milliseconds)
            gateway.operate("/api/v1/approvals/${pending.id}/approve")
            val outcome = resumed.await() as Outcome.Returned
            assertEquals(mapOf("receipt" to "re_1"), outcome.result)
            assertNull(outcome.execution.evidenceError)
            assertTrue(outcome.execution.evidence!!.eventId.startsWith("ev_"))
            assertEquals(Approval.Status.APPROVED, client.waitForApproval(pending.id, 5.seconds).status)
            assertFalse("an approval is spent once", client.resume(pending) { 2 }.executed)
        }
    }

    @Test
    fun circuitOpensForUnreachableGateway(): Unit = runBlocking {
        val client = ActPass(API_KEY, baseUrl = "http://127.0.0.1:9", maxRetries = 0, circuitFailures = 1)
        assertEquals(Circuit.Closed, client.circuit)
        failure { client.preflight(refund) }
        assertTrue("${client.circuit}", client.circuit is Circuit.Open)
        val blocked = client.guard(refund) { 1 } as Outcome.Blocked
        assertEquals("actpass.unreachable", blocked.decision.reasonCode)
        assertNotNull(blocked.error?.retryAfter)
    }

    @Test
    fun rejectedOrPendingActionDoesNotRun(): Unit = runBlocking {
        val asked = mapOf("decision" to "require_approval", "approval_request_id" to "apr_1")
        for ((status, reason) in listOf("rejected" to "approval.rejected", "pending" to "actpass.approval_timeout")) {
            Hostile.play(answer(asked), answer(mapOf("id" to "apr_1", "status" to status))).use { gateway ->
                val held = refund.copy(waitForApproval = 300.milliseconds)
                val blocked = quick(gateway.baseUrl).guard(held) { 1 } as Outcome.Blocked
                assertEquals(reason, blocked.decision.reasonCode)
                assertNull(blocked.error)
                assertEquals(status == "rejected", blocked.approval == null)
            }
        }
    }

    @Test
    fun approvalWaitCanBeCancelled(): Unit = runBlocking {
        val asked = mapOf("decision" to "require_approval", "approval_request_id" to "apr_1")
        Hostile.play(answer(asked), answer(mapOf("id" to "apr_1", "status" to "pending"))).use { gateway ->
            val client = quick(gateway.baseUrl)
            val job = launch(Dispatchers.Default) { client.guard(refund.copy(waitForApproval = 600.seconds)) { error("ran") } }
            while (gateway.seen().size < 2) delay(5.milliseconds)
            within(5.seconds) {
                job.cancel()
                job.join()
            }
            assertTrue(job.isCancelled)
        }
    }

    @Test
    fun recordsOutcome(): Unit = runBlocking {
        val recorded = answer(mapOf("event_id" to "ev_2", "current_event_hash" to "ab"))
        val steps = arrayOf(answer(allow), recorded, answer(allow), recorded, answer(allow), mapOf("do" to "respond", "status" to 500))
        Hostile.play(*steps).use { gateway ->
            val client = quick(gateway.baseUrl)
            val returned = client.guard(refund, recordOutcome = true) { mapOf("receipt" to 7) } as Outcome.Returned
            assertEquals("ev_2", returned.execution.evidence?.eventId)
            val failed = client.guard<Int>(refund, recordOutcome = true) { error("no") } as Outcome.Failed
            assertEquals("ab", failed.execution.evidence?.currentEventHash)
            val unrecorded = client.guard(refund, recordOutcome = true) { Any() } as Outcome.Returned
            assertNull(unrecorded.execution.evidence)
            assertEquals(ActPassException.Kind.STATUS, unrecorded.execution.evidenceError?.kind)

            val bodies = gateway.seen().map { members(it["body"] as String) }
            assertEquals("returned", (bodies[1]["metadata"] as Map<*, *>)["ended"])
            assertEquals(ActPass.hashPayload(mapOf("receipt" to 7)), bodies[1]["response_hash"])
            assertEquals(ActPass.hashPayload(bodies[0]), bodies[1]["request_hash"])
            assertEquals("failed", (bodies[3]["metadata"] as Map<*, *>)["ended"])
            assertNull(bodies[3]["response_hash"])
            assertNull("a non-JSON result has no hash", bodies[5]["response_hash"])
        }
    }
}
