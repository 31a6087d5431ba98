package org.actpass

import java.io.ByteArrayOutputStream
import java.io.PrintStream
import java.util.concurrent.CountDownLatch
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.runBlocking
import org.actpass.testing.Answer
import org.actpass.testing.ScriptedGateway
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The test kit, and the public types that users construct and print in tests. */
class TestingTest {
    private val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900))

    @Test
    fun scriptedGatewayAnswersRealGuard(): Unit = runBlocking {
        val gateway = ScriptedGateway()
        val client = gateway.client()
        assertEquals("test.unscripted", client.guard(action) { 1 }.decision.reasonCode)
        gateway.answer(Answer.allow(credential = "sk_test_secret"), tool = "stripe.refund.create")
        gateway.answerNext(Answer.deny("refund.too_large", "the amount is over the limit"), Answer.unreachable())
        assertEquals("refund.too_large", client.guard(action) { 1 }.decision.reasonCode)
        val lost = client.guard(action) { 1 }
        assertEquals("actpass.unreachable", lost.decision.reasonCode)
        assertEquals(ActPassException.Kind.CONNECTION, (lost.errorOrNull() as ActPassException).kind)
        for (mode in Mode.entries) {
            assertEquals("$mode", "sk_test_secret", gateway.client(mode = mode).guard(action) { it.credential?.token }.unwrap())
        }
        assertEquals(3 + Mode.entries.size, gateway.actions.size)
        assertEquals(mapOf("amount" to 4900L), gateway.actions[0]["args"])
        assertFalse(client.guard(action.copy(tool = "other")) { 1 }.executed)
        assertFalse("secret" in Answer.allow(credential = "sk_test_secret").toString())
    }

    @Test
    fun scriptedAnswersDetermineExecution(): Unit = runBlocking {
        val expected = listOf(
            listOf(Answer.allow(), Mode.STRICT, "test.allow", true),
            listOf(Answer.deny(), Mode.WARN, "test.deny", false),
            listOf(Answer.warn(), Mode.ENFORCE, "test.warn", false),
            listOf(Answer.warn(), Mode.WARN, "test.warn", true),
            listOf(Answer.requireApproval(), Mode.ENFORCE, "test.require_approval", false),
            listOf(Answer.failure(500), Mode.ENFORCE, "actpass.gateway_error", false),
            listOf(Answer.failure(500), Mode.MONITOR, "actpass.gateway_error", true),
            listOf(Answer.unreachable(), Mode.MONITOR, "actpass.unreachable", true),
            listOf(Answer.decision(mapOf("decision" to "maybe", "reason_code" to "x.y")), Mode.ENFORCE, "x.y", false),
        )
        for ((answer, mode, reason, executed) in expected) {
            val gateway = ScriptedGateway().apply { answer(answer as Answer) }
            val outcome = gateway.client(mode = mode as Mode).guard(action) { 1 }
            assertEquals(reason, outcome.decision.reasonCode)
            assertEquals("$reason", executed, outcome.executed)
        }
    }

    @Test
    fun guardWaitsForScriptedApproval(): Unit = runBlocking {
        val gateway = ScriptedGateway()
        val held = action.copy(waitForApproval = 20.seconds)
        gateway.answer(Answer.requireApproval("apr_1"))
        gateway.approve("apr_1")
        assertEquals("refunded", gateway.client().guard(held) { "refunded" }.resultOrNull())
        gateway.answer(Answer.requireApproval("apr_2"))
        gateway.reject("apr_2")
        val rejected = gateway.client().guard(held) { "refunded" }
        assertEquals("approval.rejected", rejected.decision.reasonCode)
        assertFalse(rejected.executed)
    }

    @Test
    fun anApprovalAllowsItsActionOnce(): Unit = runBlocking {
        val gateway = ScriptedGateway().apply { answer(Answer.requireApproval(reasonCode = "refund.medium")) }
        val client = gateway.client()
        suspend fun guarded(amount: Int, approval: String? = null) =
            client.guard(action.copy(args = mapOf("amount" to amount), approvalRequestId = approval)) { 1 }.decision.reasonCode
        assertEquals(List(3) { "refund.medium" }, listOf(guarded(1), guarded(1), guarded(2)))
        assertEquals(listOf("apr_1", "apr_2"), gateway.approvals.map { it.id })
        assertEquals("apr_1", gateway.approve("apr_1"))
        assertEquals(
            listOf("approval.action_mismatch", "approval.approved", "approval.spent"),
            listOf(guarded(2, "apr_1"), guarded(1), guarded(1, "apr_1")),
        )
        assertEquals(listOf(true, false), gateway.approvals.map { it.isSpent })
        gateway.assertExecuted("stripe.refund.create", times = 1)
        assertEquals(listOf<Any?>(1L), gateway.executions.map { it.args["amount"] })

        assertEquals("apr_2", gateway.reject("stripe.refund.create"))
        guarded(3)
        assertEquals("apr_3", gateway.expire("stripe.refund.create"))
        assertEquals(listOf("approval.rejected", "approval.expired"), listOf(guarded(2, "apr_2"), guarded(3, "apr_3")))
        val ends = listOf(Approval.Status.APPROVED, Approval.Status.REJECTED, Approval.Status.EXPIRED)
        assertEquals(ends, gateway.approvals.map { it.status })
        val error = assertThrows(ActPassException::class.java) { gateway.approve("stripe.refund.create") }
        assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
        assertTrue(error.message, error.message!!.endsWith("apr_3 of stripe.refund.create is expired"))
    }

    @Test
    fun executionsAreAsserted(): Unit = runBlocking {
        val gateway = ScriptedGateway().apply { answer(Answer.allow()) }
        val client = gateway.client()
        gateway.assertNotExecuted("stripe.refund.create")
        assertThrows(AssertionError::class.java) { gateway.assertExecuted("stripe.refund.create") }
        client.authorize(action)
        gateway.assertNotExecuted("stripe.refund.create")
        repeat(2) { client.guard(action) { 1 } }
        gateway.assertExecuted("stripe.refund.create")
        gateway.assertExecuted("stripe.refund.create", times = 2)
        val error = assertThrows(AssertionError::class.java) { gateway.assertExecuted("stripe.refund.create", times = 1) }
        assertEquals(
            "expected stripe.refund.create to run 1 times, but it ran 2 times; ran: [stripe.refund.create, stripe.refund.create]",
            error.message,
        )
        assertThrows(AssertionError::class.java) { gateway.assertNotExecuted("stripe.refund.create") }
    }

    @Test
    fun scriptedGatewayAnswersOtherCalls(): Unit = runBlocking {
        val gateway = ScriptedGateway().apply { answer(Answer.allow()) }
        val client = gateway.client()
        val passport = client.issuePassport("a", "g", listOf("t"))
        assertTrue(passport.jti!!.startsWith("ap_"))
        assertTrue(client.verifyPassport(passport.token, "a").isValid)
        assertTrue(client.revokePassport("ap_1"))
        client.guard(action, recordOutcome = true) { 1 }
        assertEquals("returned", (gateway.evidence.single()["metadata"] as Map<*, *>)["ended"])
    }

    @Test
    fun unwrapReturnsResultOrThrows(): Unit = runBlocking {
        val gateway = ScriptedGateway().apply { answer(Answer.allow()) }
        val client = gateway.client()
        val receipt = Any()
        assertSame(receipt, client.guard(action) { receipt }.unwrap())
        val refused = IllegalStateException("refused")
        val failed = client.guard<Int>(action) { throw refused }
        assertSame(refused, assertThrows(IllegalStateException::class.java) { failed.unwrap() })

        gateway.answer(Answer.requireApproval("apr_7", "refund.medium"))
        val asked = client.guard(action) { 1 }
        val blocked = assertThrows(ActionBlockedException::class.java) { asked.unwrap() }
        assertEquals("stripe.refund.create", blocked.tool)
        assertEquals("apr_7", blocked.approval?.id)
        assertFalse(blocked.isRetryable)
        assertNull(blocked.cause)
        assertEquals(
            "stripe.refund.create was not run: require_approval (refund.medium). " +
                "A person must approve this first (approval apr_7): do not call it again before that.",
            blocked.message,
        )
        val resumed = client.resume(blocked.approval!!) { 1 }
        assertEquals("stripe.refund.create", assertThrows(ActionBlockedException::class.java) { resumed.unwrap() }.tool)

        gateway.answer(Answer.unreachable())
        val lost = client.guard(action) { 1 }
        val unreachable = assertThrows(ActionBlockedException::class.java) { lost.unwrap() }
        assertSame(lost.errorOrNull(), unreachable.cause)
        assertTrue(unreachable.isRetryable)
        assertEquals(
            "stripe.refund.create was not run: deny (actpass.unreachable). The policy decision could not be obtained. " +
                "The failure may be temporary: retry the same call later.",
            unreachable.message,
        )
        assertTrue(unreachable.developerText, unreachable.error!!.message!! in unreachable.developerText)
        val madeUp = ActionBlockedException(unreachable.tool, unreachable.decision, unreachable.error)
        assertEquals(unreachable.message to unreachable.developerText, madeUp.message to madeUp.developerText)
        assertEquals(1, gateway.client(mode = Mode.MONITOR).guard(action) { 1 }.unwrap())
    }

    @Test
    fun describesOutcomes(): Unit = runBlocking {
        val gateway = ScriptedGateway()
        gateway.answerNext(Answer.allow(), Answer.deny("refund.too_large", "the amount is over the limit"))
        val client = gateway.client()
        assertEquals("returned re_1: allow (test.allow)", "${client.guard(action) { "re_1" }}")
        assertEquals("blocked: deny (refund.too_large): the amount is over the limit", "${client.guard(action) { 1 }}")
        gateway.answerNext(Answer.requireApproval("apr_1"), Answer.allow(), Answer.failure(500), Answer.allow())
        assertEquals("blocked: require_approval (test.require_approval), PendingApproval(apr_1)", "${client.guard(action) { 1 }}")
        val failed = client.guard<Int>(action) { throw IllegalStateException("no card") }
        assertEquals("failed with java.lang.IllegalStateException: no card: allow (test.allow)", "$failed")
        val lost = "${client.guard(action) { 1 }}"
        assertTrue(lost, lost.startsWith("blocked: deny (actpass.gateway_error): ") && "500" in lost)
        val recorded = "${client.guard(action, recordOutcome = true) { 1 }}"
        assertTrue(recorded, recorded.startsWith("returned 1: allow (test.allow), recorded as ev_"))
    }

    /** Functions over these types can be tested without a client. */
    @Test
    fun everyPublicTypeHasConstructor() {
        val decision = Decision("""{"decision": "deny", "reason_code": "refund.too_large", "risk_tier": "high"}""")
        assertEquals(DecisionWord.Deny, decision.word)
        assertEquals("high", decision.riskTier)
        val bare = Decision("""{"decision": "deny"}""")
        assertEquals("unspecified", bare.reasonCode)
        assertEquals(emptyList<String>(), bare.explain.matchedRules + bare.explain.nextSteps)
        assertNull(bare.riskTier)
        assertEquals(ActPassException.Kind.ARGUMENT, failure { Decision("{}") }.kind)
        val error = ActPassException(ActPassException.Kind.TIMEOUT, "no answer", operation = "preflight", requestId = "req_1")
        assertEquals("actpass.timeout", error.code)
        assertEquals("req_1", error.requestId)
        assertTrue(error.isRetryable)
        val blocked = Outcome.Blocked("t", decision, error)
        assertSame(error, assertThrows(ActionBlockedException::class.java) { blocked.unwrap() }.error)
        assertEquals(
            """{"decision":{"decision":"deny","explain":{"matched_rules":[],"next_steps":[],"summary":""},""" +
                """"reason_code":"refund.too_large","risk_tier":"high"},"error":{"kind":"timeout","status":null},"executed":false}""",
            blocked.canonicalJson(),
        )
        val context = ExecutionContext(decision, Credential("sk_made_secret"))
        assertEquals("sk_made_secret", context.credential?.token)
        assertFalse("secret" in context.toString())
        val executed = Outcome.Returned(7, Execution(decision, evidence = RecordedEvidence("ev_1")))
        assertEquals(7, executed.unwrap())
        assertEquals("rejected", Approval("apr_1", Approval.Status.REJECTED, "ada").members["status"])
        val passport = IssuedPassport("made_secret", "ap_1", "2099-01-01T00:00:00Z")
        assertEquals("ap_1" to "2099-01-01T00:00:00Z", passport.jti to passport.expiresAt)
        assertFalse("secret" in passport.toString())
        assertEquals(mapOf("jti" to "ap_1"), PassportVerification(true, claims = mapOf("jti" to "ap_1")).claims)
    }

    @Test
    fun loggerReceivesLines(): Unit = runBlocking {
        val lines = LinkedBlockingQueue<LogEvent>()
        val gateway = ScriptedGateway()
        gateway.answerNext(Answer.deny("refund.too_large"), Answer.unreachable(), Answer.allow(credential = "sk_log_secret"))
        val client = gateway.client(logger = Logger(lines::add), logLevel = LogLevel.DEBUG)
        repeat(3) { client.guard(action.copy(passport = PASSPORT)) { 1 } }
        val seen = generateSequence { lines.poll(60, TimeUnit.SECONDS) }.takeWhileInclusive { it.message != "may run" }
        val denied = seen.first { it.message == "blocked" }
        assertEquals(LogLevel.INFO, denied.level)
        assertEquals("blocked decision=deny reason_code=refund.too_large tool=stripe.refund.create", denied.toString())
        assertTrue(seen.any { it.level == LogLevel.WARN && it.fields["code"] == "actpass.unreachable" })
        assertFalse("secret" in seen.toString())
    }

    private fun <T> Sequence<T>.takeWhileInclusive(predicate: (T) -> Boolean): List<T> {
        val taken = ArrayList<T>()
        for (item in this) {
            taken.add(item)
            if (!predicate(item)) break
        }
        return taken
    }

    /** A logger that never returns does not delay calls. A logger that throws does not change them; the SDK reports it once. */
    @Test
    fun blockingOrThrowingLoggerChangesNothing(): Unit = runBlocking {
        val release = CountDownLatch(1)
        val threw = CountDownLatch(20)
        val said = ByteArrayOutputStream()
        val before = System.err
        System.setErr(PrintStream(said, true))
        try {
            val gateway = ScriptedGateway().apply { answer(Answer.allow()) }
            val blocking = gateway.client(logger = Logger { release.await() }, logLevel = LogLevel.DEBUG)
            repeat(2_000) { number -> assertEquals(number, blocking.guard(action) { number }.resultOrNull()) }
            val throwing = Logger {
                threw.countDown()
                throw OutOfMemoryError("in a logger")
            }
            val failing = gateway.client(logger = throwing, logLevel = LogLevel.DEBUG)
            repeat(20) { number -> assertEquals(number, failing.guard(action) { number }.resultOrNull()) }
            assertTrue("the logger was not called", threw.await(60, TimeUnit.SECONDS))
        } finally {
            release.countDown()
            System.setErr(before)
        }
        assertEquals("actpass: a logger threw java.lang.OutOfMemoryError; no call is affected", said.toString().trim())
    }

    @Test
    fun derivedClientHasItsOwnLimits(): Unit = runBlocking {
        val busy = mapOf("do" to "respond", "status" to 503, "body" to "")
        Hostile.play(busy).use { gateway ->
            val client = ActPass(API_KEY, baseUrl = gateway.baseUrl, maxRetries = 0, circuitFailures = 0)
            client.guard(action) { 1 }
            assertEquals(1, gateway.seen().size)
            client.withOptions(maxRetries = 1).guard(action) { 1 }
            assertEquals(3, gateway.seen().size)
        }
        Hostile.play(mapOf("do" to "hang", "at" to "request")).use { gateway ->
            val quick = quick(gateway.baseUrl, timeout = 600.seconds).withOptions(timeout = 0.2.seconds)
            assertEquals("actpass.timeout", quick.inTrace(TRACE).guard(action) { 1 }.decision.reasonCode)
        }
    }

    @Test
    fun decisionsAndErrorsHaveRequestId(): Unit = runBlocking {
        val headers = mapOf("x-request-id" to "req_7")
        val denied = mapOf("do" to "respond", "json" to mapOf("decision" to "deny"), "headers" to headers)
        val failed = mapOf("do" to "respond", "status" to 500, "json" to emptyMap<String, Any>(), "headers" to headers)
        Hostile.play(denied, failed).use { gateway ->
            val client = quick(gateway.baseUrl)
            assertEquals("req_7", client.guard(action) { 1 }.decision.requestId)
            val outcome = client.guard(action) { 1 }
            assertEquals("req_7", (outcome.errorOrNull() as ActPassException).requestId)
            assertEquals("req_7", outcome.decision.requestId)
        }
    }

    private companion object {
        const val TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    }
}
