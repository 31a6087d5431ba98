package org.actpass

import kotlin.coroutines.coroutineContext
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlin.time.DurationUnit
import kotlin.time.toJavaDuration
import kotlin.time.toKotlinDuration
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.withContext
import org.actpass.bridge.JvmClient
import org.actpass.bridge.NativeCircuit
import org.actpass.bridge.NativeClient
import org.actpass.bridge.NativeEvent
import org.actpass.bridge.NativeLanguage
import org.actpass.bridge.NativeOfflineVerifyRequest
import org.actpass.bridge.NativePassportRequest
import org.actpass.bridge.NativeScript
import org.actpass.bridge.NativeSettings
import org.actpass.bridge.NativeVerifyRequest
import org.actpass.bridge.Secret
import org.actpass.bridge.nativeCheckMapping
import org.actpass.bridge.nativeDpopThumbprint
import org.actpass.bridge.nativeHashPayload
import org.actpass.bridge.nativeSignPayload

/**
 * Client of an ActPass gateway: authorizes every action of an agent before it runs.
 *
 * [guard] requests a decision about an action and runs your block only if the decision allows it. After a denial, a pending approval, a
 * changed tool definition or an unreachable gateway, the block does not run.
 *
 * ```kotlin
 * import org.actpass.ActPass
 * import org.actpass.Action
 * import org.actpass.Credential
 * import org.actpass.Outcome
 *
 * suspend fun refund(charge: String, cents: Int, credential: Credential?): String = "refunded $cents of $charge"
 *
 * suspend fun main() {
 *     val actpass = ActPass(apiKey = "apk_dev", agentId = "support_agent", baseUrl = "http://127.0.0.1:8787")
 *     val outcome = actpass.guard(
 *         Action(
 *             goal = "resolve_refund_request", tool = "stripe.refund.create", resource = "stripe:charge:ch_123",
 *             args = mapOf("amount" to 4900, "currency" to "usd"),
 *         ),
 *     ) { context -> refund("ch_123", 4900, context.credential) }
 *     when (outcome) {
 *         is Outcome.Returned -> println(outcome.result)
 *         is Outcome.Blocked -> println(outcome.decision.reasonCode)
 *         is Outcome.Failed -> throw outcome.error
 *     }
 * }
 * ```
 *
 * [Outcome.unwrap] returns the result or throws. Create one client and share it: concurrent calls share its pooled connections.
 * Cancelling a coroutine ends its call immediately, and nothing runs.
 *
 * Java uses [ActPass.builder] and the variants of the calls that block ([guardBlocking]) or return a future ([guardAsync]).
 */
