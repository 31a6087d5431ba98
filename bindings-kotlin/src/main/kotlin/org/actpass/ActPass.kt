package org.actpass

import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import kotlin.time.DurationUnit
import kotlin.time.toJavaDuration
import kotlin.time.toKotlinDuration
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
import org.actpass.bridge.nativeHashPayload
import org.actpass.bridge.nativeSignPayload

/**
 * A client of an ActPass gateway: an agent acts only when it may.
 *
 * [guard] asks the gateway about an action and runs your block only when the answer allows it. A denial, a pending approval, a
 * tool that changed, a gateway that cannot be reached: the block does not run.
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
 * [Outcome.unwrap] gives the value or throws. One client serves many coroutines at once; its calls share their connections. Cancelling
 * a coroutine ends its call at once, and nothing runs.
 *
 * From Java: [ActPass.builder], and the forms of the calls that block ([guardBlocking]) or give a future ([guardAsync]).
 */
public class ActPass private constructor(internal val native: NativeClient) : JavaForms() {
    /**
     * Checks the settings. Nothing is sent, and no thread is started.
     *
     * @param apiKey the key, which is the identity: `apk_…` or `apdv_…`. Without one, the environment variable `ACTPASS_API_KEY` holds it.
     * @param tenantId the tenant, a routing hint that the gateway does not trust.
     * @param agentId the agent's name; `sdk` if there is none.
     * @param baseUrl the gateway's URL. Without one, the environment variable `ACTPASS_API_BASE_URL` holds it; otherwise it is that of
     *   the hosted gateway. Plain `http` is accepted to this machine only.
     * @param timeout the total deadline of a call, retries and waits included; above zero, one day at most.
     * @param connectTimeout the longest that one attempt may take to connect; 5 seconds, or [timeout] if that is shorter.
     * @param maxRetries how often a call is tried again at most, 0 to 10. Calls that are not safe to repeat are retried only where the
     *   gateway certainly did not take them.
     * @param circuitFailures how many calls in a row must fail to reach the gateway for the [circuit] to open; 0 turns that off. While it
     *   is open, calls fail at once as `actpass.unreachable`, with a [retryAfter][ActPassException.retryAfter].
     * @param mode the mode of actions that name none. Nothing in the environment can change it.
     * @param ca certificates of authorities to trust besides the system's, in PEM.
     * @param dangerAllowInsecureHttp permits plain `http` to another machine, where everyone on the way can read the key and forge
     *   decisions.
     * @param logger takes the log lines of this client's calls; nobody if not given.
     * @param logLevel the lowest level that is logged.
     * @throws ActPassException of the kind [ActPassException.Kind.CONFIG], which names the setting and what was expected.
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
        dangerAllowInsecureHttp: Boolean = false,
        logger: Logger? = null,
        logLevel: LogLevel = LogLevel.INFO,
    ) : this(
        enter {
            NativeClient(
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
                    dangerAllowInsecureHttp = dangerAllowInsecureHttp,
                ),
                logger?.let(::LogBridge),
                logLevel.native,
                null,
            )
        },
    )

    /** A client of a script, for the package `testing`. */
    internal constructor(script: NativeScript, agentId: String, timeout: Duration, mode: Mode, logger: Logger?, logLevel: LogLevel) : this(
        enter {
            NativeClient(
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
     * The same client, whose calls are part of a trace: they carry it to the gateway. All else is shared.
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
     * @param traceparent the trace as W3C Trace Context (version 00) writes it:
     *   `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] where it is not written so.
     */
    @Throws(ActPassException::class)
    public fun inTrace(traceparent: String): ActPass =
        ActPass(enter { native.inTrace(traceparent.wellFormed("traceparent")) })

    /**
     * The same client, whose calls have other limits; it shares the connections and the circuit with this one.
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
     * @param timeout the total deadline of a call, retries and waits included; above zero, one day at most. That of this client if not
     *   given.
     * @param maxRetries how often a call is tried again at most, 0 to 10. That of this client if not given.
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT], which names the limit and what was expected.
     */
    public fun withOptions(timeout: Duration? = null, maxRetries: Int? = null): ActPass =
        ActPass(enter { native.withOptions(timeout?.inSeconds, maxRetries?.toLong()) })

    /**
     * Whether calls go to the gateway.
     *
     * The circuit opens after `circuitFailures` calls in a row that could not reach the gateway, for about a second, and twice as
     * long each time that the gateway still cannot be reached, up to 30 seconds.
     */
    public val circuit: Circuit
        get() =
            when (val state = enter { native.circuit() }) {
                is NativeCircuit.Closed -> Circuit.Closed
                is NativeCircuit.HalfOpen -> Circuit.HalfOpen
                is NativeCircuit.Open -> Circuit.Open(state.retryAfter.seconds)
            }

    /**
     * Asks for a decision, and runs nothing.
     *
     * @return the decision. A 401 or 403 that explains itself with a decision other than `allow` is that
     *   decision.
     * @throws ActPassException there is no decision; its [kind][ActPassException.kind] and [code][ActPassException.code] say why.
     */
    public suspend fun preflight(action: Action): Decision {
        val asked = enter { action.native() }
        return Decision(call { native.preflight(asked, null) })
    }

    /**
     * Asks for a decision, and runs [execute] only when the decision allows it.
     *
     * [execute] runs at most once, after the verdict, in the coroutine of the caller, with its context. In the mode [Mode.ENFORCE] it
     * runs on `allow` only, in [Mode.STRICT] only if the decision is recorded as well, in [Mode.WARN] also on `warn`, in [Mode.MONITOR]
     * always.
     *
     * A gate that fails throws nothing: it is reported as blocked, with a decision that the SDK made: `deny` with a reason such as
     * `actpass.unreachable`, and what to check in its [Decision.explain].
     *
     * @param action what the agent is about to do.
     * @param recordOutcome whether to record in the gateway's ledger how the block ended. What came of it is in [Execution.evidence] or
     *   [Execution.evidenceError], and changes nothing else. A hash of the result is recorded with it where the result is JSON. An
     *   action that is stopped while it runs is recorded as `cancelled`, within one second and without delaying the stop.
     * @param execute what to run. What it returns and what it throws is reported as it is, the very object. Only what stops a program or
     *   a coroutine is passed on: a `CancellationException` while the own coroutine is cancelled, and an `Error`. A body that has not run
     *   (a `Sequence`, `Iterator`, cold `Flow`, `Stream`, a `Lazy` without its value, a `Job` that was not started) is no result: it is
     *   reported as [Outcome.Failed], of the kind [ActPassException.Kind.ARGUMENT].
     * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] for what cannot be sent: nothing was sent or run, in any mode.
     */
    public suspend fun <T> guard(
        action: Action,
        recordOutcome: Boolean = false,
        execute: suspend (ExecutionContext) -> T,
    ): Outcome<T> = authorize(action, recordOutcome).run(execute)

    /**
     * Asks whether an action may run, and leaves it to the caller to run it.
     *
     * [guard] is made of this. Use it where the action is no block, as in an adapter of a framework: spend the permit right before the
     * action runs, and report how the action ended.
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
     * @param action what the agent is about to do.
     * @param recordOutcome as for [guard]; what the permit is told is recorded.
     * @throws ActPassException as [guard]. A gate that fails throws nothing: it blocks, or, in [Mode.MONITOR], permits.
     */
    public suspend fun authorize(action: Action, recordOutcome: Boolean = false): Verdict {
        val asked = enter { action.native() }
        return verdict(call { native.authorize(asked, recordOutcome, null) }, recordOutcome)
    }

    /**
     * Guards an action that was blocked because a person had to approve it, once somebody decided: in this process or another.
     *
     * The gateway holds the action against the one that was approved, so a changed copy runs nothing. The rest is as with [guard].
     *
     * @param pending what [Outcome.Blocked.approval] was then.
     * @param passport the passport that the action spends, if it needs one; it is not kept.
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
        val spent = enter { passport?.wellFormed("passport")?.let(::Secret) }
        val native = call { native.authorizePending(pending.json, spent, waitForApproval?.inSeconds, recordOutcome, null) }
        return verdict(native, recordOutcome).run(execute)
    }

    /**
     * Waits until somebody decided about an approval, and says where it stands then. It may still be pending.
     *
     * @param id the approval: [Decision.approvalRequestId] or [PendingApproval.id].
     * @param timeout for how long; 30 days at most. With zero it is one look.
     * @throws ActPassException as [ActPass.preflight].
     */
    public suspend fun waitForApproval(id: String, timeout: Duration): Approval {
        val wanted = enter { id.wellFormed("approval_request_id") }
        return Approval(call { native.waitForApproval(wanted, timeout.inSeconds, null) })
    }

    /**
     * Asks for a passport: signed leave to ask for certain actions for a few minutes, once.
     *
     * @param audience whom it is shown to, such as `mcp://stripe-production`.
     * @param goal what the agent is to achieve.
     * @param allowedTools the tools that it may ask for.
     * @param allowedResources the resources that it may ask for.
     * @param resourceConstraints values that bound the arguments: `mapOf("max_amount" to 10000, "currency" to "usd")`.
     * @param userId who delegated.
     * @param ttlSeconds for how many seconds it holds; the gateway's default if not given.
     * @param riskTier `low`, `medium`, `high` or `critical`.
     * @param approvalRequestId the approval that it stands for: it is then for that one action, and using it spends the approval.
     * @throws ActPassException as [ActPass.preflight]. The call is not repeated where the gateway may have taken it.
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
     * Has the gateway verify a passport. An invalid one throws nothing.
     *
     * @param token the passport.
     * @param audience the service that verifies it.
     * @param agentId the agent that it must be for; any if `null`.
     * @param userId the user that it must be for; any if `null`.
     * @param currentToolManifestHash the tool manifest hash that it must name; any if `null`.
     * @param policyHash the policy hash that it must name; any if `null`.
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
     * Verifies a passport with the gateway's public keys, which are fetched once and kept.
     *
     * The signature (Ed25519), the issuer, the audience, the tenant and the time are checked, and the agent and the user if given. Clocks
     * may differ by 10 seconds. That a passport was revoked or spent only the gateway knows. The keys are fetched again after 10 minutes,
     * and for a key that is not among them (at most once a second); if that fails, those at hand serve until they are an hour old.
     *
     * @param token the passport.
     * @param audience whom it is shown to.
     * @param issuer who must have issued it; the issuer that the key set names if not given, else the [ActPass.baseUrl].
     * @param agentId the agent that it must be made out to.
     * @param userId who must have delegated.
     * @param tenantId the tenant that it must be of; that of the key set if not given, else that of this client, else any.
     * @throws ActPassException where there are no keys to verify with. A passport that is not valid throws nothing.
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
     * Revokes the passport named [jti] (`ap_…`), and says whether it was.
     *
     * @throws ActPassException as [ActPass.preflight].
     */
    public suspend fun revokePassport(jti: String, reason: String? = null): Boolean {
        val (name, why) = enter { jti.wellFormed("jti") to reason?.wellFormed("reason") }
        return call { native.revokePassport(name, why, null) }.revoked
    }

    /**
     * Appends an event of your own to a chain of the gateway's tamper-evident ledger.
     *
     * @param eventType what happened, by your own naming.
     * @param chainId the chain; it begins with its first event.
     * @param toolId the tool.
     * @param decision the word of the decision that it followed.
     * @param reasonCode that decision's reason code.
     * @param metadata anything else: maps, lists, strings, numbers, booleans and null.
     * @param requestHash [ActPass.hashPayload] of what was asked for.
     * @param responseHash [ActPass.hashPayload] of what came out of it.
     * @throws ActPassException as [ActPass.preflight]. The call is not repeated where the gateway may have taken it.
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

    /** Where it leads, and nothing secret. */
    override fun toString(): String = "ActPass(baseUrl=$baseUrl, agentId=$agentId)"

    public companion object {
        /**
         * The SHA-256, in hex, of the canonical JSON (RFC 8785) of [payload]: maps, lists, strings, numbers, booleans and null.
         *
         * @throws ActPassException of the kind [ActPassException.Kind.ARGUMENT] where it has no canonical form: not JSON, NaN, an
         *   integer beyond ±(2^53 - 1), a lone surrogate.
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun hashPayload(payload: Any?): String = enter { nativeHashPayload(json("payload", payload)) }

        /**
         * The HMAC-SHA256 under [secret], in hex, of the canonical JSON of [payload].
         *
         * @throws ActPassException as [hashPayload].
         */
        @JvmStatic
        @Throws(ActPassException::class)
        public fun signPayload(secret: String, payload: Any?): String =
            enter { nativeSignPayload(Secret(secret.wellFormed("secret")), json("payload", payload)) }

        /**
         * A builder, for Java.
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

    /** Makes an [ActPass], for Java. What is not set has the default of the constructor. */
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
        private var dangerAllowInsecureHttp: Boolean = false
        private var logger: Logger? = null
        private var logLevel: LogLevel = LogLevel.INFO

        /** Sets the key, which is the identity: `apk_…` or `apdv_…`. By default the environment variable `ACTPASS_API_KEY` holds it. */
        public fun apiKey(apiKey: String?): Builder = apply { this.apiKey = apiKey }

        /** Sets the tenant, a routing hint that the gateway does not trust. */
        public fun tenantId(tenantId: String?): Builder = apply { this.tenantId = tenantId }

        /** Sets the agent's name; `sdk` by default. */
        public fun agentId(agentId: String?): Builder = apply { this.agentId = agentId }

        /**
         * Sets the gateway's URL. By default the environment variable `ACTPASS_API_BASE_URL` holds it, or it is that of the hosted gateway.
         */
        public fun baseUrl(baseUrl: String?): Builder = apply { this.baseUrl = baseUrl }

        /** Sets the total deadline of a call; 30 seconds by default, one day at most. */
        public fun timeout(timeout: java.time.Duration): Builder = apply { this.timeout = timeout.toKotlinDuration() }

        /** Sets the longest that one attempt may take to connect; 5 seconds by default, or the timeout if that is shorter. */
        public fun connectTimeout(timeout: java.time.Duration?): Builder = apply { connectTimeout = timeout?.toKotlinDuration() }

        /** Sets how often a call is tried again at most, 0 to 10; 2 by default. */
        public fun maxRetries(maxRetries: Int): Builder = apply { this.maxRetries = maxRetries }

        /** Sets how many calls in a row must fail to reach the gateway for the circuit to open; 5 by default, 0 for never. */
        public fun circuitFailures(failures: Int): Builder = apply { circuitFailures = failures }

        /** Sets the mode of actions that name none; [Mode.ENFORCE] by default. */
        public fun mode(mode: Mode): Builder = apply { this.mode = mode }

        /** Sets certificates of authorities to trust in addition to the system's, in PEM. */
        public fun ca(pem: String?): Builder = apply { ca = pem }

        /** Permits plain `http` to another machine, where everyone on the way can read the key and forge decisions. */
        public fun dangerAllowInsecureHttp(allow: Boolean): Builder = apply { dangerAllowInsecureHttp = allow }

        /** Sets what takes the log lines of the client's calls, of `level` and above; [LogLevel.INFO] by default. */
        @JvmOverloads
        public fun logger(logger: Logger?, level: LogLevel = LogLevel.INFO): Builder =
            apply {
                this.logger = logger
                logLevel = level
            }

        /**
         * The client. Nothing is sent.
         *
         * @throws ActPassException of the kind [ActPassException.Kind.CONFIG], which names the setting and what was expected.
         */
        @Throws(ActPassException::class)
        public fun build(): ActPass =
            ActPass(
                apiKey, tenantId, agentId, baseUrl, timeout, connectTimeout, maxRetries, circuitFailures, mode, ca,
                dangerAllowInsecureHttp, logger, logLevel,
            )
    }
}

/** Whether calls go to the gateway. */
public sealed class Circuit {
    /** They do. */
    public data object Closed : Circuit()

    /** One call tries whether the gateway is back; the others fail at once. */
    public data object HalfOpen : Circuit()

    /** They fail at once, for [retryAfter] still. */
    public data class Open(public val retryAfter: Duration) : Circuit() {
        /** [retryAfter], for Java. */
        public fun retryAfterAsJava(): java.time.Duration = retryAfter.toJavaDuration()
    }
}

internal val Duration.inSeconds: Double get() = toDouble(DurationUnit.SECONDS)
