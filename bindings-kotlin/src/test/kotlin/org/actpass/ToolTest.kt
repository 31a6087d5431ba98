package org.actpass

import java.util.concurrent.atomic.AtomicInteger
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.yield
import org.actpass.testing.Answer
import org.actpass.testing.ScriptedGateway
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Tools of an agent, scopes, and values in place of a blocked result. */
class ToolTest {
    private val runs = AtomicInteger()
    private val gateway = ScriptedGateway()

    /** An agent with a guarded and an unguarded tool. */
    private fun tools(
        action: ToolAction = ToolAction(REFUND, goal = "refund for {customer}"),
        onBlocked: (suspend (Outcome.Blocked) -> String)? = null,
    ): ProtectedTools<String> =
        gateway.client().protectTools(
            tools = mapOf(
                "refund" to { args, context ->
                    runs.incrementAndGet()
                    "refunded ${args["amount"]} by ${context?.decision?.word?.wire}"
                },
                "time" to { _, context -> "12:00 ${context == null}" },
            ),
            actions = mapOf("refund" to action, "time" to Unguarded),
            onBlocked = onBlocked,
        )

    @Test
    fun aProtectedToolRunsWithItsAction(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val action = ToolAction(
            REFUND, goal = "refund for {customer}", resourceOf = { "charge:${it["charge"]}" }, userId = "u_1", mode = Mode.STRICT,
            audience = "a", recordOutcome = true,
        )
        val args = mapOf("amount" to 4900L, "customer" to "c_{1}", "charge" to "ch_1")
        assertEquals("refunded 4900 by allow", tools(action)["refund"](args))
        val sent = gateway.actions.single()
        assertEquals(listOf("refund for c_{1}", "charge:ch_1", REFUND), listOf("goal", "resource", "tool").map { sent[it] })
        assertEquals(listOf("u_1", "strict", "a"), listOf("user_id", "mode", "audience").map { sent[it] })
        assertEquals(args, sent["args"])
        assertEquals(1, gateway.evidence.size)
        assertEquals(listOf(args), gateway.executions.map { it.args })

        assertEquals("12:00 true", tools().call("time", emptyMap()))
        assertEquals("an unguarded tool sends nothing", 1, gateway.actions.size)
        assertEquals(setOf("refund", "time"), tools().names)
    }

    @Test
    fun aToolRunsWithTheEvaluatedArguments(): Unit = runBlocking {
        gateway.answer(Answer.requireApproval("apr_1"))
        val action = ToolAction(REFUND, goal = "g", waitForApproval = 20.seconds)
        val args = mutableMapOf<String, Any?>("amount" to 1)
        val call = async(Dispatchers.Default) { tools(action).call("refund", args) }
        withTimeout(20.seconds) { while (gateway.approvals.isEmpty()) delay(5) }
        args["amount"] = 1_000_000
        gateway.approve("apr_1")
        assertEquals("refunded 1 by allow", call.await())
    }

    @Test
    fun aToolSendsTheSelectedArguments(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val action = ToolAction(
            REFUND, goal = "refund for {customer}", argsOf = { mapOf("amount" to it["amount"]) },
            approvalRequestIdOf = { it["approval"] as String? },
        )
        assertEquals("refunded 1 by allow", tools(action).call("refund", mapOf("amount" to 1, "customer" to "c", "approval" to "apr_1")))
        val sent = gateway.actions.single()
        assertEquals(mapOf("amount" to 1L), sent["args"])
        assertEquals(listOf<Any?>("refund for c", "apr_1"), listOf(sent["goal"], sent["approval_request_id"]))
    }

    @Test
    fun aDeniedToolRunsZeroTimes(): Unit = runBlocking {
        for (answer in listOf(Answer.deny(), Answer.requireApproval(), Answer.unreachable(), Answer.failure(500), Answer.warn())) {
            gateway.answer(answer)
            assertEquals(REFUND, blockedBy { tools().call("refund", mapOf("amount" to 1, "customer" to "c")) }.tool)
        }
        assertEquals(0, runs.get())
        gateway.assertNotExecuted(REFUND)
    }

