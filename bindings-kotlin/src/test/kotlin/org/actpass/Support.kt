package org.actpass

import java.io.BufferedReader
import java.io.File
import java.io.PrintWriter
import java.io.StringWriter
import java.net.URI
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpResponse
import java.nio.file.Files
import java.util.concurrent.TimeUnit
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlin.time.measureTimedValue
import org.actpass.bridge.Secret
import org.junit.Assert.assertTrue
import org.junit.Assert.fail

/** The secrets of the tests. Each ends in `_secret` and must never appear in output. */
const val API_KEY: String = "apk_tests_secret"
const val PASSPORT: String = "eyJhbGciOiJFZERTQSJ9.passport_secret"

val refund: Action =
    Action(
        goal = "resolve_refund_request",
        tool = "stripe.refund.create",
        resource = "stripe:charge:ch_123",
        args = mapOf("amount" to 4900, "currency" to "usd"),
    )

val allow: Map<String, Any?> =
    mapOf(
        "decision" to "allow",
        "reason_code" to "refund.small_in_scope",
        "evidence_event_id" to "ev_1",
        "request_hash" to "{{request_hash}}",
    )

fun answer(json: Any?): Map<String, Any?> = mapOf("do" to "respond", "json" to json)

/** A client without retries and with a timeout of 10 s. */
fun quick(baseUrl: String, apiKey: String = API_KEY, timeout: Duration = 10.seconds, mode: Mode = Mode.ENFORCE): ActPass =
    ActPass(apiKey, agentId = "tests", baseUrl = baseUrl, timeout = timeout, maxRetries = 0, mode = mode)

/** A child process that is read line by line. */
class Child(variable: String, vararg arguments: String) {
    private val process: Process
    private val input: PrintWriter
    private val output: BufferedReader

    init {
        val path = System.getenv(variable) ?: ""
        check(File(path).canExecute()) { "$variable must be the path of the built program, found '$path'" }
        process = ProcessBuilder(path, *arguments).redirectError(ProcessBuilder.Redirect.DISCARD).start()
        input = PrintWriter(process.outputWriter(), true)
        output = process.inputReader()
    }

    @Synchronized
    fun tell(line: String): String {
        input.println(line)
        return readLine()
    }

    fun readLine(): String = output.readLine() ?: error("the child ended")

    fun stop() {
        process.destroy()
        if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly().waitFor()
    }
}

/** The hostile gateway, as one child process for the whole run. */
object Hostile {
    private val child by lazy { Child("ACTPASS_HOSTILE_GATEWAY").also { Runtime.getRuntime().addShutdownHook(Thread(it::stop)) } }

    fun tell(command: Map<String, Any?>): Map<String, Any?> {
        val said = members(child.tell(json("command", command)))
        check("error" !in said) { "${said["error"]}" }
        return said
    }

    fun play(vararg steps: Map<String, Any?>): Played = playScript(mapOf("steps" to steps.asList()))

    fun playScript(script: Map<String, Any?>): Played {
        val started = tell(mapOf("start" to script))
        return Played(started["id"], started["base_url"] as String, started["ca_pem"] as String?)
    }
}

/** One running gateway of [Hostile]. */
class Played(private val id: Any?, val baseUrl: String, val ca: String?) : AutoCloseable {
    /** The valid requests so far. */
    fun seen(): List<Map<String, Any?>> = requests("seen").filter { it["method"] != "?" }

    fun otherSeen(): List<Map<String, Any?>> = requests("other_seen")

    @Suppress("UNCHECKED_CAST")
    private fun requests(name: String) = Hostile.tell(mapOf("seen" to id))[name] as List<Map<String, Any?>>

    override fun close() {
        Hostile.tell(mapOf("stop" to id))
    }
}

/** The real gateway, in its development mode. */
class Gateway : AutoCloseable {
    private val folder = Files.createTempDirectory("actpass").toFile()
    private val child = Child("ACTPASS_GATEWAY", "dev", "--listen", "127.0.0.1:0", "--data", "$folder/data.db")
    val baseUrl: String = child.readLine().removePrefix("listening on ")

    fun client(): ActPass = quick(baseUrl, apiKey = "apk_dev")

    /** Sends an operator's request. */
    fun operate(path: String) {
        val request =
            HttpRequest.newBuilder(URI(baseUrl + path))
                .header("authorization", "Bearer apdv_dev")
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString("{}"))
                .build()
        val response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString())
        check(response.statusCode() == 200) { response.body() }
    }

    override fun close() {
        child.stop()
        folder.deleteRecursively()
    }
}

/** The printed forms of a value and its properties. */
fun everythingShown(value: Any?): String = buildString { show(value, 0) }

private fun StringBuilder.show(value: Any?, depth: Int) {
    append(value).append('\n')
    if (value is Throwable) append(StringWriter().also { value.printStackTrace(PrintWriter(it)) })
    if (value == null || depth > 3 || !value.javaClass.name.startsWith("org.actpass.")) return
    if (value is Credential || value is IssuedPassport || value is Action || value is Secret) return
    for (method in value.javaClass.methods) {
        if (method.name.startsWith("get") && method.parameterCount == 0) show(method.invoke(value), depth + 1)
    }
}

inline fun failure(body: () -> Any?): ActPassException {
    try {
        fail("returned ${body()}")
    } catch (error: ActPassException) {
        return error
    }
    error("unreachable")
}

/** Fails unless [body] ends within [limit]: far less than the deadline of the cancelled call, and far more than a busy machine needs. */
inline fun <T> within(limit: Duration, body: () -> T): T {
    val (result, took) = measureTimedValue(body)
    assertTrue("took $took, expected at most $limit", took < limit)
    return result
}