public class ActPass private constructor(internal val native: NativeClient, private val family: Family = Family()) : JavaForms() {
    /**
     * Creates a client. Sends nothing and starts no thread.
     *
     * @param apiKey the API key, which is the client's identity: `apk_…` or `apdv_…`. Default: the environment variable
     *   `ACTPASS_API_KEY`.
     * @param tenantId the tenant: a routing hint that the gateway does not trust.
     * @param agentId the agent's name. Default: `sdk`.
     * @param baseUrl the gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else the hosted gateway. Plain `http`
     *   is accepted for loopback addresses only.
     * @param timeout the total deadline of a call, including retries and backoff; above zero, at most one day. Default: 30 seconds.
     * @param connectTimeout the deadline of one connection attempt. Default: 5 seconds, or [timeout] if shorter.
     * @param maxRetries the maximum number of retries of a call, 0 to 10. A call that is not idempotent is retried only if the gateway
     *   certainly did not process it. Default: 2.
     * @param circuitFailures how many consecutive calls must fail to reach the gateway before the [circuit] opens; 0 disables it. While
     *   open, calls fail immediately with `actpass.unreachable` and a [retryAfter][ActPassException.retryAfter]. Default: 5.
     * @param mode the default mode of actions. No environment variable changes it. Default: enforce.
     * @param ca additional trusted CA certificates, in PEM.
     * @param approvalKeys the passkeys that must sign approvals, as JSON text with `rp_id`, `origins` and `keys`. An approved action
     *   without a valid signature is blocked (`actpass.approval_unsigned`). Default: none.
     * @param dpopKey the private key that the API key is bound to (DPoP, RFC 9449), P-256 or Ed25519 in PKCS#8 PEM; see
     *   [dpopThumbprint]. Default: the file in the environment variable `ACTPASS_DPOP_KEY_FILE`, else none.
     * @param dangerAllowInsecureHttp permits plain `http` to other machines. Anyone on the network path can then read the key and forge
     *   decisions.
     * @param logger receives the log lines of this client's calls. Default: none.
     * @param logLevel the lowest level to log.
     * @throws ActPassException of the kind [ActPassException.Kind.CONFIG]: a setting is missing or invalid; the message names it.
     */
    @Throws(ActPassException::class)
    public constructor(
        apiKey: String? = null,
        tenantId: String? = null,
        agentId: String? = null,
        baseUrl: String? = null,
        timeout: Duration = 30.seconds,
        connectTimeout: Duration? = null,
        maxRetries: Int = 2,
        circuitFailures: Int = 5,
        mode: Mode = Mode.ENFORCE,
        ca: String? = null,
        approvalKeys: String? = null,
        dpopKey: String? = null,
        dangerAllowInsecureHttp: Boolean = false,
        logger: Logger? = null,
        logLevel: LogLevel = LogLevel.INFO,
    ) : this(
        enter {
            JvmClient(
                NativeSettings(
                    language = NativeLanguage.KOTLIN,
                    apiKey = apiKey?.wellFormed("api_key")?.let(::Secret),
                    tenantId = tenantId?.wellFormed("tenant_id"),
                    agentId = agentId?.wellFormed("agent_id"),
                    baseUrl = baseUrl?.wellFormed("base_url"),
                    timeout = timeout.inSeconds,
                    connectTimeout = connectTimeout?.inSeconds,
                    maxRetries = maxRetries.toLong(),
                    circuitFailures = circuitFailures.toLong(),
                    mode = mode.native,
                    ca = ca?.wellFormed("ca"),
                    approvalKeys = approvalKeys?.wellFormed("approval_keys"),
                    dpopKey = dpopKey?.wellFormed("dpop_key")?.let(::Secret),
                    dangerAllowInsecureHttp = dangerAllowInsecureHttp,
                ),
                logger?.let(::LogBridge),
                logLevel.native,
                null,
            )
        },
    )

    /** Creates a client of a scripted gateway, for the package `testing`. */
    internal constructor(script: NativeScript, agentId: String, timeout: Duration, mode: Mode, logger: Logger?, logLevel: LogLevel) : this(
        enter {
            JvmClient(
                NativeSettings(
                    language = NativeLanguage.KOTLIN,
                    apiKey = Secret("apk_scripted"),
                    tenantId = null,
                    agentId = agentId.wellFormed("agent_id"),
                    baseUrl = "http://127.0.0.1",
                    timeout = timeout.inSeconds,
                    connectTimeout = null,
                    maxRetries = 0,
                    circuitFailures = 0,
                    mode = mode.native,
                    ca = null,
                    approvalKeys = null,
                    dpopKey = null,
                    dangerAllowInsecureHttp = false,
                ),
                logger?.let(::LogBridge),
                logLevel.native,
                script,
            )
        },
    )

    override val self: ActPass get() = this

    /** The gateway's URL, without a trailing slash. */
    public val baseUrl: String = enter { native.baseUrl() }

    /** The agent's name. */
    public val agentId: String = enter { native.agentId() }

    /**
     * Returns a client whose calls are part of a trace and send it to the gateway. Connections and settings are shared.
     *
     * ```kotlin
     * import org.actpass.ActPass
     * import org.actpass.Action
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))
     *     val traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
     *     println(actpass.inTrace(traceparent).guard(action) { "refunded" })
     * }
     * ```
     *
     * @param traceparent the trace in W3C Trace Context format, version 00: `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT]: the trace is malformed.
     */
    @Throws(ActPassException::class)
    public fun inTrace(traceparent: String): ActPass =
        ActPass(enter { native.inTrace(traceparent.wellFormed("traceparent")) }, family)

