// A support agent refunds customers, guarded by a local gateway.
//
// The example tries refunds of 49, 250 and 900 dollars under the refund policy. Then it stops the gateway and tries one refund
// in `enforce` and one in `monitor`. The ledger file contains one line for each refund that ran.
//
// Usage: Refund GATEWAY LEDGER, the path of the program `actpass-gateway` and of a file to write.

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.actpass.ActPass;
import org.actpass.ActPassException;
import org.actpass.Action;
import org.actpass.Mode;
import org.actpass.Outcome;

public final class Refund {
    private final ActPass actpass;
    private final Path ledger;

    private Refund(ActPass actpass, Path ledger) {
        this.actpass = actpass;
        this.ledger = ledger;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 2) {
            System.err.println("usage: Refund GATEWAY LEDGER");
            System.exit(2);
        }
        Path ledger = Path.of(arguments[1]);
        Files.write(ledger, new byte[0]);
        Path data = Files.createTempDirectory("actpass");
        Process gateway = new ProcessBuilder(arguments[0], "dev", "--listen", "127.0.0.1:0", "--data", data.resolve("data.db").toString())
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
        try (BufferedReader output = gateway.inputReader()) {
            String url = output.readLine().substring("listening on ".length());
            ActPass actpass = ActPass.builder()
                .apiKey("apk_dev")
                .agentId("support_agent")
                .baseUrl(url)
                .timeout(Duration.ofSeconds(10))
                .build();
            Refund agent = new Refund(actpass, ledger);
            System.out.printf("%6s  %-8s  %-17s  %-28s  %s%n", "amount", "mode", "decision", "reason", "ran");
            agent.refund("ch_1", 4900, Mode.ENFORCE);
            agent.refund("ch_2", 25000, Mode.ENFORCE);
            agent.refund("ch_3", 90000, Mode.ENFORCE);
            gateway.destroy();
            gateway.waitFor();
            agent.refund("ch_4", 1200, Mode.ENFORCE);
            agent.refund("ch_5", 1200, Mode.MONITOR);
        } finally {
            gateway.destroy();
            gateway.waitFor();
            try (var files = Files.list(data)) {
                for (Path file : files.toList()) Files.delete(file);
            }
            Files.delete(data);
        }
        System.out.printf("%nrefunds that ran (%s):%n%s", ledger, Files.readString(ledger));
    }

    /** Refunds a charge if the gateway allows it. */
    private void refund(String charge, int cents, Mode mode) throws InterruptedException, ActPassException {
        Action action = Action.builder("resolve_refund_request", "stripe.refund.create")
            .resource("stripe:charge:" + charge)
            .args(Map.of("amount", cents, "currency", "usd"))
            .mode(mode)
            .build();
        Outcome<String> outcome = actpass.guardBlocking(action, context -> pay(charge, cents));
        System.out.printf(
            "%6d  %-8s  %-17s  %-28s  %s%n",
            cents, mode, outcome.getDecision().getWord(), outcome.getDecision().getReasonCode(), outcome.getExecuted());
    }

    private String pay(String charge, int cents) throws IOException {
        String line = "{\"amount\":" + cents + ",\"charge\":\"" + charge + "\"}";
        Files.write(ledger, List.of(line), StandardOpenOption.APPEND);
        return "refunded " + charge;
    }
}
