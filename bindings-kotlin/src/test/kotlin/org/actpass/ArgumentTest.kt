package org.actpass

import java.io.File
import java.math.BigDecimal
import java.math.BigInteger
import java.net.URI
import java.time.Instant
import java.time.LocalDate
import java.time.LocalDateTime
import java.time.ZoneId
import java.time.ZoneOffset
import java.util.Date
import java.util.Optional
import java.util.UUID
import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

/** Invalid arguments and settings, and JSON. */
class ArgumentTest {
    private val lone = "\uD83D"

    private data class Line(val amount: Int)

    private enum class Speed { SLOW, FAST }

    private class Broken : AbstractList<Int>() {
        override val size: Int get() = throw IllegalStateException("closed")

        override fun get(index: Int): Int = throw IllegalStateException("closed")
    }

    @Test
    fun rejectsInvalidArgumentByPath(): Unit = runBlocking {
        val cyclic = mutableMapOf<String, Any?>()
        cyclic["self"] = cyclic
        val cases = listOf(
            "goal: expected a non-empty string" to refund.copy(goal = ""),
            "tool: expected a non-empty string" to refund.copy(tool = ""),
            "goal: expected text in Unicode" to refund.copy(goal = lone),
            "passport: expected text in Unicode" to refund.copy(passport = lone),
            "args.amount: expected a finite number, found NaN" to refund.copy(args = mapOf("amount" to Double.NaN)),
            "args.a[1]: expected a finite number" to refund.copy(args = mapOf("a" to listOf(1, Float.POSITIVE_INFINITY))),
            "args.b[0]: expected a value that is JSON, found org.actpass.ArgumentTest\$Line; convert it to a map, or write it with a JSON " +
                "library and pass Action.parseArgs(text)" to refund.copy(args = mapOf("b" to listOf(Line(1)))),
            "args.bytes: expected a value that is JSON, found [B; write it as text first" to
                refund.copy(args = mapOf("bytes" to byteArrayOf(1))),
            "args.wait: expected a finite duration, found Infinity" to refund.copy(args = mapOf("wait" to Duration.INFINITE)),
            "args.at: expected a date of the years 0 to 9999, found +1000000000-12-31" to refund.copy(args = mapOf("at" to Instant.MAX)),
            "args.at: expected a date of the years 0 to 9999, found +292278994" to refund.copy(args = mapOf("at" to Date(Long.MAX_VALUE))),
            "args.path: expected a value that is JSON, found " to refund.copy(args = mapOf("path" to java.nio.file.Path.of("/x"))),
            "args.key: expected strings as keys, found java.lang.Integer" to refund.copy(args = mapOf("key" to mapOf(1 to 2))),
            "args.pair: expected a value that is JSON, found kotlin.Pair; convert it to a map" to
                refund.copy(args = mapOf("pair" to (1 to 2))),
            "args.s: expected a value that is JSON, found " to refund.copy(args = mapOf("s" to sequenceOf(1))),
            "args.f: expected a value that is JSON, found " to refund.copy(args = mapOf("f" to { 1 })),
            "args.d[1]: expected a finite number, found Infinity" to
                refund.copy(args = mapOf("d" to doubleArrayOf(1.0, Double.POSITIVE_INFINITY))),
            "args.a.b: expected text in Unicode, found a lone surrogate" to refund.copy(args = mapOf("a" to mapOf("b" to lone))),
            "args.big: expected a number within the range of a double" to refund.copy(args = mapOf("big" to BigDecimal("1e400"))),
            "args.broken: expected a value that can be read, found a collection that threw java.lang.IllegalStateException" to
                refund.copy(args = mapOf("broken" to Broken())),
            "args.a: expected strings as keys" to refund.copy(args = mapOf("a" to mapOf(1 to 2))),
            "args.a: expected text in Unicode, found a lone surrogate" to refund.copy(args = mapOf("a" to mapOf(lone to Any()))),
            "args.note: expected text in Unicode, found a lone surrogate" to refund.copy(args = mapOf("note" to lone)),
            "args.a.a.a.a.a.a.a.a…: nested deeper than 128 levels" to refund.copy(args = (0..127).fold(emptyMap()) { inner, _ -> mapOf("a" to inner) }),
            "args.self.self.self.self.self.self.self.self…: nested deeper than 128 levels" to refund.copy(args = cyclic),
            "passport: expected a token, found an empty string" to refund.copy(passport = ""),
            "idempotencyKey: expected a non-empty string" to refund.copy(idempotencyKey = ""),
            "waitForApproval: expected non-negative seconds" to refund.copy(waitForApproval = (-1).seconds),
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
    fun argumentPathsMatchOtherLanguages(): Unit = runBlocking {
        val rows = parse("rows", File(System.getenv("ACTPASS_VECTORS")).resolveSibling("argument-paths.json").readText()) as List<*>
        assertFalse(rows.isEmpty())
        val client = quick("http://127.0.0.1:9")
        // Values that the binding rejects, and values that the core rejects.
        val leaves = listOf(
            Double.NaN to "expected a finite number, found NaN",
            BigDecimal("1e400") to "expected a number within the range of a double",
        )
        for (row in rows.map { it as Map<*, *> }) {
            for ((leaf, problem) in leaves) {
                val args = (row["steps"] as List<*>).foldRight(leaf as Any) { step, inner ->
                    if (step is Long) List<Any?>(step.toInt()) { null } + inner else mapOf("$step" to inner)
                }
                @Suppress("UNCHECKED_CAST")
                val error = failure { client.preflight(refund.copy(args = args as Map<String, Any?>)) }
                assertEquals("${row["path"]}: $problem", error.message)
            }
        }
    }

    @Test
    fun rejectsInvalidSettingsByName() {
        val cases: List<Pair<String, () -> ActPass>> = listOf(
            "apiKey" to { ActPass("") },
            "apiKey" to { ActPass(lone) },
            "baseUrl" to { ActPass("apk_x", baseUrl = "gateway") },
            "baseUrl" to { ActPass("apk_x", baseUrl = "http://gateway.example") },
            "timeout" to { ActPass("apk_x", timeout = Duration.ZERO) },
            "timeout" to { ActPass("apk_x", timeout = Duration.INFINITE) },
            "connectTimeout" to { ActPass("apk_x", connectTimeout = (-1).seconds) },
            "maxRetries" to { ActPass("apk_x", maxRetries = -1) },
            "maxRetries" to { ActPass("apk_x", maxRetries = Int.MAX_VALUE) },
            "circuitFailures" to { ActPass("apk_x", circuitFailures = -1) },
            "tenantId" to { ActPass("apk_x", tenantId = "a\nb") },
            "ca" to { ActPass("apk_x", ca = "no PEM") },
        )
        for ((member, make) in cases) {
            val error = failure(make)
            assertTrue("$member: $error", error.message!!.startsWith("$member: "))
            val kind = if (lone in "$error" || "surrogate" in "$error") ActPassException.Kind.ARGUMENT else ActPassException.Kind.CONFIG
            assertEquals(member, kind, error.kind)
        }
        assertTrue("dangerAllowInsecureHttp" in failure { ActPass("apk_x", baseUrl = "http://gateway.example") }.message!!)
        ActPass("apk_x", baseUrl = "http://gateway.example", dangerAllowInsecureHttp = true)
        val client = ActPass(API_KEY, agentId = "tests", baseUrl = "https://gateway.example/")
        assertEquals("ActPass(baseUrl=https://gateway.example, agentId=tests)", client.toString())
        assertFalse(API_KEY in everythingShown(client))
        assertFalse(PASSPORT in refund.copy(passport = PASSPORT).toString())
    }

    @Test
    fun errorsUseKotlinArgumentNames(): Unit = runBlocking {
        val client = quick("http://127.0.0.1:9")
        val cases: List<Pair<String, suspend () -> Any>> = listOf(
            "ttlSeconds" to { client.issuePassport("a", "g", listOf("t"), ttlSeconds = -1) },
            "allowedTools[1]" to { client.issuePassport("a", "g", listOf("t", lone)) },
            "allowedResources[0]" to { client.issuePassport("a", "g", listOf("t"), allowedResources = listOf(lone)) },
            "resourceConstraints.max[0]" to
                { client.issuePassport("a", "g", listOf("t"), resourceConstraints = mapOf("max" to listOf(Double.NaN))) },
            "chainId" to { client.recordEvidence("e", "") },
            "metadata.a" to { client.recordEvidence("e", "c", metadata = mapOf("a" to Any())) },
            "timeout" to { client.waitForApproval("apr_1", (-1).seconds) },
            "timeout" to { client.withOptions(timeout = Duration.ZERO) },
            "timeout" to { client.withOptions(timeout = (-1).seconds) },
            "maxRetries" to { client.withOptions(maxRetries = 11) },
            "maxRetries" to { client.withOptions(maxRetries = -1) },
            "payload.a" to { ActPass.hashPayload(mapOf("a" to Float.NaN)) },
            "args" to { Action.parseArgs("[1]") },
            "args" to { Action.parseArgs("{") },
        )
        for ((member, call) in cases) {
            val error = failure { call() }
            assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
            assertTrue("${error.message}", error.message!!.startsWith("$member: "))
        }
    }

    @OptIn(ExperimentalUnsignedTypes::class)
    @Test
    fun encodesValuesWithUniqueJsonForm() {
        val instant = Instant.parse("2025-06-15T15:06:40.250Z")
        val values = mapOf<String, Any?>(
            "unsigned" to listOf(255.toUByte(), 65_535.toUShort(), UInt.MAX_VALUE, ULong.MAX_VALUE),
            "uints" to uintArrayOf(1u, UInt.MAX_VALUE),
            "enum" to Speed.FAST,
            "keys" to mapOf(Speed.SLOW to 1),
            "ints" to intArrayOf(1, -2),
            "longs" to longArrayOf(Long.MIN_VALUE),
            "shorts" to shortArrayOf(3),
            "doubles" to doubleArrayOf(1.5),
            "floats" to floatArrayOf(0.1f),
            "flags" to booleanArrayOf(true, false),
            "nested" to arrayOf<Any>(arrayOf(1, null), intArrayOf(2)),
            "set" to setOf("a"),
            "char" to 'é',
            "builder" to StringBuilder("built"),
            "exact" to BigDecimal("12.340000000000000001"),
            "big" to BigInteger("12345678901234567890"),
            "uuid" to UUID.fromString("A0000000-0000-4000-8000-000000000001"),
            "uri" to URI("https://a.example/x"),
            "some" to Optional.of(1),
            "none" to Optional.empty<Int>(),
            "instant" to instant,
            "kotlinInstant" to kotlin.time.Instant.parse("2025-06-15T15:06:40Z"),
            "date" to Date(instant.toEpochMilli()),
            "sqlDate" to java.sql.Date(0),
            "zoned" to instant.atZone(ZoneId.of("Europe/Berlin")),
            "offset" to instant.atOffset(ZoneOffset.ofHours(-5)),
            "local" to LocalDate.of(2026, 3, 14),
            "localTime" to LocalDateTime.of(2026, 3, 14, 15, 9, 26),
            "wait" to 90.seconds,
            "javaWait" to java.time.Duration.ofMinutes(5),
        )
        val expected =
            """{"unsigned":[255,65535,4294967295,18446744073709551615],"uints":[1,4294967295],"enum":"FAST","keys":{"SLOW":1},""" +
                """"ints":[1,-2],"longs":[-9223372036854775808],"shorts":[3],"doubles":[1.5],"floats":[0.1],"flags":[true,false],""" +
                """"nested":[[1,null],[2]],"set":["a"],"char":"é","builder":"built","exact":12.340000000000000001,""" +
                """"big":12345678901234567890,"uuid":"a0000000-0000-4000-8000-000000000001","uri":"https://a.example/x",""" +
                """"some":1,"none":null,"instant":"2025-06-15T15:06:40.250Z","kotlinInstant":"2025-06-15T15:06:40Z",""" +
                """"date":"2025-06-15T15:06:40.250Z","sqlDate":"1970-01-01T00:00:00Z","zoned":"2025-06-15T17:06:40.250+02:00",""" +
                """"offset":"2025-06-15T10:06:40.250-05:00","local":"2026-03-14","localTime":"2026-03-14T15:09:26",""" +
                """"wait":"PT1M30S","javaWait":"PT5M"}"""
        assertEquals(expected, json("args", values))
        assertEquals(mapOf("amount" to 4900L, "lines" to listOf(mapOf("x" to null))), Action.parseArgs("""{"amount": 4900, "lines": [{"x": null}]}"""))
    }

    @Test
    fun enumsPrintWireNames() {
        assertEquals("[enforce, strict, warn, monitor]", "${Mode.entries}")
        val words = listOf("allow", "deny", "require_approval", "require_tool_reapproval", "warn", "maybe")
        assertEquals(words, words.map { Decision("""{"decision": "$it"}""").word.toString() })
        assertEquals("[approved, expired, pending, rejected]", "${Approval.Status.entries}")
        assertEquals("rate_limit", "${ActPassException.Kind.RATE_LIMIT}")
        assertEquals("[debug, info, warn]", "${LogLevel.entries}")
    }

    @Test
    fun dpopThumbprintMatchesKnownValue() {
        val key = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g"
        fun pem(label: String) = "-----BEGIN $label-----\n$key\n-----END $label-----\n"
        assertEquals("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", ActPass.dpopThumbprint(pem("PRIVATE KEY")))
        val argument = failure { ActPass.dpopThumbprint(pem("PUBLIC KEY")) }
        val config = failure { ActPass("apk_dev", dpopKey = pem("PUBLIC KEY")) }
        assertEquals(listOf(ActPassException.Kind.ARGUMENT, ActPassException.Kind.CONFIG), listOf(argument.kind, config.kind))
        assertFalse(key in "$argument $config")
    }

    @Test
    fun hashesAndSignaturesMatchKnownValues() {
        val hash = "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2"
        assertEquals(hash, ActPass.hashPayload(mapOf("currency" to "usd", "amount" to 4900)))
        assertEquals(hash, ActPass.hashPayload(mapOf("currency" to "usd", "amount" to 4900.0)))
        val signed = "d912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e"
        assertEquals(signed, ActPass.signPayload("secret", "payload"))
        for (payload in listOf(9_007_199_254_740_992, Double.NaN, lone, Any(), mapOf(null to 1))) {
            assertEquals(ActPassException.Kind.ARGUMENT, failure { ActPass.hashPayload(payload) }.kind)
        }
    }

    @Test
    fun jsonRoundTripsUnchanged() {
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
    fun rejectsInvalidPendingApproval() {
        val error = failure { PendingApproval("""{"approval_request_id": "apr_1"}""") }
        assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
        assertTrue("${error.message}", error.message!!.startsWith("pending.goal: "))
    }
}