    /**
     * Returns a client with other limits that shares this client's connections and circuit breaker.
     *
     * ```kotlin
     * import kotlin.time.Duration.Companion.seconds
     * import org.actpass.ActPass
     * import org.actpass.Action
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))
     *     println(actpass.withOptions(timeout = 2.seconds, maxRetries = 0).preflight(action))
     * }
     * ```
     *
     * @param timeout the total deadline of a call, including retries and backoff; above zero, at most one day. Default: this client's.
     * @param maxRetries the maximum number of retries, 0 to 10. Default: this client's.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT]: a limit is invalid; the message names it.
     */
    public fun withOptions(timeout: Duration? = null, maxRetries: Int? = null): ActPass =
        ActPass(enter { native.withOptions(timeout?.inSeconds, maxRetries?.toLong()) }, family)

    /**
     * State of the circuit breaker.
     *
     * The circuit opens after `circuitFailures` consecutive calls that could not reach the gateway, first for about a second, then twice
     * as long after each failed probe, up to 30 seconds.
     */
    public val circuit: Circuit
        get() =
            when (val state = enter { native.circuit() }) {
                is NativeCircuit.Closed -> Circuit.Closed
                is NativeCircuit.HalfOpen -> Circuit.HalfOpen
                is NativeCircuit.Open -> Circuit.Open(state.retryAfter.seconds)
            }

    /**
     * Requests a decision without running anything.
     *
     * @return the decision. A 401 or 403 response whose body is a decision other than `allow` counts as a decision.
     * @throws ActPassException the request failed; its [kind][ActPassException.kind] and [code][ActPassException.code] name the cause.
     */
    public suspend fun preflight(action: Action): Decision {
        val asked = enter { bound().complete(action).native() }
        return Decision(call { native.preflight(asked, null) })
    }

    /**
     * Requests a decision and runs [execute] only if the decision allows it.
     *
     * [execute] runs at most once, after the decision, in the caller's coroutine context. In the mode [Mode.ENFORCE] it runs on `allow`
     * only, in [Mode.STRICT] only if the decision is also recorded for this request, in [Mode.WARN] also on `warn`, in [Mode.MONITOR]
     * always.
     *
     * A failed gate does not throw: the outcome is blocked by a `deny` that the SDK made, with a reason such as `actpass.unreachable`
     * and advice in its [Decision.explain].
     *
     * @param action the action.
     * @param recordOutcome whether to record in the gateway's ledger how the block ended, with the hash of its result if that is JSON.
     *   [Execution.evidence] or [Execution.evidenceError] reports the recording. A block that is cancelled while it runs is recorded as
     *   `cancelled`, within one second and without delaying the cancellation.
     * @param execute the block to run. The outcome contains its result or exception itself. A `CancellationException` while the own
     *   coroutine is cancelled and an `Error` propagate. A returned body that has not run (a `Sequence`, `Iterator`, cold `Flow`,
     *   `Stream`, uninitialized `Lazy` or unstarted `Job`) is reported as [Outcome.Failed] with an exception of the kind
     *   [ActPassException.Kind.ARGUMENT].
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if an argument is invalid: nothing was sent or run, in any
     *   mode.
     */
    public suspend fun <T> guard(
        action: Action,
        recordOutcome: Boolean = false,
        execute: suspend (ExecutionContext) -> T,
    ): Outcome<T> = authorize(action, recordOutcome).run(execute)

    /**
     * Requests a decision, runs [execute] only if the decision allows it, and returns its result; if the action is blocked, returns the
     * result of [onBlocked] instead.
     *
     * ```kotlin
     * import org.actpass.ActPass
     * import org.actpass.Action
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))
     *     // The model gets the receipt, or why there is none.
     *     println(actpass.guard(action, onBlocked = { it.message }) { "refunded" })
     * }
     * ```
     *
     * @param action as for [guard].
     * @param recordOutcome as for [guard].
     * @param onBlocked returns the value for a blocked action, which did not run, or throws.
     * @param execute as for [guard].
     * @throws Throwable the exception that [execute] or [onBlocked] threw; otherwise as [guard].
     */
    public suspend fun <T> guard(
        action: Action,
        recordOutcome: Boolean = false,
        onBlocked: suspend (Outcome.Blocked) -> T,
        execute: suspend (ExecutionContext) -> T,
    ): T =
        when (val outcome = guard(action, recordOutcome, execute)) {
            is Outcome.Returned -> outcome.result
            is Outcome.Blocked -> onBlocked(outcome)
            is Outcome.Failed -> throw outcome.error
        }

