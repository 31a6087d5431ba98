package org.actpass;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.actpass.testing.Answer;
import org.actpass.testing.ScriptedGateway;
import org.junit.Test;

/** The API called from Java. */
public class JavaTest {
    private final ScriptedGateway gateway = new ScriptedGateway();
    private final ActPass actpass = gateway.client();
    private final Action action = Action.builder("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args(Map.of("amount", 4900, "currency", "usd"))
        .build();

    /** A checked application exception. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
    }

    @Test
    public void builderSetsEverySetting() {
        ActPass made = ActPass.builder()
            .apiKey("apk_dev")
            .tenantId("team")
            .agentId("support_agent")
            .baseUrl("http://gateway.example/")
            .timeout(Duration.ofSeconds(10))
            .connectTimeout(Duration.ofSeconds(1))
            .maxRetries(1)
            .circuitFailures(0)
            .mode(Mode.STRICT)
            .ca(null)
            .dangerAllowInsecureHttp(true)
            .logger(event -> {}, LogLevel.DEBUG)
            .build();
        assertEquals("http://gateway.example", made.getBaseUrl());
        assertEquals("support_agent", made.getAgentId());
        assertSame(Circuit.Closed.INSTANCE, made.getCircuit());
        ActPassException error = assertThrows(
            ActPassException.class, () -> ActPass.builder().apiKey("apk_dev").timeout(Duration.ZERO).build());
        assertEquals(ActPassException.Kind.CONFIG, error.getKind());
        assertTrue(error.getMessage(), error.getMessage().startsWith("timeout: "));
    }

    @Test
    public void builderSetsEveryMemberOfAction() {
        Action full = Action.builder("goal", "tool")
            .resource("resource")
            .args(Map.of("a", List.of(1, 2.5), "b", new int[] {1}))
            .userId("user")
            .passport("passport_secret")
            .mode(Mode.WARN)
            .idempotencyKey("key")
            .audience("audience")
            .approvalRequestId("apr_1")
            .toolManifestHash("hash")
            .waitForApproval(Duration.ofMinutes(5))
            .build();
        assertEquals("user", full.getUserId());
        assertEquals(Mode.WARN, full.getMode());
        assertFalse(full.toString().contains("secret"));
        assertTrue(full.toString(), full.toString().contains("waitForApproval=5m"));
        assertEquals(Map.of("amount", 4900L), Action.parseArgs("{\"amount\": 4900}"));
    }

    @Test
    public void blockingGuardRunsOnCallingThread() throws Exception {
        gateway.answer(Answer.allow("test.allow", "sk_java_secret"));
        Thread here = Thread.currentThread();
        Outcome<String> outcome = actpass.guardBlocking(action, context -> {
            assertSame(here, Thread.currentThread());
            assertEquals("sk_java_secret", context.getCredential().getToken());
            return "refunded";
        });
        assertTrue(outcome.getExecuted());
        assertEquals("refunded", outcome.unwrap());
        assertEquals("allow", outcome.getDecision().getWord().toString());
        assertEquals("test.allow", outcome.getDecision().getReasonCode());
        assertNotNull(outcome.getDecision().getExplain().getSummary());
        assertEquals(Map.of("amount", 4900L, "currency", "usd"), gateway.getActions().get(0).get("args"));

        Refused refused = new Refused();
        Outcome<String> failed = actpass.guardBlocking(action, context -> {
            throw refused;
        }, true);
        assertSame(refused, assertThrows(Refused.class, failed::unwrap));
        assertTrue(failed instanceof Outcome.Failed);

        gateway.answerNext(Answer.deny("refund.too_large", "the amount is over the limit"));
        AtomicInteger runs = new AtomicInteger();
        Outcome<Integer> denied = actpass.guardBlocking(action, context -> runs.incrementAndGet());
        ActionBlockedException blocked = assertThrows(ActionBlockedException.class, denied::unwrap);
        String why = "stripe.refund.create was not run: deny (refund.too_large). the amount is over the limit.";
        assertEquals(why, blocked.getDeveloperText());
        assertEquals(why + " Do not call it again with the same arguments: it would be blocked again.", blocked.getMessage());
        assertEquals("refund.too_large", blocked.getCode());
        assertEquals(0, runs.get());
    }

    @Test
    public void permitIsSpentAndReported() throws Exception {
        gateway.answer(Answer.allow("test.allow", "sk_java_secret"));
        Permit permit = actpass.authorizeBlocking(action, true).unwrap();
        assertEquals("test.allow", permit.getDecision().getReasonCode());
        assertEquals("sk_java_secret", permit.spend().getCredential().getToken());
        assertEquals(ActPassException.Kind.ARGUMENT, assertThrows(ActPassException.class, permit::spend).getKind());
        assertNotNull(permit.returnedBlocking("refunded").getEvidence());

        Verdict verdict = actpass.authorizeAsync(action, true).get(60, TimeUnit.SECONDS);
        Permit failing = ((Verdict.Permitted) verdict).getPermit();
        failing.spend(action.getArgs());
        assertNotNull(failing.failedAsync(new Refused()).get(60, TimeUnit.SECONDS).getEvidence());

        gateway.answer(Answer.deny());
        Verdict denied = actpass.authorizeBlocking(action);
        assertEquals("test.deny", ((Verdict.Blocked) denied).getBlocked().getCode());
        assertThrows(ActionBlockedException.class, denied::unwrap);
    }

    @Test
    public void javaCatchesThrownErrors() throws Exception {
        Map<String, Object> args = new HashMap<>();
        args.put("amount", Double.NaN);
        try {
            actpass.guardBlocking(Action.builder("goal", "tool").args(args).build(), context -> 1);
            throw new AssertionError("expected an exception");
        } catch (ActPassException error) {
            assertEquals(ActPassException.Kind.ARGUMENT, error.getKind());
            assertEquals("args.amount: expected a finite number, found NaN", error.getMessage());
            assertNull(error.retryAfterAsJava());
        }
        CompletionException later = assertThrows(
            CompletionException.class, () -> actpass.preflightAsync(Action.builder("", "tool").build()).join());
        assertTrue("" + later.getCause(), later.getCause() instanceof ActPassException);
    }

    @Test
    public void asyncGuardRunsOnExecutor() throws Exception {
        gateway.answer(Answer.allow());
        ExecutorService pool = Executors.newSingleThreadExecutor(task -> new Thread(task, "refunds"));
        try {
            CompletableFuture<Outcome<String>> named =
                actpass.guardAsync(action, context -> Thread.currentThread().getName(), true, pool);
            assertEquals("refunds", named.get(60, TimeUnit.SECONDS).unwrap());
            CompletableFuture<String> chained = actpass.guardAsync(action, context -> "re_1").thenApply(Outcome::resultOrNull);
            assertEquals("re_1", chained.get(60, TimeUnit.SECONDS));
            CompletableFuture<Outcome<String>> staged =
                actpass.guardStageAsync(action, context -> CompletableFuture.supplyAsync(() -> "re_2"));
            assertEquals("re_2", staged.get(60, TimeUnit.SECONDS).unwrap());
            IOException broken = new IOException("broken");
            CompletableFuture<Outcome<String>> failed =
                actpass.guardStageAsync(action, context -> CompletableFuture.failedFuture(broken));
            assertSame(broken, failed.get(60, TimeUnit.SECONDS).errorOrNull());
        } finally {
            pool.shutdown();
        }
    }

    @Test
    public void cancelledFutureRunsNothing() throws Exception {
        gateway.answer(Answer.requireApproval("apr_1", "test.approval"));
        Action held = Action.builder("goal", "tool").waitForApproval(Duration.ofMinutes(10)).build();
        AtomicInteger runs = new AtomicInteger();
        CompletableFuture<Outcome<Integer>> call = actpass.guardAsync(held, context -> runs.incrementAndGet());
        while (gateway.getActions().isEmpty()) Thread.sleep(5);
        call.cancel(true);
        assertThrows(CancellationException.class, call::join);
        gateway.answer(Answer.allow());
        gateway.approve("apr_1");
        assertEquals("after", actpass.guardBlocking(action, context -> "after").unwrap());
        assertEquals(0, runs.get());
    }

    @Test
    public void interruptEndsBlockingCallAndRunsNothing() throws Exception {
        gateway.answer(Answer.requireApproval("apr_1", "test.approval"));
        Action held = Action.builder("goal", "tool").waitForApproval(Duration.ofMinutes(10)).build();
        AtomicInteger runs = new AtomicInteger();
        CountDownLatch interrupted = new CountDownLatch(1);
        Thread thread = new Thread(() -> {
            try {
                actpass.guardBlocking(held, context -> runs.incrementAndGet());
            } catch (InterruptedException expected) {
                interrupted.countDown();
            }
        });
        thread.start();
        while (gateway.getActions().isEmpty()) Thread.sleep(5);
        thread.interrupt();
        assertTrue("the call was not interrupted", interrupted.await(60, TimeUnit.SECONDS));
        assertEquals(0, runs.get());
    }

    @Test
    public void storedApprovalIsResumed() throws Exception {
        gateway.answer(Answer.requireApproval("apr_1", "test.approval"));
        Outcome<String> asked = actpass.guardBlocking(action, context -> "refunded");
        PendingApproval kept = new PendingApproval(((Outcome.Blocked) asked).getApproval().getJson());
        assertEquals(Approval.Status.PENDING, actpass.waitForApprovalBlocking(kept.getId(), Duration.ZERO).getStatus());
        gateway.approve("apr_1");
        gateway.answer(Answer.allow());
        assertEquals(Approval.Status.APPROVED, actpass.waitForApprovalAsync(kept.getId(), Duration.ZERO).join().getStatus());
        assertEquals("refunded", actpass.resumeBlocking(kept, context -> "refunded").unwrap());
        assertEquals("refunded", actpass.resumeAsync(kept, context -> "refunded", null, Duration.ofSeconds(5)).join().unwrap());
    }

    @Test
    public void otherCallsHaveBlockingAndAsyncForms() throws Exception {
        gateway.answer(Answer.deny());
        ActPass quick = actpass.withOptions(Duration.ofSeconds(5), 0);
        assertEquals("deny", quick.preflightBlocking(action).getWord().getWire());
        assertEquals(quick.preflightBlocking(action).getReasonCode(), quick.preflightAsync(action).join().getReasonCode());
        IssuedPassport passport = quick.issuePassportBlocking("audience", "goal", List.of("tool"));
        assertTrue(passport.getJti().startsWith("ap_"));
        assertNotNull(quick.issuePassportAsync("audience", "goal", List.of("tool"), List.of(), Map.of("max", 1)).join().getToken());
        assertTrue(quick.verifyPassportBlocking(passport.getToken(), "audience").isValid());
        assertTrue(quick.verifyPassportAsync(passport.getToken(), "audience").join().isValid());
        assertFalse(quick.verifyPassportOfflineBlocking(passport.getToken(), "audience").isValid());
        assertFalse(quick.verifyPassportOfflineAsync(passport.getToken(), "audience").join().isValid());
        assertTrue(quick.revokePassportBlocking("ap_1"));
        assertTrue(quick.revokePassportAsync("ap_1", "over").join());
        assertTrue(quick.recordEvidenceBlocking("refund.sent", "case_42").getEventId().startsWith("ev_"));
        assertTrue(quick.recordEvidenceAsync("refund.sent", "case_42").join().getEventId().startsWith("ev_"));
        assertEquals(
            "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2",
            ActPass.hashPayload(Map.of("currency", "usd", "amount", 4900)));
        assertEquals(64, ActPass.signPayload("secret", "payload").length());
        assertNotNull(actpass.inTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    }

    @Test
    public void everyPublicTypeHasConstructor() throws Exception {
        Decision decision = new Decision("{\"decision\": \"deny\"}");
        assertEquals("unspecified", decision.getReasonCode());
        ActPassException error = new ActPassException(ActPassException.Kind.TIMEOUT, "no answer");
        Outcome<?> blocked = new Outcome.Blocked("tool", decision, error, null);
        assertSame(error, assertThrows(ActionBlockedException.class, blocked::unwrap).getError());
        assertEquals("value", new Outcome.Returned<>("value", new Execution(decision)).unwrap());
        assertEquals("sk", new ExecutionContext(decision, new Credential("sk")).getCredential().getToken());
    }
}
