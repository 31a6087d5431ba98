package org.actpass

import java.io.File
import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancel
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.delay
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.supervisorScope
import kotlinx.coroutines.sync.Semaphore
import kotlinx.coroutines.sync.withPermit
import kotlinx.coroutines.withTimeoutOrNull
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Each vector of `tests/vectors` in each of its modes; see the README there. */
class VectorTest {
    private class Run(
        val name: String,
        val vector: Map<String, Any?>,
        val mode: Mode,
        /** Whether the run has no circuit breaker, regardless of the vector. */
        val circuitOff: Boolean,
        val expected: Map<String, Any?>,
    )

    @Test
    fun allVectorsPass() {
        val files = File(System.getenv("ACTPASS_VECTORS")).walk().filter { it.extension == "json" }.sorted().toList()
        val runs = files.flatMap(::read)
        for (area in listOf("changes", "circuit", "dpop", "failures", "lost", "outcomes", "replays", "retries", "signed", "table", "texts")) {
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

    /** The differences from the expectations, and the result of the run, as a line. */
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
                ca = if (settings["trust_ca"] == true) gateway.ca else null,
                approvalKeys = settings["approval_keys"] as String?,
                dpopKey = settings["dpop_key"] as String?,
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
        val outcome = guarded(client, action, run.vector, contexts)
        val stopped = outcome == null

        val problems = mutableListOf<String>()
        fun check(what: String, holds: Boolean, found: () -> Any?) {
            if (!holds) problems += "expected $what, found ${found()}"
        }
        val expected = run.expected
        val executed = expected["executed"] as Boolean
        check("${if (executed) 1 else 0} runs", contexts.size == (if (executed) 1 else 0)) { contexts.size }
        check("stopped", stopped == (executed && run.vector["ends"] in setOf("cancelled", "suspended"))) { outcome }
        val decision = outcome?.decision ?: contexts.single().decision
        for ((name, value) in part(expected["decision"])) {
            check("the decision's $name: $value", decision[name] == value) { decision.json }
        }
        val error = expected["error"]
        val canonical = outcome?.canonicalJson() ?: "null"
        if (outcome != null) {
            check("executed $executed", outcome.executed == executed) { outcome.executed }
            val begin = """{"decision":"""
            val end = ""","error":${json("error", error)},"executed":$executed}"""
            check("the canonical outcome begins with the decision", canonical.startsWith(begin)) { canonical }
            check("the canonical outcome ends with $end", canonical.endsWith(end)) { canonical }
            val inner = members(canonical.removePrefix(begin).removeSuffix(end))
            check("the decision in the canonical outcome", ActPass.hashPayload(inner) == ActPass.hashPayload(decision.members)) { canonical }
            check("an error $error", (outcome.errorOrNull() == null) == (error == null)) { outcome.errorOrNull() }
        }
        val gateError = outcome?.errorOrNull() as? ActPassException
        check("the error's status", gateError?.status?.toLong() == part(error)["status"]) { gateError }
        val tokens = contexts.map { it.credential?.token }
        check("the credential", tokens == (if (executed) listOf(expected["credential"]) else emptyList<String>())) { tokens.size }

        // The background thread records a stop.
        if (stopped) withTimeoutOrNull(10.seconds) { while (gateway.seen().size.toLong() != expected["requests_sent"]) delay(5) }
        val sent = gateway.seen()
        check("${expected["requests_sent"]} requests", sent.size.toLong() == expected["requests_sent"]) { sent }
        val (events, seen) = sent.partition { it["path"] == "/api/v1/evidence/events" }
        check("at most one event", events.size <= 1) { events }
        val recorded = events.firstOrNull()?.let { members(it["body"] as String) }
        check("an event as expected", (recorded == null) == (expected["recorded"] == null)) { recorded }
        for ((name, value) in part(expected["recorded"])) {
            check("the recorded $name: $value", recorded?.get(name) == value) { recorded }
        }
        for (request in seen) {
            val isPreflight = request["method"] == "POST" && request["path"] == "/api/v1/actions/preflight"
            check("a preflight", isPreflight) { request["path"] }
            val headers = request["headers"] as List<*>
            val hasProof = "dpop_key" in settings
            val scheme = if (hasProof) "DPoP" else "Bearer"
            check("the key", listOf("authorization", "$scheme $KEY") in headers) { headers.size }
            check("the proof", headers.any { (it as List<*>)[0] == "dpop" } == hasProof) { headers.size }
            val hasOwnKey = run.vector["calls_before"] != null && idempotencyKey == null
            check("the same body again", hasOwnKey || request["body"] == seen[0]["body"]) { request }
            val key = members(request["body"] as String)["idempotency_key"] as String?
            check("the idempotency key", if (idempotencyKey == null) key?.length == 36 else key == idempotencyKey) { key }
        }
        check("nothing at the other host", gateway.otherSeen().isEmpty()) { "something" }
        val thrown = runCatching { outcome?.unwrap() }.exceptionOrNull() as? ActionBlockedException
        check("a block", (thrown == null) == executed) { outcome }
        val blocked = thrown?.let {
            mapOf(
                "approval" to it.approval?.id, "code" to it.code, "developer" to it.developerText,
                "message" to it.message, "retryable" to it.isRetryable, "tool" to it.tool,
            )
        }
        for ((name, value) in part(expected["blocked"])) {
            check("the block's $name: $value", blocked?.get(name) == value) { blocked }
        }
        // Every secret in a vector contains this word. The test compares only their number, so that a failure prints none.
        val shown =
            if (run.vector["gateway_echoes"] == true) "$blocked"
            else listOf(client, action, outcome, contexts, gateError, thrown, blocked).joinToString { everythingShown(it) } + canonical
        val leaks = shown.split("secret").size - 1
        check("no secret to show", leaks == 0) { leaks }
        // The text of the gate's error may depend on timing.
        val comparable = if (error == null) blocked else blocked?.plus("developer" to null)
        val line =
            """{"blocked":${sortedJson(comparable)},"circuit_off":${run.circuitOff},"leaks":$leaks,"mode":"${run.mode.wire}",""" +
                """"outcome":$canonical,"recorded":${sortedJson(recorded)},"requests_sent":${sent.size},"runs":${contexts.size},""" +
                """"vector":"${run.name}"}"""
        problems to line + "\n"
    }

    /** Guards the action and ends it as the vector defines; null if it was stopped. */
    private suspend fun guarded(
        client: ActPass,
        action: Action,
        vector: Map<String, Any?>,
        contexts: MutableList<ExecutionContext>,
    ): Outcome<Any?>? {
        val recordOutcome = vector["record_outcome"] as Boolean? ?: false
        if (vector["unmapped"] == true) {
            val tools = client.protectTools(emptyMap<String, Tool<Any?>>(), emptyMap())
            return runCatching { tools.call(action.tool, action.args) }.exceptionOrNull().let { (it as ActionBlockedException).outcome }
        }
        if (vector["ends"] == "suspended") {
            val permit = client.authorize(action, recordOutcome).unwrap()
            contexts += permit.spend()
            permit.suspended()
            return null
        }
        if ("changed_args" in vector) {
            val permit = when (val verdict = client.authorize(action, recordOutcome)) {
                is Verdict.Blocked -> return verdict.blocked
                is Verdict.Permitted -> verdict.permit
            }
            try {
                contexts += permit.spend(part(vector["changed_args"]))
            } catch (blocked: ActionBlockedException) {
                return blocked.outcome
            }
            check(runCatching { permit.spend() }.isFailure) { "the permit was spent twice" }
            return Outcome.Returned(null, permit.returned(null))
        }
        return supervisorScope {
            val call = async {
                client.guard(action, recordOutcome) { context ->
                    contexts += context
                    when (vector["ends"]) {
                        "failed" -> error("the card is closed")
                        "cancelled" -> currentCoroutineContext().run { cancel().also { ensureActive() } }
                        else -> null
                    }
                }
            }
            try {
                call.await()
            } catch (_: CancellationException) {
                null
            }
        }
    }

    /** The members in the order of canonical JSON. */
    private fun sortedJson(value: Any?): String {
        fun sorted(value: Any?): Any? = if (value is Map<*, *>) value.mapValues { sorted(it.value) }.toSortedMap(compareBy { "$it" }) else value
        return json("value", sorted(value))
    }

    /**
     * The runs of a vector: each mode; for a failure, `enforce` and `monitor` again without a circuit breaker. Rejects unknown
     * members of the vector.
     */
    private fun read(file: File): List<Run> {
        val name = "${file.parentFile.name}/${file.nameWithoutExtension}"
        val vector = members(file.readText())
        fun only(value: Any?, known: Set<String>, needed: Set<String> = emptySet()): Map<String, Any?> {
            val members = part(value)
            check(members.keys.containsAll(needed) && (known + needed).containsAll(members.keys)) { "$name: ${members.keys}" }
            return members
        }
        only(
            vector,
            setOf("client", "action", "calls_before", "record_outcome", "ends", "changed_args", "gateway_echoes", "unmapped"),
            setOf("description", "gateway", "expect"),
        )
        check(vector["ends"] in setOf(null, "returned", "failed", "cancelled", "suspended")) { "$name: ends ${vector["ends"]}" }
        only(vector["client"], setOf("timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca", "approval_keys", "dpop_key"))
        only(
            vector["action"],
            setOf(
                "goal", "tool", "resource", "args", "user_id", "passport", "idempotency_key", "audience", "approval_request_id",
                "tool_manifest_hash",
            ),
        )
        val expect = only(vector["expect"], Mode.entries.map { it.wire }.toSet())
        check(expect.isNotEmpty()) { "$name: expected at least one mode" }
        val again = if (name.startsWith("failures/")) setOf("enforce", "monitor") else emptySet()
        return expect.toSortedMap().flatMap { (mode, value) ->
            val expected = only(value, setOf("credential", "recorded", "blocked"), setOf("executed", "decision", "error", "requests_sent"))
            expected["error"]?.let { only(it, emptySet(), setOf("kind", "status")) }
            val known = Mode.entries.single { it.wire == mode }
            (if (mode in again) listOf(false, true) else listOf(false)).map { off -> Run(name, vector, known, off, expected) }
        }
    }

    @Suppress("UNCHECKED_CAST")
    private fun part(value: Any?): Map<String, Any?> = value as Map<String, Any?>? ?: emptyMap()

    private companion object {
        const val KEY = "apk_vector_secret"

        /** The default key of an action, so that every language sends the same request. */
        const val IDEMPOTENCY_KEY = "vector_key"
    }
}