    /**
     * Returns the tools of an agent, each guarded by its action. A name that is not in [tools] is denied with `actpass.unmapped_tool`, in
     * every mode, and nothing is sent.
     *
     * ```kotlin
     * import org.actpass.ActPass
     * import org.actpass.ToolAction
     * import org.actpass.Unguarded
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val tools = actpass.protectTools(
     *         tools = mapOf(
     *             "refund" to { args, _ -> "refunded ${args["amount"]}" },
     *             "time" to { _, _ -> "12:00" },
     *         ),
     *         actions = mapOf(
     *             "refund" to ToolAction("stripe.refund.create", goal = "refund for {customer}"),
     *             "time" to Unguarded,
     *         ),
     *         onBlocked = { it.message },
     *     )
     *     // With the name and the arguments that the model chose:
     *     println(tools.call("refund", mapOf("amount" to 4900, "customer" to "c_1")))
     * }
     * ```
     *
     * A guarded tool runs with a copy of the arguments that were evaluated: maps, lists, strings, numbers, booleans and null.
     *
     * @param tools the tools by their names in the agent.
     * @param actions the action of each tool, or [Unguarded], by the same names.
     * @param onBlocked returns the value for a blocked call. Default: the call throws [ActionBlockedException].
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if a tool has no action, or an action has no tool; it names
     *   them all.
     */
    public fun <T> protectTools(
        tools: Map<String, Tool<T>>,
        actions: Map<String, ToolMapping>,
        onBlocked: (suspend (Outcome.Blocked) -> T)? = null,
    ): ProtectedTools<T> {
        enter { nativeCheckMapping(tools.keys.toList().wellFormed("tools"), actions.keys.toList().wellFormed("actions")) }
        return ProtectedTools(this, tools.toMap(), actions.toMap(), onBlocked)
    }

    /**
     * Runs [block] with defaults for the actions of this client, and of clients derived from it.
     *
     * The defaults apply to all calls in the coroutine and its children: [guard], [authorize], [preflight], protected tools, and
     * [resume] for the passport. An action or a [ToolAction] that sets a member keeps it. An inner scope replaces only the members that
     * it sets.
     *
     * ```kotlin
     * import org.actpass.ActPass
     * import org.actpass.Action
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))
     *     actpass.bind(userId = "u_7") {
     *         println(actpass.guard(action) { "refunded" })
     *     }
     * }
     * ```
     *
     * @param goal the agent's goal, for tools without their own.
     * @param userId the user on whose behalf the agent acts.
     * @param passport the passport that the actions spend.
     * @param mode the mode.
     * @param audience the service to which the passport is presented.
     * @param block the code of the scope.
     * @return the result of [block].
     */
    public suspend fun <T> bind(
        goal: String? = null,
        userId: String? = null,
        passport: String? = null,
        mode: Mode? = null,
        audience: String? = null,
        block: suspend CoroutineScope.() -> T,
    ): T {
        val outer = bound()
        val inner =
            Bound(goal ?: outer.goal, userId ?: outer.userId, passport ?: outer.passport, mode ?: outer.mode, audience ?: outer.audience)
        return withContext(Scopes(coroutineContext[Scopes]?.bound.orEmpty() + (family to inner)), block)
    }

    private suspend fun bound(): Bound = coroutineContext[Scopes]?.bound?.get(family) ?: Bound()

