"""An agent creates ten refunds. A person stops it in the middle: the refund in progress is the last one.

The function reads ``ctx["halt"]`` between two refunds, because half a refund is worse than a whole one. Afterwards the
ledger shows who stopped the agent, and that its client confirmed it. The stop is lifted, and the rest is refunded.

Usage: stopped_refunds.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any, Callable

from actpass import ActPassClient
from own_gateway import AGENT_KEY, OPERATOR_KEY, running

#: The charges to refund.
CHARGES = [f"ch_{number}" for number in range(1, 11)]


def main(gateway: str) -> None:
    """Refund ten charges, with a stop after the fourth."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        refunded: list[str] = []

        def stop_after_fourth() -> None:
            if len(refunded) == 4:
                body = {"scope": "agent", "id": "support_agent", "reason": "amounts are wrong"}
                halt.append(operate(base_url, "POST", "/api/v1/halts", body))

        halt: list[Any] = []
        report(refund_all(client, refunded, stop_after_fourth))
        # The same agent asks again, and is denied with the person's reason.
        report(refund_all(client, refunded))
        print("confirmed by the client:", confirmed(base_url))

        lifted = operate(base_url, "DELETE", f"/api/v1/halts/{halt[0]['id']}", {"reason": "amounts are corrected"})
        print("lifted by", lifted["lifted_by"])
        report(refund_all(client, refunded))


def refund_all(client: ActPassClient, refunded: list[str], refund_made: Callable[[], None] = lambda: None) -> Any:
    """Refund every charge that is not refunded, in one guarded action, until a person stops it."""

    def execute(ctx: Any) -> str:
        for charge in CHARGES[len(refunded) :]:
            if ctx["halt"].wait(timeout=0.5):  # The payment provider allows two refunds a second.
                return f"stopped after {len(refunded)} of {len(CHARGES)} refunds"
            refunded.append(charge)
            refund_made()
        return f"{len(refunded)} of {len(CHARGES)} refunds"

    return client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        resource="stripe:batch:october",
        args={"amount": 4900, "currency": "usd"},
        execute_fn=execute,
    )


def report(out: Any) -> None:
    """Print a row about an outcome."""
    decision = out["decision"]
    said = out.get("result") or decision["explain"]["summary"]
    print(f"{decision['decision']:<6} {decision['reason_code']:<22} {said}", flush=True)


def confirmed(base_url: str) -> list[tuple[int, int]]:
    """Return the epoch and the number of functions in flight of each confirmation, in order; wait for the last."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        found = operate(base_url, "GET", "/api/v1/halts?status=all")["confirmations"]
        if any(one["in_flight"] == 0 for one in found):
            break
        time.sleep(0.05)
    return [(one["halt_epoch"], one["in_flight"]) for one in reversed(found)]


def operate(base_url: str, method: str, path: str, body: Any = None) -> Any:
    """Send a request with the operator's key."""
    headers = {"authorization": f"Bearer {OPERATOR_KEY}", "content-type": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base_url + path, sent, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
