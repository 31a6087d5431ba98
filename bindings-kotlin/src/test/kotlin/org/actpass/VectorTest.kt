package org.actpass

import java.io.File
import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Semaphore
import kotlinx.coroutines.sync.withPermit
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Each vector of `tests/vectors` in each mode that it names; see the README there. */
class VectorTest {
    private class Run(
        val name: String,
        val vector: Map<String, Any?>,
        val mode: Mode,
        /** Played without a circuit breaker, whatever the vector says of it. */
        val circuitOff: Boolean,
        val expected: Map<String, Any?>,
    )

    @Test
    fun everyVector() {
        val files = File(System.getenv("ACTPASS_VECTORS")).walk().filter { it.extension == "json" }.sorted().toList()
        val runs = files.flatMap(::read)
        for (area in listOf("circuit", "failures", "replays", "retries", "table")) {
            assertTrue("no vectors in $area", runs.any { it.name.startsWith("$area/") })
        }
        assertEquals(files.size, runs.map { it.name }.distinct().size)
        val done = AtomicInteger()
        val played = runBlocking(Dispatchers.Default) {
            val width = Semaphore(6)
            runs.map { run ->
                async {
                    val (problems, line) = width.withPermit { runCatching { play(run) } }.getOrElse { listOf("threw $it") to "" }
                    done.incrementAndGet()
                    problems.map { "${run.name} in ${run.mode.wire}: $it" } to line
                }
            }.awaitAll()
        }
        System.getenv("ACTPASS_OUTCOMES")?.let { folder ->
            File(folder).mkdirs()
            File(folder, "kotlin.jsonl").writeText(played.joinToString("") { (_, line) -> line })
        }
        val problems = played.flatMap { (problems, _) -> problems }
        assertEquals(problems.joinToString("\n"), 0, problems.size)
        assertEquals(runs.size, done.get())
        println("${files.size} vectors, $done runs passed")
    }

    /** Everything that is not as expected, and what came of the run, as a line. */
    private suspend fun play(run: Run): Pair<List<String>, String> = Hostile.playScript(part(run.vector["gateway"])).use { gateway ->
        val settings = part(run.vector["client"])
        val given = part(run.vector["action"])
        fun seconds(name: String) = (settings[name] as Number?)?.toDouble()?.seconds
        val client =
            ActPass(
                KEY,
                agentId = "vectors",
                baseUrl = gateway.baseUrl,
                timeout = seconds("timeout") ?: 5.seconds,
                connectTimeout = seconds("connect_timeout"),
                maxRetries = (settings["max_retries"] as Long? ?: 0).toInt(),
                circuitFailures = if (run.circuitOff) 0 else (settings["circuit_failures"] as Long? ?: 5).toInt(),
                certificateAuthorities = if (settings["trust_ca"] == true) gateway.ca else null,
            )
        fun text(name: String) = given[name] as String?
        val idempotencyKey = if ("idempotency_key" in given) text("idempotency_key") else IDEMPOTENCY_KEY
        val action =
            Action(
                goal = text("goal") ?: refund.goal,
                tool = text("tool") ?: refund.tool,
                resource = text("resource") ?: refund.resource,
                args = if ("args" in given) part(given["args"]) else refund.args,
                userId = text("user_id"),
                passport = text("passport"),
                mode = run.mode,
                idempotencyKey = idempotencyKey,
                audience = text("audience"),
                approvalRequestId = text("approval_request_id"),
                toolManifestHash = text("tool_manifest_hash"),
            )
        repeat((run.vector["calls_before"] as Long? ?: 0).toInt()) { client.guard(action) { "done" } }
        val contexts = mutableListOf<ExecutionContext>()
        val outcome = client.guard(action) { context ->
            contexts += context
            "done"
        }

        val problems = mutableListOf<String>()
        fun check(what: String, holds: Boolean, found: () -> Any?) {
            if (!holds) problems += "expected $what, found ${found()}"
        }
        val expected = run.expected
        val executed = expected["executed"] as Boolean
        check("${if (executed) 1 else 0} runs", contexts.size == (if (executed) 1 else 0)) { contexts.size }
        check("executed $executed", outcome.wasExecuted == executed) { outcome.wasExecuted }
        check("the result", outcome.valueOrNull() == (if (executed) "done" else null)) { outcome.valueOrNull() }
        for ((name, value) in part(expected["decision"])) {
            check("the decision's $name: $value", outcome.decision[name] == value) { outcome.decision.json }
        }
        val error = expected["error"]
        val canonical = outcome.canonicalJson()
        val begin = """{"decision":"""
        val end = ""","error":${json("error", error)},"executed":$executed}"""
        check("the canonical outcome begins with the decision", canonical.startsWith(begin)) { canonical }
        check("the canonical outcome ends with $end", canonical.endsWith(end)) { canonical }
        val inner = members(canonical.removePrefix(begin).removeSuffix(end))
        check("the very decision", ActPass.hashPayload(inner) == ActPass.hashPayload(outcome.decision.members)) { canonical }
        val gateError = outcome.errorOrNull() as ActPassException?
        check("an error $error", (gateError == null) == (error == null)) { gateError }
        check("the error's status", gateError?.status?.toLong() == part(error)["status"]) { gateError }
        val tokens = contexts.map { it.credential?.token }
        check("the credential", tokens == (if (executed) listOf(expected["credential"]) else emptyList<String>())) { tokens.size }

        val seen = gateway.seen()
        check("${expected["requests_sent"]} requests", seen.size.toLong() == expected["requests_sent"]) { seen }
        for (request in seen) {
            val isPreflight = request["method"] == "POST" && request["path"] == "/api/v1/actions/preflight"
            check("a preflight", isPreflight) { request["path"] }
            val headers = request["headers"] as List<*>
            check("the key", listOf("authorization", "Bearer $KEY") in headers) { headers.size }
            check("the same body again", request["body"] == seen[0]["body"]) { request }
            val sent = members(request["body"] as String)["idempotency_key"] as String?
            check("the idempotency key", if (idempotencyKey == null) sent?.length == 36 else sent == idempotencyKey) { sent }
        }
        check("nothing at the other host", gateway.otherSeen().isEmpty()) { "something" }
        // Every secret in a vector holds this word. It is not shown where a test fails either.
        val shown = listOf(client, action, outcome, contexts, gateError).joinToString { everythingShown(it) } + canonical
        val leaks = shown.split("secret").size - 1
        check("no secret to show", leaks == 0) { leaks }
        val line =
            """{"circuit_off":${run.circuitOff},"leaks":$leaks,"mode":"${run.mode.wire}","outcome":$canonical,""" +
                """"requests_sent":${seen.size},"runs":${contexts.size},"vector":"${run.name}"}"""
        problems to line + "\n"
    }