    /**
     * Requests a decision and returns a permit if the action may run.
     *
     * The steps of [guard], for code that cannot pass its action as a block, such as a framework adapter: spend the permit right before
     * the action runs, then report how it ended.
     *
     * ```kotlin
     * import org.actpass.ActPass
     * import org.actpass.Action
     * import org.actpass.Credential
     * import org.actpass.Verdict
     *
     * suspend fun refund(cents: Int, credential: Credential?): String = "refunded $cents"
     *
     * suspend fun main() {
     *     val actpass = ActPass("apk_dev", baseUrl = "http://127.0.0.1:8787")
     *     val action = Action("resolve_refund_request", "stripe.refund.create", args = mapOf("amount" to 4900, "currency" to "usd"))
     *     when (val verdict = actpass.authorize(action, recordOutcome = true)) {
     *         is Verdict.Blocked -> println(verdict.blocked.message)
     *         is Verdict.Permitted -> {
     *             val context = verdict.permit.spend()
     *             try {
     *                 val receipt = refund(4900, context.credential)
     *                 println("$receipt ${verdict.permit.returned(receipt)}")
     *             } catch (error: Throwable) {
     *                 verdict.permit.failed(error)
     *                 throw error
     *             }
     *         }
     *     }
     * }
     * ```
     *
     * @param action the action.
     * @param recordOutcome as for [guard]; the reported end is recorded.
     * @throws ActPassException as [guard]. A failed gate does not throw: it blocks, or permits in [Mode.MONITOR].
     */
    public suspend fun authorize(action: Action, recordOutcome: Boolean = false): Verdict {
        val asked = enter { bound().complete(action).native() }
        return verdict(call { native.authorize(asked, recordOutcome, null) }, recordOutcome)
    }

    /**
     * Guards an action again after its approval was decided, in this process or another.
     *
     * The gateway compares it with the approved action, so a changed copy does not run. Otherwise as [guard].
     *
     * @param pending the [Outcome.Blocked.approval] of the blocked call.
     * @param passport the passport that the action spends, if it needs one; a pending approval does not store it.
     * @param waitForApproval as [Action.waitForApproval].
     * @param recordOutcome as for [guard].
     * @param execute as for [guard].
     */
    public suspend fun <T> resume(
        pending: PendingApproval,
        passport: String? = null,
        waitForApproval: Duration? = null,
        recordOutcome: Boolean = false,
        execute: suspend (ExecutionContext) -> T,
    ): Outcome<T> {
        val spent = enter { (passport ?: bound().passport)?.wellFormed("passport")?.let(::Secret) }
        val native = call { native.authorizePending(pending.json, spent, waitForApproval?.inSeconds, recordOutcome, null) }
        return verdict(native, recordOutcome).run(execute)
    }

    /**
     * Waits until an approval is decided, and returns its state, which may still be pending.
     *
     * @param id the approval: [Decision.approvalRequestId] or [PendingApproval.id].
     * @param timeout the longest wait, at most 30 days. Zero polls once.
     * @throws ActPassException as [ActPass.preflight].
     */
    public suspend fun waitForApproval(id: String, timeout: Duration): Approval {
        val wanted = enter { id.wellFormed("approval_request_id") }
        return Approval(call { native.waitForApproval(wanted, timeout.inSeconds, null) })
    }

    /**
     * Issues a passport: a signed, short-lived, single-use token that limits an agent's requests.
     *
     * @param audience the service to which the passport is presented, such as `mcp://stripe-production`.
     * @param goal the agent's goal.
     * @param allowedTools the tools that the passport allows.
     * @param allowedResources the resources that it allows. Default: none.
     * @param resourceConstraints constraints on the arguments: `mapOf("max_amount" to 10000, "currency" to "usd")`.
     * @param userId the user on whose behalf the agent acts.
     * @param ttlSeconds how long it is valid in seconds, 1 to 3600. Default: the gateway's.
     * @param riskTier `low`, `medium`, `high` or `critical`.
     * @param approvalRequestId an approved request. The passport is then valid for that action only and spends the approval.
     * @throws ActPassException as [ActPass.preflight]. The call is not retried if the gateway may have processed it.
     */
    public suspend fun issuePassport(
        audience: String,
        goal: String,
        allowedTools: List<String>,
        allowedResources: List<String> = emptyList(),
        resourceConstraints: Map<String, Any?> = emptyMap(),
        userId: String? = null,
        ttlSeconds: Int? = null,
        riskTier: String = "medium",
        approvalRequestId: String? = null,
    ): IssuedPassport {
        val wanted = enter {
            NativePassportRequest(
                audience = audience.wellFormed("audience"),
                goal = goal.wellFormed("goal"),
                allowedTools = allowedTools.wellFormed("allowed_tools"),
                allowedResources = allowedResources.wellFormed("allowed_resources"),
                resourceConstraints = json("resource_constraints", resourceConstraints),
                userId = userId?.wellFormed("user_id"),
                riskTier = riskTier.wellFormed("risk_tier"),
                ttlSeconds = ttlSeconds?.toLong(),
                approvalRequestId = approvalRequestId?.wellFormed("approval_request_id"),
            )
        }
        return IssuedPassport(call { native.issuePassport(wanted, null) })
    }

