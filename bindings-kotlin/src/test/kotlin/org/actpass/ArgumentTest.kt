package org.actpass

import java.util.Date
import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** What cannot be sent or set, and JSON. */
class ArgumentTest {
    private val lone = "\uD83D"

    @Test
    fun whatCannotBeSentIsNamedAndRunsNothing(): Unit = runBlocking {
        val cyclic = mutableMapOf<String, Any?>()
        cyclic["self"] = cyclic
        val cases = listOf(
            "goal: expected a non-empty string" to refund.copy(goal = ""),
            "tool: expected a non-empty string" to refund.copy(tool = ""),
            "goal: expected text in Unicode" to refund.copy(goal = lone),
            "passport: expected text in Unicode" to refund.copy(passport = lone),
            "args.amount: expected a finite number, found NaN" to refund.copy(args = mapOf("amount" to Double.NaN)),
            "args.a[1]: expected a finite number" to refund.copy(args = mapOf("a" to listOf(1, Float.POSITIVE_INFINITY))),
            "args.at: expected what is JSON, found java.util.Date" to refund.copy(args = mapOf("at" to Date())),
            "args.a: expected strings as keys" to refund.copy(args = mapOf("a" to mapOf(1 to 2))),
            "args" to refund.copy(args = mapOf("note" to lone)),
            "args" to refund.copy(args = (0..127).fold(emptyMap()) { inner, _ -> mapOf("a" to inner) }),
            "args" to refund.copy(args = cyclic),
            "idempotency_key: expected a non-empty string" to refund.copy(idempotencyKey = ""),
            "wait_for_approval: expected seconds from 0" to refund.copy(waitForApproval = (-1).seconds),
        )
        val runs = AtomicInteger()
        Hostile.play(answer(allow)).use { gateway ->
            for (mode in Mode.entries) {
                val client = quick(gateway.baseUrl, mode = mode)
                for ((message, action) in cases) {
                    val errors = listOf(failure { client.guard(action) { runs.incrementAndGet() } }, failure { client.preflight(action) })
                    for (error in errors) {
                        assertEquals(message, ActPassException.Kind.ARGUMENT, error.kind)
                        assertEquals("actpass.invalid_argument", error.code)
                        assertTrue("${error.message}", error.message!!.startsWith(message))
                    }
                }
            }
            assertEquals(0, runs.get())
            assertEquals(0, gateway.seen().size)
        }
    }

    @Test
    fun settingsThatAreWrongAreNamed() {
        val cases: List<Pair<String, () -> ActPass>> = listOf(
            "api_key" to { ActPass("") },
            "api_key" to { ActPass(lone) },
            "base_url" to { ActPass("apk_x", baseUrl = "gateway") },
            "base_url" to { ActPass("apk_x", baseUrl = "http://gateway.example") },
            "timeout" to { ActPass("apk_x", timeout = Duration.ZERO) },
            "timeout" to { ActPass("apk_x", timeout = Duration.INFINITE) },
            "connect_timeout" to { ActPass("apk_x", connectTimeout = (-1).seconds) },
            "max_retries" to { ActPass("apk_x", maxRetries = -1) },
            "max_retries" to { ActPass("apk_x", maxRetries = Int.MAX_VALUE) },
            "circuit_failures" to { ActPass("apk_x", circuitFailures = -1) },
            "tenant_id" to { ActPass("apk_x", tenantId = "a\nb") },
            "ca" to { ActPass("apk_x", certificateAuthorities = "no PEM") },
        )
        for ((member, make) in cases) {
            val error = failure(make)
            assertTrue("$member: $error", error.message!!.startsWith("$member: "))
            val kind = if (lone in "$error" || "surrogate" in "$error") ActPassException.Kind.ARGUMENT else ActPassException.Kind.CONFIG
            assertEquals(member, kind, error.kind)
        }
        ActPass("apk_x", baseUrl = "http://gateway.example", dangerAllowInsecureHttp = true)
        val client = ActPass(API_KEY, agentId = "tests", baseUrl = "https://gateway.example/")
        assertEquals("ActPass(baseUrl=https://gateway.example, agentId=tests)", client.toString())
        assertFalse(API_KEY in everythingShown(client))
        assertFalse(PASSPORT in refund.copy(passport = PASSPORT).toString())
    }

    @Test
    fun hashes() {
        val hash = "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2"
        assertEquals(hash, ActPass.hashPayload(mapOf("currency" to "usd", "amount" to 4900)))
        assertEquals(hash, ActPass.hashPayload(mapOf("currency" to "usd", "amount" to 4900.0)))
        val signed = "d912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e"
        assertEquals(signed, ActPass.signPayload("payload", "secret"))
        for (payload in listOf(9_007_199_254_740_992, Double.NaN, lone, Any(), mapOf(null to 1))) {
            assertEquals(ActPassException.Kind.ARGUMENT, failure { ActPass.hashPayload(payload) }.kind)
        }
    }

    @Test
    fun jsonComesBackAsItWas() {
        val text = """{"a":[1,-2.50,12345678901234567890,null,true,false],"b":"é\"\\\/\b\f\n\r\t\u0000\ud83d\ude00","c":{},"d":[[]]}"""
        val value = members(text)
        val numbers = listOf(1L, "-2.50".toBigDecimal(), "12345678901234567890".toBigInteger(), null, true, false)
        assertEquals(numbers, value["a"])
        assertEquals("é\"\\/\b\u000C\n\r\t\u0000😀", value["b"])
        assertEquals(value, members(json("value", value)))
        assertEquals("""{"a":[1,"two"],"b":true,"n":null,"d":1.5}""",
            json("value", mapOf("a" to arrayOf<Any>(1, "two"), "b" to true, "n" to null, "d" to 1.5)))
    }

    @Test
    fun whatIsNoPendingApprovalIsNamed() {
        val error = failure { PendingApproval("""{"approval_request_id": "apr_1"}""") }
        assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
        assertTrue("${error.message}", error.message!!.startsWith("pending.goal: "))
    }
}