    @Test
    fun anUnmappedToolIsDenied(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val blocked = blockedBy { tools()["delete_account"](mapOf("id" to 1)) }
        assertEquals("actpass.unmapped_tool", blocked.code)
        assertEquals("No action is mapped to this tool.", blocked.decision.explain.summary)
        assertEquals(
            "delete_account was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.",
            blocked.message,
        )
        assertEquals("actpass.unmapped_tool", tools(onBlocked = { it.code }).call("delete_account", emptyMap()))
        assertEquals(0, gateway.actions.size)
    }

    @Test
    fun aToolAddedLaterIsDenied(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val tools = mutableMapOf<String, Tool<Int>>("a" to { _, _ -> 1 })
        val actions = mutableMapOf<String, ToolMapping>("a" to Unguarded)
        val protected = gateway.client().protectTools(tools, actions)
        tools["b"] = { _, _ -> runs.incrementAndGet() }
        actions["b"] = Unguarded
        assertEquals("actpass.unmapped_tool", blockedBy { protected.call("b", emptyMap()) }.code)
        assertEquals(0, runs.get())
    }

    @Test
    fun theMappingCoversEachTool() {
        for ((tools, actions, problem) in listOf(
            Triple(listOf("a", "b", "c"), listOf("b"), "tools without an action: a, c"),
            Triple(listOf("a"), listOf("a", "d", "e"), "actions without a tool: d, e"),
            Triple(listOf("a"), listOf("b"), "tools without an action: a; actions without a tool: b"),
        )) {
            val error = assertThrows(ActPassException::class.java) {
                gateway.client().protectTools(tools.associateWith { { _, _ -> 1 } }, actions.associateWith { Unguarded })
            }
            assertEquals(ActPassException.Kind.ARGUMENT, error.kind)
            assertTrue(error.message, error.message!!.startsWith("actions: expected an action, ") && error.message!!.endsWith("; $problem"))
        }
    }

    @Test
    fun templates(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        for ((template, args, goal) in listOf(
            Triple("fixed", emptyMap(), "fixed"),
            Triple("{{{a}}}", mapOf("a" to "x"), "{x}"),
            Triple("{a}-{b}", mapOf("a" to -7, "b" to "{c}"), "-7-{c}"),
        )) {
            tools(ToolAction("t", goal = template)).call("refund", args)
            assertEquals(goal, gateway.actions.last()["goal"])
        }
        for ((value, found) in listOf(1.5 to "a number", true to "a boolean", listOf("b") to "an array", null to "null")) {
            val tools = tools(ToolAction("t", goal = "g", resource = "charge:{a}"))
            val error = failure { tools.call("refund", mapOf("a" to value)) }
            assertEquals("resource: expected a as a string or an integer, found $found", error.message)
        }
        for (malformed in listOf("{", "}", "{a", "{}", "{a b}", "{a.b}", "{1}", "a}b")) {
            val error = assertThrows(ActPassException::class.java) { ToolAction("t", goal = malformed) }
            assertTrue(error.message, error.message!!.startsWith("goal: expected names of arguments in braces"))
        }
        val both = assertThrows(ActPassException::class.java) { ToolAction("t", goal = "g", goalOf = { "g" }) }
        assertEquals("goal: expected a template or a function, found both", both.message)
        assertEquals(3, runs.get())
    }

    @Test
    fun theExceptionOfAToolPropagates(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val actions = mapOf("a" to ToolAction("t", goal = "g"), "b" to Unguarded)
        val broken = IllegalStateException("broken")
        val inner = ActionBlockedException("inner", Decision("""{"decision": "deny"}"""))
        for (error in listOf(broken, inner)) {
            val tool: Tool<Int> = { _, _ -> throw error }
            val tools = gateway.client().protectTools(mapOf("a" to tool, "b" to tool), actions, onBlocked = { 0 })
            for (name in listOf("a", "b")) assertSame(error, runCatching { tools.call(name, emptyMap()) }.exceptionOrNull())
        }
    }