    /**
     * Verifies a passport with the gateway. An invalid passport does not throw.
     *
     * @param token the passport.
     * @param audience the service that verifies it.
     * @param agentId the agent that it must be for. Default: any.
     * @param userId the user that it must be for. Default: any.
     * @param currentToolManifestHash the tool manifest hash that it must name. Default: any.
     * @param policyHash the policy hash that it must name. Default: any.
     * @throws ActPassException as [ActPass.preflight].
     */
    public suspend fun verifyPassport(
        token: String,
        audience: String,
        agentId: String? = null,
        userId: String? = null,
        currentToolManifestHash: String? = null,
        policyHash: String? = null,
    ): PassportVerification {
        val wanted = enter {
            NativeVerifyRequest(
                token = Secret(token.wellFormed("token")),
                audience = audience.wellFormed("audience"),
                agentId = agentId?.wellFormed("agent_id"),
                userId = userId?.wellFormed("user_id"),
                currentToolManifestHash = currentToolManifestHash?.wellFormed("current_tool_manifest_hash"),
                policyHash = policyHash?.wellFormed("policy_hash"),
            )
        }
        return PassportVerification(call { native.verifyPassport(wanted, null) })
    }

    /**
     * Verifies a passport locally with the gateway's cached public keys.
     *
     * Checks the signature (EdDSA or ES256), issuer, audience, expiry and tenant, and the agent and user if given, with 10 seconds of clock
     * leeway. Revoked and spent passports are known only to the gateway. Keys are refetched after 10 minutes, and immediately for
     * an unknown key id (at most once a second). If that fails, cached keys are used until they are one hour old.
     *
     * @param token the passport.
     * @param audience the service that verifies it.
     * @param issuer the issuer that it must be from. Default: the key set's, else the [ActPass.baseUrl].
     * @param agentId the agent that it must be for. Default: any.
     * @param userId the user that it must be for. Default: any.
     * @param tenantId the tenant that it must be of. Default: the key set's, else this client's, else any.
     * @throws ActPassException if no public keys are available. An invalid passport does not throw.
     */
    public suspend fun verifyPassportOffline(
        token: String,
        audience: String,
        issuer: String? = null,
        agentId: String? = null,
        userId: String? = null,
        tenantId: String? = null,
    ): PassportVerification {
        val wanted = enter {
            NativeOfflineVerifyRequest(
                token = Secret(token.wellFormed("token")),
                audience = audience.wellFormed("audience"),
                issuer = issuer?.wellFormed("issuer"),
                agentId = agentId?.wellFormed("agent_id"),
                userId = userId?.wellFormed("user_id"),
                tenantId = tenantId?.wellFormed("tenant_id"),
            )
        }
        return PassportVerification(call { native.verifyPassportOffline(wanted, null) })
    }

    /**
     * Revokes the passport with the id [jti] (`ap_…`) and returns whether it was revoked; the ledger records [reason].
     *
     * @throws ActPassException as [ActPass.preflight].
     */
    public suspend fun revokePassport(jti: String, reason: String? = null): Boolean {
        val (name, why) = enter { jti.wellFormed("jti") to reason?.wellFormed("reason") }
        return call { native.revokePassport(name, why, null) }.revoked
    }

