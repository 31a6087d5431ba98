// Names that the reader of the documentation has in the program around a block.
package reader

import org.actpass.ActPass
import org.actpass.Action
import org.actpass.Credential

val key = "apk_dev"
val current = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
val actpass = ActPass(key, agentId = "support_agent")
val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))

suspend fun refund(charge: String = "ch_123", cents: Int = 4900, credential: Credential? = null): String =
    "refunded $cents of $charge"

fun assertEquals(expected: Any?, found: Any?) = check(expected == found) { "expected $expected, found $found" }
