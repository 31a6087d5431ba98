// The clients of Kotlin, measured on command.
//
// Usage: WorkerKt URL [CA]. A worker reads a command a line, and answers each with a JSON object on a line:
//
// - `measure NAME WIDTH CALLS SECONDS`: so many calls, so many at once, for so long at most.
// - `clients NAME COUNT`: makes so many more clients, which make one call each and stay.
// - `border`: cost of a call into the native library, in nanoseconds.

import java.io.File
import java.net.URI
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpResponse
import java.security.KeyStore
import java.security.cert.CertificateFactory
import java.util.UUID
import java.util.concurrent.atomic.AtomicInteger
import javax.net.ssl.SSLContext
import javax.net.ssl.TrustManagerFactory
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.future.await
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import org.actpass.Action
import org.actpass.ActPass
import org.actpass.Outcome

fun main(arguments: Array<String>) {
    val url = arguments[0]
    val authority = arguments.getOrNull(1)?.let { File(it).readText() }
    val contenders = mapOf("guard" to guarded(url, authority), "httpclient" to byHttpClient(url, authority))
    val kept = mutableListOf<suspend () -> Unit>()
    println("""{"contenders": ["guard", "httpclient"], "java": "${System.getProperty("java.version")}"}""")
    for (line in generateSequence(::readlnOrNull)) {
        val words = line.split(" ")
        val answer =
            try {
                when (words[0]) {
                    "measure" -> measure(contenders.getValue(words[1]), words[2].toInt(), Budget(words[3].toInt(), words[4].toDouble()))
                    "clients" -> {
                        repeat(words[2].toInt()) { kept += guarded(url, authority).also { call -> runBlocking { call() } } }
                        """{"clients": ${kept.size}}"""
                    }
                    "border" -> border(url)
                    else -> error("no such command")
                }
            } catch (failure: Exception) {
                """{"error": "${failure.toString().replace("\\", " ").replace("\"", "'").replace("\n", " ")}"}"""
            }
        println(answer)
    }
}

fun guarded(url: String, authority: String?): suspend () -> Unit {
    val actpass = ActPass(apiKey = "apk_bench", baseUrl = url, ca = authority)
    return {
        val outcome =
            actpass.guard(
                Action(
                    goal = "resolve_refund_request",
                    tool = "stripe.refund.create",
                    resource = "stripe:charge:ch_123",
                    args = mapOf("amount" to 4900, "currency" to "usd"),
                ),
            ) {
                true
            }
        check(outcome is Outcome.Returned) { "blocked: $outcome" }
    }
}

/** The same by the JDK's own client. It has no JSON, so the body is made and the answer looked through as text. */
fun byHttpClient(url: String, authority: String?): suspend () -> Unit {
    val builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
    val client = (authority?.let { builder.sslContext(trusting(it)) } ?: builder).build()
    val endpoint = URI("$url/api/v1/actions/preflight")
    return {
        val body =
            """{"agent_id": "sdk", "goal": "resolve_refund_request", "tool": "stripe.refund.create", """ +
                """"resource": "stripe:charge:ch_123", "args": {"amount": 4900, "currency": "usd"}, "mode": "enforce", """ +
                """"idempotency_key": "${UUID.randomUUID()}"}"""
        val request =
            HttpRequest.newBuilder(endpoint)
                .header("authorization", "Bearer apk_bench")
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build()
        val answer = client.sendAsync(request, HttpResponse.BodyHandlers.ofString()).await().body()
        check("\"decision\":\"allow\"" in answer) { "blocked: $answer" }
    }
}

fun trusting(authority: String): SSLContext {
    val certificate = CertificateFactory.getInstance("X.509").generateCertificate(authority.byteInputStream())
    val store = KeyStore.getInstance(KeyStore.getDefaultType())
    store.load(null)
    store.setCertificateEntry("authority", certificate)
    val trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm())
    trust.init(store)
    return SSLContext.getInstance("TLS").apply { init(null, trust.trustManagers, null) }
}

/** The limit of a measurement: a number of calls, and a time. */
class Budget(calls: Int, private val seconds: Double) {
    private val left = AtomicInteger(calls)
    private val began = System.nanoTime()

    fun goesOn() = elapsed() < seconds && left.getAndDecrement() > 0

    fun elapsed() = (System.nanoTime() - began) / 1e9
}

fun measure(call: suspend () -> Unit, width: Int, budget: Budget): String {
    suspend fun repeated(): List<Double> {
        val times = ArrayList<Double>()
        while (budget.goesOn()) {
            val start = System.nanoTime()
            call()
            times += (System.nanoTime() - start) / 1e3
        }
        return times
    }
    val times =
        runBlocking {
            if (width == 1) {
                repeated()
            } else {
                withContext(Dispatchers.Default) { coroutineScope { List(width) { async { repeated() } }.awaitAll().flatten() } }
            }
        }
    val seconds = budget.elapsed()
    val sorted = times.sorted()
    fun at(part: Int) = sorted.getOrNull(sorted.size * part / 100)
    return """{"calls": ${sorted.size}, "seconds": $seconds, "p50": ${at(50)}, "p99": ${at(99)}}"""
}

fun border(url: String): String {
    val actpass = ActPass(apiKey = "apk_bench", baseUrl = url)
    val item = mapOf("sku" to "article-1", "count" to 3, "note" to "left at the door")
    fun of(size: Int) = mapOf("amount" to 4900, "currency" to "usd", "items" to List(size / 60) { item })
    val (small, large) = of(1_000) to of(100_000)
    val empty = nanoseconds { actpass.circuit }
    val one = nanoseconds { ActPass.hashPayload(small) }
    val hundred = nanoseconds { ActPass.hashPayload(large) }
    return """{"empty_call": $empty, "hash_payload_1_kb": $one, "hash_payload_100_kb": $hundred}"""
}

/** Time of a call: the median of several batches, after batches that warm up the just-in-time compiler. */
fun nanoseconds(call: () -> Unit): Double {
    fun batch(calls: Int): Double {
        val start = System.nanoTime()
        repeat(calls) { call() }
        return (System.nanoTime() - start).toDouble() / calls
    }
    var calls = 1
    while (batch(calls) * calls < 5e6) calls *= 2
    return List(41) { batch(calls) }.drop(20).sorted()[10]
}
