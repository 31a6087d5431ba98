// Names that the reader of the documentation has in the program around a block.
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.actpass.*;

final class Block {
    static final ActPass actpass = ActPass.builder().agentId("support_agent").build();
    static final Action action =
        Action.builder("resolve_refund_request", "stripe.refund.create").args(Map.of("amount", 4900, "currency", "usd")).build();

    static String refund(Credential credential) {
        return "refunded";
    }

    static final class Body {
        static void run() throws Exception {
            // The block.
        }
    }

    public static void main(String[] arguments) throws Exception {
        Body.run();
    }
}
