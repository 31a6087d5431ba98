package org.actpass

import java.util.concurrent.CompletableFuture
import java.util.concurrent.CompletionStage
import java.util.concurrent.Executor
import java.util.concurrent.ForkJoinPool
import kotlin.time.toKotlinDuration
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.future.await
import kotlinx.coroutines.future.future
import kotlinx.coroutines.runBlocking

/** The function that a guard runs, for Java. It may throw any exception; the outcome contains the same object. */
public fun interface Execute<out T> {
    /** Runs the action. */
    @Throws(Exception::class)
    public fun run(context: ExecutionContext): T
}

/**
 * The calls of [ActPass] for Java, in two variants each.
 *
 * `…Blocking` blocks the calling thread, which also runs the guarded function. Interrupting the thread ends the call immediately, and
 * nothing runs.
 *
 * `…Async` returns a future; the guarded function runs on an executor, by default the common pool. Cancelling the future ends the call
 * immediately. If the future fails, the [ActPassException] is the cause of the exception of `join`.
 */
public sealed class JavaForms {
    internal abstract val self: ActPass

    /** [ActPass.withOptions], for Java; null keeps this client's limit. */
    @Throws(ActPassException::class)
    public fun withOptions(timeout: java.time.Duration?, maxRetries: Int?): ActPass = self.withOptions(timeout?.toKotlinDuration(), maxRetries)

    /** [ActPass.preflight], on this thread. */
    @Throws(ActPassException::class, InterruptedException::class)
    public fun preflightBlocking(action: Action): Decision = runBlocking { self.preflight(action) }

    /** [ActPass.preflight], as a future. */
    public fun preflightAsync(action: Action): CompletableFuture<Decision> = later { preflight(action) }

    /**
     * [ActPass.guard], on this thread.
     *
     * ```java
     * import java.util.Map;
     * import org.actpass.ActPass;
     * import org.actpass.Action;
     * import org.actpass.Outcome;
     *
     * public final class GuardRefund {
     *     public static void main(String[] arguments) throws Exception {
     *         ActPass actpass = ActPass.builder().apiKey("apk_dev").baseUrl("http://127.0.0.1:8787").build();
     *         Action action = Action.builder("resolve_refund_request", "stripe.refund.create").args(Map.of("amount", 4900, "currency", "usd")).build();
     *         Outcome<String> outcome = actpass.guardBlocking(action, context -> "refunded");
     *         System.out.println(outcome);
     *     }
     * }
     * ```
     */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun <T> guardBlocking(action: Action, execute: Execute<T>, recordOutcome: Boolean = false): Outcome<T> =
        runBlocking { self.guard(action, recordOutcome) { execute.run(it) } }

    /**
     * [ActPass.authorize], on this thread.
     *
     * ```java
     * import java.util.Map;
     * import org.actpass.ActPass;
     * import org.actpass.Action;
     * import org.actpass.ExecutionContext;
     * import org.actpass.Permit;
     *
     * public final class AuthorizeRefund {
     *     public static void main(String[] arguments) throws Exception {
     *         ActPass actpass = ActPass.builder().apiKey("apk_dev").baseUrl("http://127.0.0.1:8787").build();
     *         Action action = Action.builder("resolve_refund_request", "stripe.refund.create").args(Map.of("amount", 4900, "currency", "usd")).build();
     *         Permit permit = actpass.authorizeBlocking(action).unwrap(); // ActionBlockedException if it may not run
     *         ExecutionContext context = permit.spend();
     *         System.out.println(permit.returnedBlocking("refunded under " + context.getDecision()));
     *     }
     * }
     * ```
     */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun authorizeBlocking(action: Action, recordOutcome: Boolean = false): Verdict =
        runBlocking { self.authorize(action, recordOutcome) }

    /** [ActPass.authorize], as a future. */
    @JvmOverloads
    public fun authorizeAsync(action: Action, recordOutcome: Boolean = false): CompletableFuture<Verdict> =
        later { authorize(action, recordOutcome) }

    /** [ActPass.guard], as a future; the action runs on [executor]. */
    @JvmOverloads
    public fun <T> guardAsync(
        action: Action,
        execute: Execute<T>,
        recordOutcome: Boolean = false,
        executor: Executor = ForkJoinPool.commonPool(),
    ): CompletableFuture<Outcome<T>> = later(executor) { guard(action, recordOutcome) { execute.run(it) } }

    /** [ActPass.guard] for an asynchronous function: the outcome contains the result of the stage that [execute] returns. */
    @JvmOverloads
    public fun <T> guardStageAsync(
        action: Action,
        execute: Execute<CompletionStage<T>>,
        recordOutcome: Boolean = false,
        executor: Executor = ForkJoinPool.commonPool(),
    ): CompletableFuture<Outcome<T>> = later(executor) { guard(action, recordOutcome) { execute.run(it).await() } }

    /** [ActPass.resume], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun <T> resumeBlocking(
        pending: PendingApproval,
        execute: Execute<T>,
        passport: String? = null,
        waitForApproval: java.time.Duration? = null,
        recordOutcome: Boolean = false,
    ): Outcome<T> = runBlocking { self.resume(pending, passport, waitForApproval?.toKotlinDuration(), recordOutcome) { execute.run(it) } }

    /** [ActPass.resume], as a future; the action runs on [executor]. */
    @JvmOverloads
    public fun <T> resumeAsync(
        pending: PendingApproval,
        execute: Execute<T>,
        passport: String? = null,
        waitForApproval: java.time.Duration? = null,
        recordOutcome: Boolean = false,
        executor: Executor = ForkJoinPool.commonPool(),
    ): CompletableFuture<Outcome<T>> =
        later(executor) { resume(pending, passport, waitForApproval?.toKotlinDuration(), recordOutcome) { execute.run(it) } }