    @Test
    fun onBlockedReplacesTheResult(): Unit = runBlocking {
        val client = gateway.client()
        val action = Action("g", "t")
        gateway.answerNext(Answer.allow(), Answer.deny(), Answer.unreachable())
        val said = List(3) { client.guard(action, onBlocked = { it.code }) { "refunded" } }
        assertEquals(listOf("refunded", "test.deny", "actpass.unreachable"), said)
        gateway.assertExecuted("t", times = 1)
        assertNull(client.guard<Int?>(action, onBlocked = { null }) { 1 })
        gateway.answer(Answer.allow())
        val error = IllegalStateException("no card")
        assertSame(error, runCatching { client.guard(action, onBlocked = { 0 }) { throw error } }.exceptionOrNull())
    }

    @Test
    fun aScopeGivesActionsItsDefaults(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        val client = gateway.client()
        fun sent(vararg names: String) = names.map { gateway.actions.last()[it] }
        client.bind(goal = "outer", userId = "u_7", passport = "a.b.passport_secret", mode = Mode.STRICT, audience = "a") {
            client.guard(Action("", "t")) { 1 }
            assertEquals(listOf("outer", "u_7", "strict", "a"), sent("goal", "user_id", "mode", "audience"))
            assertEquals(listOf("a.b.passport_secret"), sent("passport"))
            client.guard(Action("own", "t", userId = "u_1", mode = Mode.ENFORCE)) { 1 }
            assertEquals(listOf("own", "u_1", "enforce"), sent("goal", "user_id", "mode"))
            client.bind(userId = "u_8") {
                async(Dispatchers.Default) { client.withOptions(maxRetries = 1).preflight(Action("", "t")) }.await()
                assertEquals(listOf("outer", "u_8"), sent("goal", "user_id"))
            }
            gateway.client().preflight(Action("g", "t"))
            assertEquals(listOf(null), sent("user_id"))
            client.protectTools<Int>(mapOf("a" to { _, _ -> 1 }), mapOf("a" to ToolAction("t"))).call("a", emptyMap())
            assertEquals(listOf("outer", "u_7"), sent("goal", "user_id"))
        }
        client.preflight(Action("g", "t"))
        assertEquals(listOf(null), sent("user_id"))
        assertEquals("goal: expected a non-empty string", failure { client.preflight(Action("", "t")) }.message)
    }

    @Test
    fun scopesOfConcurrentCoroutinesAreSeparate(): Unit = runBlocking(Dispatchers.Default) {
        gateway.answer(Answer.allow())
        val client = gateway.client()
        List(100) { number ->
            async {
                client.bind(userId = "u_$number") {
                    yield()
                    client.guard(Action("g$number", "t")) { number }
                }
            }
        }.awaitAll()
        assertEquals(100, gateway.actions.size)
        for (action in gateway.actions) assertEquals("${action["goal"]}".drop(1), "${action["user_id"]}".drop(2))
    }

    @Test
    fun aSuspendedActionIsRecorded(): Unit = runBlocking {
        gateway.answer(Answer.allow())
        for (recordOutcome in listOf(false, true)) {
            val permit = gateway.client().authorize(Action("g", "t"), recordOutcome).unwrap()
            failure { permit.suspended() }
            permit.spend()
            assertEquals("test.allow", permit.suspended().decision.reasonCode)
            failure { permit.cancelled() }
        }
        withTimeout(20.seconds) { while (gateway.evidence.isEmpty()) delay(5) }
        assertEquals(listOf("suspended"), gateway.evidence.map { (it["metadata"] as Map<*, *>)["ended"] })
    }

    private suspend fun blockedBy(body: suspend () -> Any?): ActionBlockedException =
        runCatching { body() }.exceptionOrNull() as? ActionBlockedException ?: throw AssertionError("it was not blocked")

    private suspend fun failure(body: suspend () -> Any?): ActPassException =
        runCatching { body() }.exceptionOrNull() as? ActPassException ?: throw AssertionError("it did not fail")

    private companion object {
        const val REFUND = "stripe.refund.create"
    }
}
