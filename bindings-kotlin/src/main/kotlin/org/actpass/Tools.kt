package org.actpass

import kotlin.time.Duration
import org.actpass.bridge.nativeCheckTemplate
import org.actpass.bridge.nativeFillTemplate
import org.actpass.bridge.nativeUnmappedTool

/** A tool of an agent: a function of its arguments. The context is null for an unguarded tool. */
public typealias Tool<T> = suspend (args: Map<String, Any?>, context: ExecutionContext?) -> T

/** The action of a tool, or its exemption: a [ToolAction] or [Unguarded]. */
public sealed interface ToolMapping

/** The tool runs without a decision. */
public data object Unguarded : ToolMapping

/**
 * The policy options of one tool of an agent; [ActPass.protectTools] takes one for each tool.
 *
 * ```kotlin
 * import org.actpass.ToolAction
 *
 * fun main() {
 *     println(ToolAction("stripe.refund.create", goal = "refund for {customer}", resource = "stripe:charge:{charge}"))
 *     println(ToolAction("bank.transfer", goalOf = { args -> "transfer to ${args["iban"]}" }))
 * }
 * ```
 *
 * A template has names of arguments in braces, such as `stripe:charge:{charge}`; `{{` and `}}` are braces. The arguments are strings or
 * integers.
 *
 * @property tool the tool's name in the policy, which may differ from its name in the agent.
 * @property goal the agent's goal, a template. Default: [goalOf], else the goal of the surrounding [ActPass.bind].
 * @property goalOf returns the goal for the arguments of a call. Default: [goal].
 * @property resource the target of the action, a template. Default: [resourceOf], else none.
 * @property resourceOf returns the target for the arguments of a call. Default: [resource].
 * @property argsOf returns the arguments to send, such as a part of them. Default: all. The tool runs with all.
 * @property userId the user on whose behalf the agent acts.
 * @property passport the passport that each action spends.
 * @property mode the mode. Default: the client's.
 * @property audience the service to which the passport is presented.
 * @property approvalRequestIdOf returns the approved request that the action spends. Default: the gateway finds an approval by its action.
 * @property toolManifestHash the hash of the tool's definition as the agent sees it.
 * @property waitForApproval as [Action.waitForApproval].
 * @property recordOutcome whether to record in the ledger how each action ended.
 */
public class ToolAction(
    public val tool: String,
    public val goal: String? = null,
    public val goalOf: ((args: Map<String, Any?>) -> String)? = null,
    public val resource: String? = null,
    public val resourceOf: ((args: Map<String, Any?>) -> String)? = null,
    public val argsOf: ((args: Map<String, Any?>) -> Map<String, Any?>)? = null,
    public val userId: String? = null,
    public val passport: String? = null,
    public val mode: Mode? = null,
    public val audience: String? = null,
    public val approvalRequestIdOf: ((args: Map<String, Any?>) -> String?)? = null,
    public val toolManifestHash: String? = null,
    public val waitForApproval: Duration? = null,
    public val recordOutcome: Boolean = false,
) : ToolMapping {
    init {
        check("goal", goal, goalOf)
        check("resource", resource, resourceOf)
    }

    internal fun action(args: Map<String, Any?>): Action =
        Action(
            goal = text("goal", goal, goalOf, args),
            tool = tool,
            resource = text("resource", resource, resourceOf, args),
            args = argsOf?.invoke(args) ?: args,
            userId = userId,
            passport = passport,
            mode = mode,
            audience = audience,
            approvalRequestId = approvalRequestIdOf?.invoke(args),
            toolManifestHash = toolManifestHash,
            waitForApproval = waitForApproval,
        )

    /** The tool and the templates. */
    override fun toString(): String = "ToolAction(tool=$tool, goal=$goal, resource=$resource)"
}

private fun check(member: String, template: String?, function: Any?) {
    if (template != null && function != null) throw argumentError(member, "expected a template or a function, found both")
    if (template != null) enter { nativeCheckTemplate(member, template.wellFormed(member)) }
}

private fun text(member: String, template: String?, function: ((Map<String, Any?>) -> String)?, args: Map<String, Any?>): String =
    when {
        function != null -> function(args)
        template != null -> enter { nativeFillTemplate(member, template, json("args", args)) }
        else -> ""
    }

/** The guarded tools of an agent: the result of [ActPass.protectTools]. */
public class ProtectedTools<T> internal constructor(
    private val client: ActPass,
    private val tools: Map<String, Tool<T>>,
    private val actions: Map<String, ToolMapping>,
    private val onBlocked: (suspend (Outcome.Blocked) -> T)?,
) {
    /** The names of the tools. */
    public val names: Set<String> get() = tools.keys

    /**
     * Calls the tool [name] with [args], if its action is allowed.
     *
     * @throws ActionBlockedException the call is blocked and there is no `onBlocked`.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if an argument is invalid.
     * @throws Throwable the tool's own exception.
     */
    public suspend fun call(name: String, args: Map<String, Any?>): T {
        val tool = tools[name]
        val mapping = actions[name]
        if (tool != null && mapping is Unguarded) return tool(args, null)
        val outcome =
            if (tool != null && mapping is ToolAction) {
                // A tool runs with the arguments that were evaluated, even if the caller changes its map.
                val judged = Action.parseArgs(json("args", args))
                client.guard(mapping.action(judged), mapping.recordOutcome) { tool(judged, it) }
            } else {
                Outcome.Blocked(enter { nativeUnmappedTool(name.wellFormed("tool")) })
            }
        return when (outcome) {
            is Outcome.Returned -> outcome.result
            is Outcome.Blocked -> if (onBlocked == null) throw ActionBlockedException(outcome) else onBlocked(outcome)
            is Outcome.Failed -> throw outcome.error
        }
    }

    /** The function of the tool [name], for a framework that takes functions. An unknown name is denied when it is called. */
    public operator fun get(name: String): suspend (args: Map<String, Any?>) -> T = { args -> call(name, args) }
}