    /** [ActPass.waitForApproval], on this thread. */
    @Throws(ActPassException::class, InterruptedException::class)
    public fun waitForApprovalBlocking(id: String, timeout: java.time.Duration): Approval =
        runBlocking { self.waitForApproval(id, timeout.toKotlinDuration()) }

    /** [ActPass.waitForApproval], as a future. */
    public fun waitForApprovalAsync(id: String, timeout: java.time.Duration): CompletableFuture<Approval> =
        later { waitForApproval(id, timeout.toKotlinDuration()) }

    /** [ActPass.issuePassport], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun issuePassportBlocking(
        audience: String,
        goal: String,
        allowedTools: List<String>,
        allowedResources: List<String> = emptyList(),
        resourceConstraints: Map<String, Any?> = emptyMap(),
        userId: String? = null,
        ttlSeconds: Int? = null,
        riskTier: String = "medium",
        approvalRequestId: String? = null,
    ): IssuedPassport =
        runBlocking {
            self.issuePassport(
                audience, goal, allowedTools, allowedResources, resourceConstraints, userId, ttlSeconds, riskTier, approvalRequestId,
            )
        }

    /** [ActPass.issuePassport], as a future. */
    @JvmOverloads
    public fun issuePassportAsync(
        audience: String,
        goal: String,
        allowedTools: List<String>,
        allowedResources: List<String> = emptyList(),
        resourceConstraints: Map<String, Any?> = emptyMap(),
        userId: String? = null,
        ttlSeconds: Int? = null,
        riskTier: String = "medium",
        approvalRequestId: String? = null,
    ): CompletableFuture<IssuedPassport> =
        later {
            issuePassport(
                audience, goal, allowedTools, allowedResources, resourceConstraints, userId, ttlSeconds, riskTier, approvalRequestId,
            )
        }

    /** [ActPass.verifyPassport], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun verifyPassportBlocking(
        token: String,
        audience: String,
        agentId: String? = null,
        userId: String? = null,
        currentToolManifestHash: String? = null,
        policyHash: String? = null,
    ): PassportVerification = runBlocking { self.verifyPassport(token, audience, agentId, userId, currentToolManifestHash, policyHash) }

    /** [ActPass.verifyPassport], as a future. */
    @JvmOverloads
    public fun verifyPassportAsync(
        token: String,
        audience: String,
        agentId: String? = null,
        userId: String? = null,
        currentToolManifestHash: String? = null,
        policyHash: String? = null,
    ): CompletableFuture<PassportVerification> =
        later { verifyPassport(token, audience, agentId, userId, currentToolManifestHash, policyHash) }

    /** [ActPass.verifyPassportOffline], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun verifyPassportOfflineBlocking(
        token: String,
        audience: String,
        issuer: String? = null,
        agentId: String? = null,
        userId: String? = null,
        tenantId: String? = null,
    ): PassportVerification = runBlocking { self.verifyPassportOffline(token, audience, issuer, agentId, userId, tenantId) }

    /** [ActPass.verifyPassportOffline], as a future. */
    @JvmOverloads
    public fun verifyPassportOfflineAsync(
        token: String,
        audience: String,
        issuer: String? = null,
        agentId: String? = null,
        userId: String? = null,
        tenantId: String? = null,
    ): CompletableFuture<PassportVerification> = later { verifyPassportOffline(token, audience, issuer, agentId, userId, tenantId) }

    /** [ActPass.revokePassport], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun revokePassportBlocking(jti: String, reason: String? = null): Boolean = runBlocking { self.revokePassport(jti, reason) }

    /** [ActPass.revokePassport], as a future. */
    @JvmOverloads
    public fun revokePassportAsync(jti: String, reason: String? = null): CompletableFuture<Boolean> = later { revokePassport(jti, reason) }

    /** [ActPass.recordEvidence], on this thread. */
    @JvmOverloads
    @Throws(ActPassException::class, InterruptedException::class)
    public fun recordEvidenceBlocking(
        eventType: String,
        chainId: String,
        toolId: String? = null,
        decision: String? = null,
        reasonCode: String? = null,
        metadata: Map<String, Any?>? = null,
        requestHash: String? = null,
        responseHash: String? = null,
    ): RecordedEvidence =
        runBlocking { self.recordEvidence(eventType, chainId, toolId, decision, reasonCode, metadata, requestHash, responseHash) }

    /** [ActPass.recordEvidence], as a future. */
    @JvmOverloads
    public fun recordEvidenceAsync(
        eventType: String,
        chainId: String,
        toolId: String? = null,
        decision: String? = null,
        reasonCode: String? = null,
        metadata: Map<String, Any?>? = null,
        requestHash: String? = null,
        responseHash: String? = null,
    ): CompletableFuture<RecordedEvidence> =
        later { recordEvidence(eventType, chainId, toolId, decision, reasonCode, metadata, requestHash, responseHash) }

    private fun <T> later(executor: Executor = ForkJoinPool.commonPool(), call: suspend ActPass.() -> T): CompletableFuture<T> =
        org.actpass.later(executor) { self.call() }
}

/** Runs [call] on [executor] and returns its future. */
internal fun <T> later(executor: Executor = ForkJoinPool.commonPool(), call: suspend () -> T): CompletableFuture<T> =
    CoroutineScope(executor.asCoroutineDispatcher()).future { call() }
