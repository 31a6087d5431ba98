package org.actpass

import java.io.File
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Test

/** The passports of `tests/passports/vectors.json`, verified offline. */
class PassportVectorTest {
    @Test
    @Suppress("UNCHECKED_CAST")
    fun verifiesPassportVectors(): Unit = runBlocking {
        val file = members(File(System.getenv("ACTPASS_VECTORS")).resolveSibling("passports/vectors.json").readText())
        val cases = file["cases"] as List<Map<String, Any?>>
        assertEquals(56, cases.size)
        for (case in cases) {
            val step = mapOf("do" to "respond", "json" to mapOf("keys" to (case["keys"] ?: file["keys"])))
            Hostile.play(step).use { gateway ->
                val client = ActPass("apk_vector_secret", baseUrl = gateway.baseUrl)
                val found = client.verifyPassportOffline(case["token"] as String, file["audience"] as String, file["issuer"] as String)
                assertEquals(case["description"] as String, case["errors"], found.errors)
                assertEquals(case["description"] as String, found.errors.isEmpty(), found.isValid)
            }
        }
    }
}