    /**
     * The runs of a vector: each mode, and of a failure the two that any failure has once more without a circuit breaker. What no
     * vector has is refused.
     */
    private fun read(file: File): List<Run> {
        val name = "${file.parentFile.name}/${file.nameWithoutExtension}"
        val text = file.readText()
        enter { org.actpass.bridge.nativeCheckJson("json", text) }
        val vector = members(text)
        fun only(value: Any?, known: Set<String>, needed: Set<String> = emptySet()): Map<String, Any?> {
            val members = part(value)
            check(members.keys.containsAll(needed) && (known + needed).containsAll(members.keys)) { "$name: ${members.keys}" }
            return members
        }
        only(vector, setOf("client", "action", "calls_before"), setOf("description", "gateway", "expect"))
        only(vector["client"], setOf("timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca"))
        only(
            vector["action"],
            setOf(
                "goal", "tool", "resource", "args", "user_id", "passport", "idempotency_key", "audience", "approval_request_id",
                "tool_manifest_hash",
            ),
        )
        val expect = only(vector["expect"], Mode.entries.map { it.wire }.toSet())
        check(expect.isNotEmpty()) { "$name: nothing is expected" }
        val again = if (name.startsWith("failures/")) setOf("enforce", "monitor") else emptySet()
        return expect.toSortedMap().flatMap { (mode, value) ->
            val expected = only(value, setOf("credential"), setOf("executed", "decision", "error", "requests_sent"))
            expected["error"]?.let { only(it, emptySet(), setOf("kind", "status")) }
            val known = Mode.entries.single { it.wire == mode }
            (if (mode in again) listOf(false, true) else listOf(false)).map { off -> Run(name, vector, known, off, expected) }
        }
    }

    @Suppress("UNCHECKED_CAST")
    private fun part(value: Any?): Map<String, Any?> = value as Map<String, Any?>? ?: emptyMap()

    private companion object {
        const val KEY = "apk_vector_secret"

        /** Of an action that gives none, so that every language sends the same request. */
        const val IDEMPOTENCY_KEY = "vector_key"
    }
}