    /**
     * Appends an application event to a chain of the gateway's tamper-evident ledger.
     *
     * @param eventType the type of the event; any name.
     * @param chainId the chain; its first event creates it.
     * @param toolId the tool.
     * @param decision the decision that preceded the event.
     * @param reasonCode the reason code of that decision.
     * @param metadata additional JSON members: maps, lists, strings, numbers, booleans and null.
     * @param requestHash [ActPass.hashPayload] of the request.
     * @param responseHash [ActPass.hashPayload] of the response.
     * @throws ActPassException as [ActPass.preflight]. The call is not retried if the gateway may have processed it.
     */
    public suspend fun recordEvidence(
        eventType: String,
        chainId: String,
        toolId: String? = null,
        decision: String? = null,
        reasonCode: String? = null,
        metadata: Map<String, Any?>? = null,
        requestHash: String? = null,
        responseHash: String? = null,
    ): RecordedEvidence {
        val event = enter {
            NativeEvent(
                eventType = eventType.wellFormed("event_type"),
                chainId = chainId.wellFormed("chain_id"),
                toolId = toolId?.wellFormed("tool_id"),
                decision = decision?.wellFormed("decision"),
                reasonCode = reasonCode?.wellFormed("reason_code"),
                metadata = metadata?.let { json("metadata", it) },
                requestHash = requestHash?.wellFormed("request_hash"),
                responseHash = responseHash?.wellFormed("response_hash"),
            )
        }
        return RecordedEvidence(call { native.recordEvidence(event, null) })
    }

    /** The URL and the agent; no secrets. */
    override fun toString(): String = "ActPass(baseUrl=$baseUrl, agentId=$agentId)"

    public companion object {
        /**
         * Returns the SHA-256, in hex, of the canonical JSON (RFC 8785) of [payload]: maps, lists, strings, numbers, booleans and null.
         *
         * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] if it has no canonical form: not JSON, NaN, an integer
         *   beyond ±(2^53 - 1), a lone surrogate.
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun hashPayload(payload: Any?): String = enter { nativeHashPayload(json("payload", payload)) }

        /**
         * Returns the HMAC-SHA256 of the canonical JSON of [payload] under [secret], in hex.
         *
         * @throws ActPassException as [hashPayload].
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun signPayload(secret: String, payload: Any?): String =
            enter { nativeSignPayload(Secret(secret.wellFormed("secret")), json("payload", payload)) }

        /**
         * Returns the thumbprint of a DPoP key, to which the gateway binds an API key: the SHA-256 of the public key (RFC 7638) in
         * base64url, 43 characters. [dpopKey] is the setting of a client.
         *
         * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT]: it is not a P-256 or Ed25519 private key in PKCS#8 PEM.
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun dpopThumbprint(dpopKey: String): String =
            enter { nativeDpopThumbprint(Secret(dpopKey.wellFormed("dpop_key"))) }

        /**
         * Creates a builder, for Java.
         *
         * ```java
         * import java.time.Duration;
         * import org.actpass.ActPass;
         *
         * public final class MakeClient {
         *     public static void main(String[] arguments) throws Exception {
         *         ActPass actpass = ActPass.builder().apiKey("apk_dev").timeout(Duration.ofSeconds(10)).build();
         *         System.out.println(actpass);
         *     }
         * }
         * ```
         */
        @JvmStatic
        public fun builder(): Builder = Builder()
    }

    /** Builds an [ActPass], for Java. The defaults equal the constructor's. */
    public class Builder internal constructor() {
        private var apiKey: String? = null
        private var tenantId: String? = null
        private var agentId: String? = null
        private var baseUrl: String? = null
        private var timeout: Duration = 30.seconds
        private var connectTimeout: Duration? = null
        private var maxRetries: Int = 2
        private var circuitFailures: Int = 5
        private var mode: Mode = Mode.ENFORCE
        private var ca: String? = null
        private var approvalKeys: String? = null
        private var dpopKey: String? = null
        private var dangerAllowInsecureHttp: Boolean = false
        private var logger: Logger? = null
        private var logLevel: LogLevel = LogLevel.INFO

        /** Sets the API key: `apk_…` or `apdv_…`. Default: the environment variable `ACTPASS_API_KEY`. */
        public fun apiKey(apiKey: String?): Builder = apply { this.apiKey = apiKey }

        /** Sets the tenant: a routing hint that the gateway does not trust. */
        public fun tenantId(tenantId: String?): Builder = apply { this.tenantId = tenantId }

        /** Sets the agent's name. Default: `sdk`. */
        public fun agentId(agentId: String?): Builder = apply { this.agentId = agentId }

        /**
         * Sets the gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else the hosted gateway.
         */
        public fun baseUrl(baseUrl: String?): Builder = apply { this.baseUrl = baseUrl }

        /** Sets the total deadline of a call, at most one day. Default: 30 seconds. */
        public fun timeout(timeout: java.time.Duration): Builder = apply { this.timeout = timeout.toKotlinDuration() }

        /** Sets the deadline of one connection attempt. Default: 5 seconds, or the timeout if shorter. */
        public fun connectTimeout(timeout: java.time.Duration?): Builder = apply { connectTimeout = timeout?.toKotlinDuration() }

        /** Sets the maximum number of retries, 0 to 10. Default: 2. */
        public fun maxRetries(maxRetries: Int): Builder = apply { this.maxRetries = maxRetries }

        /** Sets how many consecutive calls must fail to reach the gateway before the circuit opens; 0 disables it. Default: 5. */
        public fun circuitFailures(failures: Int): Builder = apply { circuitFailures = failures }

        /** Sets the default mode of actions. Default: [Mode.ENFORCE]. */
        public fun mode(mode: Mode): Builder = apply { this.mode = mode }

        /** Sets additional trusted CA certificates, in PEM. */
        public fun ca(pem: String?): Builder = apply { ca = pem }

        /** Sets the passkeys that must sign approvals, as JSON text with `rp_id`, `origins` and `keys`. Default: none. */
        public fun approvalKeys(json: String?): Builder = apply { approvalKeys = json }

        /**
         * Sets the private key that the API key is bound to (DPoP, RFC 9449), P-256 or Ed25519 in PKCS#8 PEM; see
         * [dpopThumbprint]. Default: the file in the environment variable `ACTPASS_DPOP_KEY_FILE`, else none.
         */
        public fun dpopKey(pem: String?): Builder = apply { dpopKey = pem }

        /** Permits plain `http` to other machines. Anyone on the network path can then read the key and forge decisions. */
        public fun dangerAllowInsecureHttp(allow: Boolean): Builder = apply { dangerAllowInsecureHttp = allow }

        /** Sets the logger of the client's calls and its lowest level. Default: no logger, [LogLevel.INFO]. */
        @JvmOverloads
        public fun logger(logger: Logger?, level: LogLevel = LogLevel.INFO): Builder =
            apply {
                this.logger = logger
                logLevel = level
            }

        /**
         * Creates the client. Sends nothing.
         *
         * @throws ActPassException of the kind [ActPassException.Kind.CONFIG]: a setting is missing or invalid; the message names it.
         */
        @Throws(ActPassException::class)
        public fun build(): ActPass =
            ActPass(
                apiKey, tenantId, agentId, baseUrl, timeout, connectTimeout, maxRetries, circuitFailures, mode, ca,
                approvalKeys, dpopKey, dangerAllowInsecureHttp, logger, logLevel,
            )
    }
}

/** State of the circuit breaker. */
public sealed class Circuit {
    /** Calls go to the gateway. */
    public data object Closed : Circuit()

    /** One call probes the gateway; the others fail immediately. */
    public data object HalfOpen : Circuit()

    /** Calls fail immediately, until [retryAfter] has passed. */
    public data class Open(public val retryAfter: Duration) : Circuit() {
        /** [retryAfter], for Java. */
        public fun retryAfterAsJava(): java.time.Duration = retryAfter.toJavaDuration()
    }
}

internal val Duration.inSeconds: Double get() = toDouble(DurationUnit.SECONDS)
